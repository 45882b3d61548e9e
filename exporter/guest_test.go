package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// These tests need a machine of their own: make test-vm runs them in guests.

// TestBinaryUnderSysctls runs in a guest only: what it changes is the whole
// machine's, and cannot be changed back.
func TestBinaryUnderSysctls(t *testing.T) {
	if os.Getenv(prebuilt) == "" {
		t.Skip("changes sysctls for good, so it runs in a guest alone (make test-vm)")
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
			want := regexp.MustCompile(`capability_call_site_checks_total\{audited="yes",call_site="\w*sys_sethostname",capability="CAP_SYS_ADMIN",result="granted"\} [1-9]`)
			if metrics := p.get(t, "/metrics").body; !want.MatchString(metrics) {
				t.Errorf("sethostname(2) is not among the metrics:\n%s", metrics)
			}
			p.checkStop(t)
		})
	}
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
