package deploy

import (
	"bufio"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

const unitFile = "systemd/capability_exporter.service"

// TestUnitSandbox runs the exporter as the unit does, as another user with
// ambient capabilities, and holds each system call that it makes against what
// the unit allows. A filter that is too narrow would otherwise show on a user's
// machine first, as an EPERM without a reason.
func TestUnitSandbox(t *testing.T) {
	needsRoot(t)
	unit := readUnit(t)
	exporter := buildExporter(t)
	checkStatic(t, exporter) // NoExecPaths=/ refuses the loader of any other
	trace := filepath.Join(t.TempDir(), "trace")
	address := freeAddress(t)

	var plus []string
	for name := range strings.FieldsSeq(unit.last("AmbientCapabilities")) {
		plus = append(plus, "+"+strings.ToLower(strings.TrimPrefix(name, "CAP_")))
	}
	set := strings.Join(plus, ",")
	// -D: the exporter is this test's child, and gets its signals.
	args := []string{"-D", "-f", "-qq", "-o", trace,
		program(t, "setpriv"), "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs",
		"--inh-caps=" + set, "--ambient-caps=" + set, "--bounding-set=-all," + set,
		exporter, "--web.listen-address=" + address}
	cmd := exec.CommandContext(t.Context(), program(t, "strace"), args...)
	told := notified(t, cmd)
	p := start(t, cmd)

	metrics := p.scrape(t, address)
	if got := series(metrics, "capability_exporter_capabilities_info"); len(got) != 2 {
		t.Errorf("it holds %q", got)
	}
	for range 3 {
		p.scrape(t, address)
		if _, err := get(t.Context(), "http://"+address+"/"); err != nil {
			t.Error(err)
		}
	}
	waitTold(t, told, "WATCHDOG=1") // all that it does for systemd is in the trace
	p.stop(t)
	waitTold(t, told, "STOPPING=1")

	calls := readTrace(t, trace, exporter)
	for _, needed := range []string{"bpf", "futex", "mmap"} { // or else the trace is of something else
		if len(calls[needed]) == 0 {
			t.Fatalf("no %s in the trace, only %v\n%s", needed, slices.Sorted(maps.Keys(calls)), p.output)
		}
	}
	allowed := unit.allowedCalls(t)
	for name, lines := range calls {
		if !allowed[name] {
			t.Errorf("SystemCallFilter= refuses %s, for instance %s", name, lines[0])
		}
	}
	if refused := refusedByItself(t, trace); len(refused) != 0 {
		t.Errorf("its own filter refuses what it does: %q", refused)
	}
	families := strings.Fields(unit.last("RestrictAddressFamilies"))
	for _, line := range calls["socket"] {
		if !slices.ContainsFunc(families, func(family string) bool { return strings.Contains(line, "("+family+",") }) {
			t.Errorf("RestrictAddressFamilies= refuses %s", line)
		}
	}
	// MemoryDenyWriteExecute=.
	for _, line := range slices.Concat(calls["mmap"], calls["mprotect"]) {
		if strings.Contains(line, "PROT_EXEC") {
			t.Errorf("MemoryDenyWriteExecute= may refuse %s", line)
		}
	}
	// ProtectKernelTunables= and ProtectKernelLogs= hide these.
	for _, line := range slices.Concat(calls["openat"], calls["open"]) {
		for _, hidden := range []string{"/proc/kallsyms", "/proc/kcore", "/dev/kmsg", "/proc/kmsg"} {
			if strings.Contains(line, hidden) {
				t.Errorf("hidden from the unit: %s", line)
			}
		}
	}
}

// notified makes a command think that systemd has started it, and has a watchdog
// for it that is to be fed as soon as it can be. It returns what that is told.
func notified(t *testing.T, cmd *exec.Cmd) <-chan string {
	t.Helper()
	path := filepath.Join(worldReadableDir(t), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { manager.Close() })
	if err := os.Chmod(path, 0o777); err != nil { // as systemd's is
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=1000000")
	told := make(chan string, 1000)
	go func() {
		for message := make([]byte, 1024); ; {
			n, err := manager.Read(message)
			if err != nil {
				return
			}
			told <- string(message[:n])
		}
	}()
	return told
}

func waitTold(t *testing.T, told <-chan string, want string) {
	t.Helper()
	for end := time.After(patience); ; {
		select {
		case got := <-told:
			if got == want {
				return
			}
		case <-end:
			t.Fatalf("systemd is not told %q", want)
		}
	}
}

// TestUnitSettings holds every setting, each with its section: one that is
// missing, misspelled or in another section systemd passes over with a line in
// a log. What is added must be added here.
func TestUnitSettings(t *testing.T) {
	t.Parallel()
	const program = "/usr/local/bin/capability_exporter"
	want := map[string][]string{
		"Unit Description":   {"Prometheus exporter of the kernel's capability checks"},
		"Unit Documentation": {"man:capabilities(7)"},
		"Unit After":         {"network.target"},

		"Service Type":            {"notify"},
		"Service WatchdogSec":     {"1min"},
		"Service EnvironmentFile": {"-/etc/default/capability_exporter"}, // "-": there need not be one
		"Service ExecStart":       {program + " $ARGS"},                  // without braces, so that it is several arguments
		"Service Restart":         {"on-failure"},
		"Service RestartSec":      {"5s"},

		// Exactly the two, in both sets, and no way to more.
		"Service AmbientCapabilities":   {"CAP_BPF CAP_PERFMON"},
		"Service CapabilityBoundingSet": {"CAP_BPF CAP_PERFMON"},
		"Service DynamicUser":           {"yes"},
		"Service NoNewPrivileges":       {"yes"},
		"Service PrivateUsers":          {"no"},
		"Service LimitMEMLOCK":          {"infinity"}, // or there is no exporter before Linux 5.11

		"Service ProtectProc":           {"invisible"},
		"Service ProcSubset":            {"all"},
		"Service ProtectKernelTunables": {"yes"},
		"Service ProtectControlGroups":  {"yes"},

		"Service BindReadOnlyPaths": {"-/var/log/pods"}, // "-": most machines have none

		"Service ProtectSystem":  {"strict"},
		"Service ProtectHome":    {"yes"},
		"Service PrivateTmp":     {"yes"},
		"Service PrivateDevices": {"yes"},
		"Service PrivateMounts":  {"yes"},
		"Service DevicePolicy":   {"closed"},
		"Service NoExecPaths":    {"/"},
		"Service ExecPaths":      {program}, // static, see TestUnitSandbox
		"Service UMask":          {"0077"},
		"Service RemoveIPC":      {"yes"},

		"Service ProtectClock":            {"yes"},
		"Service ProtectHostname":         {"yes"},
		"Service ProtectKernelLogs":       {"yes"},
		"Service ProtectKernelModules":    {"yes"},
		"Service RestrictNamespaces":      {"yes"},
		"Service RestrictRealtime":        {"yes"},
		"Service RestrictSUIDSGID":        {"yes"},
		"Service LockPersonality":         {"yes"},
		"Service MemoryDenyWriteExecute":  {"yes"},
		"Service KeyringMode":             {"private"},
		"Service RestrictAddressFamilies": {"AF_INET AF_INET6 AF_UNIX"},

		"Service SystemCallArchitectures": {"native"},                      // another has other numbers
		"Service SystemCallFilter":        readUnit(t)["SystemCallFilter"], // TestUnitSystemCalls has it
		"Service SystemCallErrorNumber":   {"EPERM"},

		"Install WantedBy": {"multi-user.target"},
	}
	got := map[string][]string{}
	section := ""
	for line := range strings.Lines(read(t, unitFile)) {
		line = strings.TrimSpace(line)
		key, value, setting := strings.Cut(line, "=")
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]"):
			section = line[1 : len(line)-1]
		case !setting:
			t.Errorf("what is %q?", line)
		default:
			got[section+" "+key] = append(got[section+" "+key], value)
		}
	}
	for key, values := range want {
		if !slices.Equal(got[key], values) {
			t.Errorf("%s is %q, want %q", key, got[key], values)
		}
	}
	for key, values := range got {
		if _, known := want[key]; !known {
			t.Errorf("%s=%q is new: say here that it is meant", key, values)
		}
	}

	// The comment's commands, and what they put where.
	installed := "install -m 0755 build/capability_exporter " + filepath.Dir(program) + "/\n"
	if !strings.Contains(read(t, unitFile), installed) {
		t.Errorf("the comment does not say %q", installed)
	}
}

// TestUnitSystemCalls: the unit's filter is the list from which the exporter
// makes its own. It may be too wide as well, and nothing that the exporter does
// would show it.
func TestUnitSystemCalls(t *testing.T) {
	t.Parallel()
	allowed := readUnit(t).allowedCalls(t)
	if got, listed := slices.Sorted(maps.Keys(allowed)), listedCalls(t); !slices.Equal(got, listed) {
		t.Errorf("SystemCallFilter= allows\n%q, and syscalls.txt has\n%q", got, listed)
	}
	for _, call := range []string{"bpf", "capset", "capget", "read", "accept4", "futex"} {
		if !allowed[call] {
			t.Errorf("refused: %s", call)
		}
	}
	for _, call := range []string{
		"mount", "umount2", "fsopen", "move_mount", "pivot_root", "chroot", "ptrace", "perf_event_open",
		"init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot", "swapon", "acct", "quotactl", "syslog",
		"setuid", "setresuid", "setgroups", "chown", "fchownat", "settimeofday", "clock_settime", "adjtimex",
		"iopl", "ioperm", "setpriority", "sched_setscheduler", "setrlimit", "mbind", "open_by_handle_at", "fanotify_init",
	} {
		if allowed[call] {
			t.Errorf("allowed: %s", call)
		}
	}
}

// listedCalls returns the exporter's system calls, sorted.
func listedCalls(t *testing.T) []string {
	t.Helper()
	var listed []string
	for line := range strings.Lines(read(t, "../exporter/internal/confine/syscalls.txt")) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "[") {
			listed = append(listed, line)
		}
	}
	slices.Sort(listed)
	return listed
}

// unit holds the values of each key of a unit file, in their order.
type unit map[string][]string

func readUnit(t *testing.T) unit {
	t.Helper()
	content, err := os.ReadFile(unitFile)
	if err != nil {
		t.Fatal(err)
	}
	u := unit{}
	for line := range strings.Lines(string(content)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(line, "#") {
			u[key] = append(u[key], value)
		}
	}
	return u
}

// last returns the value of a key that must stand there.
func (u unit) last(key string) string {
	if len(u[key]) == 0 {
		return ""
	}
	return u[key][len(u[key])-1]
}

// allowedCalls evaluates SystemCallFilter= as systemd.exec(5) says: the first
// line makes it a list of what is allowed, each later one adds or, after a
// tilde, takes away.
func (u unit) allowedCalls(t *testing.T) map[string]bool {
	t.Helper()
	allowed := map[string]bool{}
	for _, line := range u["SystemCallFilter"] {
		names, deny := strings.CutPrefix(line, "~")
		for name := range strings.FieldsSeq(names) {
			for _, call := range expand(t, name) {
				allowed[call] = !deny
			}
		}
	}
	return allowed
}

// expand returns the system calls of a set such as @system-service, as this
// machine's systemd knows it, or the call itself.
func expand(t *testing.T, name string) []string {
	t.Helper()
	if !strings.HasPrefix(name, "@") {
		return []string{name}
	}
	out, err := exec.CommandContext(t.Context(), program(t, "systemd-analyze"), "--no-pager", "syscall-filter", name).Output()
	if err != nil {
		t.Fatalf("systemd-analyze syscall-filter %s: %v", name, err)
	}
	var calls []string
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		if line != "" && line != name && !strings.HasPrefix(line, "#") {
			calls = append(calls, expand(t, line)...)
		}
	}
	return calls
}

var (
	callOf  = regexp.MustCompile(`^\d+ +([a-z_0-9]+)\(`)
	execved = regexp.MustCompile(`^\d+ +execve\("([^"]+)".*= 0$`)
)

// refusedByItself returns what failed with EPERM once the exporter had put on
// its own filter.
func refusedByItself(t *testing.T, path string) []string {
	t.Helper()
	var refused []string
	filtered := false
	for line := range strings.Lines(read(t, path)) {
		switch {
		case strings.Contains(line, "seccomp(SECCOMP_SET_MODE_FILTER"):
			filtered = true
		case !filtered || !strings.Contains(line, "= -1 EPERM "):
		case strings.Contains(line, "epoll_ctl"): // a file can't be waited for
		case strings.Contains(line, "rt_sigreturn"): // what the signal came after failed
		default:
			refused = append(refused, line)
		}
	}
	if !filtered {
		t.Error("it has put on no filter")
	}
	return refused
}

func TestRefusedByItself(t *testing.T) {
	const before, after = "1 openat(AT_FDCWD, \"/a\", O_RDONLY) = -1 EPERM (Operation not permitted)\n", "1 ptrace(PTRACE_TRACEME) = -1 EPERM (Operation not permitted)\n"
	trace := filepath.Join(t.TempDir(), "trace")
	lines := before + "1 seccomp(SECCOMP_SET_MODE_FILTER, 0, {len=9, filter=0x1}) = 0\n" +
		"1 epoll_ctl(3, EPOLL_CTL_ADD, 4, {...}) = -1 EPERM (Operation not permitted)\n" +
		"1 <... epoll_ctl resumed>)          = -1 EPERM (Operation not permitted)\n" +
		"1 rt_sigreturn({mask=[]})           = -1 EPERM (Operation not permitted)\n" + after
	if err := os.WriteFile(trace, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := refusedByItself(t, trace); !slices.Equal(got, []string{after}) {
		t.Errorf("refused: %q, want %q", got, after)
	}
}

// readTrace returns strace's lines by system call, from the execve(2) of
// program on, that excluded: before it, setpriv(1) set the stage.
func readTrace(t *testing.T, path, program string) map[string][]string {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	calls, started := map[string][]string{}, false
	scanner := bufio.NewScanner(file)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		line := scanner.Text()
		if match := execved.FindStringSubmatch(line); match != nil && match[1] == program {
			started = true
			continue
		}
		if match := callOf.FindStringSubmatch(line); started && match != nil {
			calls[match[1]] = append(calls[match[1]], line)
		}
	}
	if err := scanner.Err(); err != nil {
		t.Fatal(fmt.Errorf("reading the trace: %w", err))
	}
	return calls
}
