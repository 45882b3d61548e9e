package privilege

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"capability_exporter/bpf"
	"capability_exporter/exporter/internal/exportertest"
)

const (
	bothMask = exportertest.BothMask
	fullMask = 1<<(unix.CAP_LAST_CAP+1) - 1
)

func TestCheck(t *testing.T) {
	const inner = "user:[4026532000]"
	start := func(permitted, bounding uint64) Circumstances {
		return Circumstances{Status: Status{Permitted: permitted, Bounding: bounding}, userNamespace: initialUserNamespace}
	}
	for _, test := range []struct {
		name   string
		given  Circumstances
		change func(*Circumstances)
		want   []string // nil: no error
		not    string
	}{
		{name: "both", given: start(bothMask, 0)},
		{name: "root", given: start(fullMask, fullMask)},
		{name: "no user namespaces", given: start(bothMask, 0), change: func(c *Circumstances) { c.userNamespace = "" }},
		{name: "nothing", given: start(0, fullMask), want: []string{"missing CAP_PERFMON and CAP_BPF", "no capability at all"}, not: "bounding set lacks"},
		{name: "one", given: start(1<<unix.CAP_BPF, fullMask), want: []string{"missing CAP_PERFMON\n", "started with CAP_BPF."}},
		{name: "bounding set", given: start(0, 1<<unix.CAP_PERFMON), want: []string{"missing CAP_PERFMON and CAP_BPF", "bounding set lacks CAP_BPF,"}},
		{name: "user namespace", given: start(fullMask, fullMask), change: func(c *Circumstances) { c.userNamespace = inner },
			want: []string{"missing CAP_PERFMON and CAP_BPF", "held only in a user namespace (" + inner + ")"}},
		{name: "user namespace, nothing held", given: start(0, fullMask), change: func(c *Circumstances) { c.userNamespace = inner },
			want: []string{"in a user namespace (" + inner + ")"}, not: "held only"},
		{name: "file capabilities and no_new_privs", given: start(0, fullMask),
			change: func(c *Circumstances) { c.fileCaps, c.NoNewPrivs = bothMask, true }, want: []string{"no_new_privs cancels them"}, not: "nosuid"},
		{name: "file capabilities and nosuid", given: start(0, fullMask),
			change: func(c *Circumstances) { c.fileCaps, c.noSUID = bothMask, true }, want: []string{"mounted nosuid"}, not: "no_new_privs"},
		{name: "one by file capabilities that no_new_privs cancels", given: start(1<<unix.CAP_BPF, fullMask),
			change: func(c *Circumstances) { c.fileCaps, c.NoNewPrivs = bothMask, true }, want: []string{"missing CAP_PERFMON\n", "The executable has CAP_PERFMON as"}},
		{name: "no_new_privs alone is not the reason", given: start(0, fullMask),
			change: func(c *Circumstances) { c.NoNewPrivs, c.noSUID = true, true }, want: []string{"no capability at all"}, not: "cancel"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := test.given
			if test.change != nil {
				test.change(&c)
			}
			err := c.Check()
			if test.want == nil {
				if err != nil {
					t.Fatalf("refused: %v", err)
				}
				return
			}
			if err == nil {
				t.Fatal("not refused")
			}
			for _, want := range append(test.want, "AmbientCapabilities=CAP_BPF CAP_PERFMON", "add: [BPF, PERFMON, SETUID, SETGID]", "setcap cap_bpf,cap_perfmon=ep") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("does not say %q:\n%v", want, err)
				}
			}
			if test.not != "" && strings.Contains(err.Error(), test.not) {
				t.Errorf("says %q:\n%v", test.not, err)
			}
		})
	}
}

func TestExplainRefusal(t *testing.T) {
	for _, test := range []struct {
		probe   unix.Errno
		seccomp int
		want    string
	}{
		{unix.E2BIG, 0, "security module (LSM) or kernel lockdown"},
		{unix.E2BIG, 2, "security module (LSM) or kernel lockdown"}, // a filter, but it lets bpf(2) through
		{unix.EPERM, 2, "seccomp filter"},
		{unix.ENOSYS, 2, "seccomp filter"},
		{unix.ENOSYS, 0, "CONFIG_BPF_SYSCALL"},
		{unix.EPERM, 0, "before any security module is asked"},
	} {
		if got := refusedBy(test.probe, test.seccomp); !strings.Contains(got, test.want) {
			t.Errorf("probe %v, seccomp %d: %q, want it to say %q", test.probe, test.seccomp, got, test.want)
		}
	}

	other := errors.New("verifier says no")
	if got := (Circumstances{}).ExplainRefusal(other); !errors.Is(got, other) || got.Error() != other.Error() {
		t.Errorf("an error that is no refusal became %v", got)
	}
	memlock := fmt.Errorf("%w: %w", bpf.ErrMemlock, unix.EPERM) // tells it itself
	if got := (Circumstances{}).ExplainRefusal(memlock); got.Error() != memlock.Error() {
		t.Errorf("a limit became %v", got)
	}
	for _, errno := range []unix.Errno{unix.EPERM, unix.ENOSYS} {
		refusal := fmt.Errorf("loading: %w", errno)
		if got := (Circumstances{}).ExplainRefusal(refusal); !errors.Is(got, errno) || got.Error() == refusal.Error() || !strings.HasSuffix(got.Error(), "\n"+refusal.Error()) {
			t.Errorf("a refusal became %v", got)
		}
	}
}

func TestReadStatus(t *testing.T) {
	path := filepath.Join(t.TempDir(), "status")
	write := func(content string) {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("Name:\tx\nUid:\t1\t2\t3\t4294967294\nGid:\t5\t6\t7\t8\nGroups:\t9 10 \nCapInh:\t0000000000000001\nCapPrm:\t0000000000000002\nCapEff:\t0000000000000003\n" +
		"CapBnd:\t000001ffffffffff\nCapAmb:\t0000000000000005\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n")
	got, err := ReadStatus(path)
	want := Status{Inheritable: 1, Permitted: 2, Effective: 3, Bounding: fullMask, Ambient: 5, NoNewPrivs: true, Seccomp: 2,
		UIDs: [4]uint32{1, 2, 3, 4294967294}, GIDs: [4]uint32{5, 6, 7, 8}, Groups: "9 10"}
	if err != nil || got != want {
		t.Errorf("read %+v, %v, want %+v", got, err, want)
	}

	for _, nonsense := range []string{"CapPrm:\tnonsense\n", "Uid:\t1\t2\t3\n", "Gid:\t1\t2\t3\tx\n"} {
		write(nonsense)
		if got, err := ReadStatus(path); err == nil {
			t.Errorf("%q was read as %+v", nonsense, got)
		}
	}
	if _, err := ReadStatus(path + "x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a thread that has ended: %v", err)
	}
	if got, err := ReadStatus(t.TempDir()); err == nil {
		t.Errorf("what cannot be read was read as %+v", got)
	}
}
