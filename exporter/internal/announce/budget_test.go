package announce

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/common/promslog"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf"
)

func in(workload int, n bpf.Announcement) bpf.Announcement {
	n.Cgroup = bpf.Cgroup{ID: 1, Path: fmt.Sprint("/w", workload, "/")}
	return n
}

var (
	denied     = bpf.Announcement{Check: bpf.Check{Capability: uint8(cap.NET_RAW), Denied: true}}
	userNS     = bpf.Announcement{New: true, Check: bpf.Check{Capability: uint8(cap.SYS_ADMIN), UserNS: true}}
	ofAdmin    = bpf.Announcement{New: true, Check: bpf.Check{Capability: uint8(cap.SYS_ADMIN)}}
	deniedMore = bpf.Announcement{New: true, Check: bpf.Check{Capability: uint8(cap.SYS_ADMIN), Denied: true}}
	ofAnother  = bpf.Announcement{New: true, Check: bpf.Check{Capability: uint8(cap.CHOWN)}}
)

// budgeted is a log, and the number of its lines that name a workload.
func budgeted(t *testing.T) (*Log, func(workload int) int) {
	t.Helper()
	logger, out := testLogger(t, "debug", "logfmt")
	return NewLog(logger), func(workload int) int {
		return strings.Count(out.String(), fmt.Sprint(" workload=/w", workload, "/ "))
	}
}

func wantLines(t *testing.T, what string, got, want int) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %d lines, want %d", what, got, want)
	}
}

func TestOneWorkloadCannotTakeTheOthersLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, lines := budgeted(t)
		for range 1000 {
			a.Announce(in(1, denied))
		}
		wantLines(t, "a storm", lines(1), 20)
		a.Announce(in(2, denied))
		wantLines(t, "beside a storm", lines(2), 1)
		if a.OverBudget() != 980 || a.NotTaken() != 0 {
			t.Errorf("%d over budget, %d not taken", a.OverBudget(), a.NotTaken())
		}

		time.Sleep(time.Minute)
		for range 1000 {
			a.Announce(in(1, denied))
		}
		wantLines(t, "a minute later", lines(1), 20+10)
	})
}

// By its own name: what found the table full is counted under _other, all of it
// together.
func TestOneWorkloadCannotTakeTheOthersLinesInAFullTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := budgeted(t)
		overflow := denied
		overflow.Overflow = true
		for range 1000 {
			a.Announce(in(1, overflow))
		}
		before := a.OverBudget()
		a.Announce(in(2, overflow))
		if a.OverBudget() != before {
			t.Error("withheld because of another workload")
		}
	})
}

func TestAllWorkloadsTogetherAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := budgeted(t)
		const made = 5000
		storm := func() {
			for n := range made {
				a.Announce(in(n, denied))
			}
		}
		storm()
		if got := made - a.OverBudget(); got != 200 {
			t.Errorf("%d lines at once, want 200", got)
		}
		before := a.OverBudget()
		time.Sleep(time.Minute)
		storm()
		if got := made - (a.OverBudget() - before); got != 60 {
			t.Errorf("%d lines a minute later, want 60", got)
		}
		for kind, b := range a.budgets {
			if b.workloads.Len() > 1024 {
				t.Errorf("%v: %d workloads are kept", kind, b.workloads.Len())
			}
		}
	})
}

// Denials and user namespaces are free for all, and a use of CAP_SYS_ADMIN is
// what people want to be told.
func TestGrantedOnTheHostHasABudgetOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, storm := range map[string]bpf.Announcement{"denied": denied, "CAP_SYS_ADMIN denied": deniedMore, "user namespaces": userNS, "other capabilities": ofAnother} {
			a, lines := budgeted(t)
			for n := range 5000 {
				a.Announce(in(n%1000, storm))
			}
			if a.OverBudget() == 0 {
				t.Errorf("%s: no storm", name)
			}
			before := lines(7)
			for range 20 {
				a.Announce(in(7, ofAdmin))
			}
			wantLines(t, name, lines(7)-before, 20)
		}

		// And one has none of these.
		a, lines := budgeted(t)
		for n := range 5000 {
			a.Announce(in(n%1000, ofAdmin))
		}
		before := lines(7)
		a.Announce(in(7, denied))
		wantLines(t, "a denial beside uses", lines(7)-before, 1)
	})
}

// What nobody wants to read takes nothing from what is read.
func TestLinesBelowTheLevelTakeNoBudget(t *testing.T) {
	a := NewLog(promslog.New(&promslog.Config{Writer: t.Output()}))
	for range 1000 {
		a.Announce(in(1, ofAnother))
	}
	if a.OverBudget() != 0 {
		t.Errorf("%d over budget", a.OverBudget())
	}
}
