package bpf

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

const (
	markTurns      = 1<<11 - 1 // of a mark: how often its task had given up the CPU (pair.h)
	markPlaces     = 1 << 10
	markCheckShift = 22 // below the task: which check it is
)

// A markPlace is the kernel side's struct mark.
type markPlace struct {
	Mark, Task uint64
	_          [6]uint64
}

// TestMarks counts with two programs whose marks find each place taken: by a task that may still come for its own, or that is gone. Where
// Open has the first of two at an entry, it does so with these, too.
func TestMarks(t *testing.T) {
	const n = 20_000
	two := true
	sleeper, awake := sleepersMark(t)
	defer awake()
	type row struct {
		name  string
		other uint64
		stays bool
		pair  *bool
	}
	const over = 1<<markCheckShift | 1
	rows := []row{{"taken", sleeper, true, &two}, {"left-over", over, false, &two}}
	if openDetached(t, Options{}).objects.AtEntry() {
		rows = append(rows, row{"taken-at-entry", sleeper, true, nil}, row{"left-over-at-entry", over, false, nil})
	}
	for _, test := range rows {
		t.Run(test.name, func(t *testing.T) {
			tr := openLive(t, Options{pair: test.pair})
			name := "place-" + test.name
			path := executable(t, name)
			// Whoever was there before is not to be taken for who is there now: not even if it is his mark.
			last := uint64(0xffff)<<48 | test.other>>markCheckShift<<6
			if err := tr.objects.Collection.Variables["marks"].Set(slices.Repeat([]markPlace{{Mark: test.other, Task: last}}, markPlaces)); err != nil {
				t.Fatal(err)
			}
			run(t, helper(path, "sethostname", strconv.Itoa(n)))
			s := checkIdentities(t, tr)
			if got := by(s, name); short(total(got), n, s.MissedRuns) {
				t.Errorf("asked for %v, and %d were missed, want %d", got, s.MissedRuns, n)
			}
			changed, met := 0, 0
			for _, place := range places(t, tr) {
				if place.Mark != test.other {
					changed++
				}
				if place.Task != last {
					met++
				}
			}
			if met == 0 {
				t.Error("nobody has been met at any place")
			}
			if test.stays != (changed == 0) {
				t.Errorf("%d of %d places were taken over", changed, markPlaces)
			}
			preemptible, err := tr.source.Preemptible(tr.features)
			if exact := !preemptible || tr.objects.AtEntry(); err != nil || exact && s.MissedRuns != 0 {
				t.Errorf("%d checks were missed (%v)", s.MissedRuns, err)
			}
		})
	}
}

func places(t *testing.T, tr *Tracer) []markPlace {
	t.Helper()
	all := make([]markPlace, markPlaces)
	if err := tr.objects.Collection.Variables["marks"].Get(all); err != nil {
		t.Error(err)
	}
	return all
}

// TestPlaces: tasks have places of their own.
func TestPlaces(t *testing.T) {
	const threads, shared = 20, 4 // of the latter at most, by chance
	two := true
	tr := openLive(t, Options{pair: &two})
	if tr.objects.Banks() != 2 {
		t.Skip("the kernel has no bpf_rdonly_cast: there is one program at most")
	}
	taken := func() (n int) {
		for _, place := range places(t, tr) {
			if place.Task != 0 {
				n++
			}
		}
		return n
	}
	before := taken() // by others
	asked, end := make(chan error), make(chan struct{})
	defer close(end)
	for range threads {
		go func() {
			runtime.LockOSThread() // and never unlocked
			asked <- askSysAdmin(nil)
			<-end
		}()
	}
	for range threads {
		if err := <-asked; err != nil {
			t.Fatal(err)
		}
	}
	if n := taken() - before; n < threads-shared {
		t.Errorf("%d threads have asked at %d places, want %d or more", threads, n, threads-shared)
	}
}

// sleepersMark is a mark of a thread that then sleeps until it is awoken, as the first of two programs leaves it where there is no second.
func sleepersMark(t *testing.T) (mark uint64, awake func()) {
	t.Helper()
	two := true
	tr := openDetached(t, Options{pair: &two})
	if tr.objects.Banks() != 2 {
		t.Skip("the kernel has no bpf_rdonly_cast: there is one program at most")
	}
	first, err := link.AttachTracing(link.TracingOptions{Program: tr.objects.Programs[0]})
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	type found struct {
		thread int
		marks  map[uint64]bool // of its task alone
		err    error
	}
	asked, end := make(chan found), make(chan struct{})
	go func() {
		runtime.LockOSThread() // and never unlocked
		f := found{thread: unix.Gettid(), marks: map[uint64]bool{}}
		f.err = func() error {
			var all unix.Sigset_t
			for i := range all.Val {
				all.Val[i] = ^all.Val[i]
			}
			if err := unix.PthreadSigmask(unix.SIG_BLOCK, &all, nil); err != nil {
				return err
			}
			for range 100 { // until it does not give up the CPU before it asks
				clear(f.marks)
				if err := markOwn(t, tr, f.thread, f.marks); err != nil || len(f.marks) == 1 {
					return err
				}
			}
			return nil
		}()
		asked <- f
		<-end
	}()
	awake = func() { close(end) }
	f := <-asked
	if f.err != nil || len(f.marks) != 1 {
		awake()
		t.Fatalf("%d tasks have left a mark that may be the thread's, want 1 (%v)", len(f.marks), f.err)
	}
	time.Sleep(50 * time.Millisecond) // it goes to sleep
	turns, err := turnsOf(f.thread)
	if err != nil {
		awake()
		t.Fatal(err)
	}
	for m := range f.marks {
		mark = m | turns&markTurns
	}
	return mark, awake
}

// markOwn asks, and finds which tasks have left a mark that may be of the thread that asked.
func markOwn(t *testing.T, tr *Tracer, thread int, tasks map[uint64]bool) error {
	turns, err := turnsOf(thread)
	if err != nil {
		return err
	}
	if err := askSysAdmin(nil); err != nil {
		return err
	}
	for _, place := range places(t, tr) {
		if place.Mark != 0 && place.Mark&markTurns == turns&markTurns {
			tasks[place.Mark>>markCheckShift<<markCheckShift] = true
		}
	}
	return nil
}

// turnsOf is how often a thread has given up the CPU.
func turnsOf(thread int) (uint64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/status", thread))
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(status), "\nvoluntary_ctxt_switches:")
	line, _, _ := strings.Cut(after, "\n")
	return strconv.ParseUint(strings.TrimSpace(line), 10, 64)
}
