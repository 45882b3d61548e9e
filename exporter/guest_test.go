package main

import (
	"bytes"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"

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
	program := copyOf(t, exporter(t))
	for _, setting := range []struct{ name, value string }{
		{"perf_event_paranoid", "2"},
		{"perf_event_paranoid", "3"}, // Debian's: perf_event_open(2) asks for CAP_SYS_ADMIN
		{"unprivileged_bpf_disabled", "0"},
		{"unprivileged_bpf_disabled", "2"},
		{"unprivileged_bpf_disabled", "1"}, // last, for it cannot be unset
		{"kptr_restrict", "2"},
	} {
		t.Run(setting.name+"="+setting.value, func(t *testing.T) {
			if err := os.WriteFile("/proc/sys/kernel/"+setting.name, []byte(setting.value), 0); err != nil {
				t.Fatal(err)
			}
			p := startProcess(t, program, withBoth(program, "--web.listen-address=127.0.0.1:0")...)
			if err := unix.Sethostname([]byte("guest")); err != nil {
				t.Fatal(err)
			}
			want := regexp.MustCompile(`capability_call_site_checks_total\{audited="yes",call_site="` + site + `",capability="CAP_SYS_ADMIN",result="granted"\} [1-9]`)
			if metrics := p.get(t, "/metrics").body; !want.MatchString(metrics) {
				t.Errorf("sethostname(2) is not among the metrics:\n%s", metrics)
			}
			p.checkStop(t)
		})
	}
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
