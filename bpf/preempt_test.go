package bpf

import (
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestTwoPrograms counts with two programs where one would do, and finds the same.
func TestTwoPrograms(t *testing.T) {
	const n, name = 100_000, "counted-by-two"
	two := true
	tr := openLive(t, Options{sources: []Source{SourceTracepoint}, pair: &two})
	run(t, helper(executable(t, name), "sethostname", strconv.Itoa(n)))
	s := checkIdentities(t, tr)
	if got := by(s, name); total(got) != n {
		t.Errorf("asked for %v, want %d", got, n)
	}
	if s.MissedRuns != 0 {
		t.Errorf("%d missed", s.MissedRuns)
	}
	if s.Unwinds > n/10 {
		t.Errorf("%d of %d checks had to be unwound", s.Unwinds, n)
	}
}

// TestPreemptibleAgree holds the two ways to tell against each other, where the kernel has both.
func TestPreemptibleAgree(t *testing.T) {
	needsRoot(t)
	f, err := probeFeatures()
	if err != nil {
		t.Fatal(err)
	}
	if !sources()[0].present(f.kernel) {
		t.Skip("no tracepoint cap_capable")
	}
	preemptible, err := f.preemptible()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("preemptible: %t, guarded by SRCU: %t", preemptible, f.srcuTracepoints())
	if preemptible != f.srcuTracepoints() {
		t.Errorf("programs are preemptible: %t, but tracepoints are guarded by SRCU: %t", preemptible, f.srcuTracepoints())
	}
}

// storm is the helper that makes n checks in ordinary threads, and as many in real-time threads that preempt them in the middle
// of theirs: storm N.
func storm(args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	thread := func(cpu int, realTime bool) {
		wg.Go(func() {
			runtime.LockOSThread() // and never unlocked: the thread ends with its priority
			err := func() error {
				if err := stayOn(cpu); err != nil {
					return err
				}
				if realTime {
					param := struct{ priority int32 }{50}
					if err := syscall3(unix.SYS_SCHED_SETSCHEDULER, 0, unix.SCHED_FIFO, uintptr(unsafe.Pointer(&param))); err != nil {
						return fmt.Errorf("sched_setscheduler: %w", err)
					}
				}
				for i := range n {
					if err := askSysAdmin(nil); err != nil {
						return err
					}
					if realTime && i%20 == 19 {
						pause := unix.Timespec{Nsec: int64(20_000 + i%7*10_000)}
						_ = unix.Nanosleep(&pause, nil)
					}
				}
				return nil
			}()
			mu.Lock()
			errs = append(errs, err)
			mu.Unlock()
		})
	}
	for cpu := range runtime.NumCPU() {
		thread(cpu, false)
		thread(cpu, true)
	}
	wg.Wait()
	return errors.Join(errs...)
}

// TestPreempted has real-time threads preempt tasks in the middle of checks: whatever is not counted is told to be missed. On
// the tracepoint, with what Open chooses, that is one in ten thousand at most: both of two programs must have been preempted on
// one CPU. For fexit there is no second program.
func TestPreempted(t *testing.T) {
	const n = 100_000
	made := uint64(n * 2 * runtime.NumCPU())
	var source Source
	storms := func(name string, opts Options) (missed uint64) {
		tr := openLive(t, opts)
		source = tr.Info().Source
		before := snapshot(t, tr)
		run(t, helper(executable(t, name), "storm", strconv.Itoa(n)))
		s := checkIdentities(t, tr)
		counted := by(s, name)["21 granted host"]
		missed = s.MissedRuns - before.MissedRuns
		t.Logf("%s, %s, %d programs: %d checks made, %d counted, %d missed of all", name, source, tr.objects.banks(), made, counted, missed)
		if counted > made || made-counted > missed {
			t.Errorf("%s: %d of %d checks were counted, and %d are told to be missed", name, counted, made, missed)
		}
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
		return missed
	}
	one := false
	storms("storm-one", Options{pair: &one})
	if missed := storms("storm", Options{}); missed > made/10_000 && source == SourceTracepoint {
		t.Errorf("%d of %d missed with what Open chooses", missed, made)
	}
}
