package bpf

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf/internal/testprog"
)

// tracefs is where it is mounted.
func tracefs(t *testing.T) string {
	t.Helper()
	const tracing = "/sys/kernel/tracing"
	if _, err := os.Stat(filepath.Join(tracing, "trace")); err != nil {
		if err := unix.Mount("tracefs", tracing, "tracefs", 0, ""); err != nil {
			t.Skip("the kernel has no tracefs: ", err)
		}
	}
	return tracing
}

// returnProbe puts a kretprobe on a kernel function, which then returns to what the kernel has put on the stack in place of the
// caller's address. It returns what takes it away.
func returnProbe(t *testing.T, function string) func() {
	t.Helper()
	return probe(t, "r:someones "+function)
}

// probe makes the probe `someones` of kprobe_events, and returns what takes it away.
func probe(t *testing.T, definition string) func() {
	t.Helper()
	tracing := tracefs(t)
	probes := filepath.Join(tracing, "kprobe_events")
	enable := filepath.Join(tracing, "events/kprobes/someones/enable")
	write(t, probes, definition)
	write(t, enable, "1")
	return func() {
		write(t, enable, "0")
		write(t, probes, "") // truncated, it has none
	}
}

// foreign attaches somebody's program, and returns what detaches it.
func foreign(t *testing.T, program string) func() {
	t.Helper()
	p, err := testprog.Load(program)
	if err != nil {
		t.Skip("the kernel lets nobody have such a program: ", err)
	}
	l, err := p.Attach()
	if err != nil {
		p.Close()
		t.Skip("the kernel lets nobody attach such a program: ", err)
	}
	return func() {
		err := l.Close()
		p.Close()
		if err != nil {
			t.Error(err)
		}
	}
}

// TestRedirected has others' programs and probes on the functions that a check goes through, so that these do not return to who
// called them. Each check is counted, and told by who asked: in the worst case each is unwound for that.
func TestRedirected(t *testing.T) {
	inGuest(t)
	const n = 5_000
	tr := openLive(t, Options{})
	for _, test := range []struct {
		name   string
		moves  bool // what stands on the stack under the source fexit
		attach func(*testing.T) func()
	}{
		{"fentry-on-cap_capable", false, func(t *testing.T) func() { return foreign(t, testprog.ForeignFentry) }},
		{"fexit-on-cap_capable", false, func(t *testing.T) func() { return foreign(t, testprog.ForeignFexit) }},
		{"fexit-on-ns_capable", true, func(t *testing.T) func() { return foreign(t, testprog.ForeignWrapper) }},
		{"fexit-on-security_capable", true, func(t *testing.T) func() { return foreign(t, testprog.ForeignSecurity) }},
		{"kretprobe-on-ns_capable", true, func(t *testing.T) func() { return returnProbe(t, "ns_capable") }},
		{"kretprobe-on-security_capable", true, func(t *testing.T) func() { return returnProbe(t, "security_capable") }},
		{"kretprobe-on-cap_capable", true, func(t *testing.T) func() { return returnProbe(t, "cap_capable") }},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := executable(t, test.name)
			ask := func(when string) {
				before := snapshot(t, tr)
				run(t, helper(path, "sethostname", strconv.Itoa(n)))
				s := checkIdentities(t, tr)
				named := total(by(s, test.name)) - total(by(before, test.name))
				unknown, unwound := unknownCount(s)-unknownCount(before), s.Unwinds-before.Unwinds
				if unknown > 0 || short(named, n, mayMiss(t, tr, s)) {
					t.Errorf("%s: %d checks counted by who asked, and %d of unknown class, want %d and none", when, named, unknown, n)
				}
				// Programs on one function share its trampoline, in which all stays in its place.
				if !test.moves && tr.Info().Source == SourceFexit && unwound > n/100 {
					t.Errorf("%s: %d of %d checks had to be unwound", when, unwound, n)
				}
				t.Logf("%s: %s, %s, %d checks by who asked, %d of unknown class, %d unwound", when, tr.Info().Source, programsOf(tr), named, unknown, unwound)
			}
			ask("before")
			detach := test.attach(t)
			ask("beside it")
			detach()
			ask("after it")
			for _, site := range sitesOf(snapshot(t, tr), test.name, Check{Capability: uint8(cap.SYS_ADMIN)}) {
				if symbolName(site) != "sys_sethostname" {
					t.Errorf("asked by %s, want sethostname alone", site)
				}
			}
		})
	}
	for _, c := range snapshot(t, tr).Sites {
		for _, part := range []string{"trampoline", "rethook", "return_to_handler", "security_capable", "cap_capable"} {
			if strings.Contains(c.Symbol, part) {
				t.Errorf("nobody who asked: %+v", c)
			}
		}
	}
}

func unknownCount(s *Snapshot) (n uint64) {
	for _, c := range s.Sites {
		if c.Audited == AuditedUnknown {
			n += c.Count
		}
	}
	return n
}
