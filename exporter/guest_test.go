package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// These tests are of what a kernel, or a machine's settings, may stand in the
// way with: make test-vm runs them in guests.

// TestBinaryUnderSysctls runs in a guest only: what it changes is the whole
// machine's, and cannot be changed back.
func TestBinaryUnderSysctls(t *testing.T) {
	if os.Getenv(prebuilt) == "" {
		t.Skip("changes sysctls for good, so it runs in a guest alone (make test-vm)")
	}
	types, err := os.ReadFile("/sys/kernel/btf/vmlinux")
	if err != nil {
		t.Fatal(err)
	}
	site := `\w*sys_sethostname`
	if !bytes.Contains(types, []byte("\x00BPF_FUNC_snprintf\x00")) { // the kernel names no functions
		site = "_unknown"
	}
	program, ask := copyOf(t, exporter(t)), copyOf(t, self(t))
	for _, setting := range []struct{ name, value string }{
		{"perf_event_paranoid", "2"},
		{"perf_event_paranoid", "3"}, // Debian's: perf_event_open(2) asks for CAP_SYS_ADMIN
		{"unprivileged_bpf_disabled", "0"},
		{"unprivileged_bpf_disabled", "2"},
		{"unprivileged_bpf_disabled", "1"}, // last, for it cannot be unset
		{"kptr_restrict", "2"},
	} {
		t.Run(setting.name+"="+setting.value, func(t *testing.T) {
			setSysctl(t, setting.name, setting.value)
			start := withBoth(program, "--web.listen-address=127.0.0.1:0")
			// Who holds CAP_BPF is not asked what unprivileged processes may do.
			none := setting.name == "unprivileged_bpf_disabled"
			if none {
				start = append(start, "--privileges.keep=none")
			}
			if none && setting.value != "0" && !readsMapsWithout(t) {
				if out := failed(t, command(start...)); !strings.Contains(out, "start with --privileges.keep=attach: ") {
					t.Errorf("does not say what to do:\n%s", out)
				}
				return
			}
			p := startProcess(t, program, start...)
			if err := unix.Sethostname([]byte("guest")); err != nil {
				t.Fatal(err)
			}
			want := regexp.MustCompile(`capability_call_site_checks_total\{audited="yes",call_site="` + site + `",capability="CAP_SYS_ADMIN",result="granted"\} [1-9]`)
			if metrics := p.get(t, "/metrics").body; !want.MatchString(metrics) {
				t.Errorf("sethostname(2) is not among the metrics:\n%s", metrics)
			}
			if none {
				cgroup := newCgroup(t)
				p.namesNew(t, cgroup, ask, "CAP_SYS_ADMIN")
				if err := unix.Rmdir(cgroup); err != nil {
					t.Error(err)
				}
			}
			p.checkStop(t)
		})
	}
}

func setSysctl(t *testing.T, name, value string) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/kernel/"+name, []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}

// readsMapsWithout tells whether the kernel lets BPF maps be read without CAP_BPF whatever the sysctl says, as it does since 5.19.
func readsMapsWithout(t *testing.T) bool {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	return major > 5 || major == 5 && minor >= 19
}

// TestBinaryEndsSeriesUnderSysctls goes on to end series without a capability while what unprivileged processes may do is changed. It
// runs in a guest only.
func TestBinaryEndsSeriesUnderSysctls(t *testing.T) {
	if os.Getenv(prebuilt) == "" {
		t.Skip("changes sysctls for good, so it runs in a guest alone (make test-vm)")
	}
	const (
		limit, each = 256, 5
		apart       = 20 * time.Second // housekeeping comes every ten seconds
	)
	program := copyOf(t, exporter(t))
	p := startProcess(t, program, withBoth(program, "--web.listen-address=127.0.0.1:0", "--privileges.keep=none", fmt.Sprintf("--series.limit=%d", limit))...)
	// With more than half of the series in use, to the last, those of a cgroup that is gone end soon. Each has a fair share of its own.
	for range 4 {
		attack(t, 34, newCgroup(t))
	}
	values := []string{"0", "2", "1"}
	var cgroups []string
	for range values {
		cgroup := newCgroup(t)
		attack(t, each, cgroup)
		cgroups = append(cgroups, cgroup)
	}
	go func() {
		for _, cgroup := range cgroups {
			if err := unix.Rmdir(cgroup); err != nil {
				t.Error(err)
			}
			time.Sleep(apart)
		}
	}()
	for n, value := range values {
		if got := p.metric(t, endedDenials); got != float64(n*each) {
			t.Fatalf("%v checks of series that ended before it was %s, want %d", got, value, n*each)
		}
		if n := p.metric(t, "capability_exporter_workload_series"); n < limit/2+2*each {
			t.Fatalf("%v of %d series are in use\n%s", n, limit, p.get(t, "/metrics").body)
		}
		setSysctl(t, "unprivileged_bpf_disabled", value)
		p.waitForEnded(t, float64((n+1)*each))
	}
	p.checkStop(t)
}

// TestBinaryWithoutBTF hides what a kernel built without BTF lacks.
func TestBinaryWithoutBTF(t *testing.T) {
	start := append([]string{"unshare", "--mount"}, after("mount -t tmpfs none /sys/kernel/btf", withBoth(exporter(t), "--web.listen-address=127.0.0.1:0")...)...)
	out := failed(t, command(start...))
	if !strings.Contains(out, "needs a kernel built with CONFIG_DEBUG_INFO_BTF") {
		t.Errorf("does not say what the kernel lacks:\n%s", out)
	}
}

// after starts a program from a shell, after a command of the shell's. The
// program stands there by its path: busybox's shell has some of its own.
func after(shellCommand string, args ...string) []string {
	args[0] = command(args[0]).Path
	return append([]string{"sh", "-c", shellCommand + ` && exec "$@"`, "sh"}, args...)
}

// TestBinaryUnderMemlock starts with the limit that a process has by default.
// A kernel that charges BPF maps to it makes them impossible; others run.
func TestBinaryUnderMemlock(t *testing.T) {
	needsTracing(t)
	program := copyOf(t, exporter(t))
	start := after("ulimit -l 64", withBoth(program, "--web.listen-address=127.0.0.1:0")...)
	if !chargesMaps(t) {
		startProcess(t, program, start...).checkStop(t)
		return
	}
	out := failed(t, command(start...))
	for _, want := range []string{"RLIMIT_MEMLOCK is too low: it is 64 KiB", "LimitMEMLOCK=infinity", "source fexit (memlock)"} {
		if !strings.Contains(out, want) {
			t.Errorf("does not say %q:\n%s", want, out)
		}
	}
}

// chargesMaps tells whether BPF maps are charged to RLIMIT_MEMLOCK.
func chargesMaps(t *testing.T) bool {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err == nil {
		m.Close()
	} else if !errors.Is(err, unix.EPERM) {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		t.Fatal(err)
	}
	return err != nil
}

// TestBinaryUnderLockdown runs in a guest that was booted with
// lockdown=confidentiality.
func TestBinaryUnderLockdown(t *testing.T) {
	lockdown, err := os.ReadFile("/sys/kernel/security/lockdown")
	if err != nil || !strings.Contains(string(lockdown), "[confidentiality]") {
		t.Skip("the kernel is not locked down for confidentiality (make test-vm boots one that is)")
	}
	if out := failed(t, command(withBoth(exporter(t), "--web.listen-address=127.0.0.1:0")...)); !strings.Contains(out, "boot with lockdown=integrity or without") {
		t.Errorf("does not name lockdown:\n%s", out)
	}
}

// TestRefusalsAreLogged: what its filter refuses is in the kernel's log, and who is refused on and on does not fill that: the kernel
// itself lets ten such lines in within five seconds. It cannot be told to say a thing once.
func TestRefusalsAreLogged(t *testing.T) {
	if os.Getenv(prebuilt) == "" {
		t.Skip("needs a kernel's log that nobody else writes to, so it runs in a guest alone (make test-vm)")
	}
	const calls = 60 // of more than 64 that wait for the kernel's log, it may have one wait for a minute (audit_log_start)
	log, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(log)
	if _, err := unix.Seek(log, 0, io.SeekEnd); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	cmd := role(copyOf(t, self(t)), helperRefused, strconv.Itoa(calls))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	most := 10 * (2 + int(time.Since(begun)/(5*time.Second)))
	lines := 0
	line := regexp.MustCompile(fmt.Sprintf(`type=1326 .* pid=%d .* syscall=%d `, cmd.Process.Pid, unix.SYS_UNSHARE))
	for record := make([]byte, 8192); ; {
		n, err := unix.Read(log, record)
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if line.Match(record[:n]) {
			lines++
		}
	}
	if lines == 0 || lines > most {
		t.Errorf("%d lines for %d calls, want one at least and %d at most", lines, calls, most)
	}
}
