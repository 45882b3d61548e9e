package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"capability_exporter/exporter/internal/exportertest"
	"capability_exporter/exporter/internal/privilege"
)

// These tests run the program itself, built as it is shipped, with the
// privileges of several ways to start it.

const (
	nobody = 65534
	// nobodysGroups are those that su(1) leaves it in.
	nobodysGroups = "65534"
	bothMask      = exportertest.BothMask
)

// asNobody starts a program without capabilities, by setpriv(1); options of
// setpriv may stand before it.
func asNobody(args ...string) []string {
	return slices.Concat([]string{"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"}, args)
}

// withBoth starts a program as nobody, with both as ambient capabilities.
func withBoth(args ...string) []string {
	return asNobody(slices.Concat([]string{"--inh-caps", "+bpf,+perfmon", "--ambient-caps", "+bpf,+perfmon"}, args)...)
}

// prebuilt names the variable with the program's path where it cannot be
// built, in a guest without Go.
const prebuilt = "CAPABILITY_EXPORTER_BINARY"

// built is the directory of the program, made at the first use.
var built = sync.OnceValues(func() (string, error) {
	if path := os.Getenv(prebuilt); path != "" {
		return filepath.Dir(path), nil
	}
	dir, err := os.MkdirTemp("", "capability_exporter")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // nobody starts it from there
		return dir, err
	}
	// With cgo the build would be linked to this machine's libc.
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "capability_exporter"), ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("%w\n%s", err, out)
	}
	return dir, nil
})

func removeBuilt() {
	if dir, _ := built(); dir != "" && os.Getenv(prebuilt) == "" {
		os.RemoveAll(dir)
	}
}

// needsRoot skips, or under CI fails, a test that starts programs with other
// privileges.
func needsRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("CI must run this as root")
	}
	t.Skip("needs root, to start programs with other privileges")
}

// needsTracing skips a test in which the program has to attach.
func needsTracing(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
		t.Skipf("the kernel has no type information (CONFIG_DEBUG_INFO_BTF): %v", err)
	}
}

// copyOf puts a program into a directory of its own under a name of its own,
// by which its process is found.
func copyOf(t *testing.T, program string) string {
	t.Helper()
	dir, err := os.MkdirTemp(filepath.Dir(exporter(t)), "copy")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "ce_"+strings.TrimPrefix(filepath.Base(dir), "copy"))
	if err := os.WriteFile(path, content, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func exporter(t *testing.T) string {
	t.Helper()
	needsRoot(t)
	dir, err := built()
	if err != nil {
		t.Fatalf("building the program: %v", err)
	}
	return filepath.Join(dir, "capability_exporter")
}

// self is this test binary, in which a process has a role of its own; built without the race detector where there is such a one, as it
// then starts at once.
func self(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("CAPABILITY_EXPORTER_HELPERS"); dir != "" {
		return filepath.Join(dir, "exporter.test")
	}
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// withFileCaps is copyOf with setcap cap_bpf,cap_perfmon=ep.
func withFileCaps(t *testing.T, program string) string {
	t.Helper()
	path := copyOf(t, program)
	if out, err := command("setcap", "cap_bpf,cap_perfmon=ep", path).CombinedOutput(); err != nil {
		t.Fatalf("setcap: %v\n%s", err, out)
	}
	return path
}

// asNobodyBySu starts a program as a user would: other than with setpriv, the
// kernel then sees credentials that are raised by the file's capabilities.
func asNobodyBySu(shellCommand string) []string {
	return []string{"su", "-s", "/bin/sh", "nobody", "-c", shellCommand}
}

// command has the system's programs in its path, whatever the test's own is.
func command(args ...string) *exec.Cmd {
	const path = "/usr/sbin:/usr/bin:/sbin:/bin"
	name := args[0]
	for dir := range strings.SplitSeq(path, ":") {
		if candidate := filepath.Join(dir, name); !strings.Contains(name, "/") && exists(candidate) {
			name = candidate
			break
		}
	}
	c := exec.Command(name, args[1:]...)
	c.Env = append(os.Environ(), "PATH="+path)
	return c
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

// process is a running exporter that has attached.
type process struct {
	*instance
	pid int
	cmd *exec.Cmd
}

// startProcess runs a command line that ends up executing program.
func startProcess(t *testing.T, program string, args ...string) *process {
	t.Helper()
	needsTracing(t)
	reader, writer := io.Pipe()
	cmd := command(args...)
	cmd.Stderr = writer
	p := &process{instance: &instance{client: newClient(), log: readLog(reader)}, cmd: cmd}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.ended = make(chan error, 1)
	go func() {
		err := cmd.Wait()
		writer.Close()
		p.ended <- err
	}()
	p.cancel = func() {
		if p.pid != 0 {
			_ = unix.Kill(p.pid, unix.SIGTERM) // it may have ended by itself
		}
	}
	t.Cleanup(func() { _ = p.instance.stop() }) // for the tests that do not look at it
	p.address = p.log.waitFor(t, listening)
	p.log.waitFor(t, `msg="counting capability checks" via=(\w+)`)
	p.pid = pidOf(t, program)
	p.waitReady(t)
	return p
}

// pidOf finds the process that executes a file. It need not be the one that was
// started: su(1) stays and waits for it.
func pidOf(t *testing.T, program string) int {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && target == program {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link)))
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatalf("no process executes %s", program)
	return 0
}

// checkPrivileges reads what each thread of a process holds.
func (p *process) checkPrivileges(t *testing.T, want privilege.Status) {
	t.Helper()
	paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", p.pid))
	if err != nil {
		t.Fatal(err)
	}
	if len(paths) < 3 {
		t.Fatalf("%d threads, a Go program that serves has more", len(paths))
	}
	for _, path := range paths {
		got, err := privilege.ReadStatus(path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
}

// holding is the status of who holds both, in the groups given, as nobody.
func holding(groups string, bounding uint64) privilege.Status {
	ids := [4]uint32{nobody, nobody, nobody, nobody}
	return privilege.Status{
		UIDs: ids, GIDs: ids, Groups: groups,
		Permitted: bothMask, Effective: bothMask, Bounding: bounding, NoNewPrivs: true, Seccomp: 2, // its own filter
	}
}

// checkStop ends the process by a signal, which it must answer with exit status 0.
func (p *process) checkStop(t *testing.T) {
	t.Helper()
	if err := p.instance.stop(); err != nil {
		t.Errorf("stopped with %v\n%s", err, p.log.whole())
	}
}

func ownStatus(t *testing.T) privilege.Status {
	t.Helper()
	status, err := privilege.ReadStatus("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	return status
}

// Root becomes an ordinary user, whatever its ids and groups were.
func TestBinaryAsRoot(t *testing.T) {
	for name, test := range map[string]struct {
		by   []string // starts the program
		args []string
		want privilege.Status
	}{
		"root":        {want: holding("", 0)},
		"in groups":   {by: []string{"setpriv", "--groups", "4,24", "--regid", "4", "--euid", "0", "--ruid", "7"}, want: holding("", 0)},
		"by sudo":     {by: []string{"setpriv", "--ruid", "65534", "--rgid", "65534", "--keep-groups"}, want: holding("", 0)},
		"as somebody": {args: []string{"--privileges.user=7:8"}, want: asUser(holding("", 0), 7, 8)},
		"it stays":    {args: []string{"--privileges.user", "0"}, want: asUser(holding(ownStatus(t).Groups, 0), 0, 0)},
		// As a container does it that is given what the DaemonSet's is.
		"with what it needs alone": {
			by:   []string{"setpriv", "--bounding-set", "-all,+bpf,+perfmon,+setuid,+setgid", "--no-new-privs"},
			want: holding("", bothMask|1<<unix.CAP_SETUID|1<<unix.CAP_SETGID),
		},
	} {
		t.Run(name, func(t *testing.T) {
			program := copyOf(t, exporter(t))
			p := startProcess(t, program, slices.Concat(test.by, []string{program, "--web.listen-address=127.0.0.1:0"}, test.args)...)
			p.checkPrivileges(t, test.want)
			if metrics := p.get(t, "/metrics").body; !strings.Contains(metrics, "\nprocess_open_fds ") {
				t.Error("the metrics of its own process are missing")
			}
			p.checkStop(t)
		})
	}
}

func asUser(s privilege.Status, uid, gid uint32) privilege.Status {
	s.UIDs, s.GIDs = [4]uint32{uid, uid, uid, uid}, [4]uint32{gid, gid, gid, gid}
	return s
}

// No input is read as root: not even the file that holds arguments.
func TestBinaryReadsNothingAsRoot(t *testing.T) {
	arguments := filepath.Join(t.TempDir(), "arguments")
	if err := os.WriteFile(arguments, []byte("--version\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := failed(t, command(exporter(t), "@"+arguments)); !strings.Contains(out, "permission denied") {
		t.Errorf("read what root alone may read:\n%s", out)
	}
}

// A key that root alone can read is a usual thing, and the exporter says what to do about it.
func TestBinaryNamesTheWayToAKey(t *testing.T) {
	dir := worldReadable(t)
	key, config := filepath.Join(dir, "key"), filepath.Join(dir, "web.yml")
	for file, mode := range map[string]os.FileMode{key: 0o640, config: 0o644} {
		content := ""
		if file == config {
			content = "tls_server_config: {cert_file: web.yml, key_file: key}\n"
		}
		if err := os.WriteFile(file, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	arg := "--web.config.file=" + config
	for _, want := range []string{"key_file (" + key + ")", "it is read as uid 65534, gid 65534", "chgrp 65534 FILE", "--privileges.user=UID:GID"} {
		if out := failed(t, command(exporter(t), arg)); !strings.Contains(out, want) {
			t.Errorf("does not say %q:\n%s", want, out)
		}
	}
	if err := os.Chown(key, 0, 77); err != nil {
		t.Fatal(err)
	}
	// It is read now, and is none.
	if out := failed(t, command(exporter(t), arg, "--privileges.user=65534:77")); strings.Contains(out, "permission denied") || !strings.Contains(out, "X509KeyPair") {
		t.Errorf("the key's group cannot read it:\n%s", out)
	}
}

func worldReadable(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "capability_exporter")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Root that cannot leave says what it lacks for that.
func TestBinaryThatCannotLeaveRoot(t *testing.T) {
	out := failed(t, command("setpriv", "--bounding-set", "-all,+bpf,+perfmon", exporter(t)))
	for _, want := range []string{
		"started as root, without CAP_SETGID and CAP_SETUID to become the user 65534:65534",
		"add: [BPF, PERFMON, SETUID, SETGID]", "--cap-add SETUID --cap-add SETGID", "DynamicUser=yes", "--privileges.user=0",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("does not say %q:\n%s", want, out)
		}
	}
}

func TestBinaryWithAmbient(t *testing.T) {
	program := copyOf(t, exporter(t))
	p := startProcess(t, program, withBoth(program, "--web.listen-address=127.0.0.1:0")...)
	p.checkPrivileges(t, holding("", ownStatus(t).Bounding))
	p.checkStop(t)
}

func TestBinaryWithFileCapabilities(t *testing.T) {
	program := withFileCaps(t, exporter(t))
	p := startProcess(t, program, asNobodyBySu("exec "+program+" --web.listen-address=127.0.0.1:0")...)
	p.checkPrivileges(t, holding(nobodysGroups, ownStatus(t).Bounding))
	if metrics := p.get(t, "/metrics").body; !strings.Contains(metrics, "\nprocess_open_fds ") {
		t.Error("the metrics of its own process are missing")
	}
	p.checkStop(t)
}

// Another process of the exporter's user cannot take it over: not an ordinary
// one, nor, where the kernel lets the exporter do without being dumpable, one
// that holds as much.
func TestBinaryCannotBeTraced(t *testing.T) {
	tracer := copyOf(t, self(t)) // where nobody can execute it
	program := copyOf(t, exporter(t))
	p := startProcess(t, program, program, "--web.listen-address=127.0.0.1:0")
	folder, err := os.Stat("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for name, start := range map[string][]string{"ordinary": asNobody(tracer), "holds both": withBoth(tracer)} {
		if name != "ordinary" && folder.Size() == 0 {
			continue
		}
		cmd := command(append(start, strconv.Itoa(p.pid))...)
		cmd.Env = append(cmd.Env, helperRole+"="+helperTrace)
		if out, err := cmd.CombinedOutput(); err == nil || strings.TrimSpace(string(out)) != unix.EPERM.Error() {
			t.Errorf("%s: traced with %v, %s", name, err, out)
		}
	}
	p.checkStop(t)
}

func TestBinaryWithPermittedFileCapabilities(t *testing.T) {
	program := copyOf(t, exporter(t))
	if out, err := command("setcap", "cap_bpf,cap_perfmon,cap_setpcap=p", program).CombinedOutput(); err != nil {
		t.Fatalf("setcap: %v\n%s", err, out)
	}
	p := startProcess(t, program, asNobodyBySu("exec "+program+" --web.listen-address=127.0.0.1:0")...)
	// CAP_SETPCAP is given up with the rest, after the bounding set is emptied by it.
	p.checkPrivileges(t, holding(nobodysGroups, 0))
	p.checkStop(t)
}

func TestBinaryRefuses(t *testing.T) {
	plain := copyOf(t, exporter(t))
	capable := withFileCaps(t, exporter(t))
	nosuid := filepath.Join(filepath.Dir(plain), "mount")
	if err := os.Mkdir(nosuid, 0o755); err != nil {
		t.Fatal(err)
	}
	onNosuid := fmt.Sprintf("mount -t tmpfs -o nosuid,mode=755 none %[1]s && cp %[2]s %[1]s/x && %[3]s cap_bpf,cap_perfmon=ep %[1]s/x && exec %[4]s --reuid 65534 --regid 65534 --clear-groups %[1]s/x",
		nosuid, plain, command("setcap").Path, command("setpriv").Path) // not busybox's own, in a guest

	for _, test := range []struct {
		name string
		args []string
		want string
	}{
		{"nothing", asNobody(plain), "no capability at all"},
		{"one of the two", asNobody("--inh-caps", "+bpf", "--ambient-caps", "+bpf", plain), "missing CAP_PERFMON\nThe process was started with CAP_BPF."},
		{"a user namespace", []string{"unshare", "-Ur", plain}, "held only in a user namespace"},
		{"no_new_privs", asNobodyBySu("exec " + command("setpriv").Path + " --nnp " + capable), "no_new_privs cancels them"},
		{"bounding set", []string{"setpriv", "--bounding-set", "-bpf,-perfmon", plain}, "bounding set lacks CAP_PERFMON and CAP_BPF"},
		{"nosuid", []string{"unshare", "--mount", "sh", "-c", onNosuid}, "mounted nosuid"},
	} {
		t.Run(test.name, func(t *testing.T) {
			out := failed(t, command(test.args...))
			for _, want := range []string{test.want, "capability_exporter: missing CAP_", "AmbientCapabilities=", "securityContext", "setcap"} {
				if !strings.Contains(out, want) {
					t.Errorf("does not say %q:\n%s", want, out)
				}
			}
		})
	}
}

func TestBinaryUnderSeccomp(t *testing.T) {
	needsTracing(t)
	cmd := command(self(t), exporter(t), "--web.listen-address=127.0.0.1:0")
	cmd.Env = append(cmd.Env, helperRole+"="+helperSeccomp)
	if out := failed(t, cmd); !strings.Contains(out, "seccomp filter refuses the system call bpf(2)") {
		t.Errorf("does not say that seccomp refused:\n%s", out)
	}
}

func TestBinaryStopsOnInterrupt(t *testing.T) {
	program := copyOf(t, exporter(t))
	p := startProcess(t, program, withBoth(program, "--web.listen-address=127.0.0.1:0")...)
	p.cancel = func() { _ = unix.Kill(p.pid, unix.SIGINT) }
	p.checkStop(t)
}

// A log that nobody reads any more, or that is full and nobody reads yet, is no
// reason to stop serving, nor not to stop when told to.
func TestBinaryWithoutAReaderOfItsLog(t *testing.T) {
	for name, leave := range map[string]func(t *testing.T, reader, writer *os.File){
		"closed": func(t *testing.T, reader, _ *os.File) {
			if err := reader.Close(); err != nil {
				t.Fatal(err)
			}
		},
		"full": func(t *testing.T, _, writer *os.File) { fillPipe(t, writer) },
	} {
		t.Run(name, func(t *testing.T) {
			needsTracing(t)
			program := copyOf(t, exporter(t))
			reader, writer, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer reader.Close()
			defer writer.Close()
			cmd := command(program, "--web.listen-address=127.0.0.1:0", "--log.level=debug")
			cmd.Stdout, cmd.Stderr = writer, writer
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			defer func() { _ = cmd.Process.Kill() }()

			// Read line by line: what is read ahead would be missed below.
			var log strings.Builder
			for one := make([]byte, 1); !strings.Contains(log.String(), `msg="counting capability checks"`); {
				if _, err := reader.Read(one); err != nil {
					t.Fatalf("%v:\n%s", err, &log)
				}
				log.Write(one)
			}
			address := regexp.MustCompile(listening).FindStringSubmatch(log.String())
			i := &instance{address: address[1], client: newClient()}
			defer i.client.CloseIdleConnections()
			i.waitReady(t)
			leave(t, reader, writer)

			// Lines to write.
			for range 20 {
				_ = command(asNobody("chown", "0", "/")...).Run() // which is denied
			}
			for range 3 {
				if got := i.get(t, "/metrics").StatusCode; got != 200 {
					t.Errorf("answered %d", got)
				}
			}
			if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-ended:
				if err != nil {
					t.Errorf("ended with %v", err)
				}
			case <-time.After(10 * time.Second):
				t.Error("does not stop")
			}
		})
	}
}

// A failure at start is told in its time, or not at all.
func TestBinaryFailsWithoutAReaderOfItsLog(t *testing.T) {
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	defer writer.Close()
	fillPipe(t, writer)
	cmd := command(exporter(t), "--no-such-flag")
	cmd.Stderr = writer
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	hung := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
	defer hung.Stop()
	err = cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 {
		t.Errorf("ended with %v, want exit status 1", err)
	}
}

// fillPipe writes as much as there is room for.
func fillPipe(t *testing.T, writer *os.File) {
	t.Helper()
	raw, err := writer.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		if err := unix.SetNonblock(int(fd), true); err != nil {
			t.Error(err)
		}
		for size := 4096; size > 0; {
			if _, err := unix.Write(int(fd), make([]byte, size)); err != nil {
				size /= 2
			}
		}
		if err := unix.SetNonblock(int(fd), false); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A stop may wait for a request; who does not want to wait sends the signal
// again, and need not look for SIGKILL.
func TestBinaryIsKilledByASecondSignal(t *testing.T) {
	program := copyOf(t, exporter(t))
	for range 5 { // the stop waits for less than a second, in which the test may not have got to run
		p := startProcess(t, program, withBoth(program, "--web.listen-address=127.0.0.1:0")...)
		if killedByASecondSignal(t, p) {
			return
		}
	}
	t.Error("it stopped in its own time whenever it got a second signal")
}

func killedByASecondSignal(t *testing.T, p *process) bool {
	conn, err := net.Dial("tcp", p.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprint(conn, "GET / HTTP/1.1\r\n"); err != nil {
		t.Fatal(err)
	}
	p.cancel()
	p.log.waitFor(t, `msg=(Stopping)`)
	time.Sleep(50 * time.Millisecond) // for the other goroutine that the first signal woke
	exit, ok := errors.AsType[*exec.ExitError](p.instance.stop())
	if !ok {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == unix.SIGTERM
}

func TestBinaryWrongUse(t *testing.T) {
	for _, arg := range []string{"--no-such-flag", "--web.listen-address=nonsense", "--web.config.file=/does/not/exist", "--web.telemetry-path=/"} {
		t.Run(arg, func(t *testing.T) {
			cmd := command(exporter(t), "--log.level=error", arg)
			if out := failed(t, cmd); strings.Count(out, "\n") != 1 || !strings.HasPrefix(out, "capability_exporter: ") {
				t.Errorf("want one line, got:\n%s", out)
			}
		})
	}
	// Asking for help needs no privileges.
	if out, err := command(asNobody(exporter(t), "--help")...).Output(); err != nil || !strings.Contains(string(out), "--series.limit") {
		t.Errorf("--help: %v\n%s", err, out)
	}
}

// failed runs a program that must end by itself, with exit status 1, and
// returns what it says.
func failed(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// A program that runs on in place of failing must not outlive the test.
	hung := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer hung.Stop()
	err := cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Fatalf("ended with %v, want exit status 1:\n%s", err, &out)
	}
	if strings.Contains(out.String(), "goroutine ") {
		t.Errorf("has a stack trace:\n%s", &out)
	}
	return out.String()
}
