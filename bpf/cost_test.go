package bpf

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"capability_exporter/bpf/internal/testprog"

	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

var (
	cost       = flag.Bool("cost", false, "measure what a check costs, and print a table (make bench)")
	costRounds = flag.Int("cost.rounds", 30, "rounds of -cost, each time that programs are loaded")
)

// A load is a system call that is little more than one check, and how often it is made in a round.
type load struct {
	name  string
	calls int
	call  func()
}

func loads(t *testing.T) []load {
	hostname := []byte("x")
	// No filter at all: the call fails right after its check, before it allocates anything for the filter.
	filter := unix.SockFprog{Len: 1}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETHOSTNAME, uintptr(unsafe.Pointer(&hostname[0])), ^uintptr(0), 0); errno != unix.EINVAL {
		t.Fatalf("sethostname with length -1: %v, want EINVAL: the benchmark needs CAP_SYS_ADMIN", errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&filter))); errno != unix.EINVAL {
		t.Fatalf("seccomp with an unreadable filter: %v, want EINVAL", errno)
	}
	return []load{{
		"sethostname(-1): audited", 20_000, func() {
			unix.RawSyscall(unix.SYS_SETHOSTNAME, uintptr(unsafe.Pointer(&hostname[0])), ^uintptr(0), 0)
		},
	}, {
		"seccomp(unreadable): no-audit", 20_000, seccompCall(),
	}, {
		"mmap+munmap: overcommit", 5_000, unixMap,
	}}
}

// A way is a way to watch the checks. on attaches it, until what it returns is called.
type way struct {
	name string
	on   func() (off func())
}

const (
	wayNothing = "nothing attached"
	wayEmpty   = "an empty program"
	wayOurs    = "ours"
	waySecond  = "ours beside an empty one"
	wayTwin    = "ours as two programs"
	wayEntry   = "the first at an entry"
	wayRecord  = "a record per check"
)

// ways loads all programs once; only attaching is part of a round.
func ways(t *testing.T) []way {
	empty, each := load2(t, testprog.Empty), load2(t, testprog.RecordEach)
	reader, err := ringbuf.NewReader(each.Collection.Maps["records"])
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			var rec ringbuf.Record
			if reader.ReadInto(&rec) != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { reader.Close() })
	one, two := false, true
	ours, twin := openDetached(t, Options{pair: &one}), openDetached(t, Options{pair: &two})
	must := func(l link.Link, err error) func() {
		if err != nil {
			t.Fatal(err)
		}
		return func() { l.Close() }
	}
	attach := func(tr *Tracer) func() {
		if err := tr.objects.Attach(); err != nil {
			t.Fatal(err)
		}
		return func() {
			if err := tr.objects.Detach(); err != nil {
				t.Fatal(err)
			}
		}
	}
	all := []way{
		{wayNothing, func() func() { return func() {} }},
		{wayEmpty, func() func() { return must(empty.Attach()) }},
		{wayOurs, func() func() { return attach(ours) }},
		{waySecond, func() func() {
			a, b := must(empty.Attach()), attach(ours)
			return func() { a(); b() }
		}},
		{wayTwin, func() func() { return attach(twin) }},
		{wayRecord, func() func() { return must(each.Attach()) }},
	}
	if best := openDetached(t, Options{}); best.objects.AtEntry() {
		all = append(all, way{wayEntry, func() func() { return attach(best) }})
	}
	return all
}

func load2(t *testing.T, name string) *testprog.Loaded {
	l, err := testprog.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// openDetached opens a tracer and takes its program off again; what it has learned stays.
func openDetached(t *testing.T, opts Options) *Tracer {
	tr, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tr.Close() })
	if err := tr.objects.Detach(); err != nil {
		t.Fatal(err)
	}
	return tr
}

// TestCost is the benchmark, on one CPU. Nothing is asserted: the machine may be busy with others' work.
func TestCost(t *testing.T) {
	if !*cost {
		t.Skip("a measurement, not a test: make bench")
	}
	for _, part := range []struct {
		name    string
		measure func(t *testing.T) string
	}{{"calls", costOfCalls}, {"runs", runTimes}, {"exec", costOfExec}} {
		t.Run(part.name, func(t *testing.T) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			if err := stayOn(0); err != nil {
				t.Fatal(err)
			}
			fmt.Println(part.measure(t))
		})
	}
}

// costOfCalls has all ways in turn, round after round, and says what each adds as a multiple of what the empty program adds.
//
// What has been taken off is still cleared away for some milliseconds, at the cost of whoever comes next: two programs that had always come
// after others paid a tenth more. So each way has as many calls that are not counted, and comes after another one in each round. Others use
// the machine, which only adds: what counts is what a quarter of the rounds stayed below. Nor is it the same where in memory the kernel
// puts a program: all are loaded several times, and what is said is the median of those.
func costOfCalls(t *testing.T) string {
	t.Helper()
	const times = 8
	checks := loads(t)
	var names []string
	took := make([]map[string][]float64, len(checks)) // the lower quartile, each time
	for i := range took {
		took[i] = map[string][]float64{}
	}
	for range times {
		if !t.Run("loaded", func(t *testing.T) {
			runtime.LockOSThread() // it has a goroutine of its own
			defer runtime.UnlockOSThread()
			if err := stayOn(0); err != nil {
				t.Fatal(err)
			}
			all := ways(t)
			names = nil
			for _, w := range all {
				names = append(names, w.name)
			}
			for i, l := range checks {
				rounds := map[string][]float64{}
				for range *costRounds {
					for _, next := range rand.Perm(len(all)) {
						rounds[all[next].name] = append(rounds[all[next].name], timed(l, all[next]))
					}
				}
				for name, ns := range rounds {
					took[i][name] = append(took[i][name], quantile(ns, 1))
				}
			}
		}) {
			t.FailNow()
		}
	}
	var out strings.Builder
	fmt.Fprintf(&out, "lower quartiles of %d rounds, the ways in any order; medians (lower to upper quartile) of %d times that they were loaded\n", *costRounds, times)
	for i, l := range checks {
		// ratio is of what the two add, each time.
		ratio := func(name, to string) (r []float64) {
			for at, nothing := range took[i][wayNothing] {
				r = append(r, (took[i][name][at]-nothing)/(took[i][to][at]-nothing))
			}
			return r
		}
		fmt.Fprintf(&out, "\n%-30s %24s %24s\n", l.name, "ns a call", "added, x empty")
		for _, name := range names {
			fmt.Fprintf(&out, "  %-28s %24s %24s\n", name, spread(took[i][name]), multiples(ratio(name, wayEmpty)))
		}
		fmt.Fprintf(&out, "  %s, to %s: %s\n", wayTwin, waySecond, multiples(ratio(wayTwin, waySecond)))
	}
	return out.String()
}

// timed is how long a call takes, in ns, where checks are watched in a way.
func timed(l load, w way) float64 {
	defer w.on()()
	for range l.calls {
		l.call() // warm: what must be learned is learned here
	}
	start := time.Now()
	for range l.calls {
		l.call()
	}
	return float64(time.Since(start).Nanoseconds()) / float64(l.calls)
}

func quantile(v []float64, quarter int) float64 {
	v = sorted(v)
	return v[(len(v)-1)*quarter/4]
}

func sorted(v []float64) []float64 {
	v = slices.Clone(v)
	slices.Sort(v)
	return v
}

func median(v []float64) float64 { return quantile(v, 2) }

func spread(v []float64) string {
	return fmt.Sprintf("%.1f (%.1f to %.1f)", median(v), quantile(v, 1), quantile(v, 3))
}

func multiples(v []float64) string {
	return fmt.Sprintf("%.2f (%.2f to %.2f)", median(v), quantile(v, 1), quantile(v, 3))
}
