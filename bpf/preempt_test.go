package bpf

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"capability_exporter/bpf/internal/source"
	"capability_exporter/bpf/internal/testprog"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// TestTwoPrograms counts with two programs where one would do, and finds the same.
func TestTwoPrograms(t *testing.T) {
	const n, name = 100_000, "counted-by-two"
	two := true
	tr := openLive(t, Options{pair: &two})
	if tr.objects.Banks() != 2 {
		t.Skip("the kernel has no bpf_rdonly_cast: there is one program at most")
	}
	run(t, helper(executable(t, name), "sethostname", strconv.Itoa(n)))
	s := checkIdentities(t, tr)
	preemptible, err := tr.source.Preemptible(tr.features)
	if err != nil {
		t.Fatal(err)
	}
	if !preemptible {
		notMissed(t, s)
	}
	if got := by(s, name); short(total(got), n, s.MissedRuns) {
		t.Errorf("asked for %v, and %d were missed, want %d", got, s.MissedRuns, n)
	}
	if s.Unwinds > n/10 {
		t.Errorf("%d of %d checks had to be unwound", s.Unwinds, n)
	}
}

// TestPreemptibleAgree holds the two ways to tell against each other, where the kernel has both.
func TestPreemptibleAgree(t *testing.T) {
	needsRoot(t)
	f, err := source.Probe()
	if err != nil {
		t.Fatal(err)
	}
	if !source.All()[0].Present(f) {
		t.Skip("no tracepoint cap_capable")
	}
	preemptible, err := f.Preemptible()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("preemptible: %t", preemptible)
	if preemptible != f.PreemptibleByName() {
		t.Errorf("programs are preemptible: %t, but by what the kernel has: %t", preemptible, !preemptible)
	}
}

// storm is the helper that makes n checks in each of its threads, some of which are real-time and preempt others in the middle of
// theirs: storm KIND N [ROW DIR]. With the name of one of asideRows, they are those of its calls.
func storm(args []string) error {
	kind := stormKinds()[args[0]]
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	var calls func()
	if len(args) > 2 {
		if calls, err = asideCalls(args[2], args[3]); err != nil {
			return err
		}
	}
	ask := func() error {
		if calls == nil {
			return askSysAdmin(nil)
		}
		calls()
		return nil
	}
	// All begin at once, when each stands where it belongs. Else those that are still on the way there ask, too, and as some third task on
	// a CPU whose own threads have begun.
	var begin [2]int
	if err := unix.Pipe2(begin[:], unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("pipe2: %w", err)
	}
	// Go's scheduler knows nothing of priorities: a real-time thread that waits for it may keep the CPU from the one it waits for.
	runtime.GOMAXPROCS(runtime.NumCPU() * (kind.ordinary + len(kind.priorities) + 1))
	debug.SetGCPercent(-1)
	var (
		wg, placed sync.WaitGroup
		mu         sync.Mutex
		errs       []error
	)
	thread := func(cpu int, priority int32) {
		realTime := priority > 0
		placed.Add(1)
		place := func() error {
			defer placed.Done()
			if err := stayOn(cpu); err != nil || !realTime {
				return err
			}
			param := struct{ priority int32 }{priority}
			if err := syscall3(unix.SYS_SCHED_SETSCHEDULER, 0, unix.SCHED_FIFO, uintptr(unsafe.Pointer(&param))); err != nil {
				return fmt.Errorf("sched_setscheduler: %w", err)
			}
			return nil
		}
		wg.Go(func() {
			runtime.LockOSThread() // and never unlocked: the thread ends with its priority
			err := func() error {
				if err := place(); err != nil {
					return err
				}
				var end [1]byte
				if err := syscall3(unix.SYS_READ, uintptr(begin[0]), uintptr(unsafe.Pointer(&end)), 1); err != nil {
					return fmt.Errorf("read: %w", err)
				}
				for i := range n {
					if err := ask(); err != nil {
						return err
					}
					if realTime && i%20 == 19 {
						pause := unix.Timespec{Nsec: int64(20_000 + i%7*10_000)}
						_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&pause)), 0, 0)
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
		for range kind.ordinary {
			thread(cpu, 0)
		}
		for _, p := range kind.priorities {
			thread(cpu, p)
		}
	}
	placed.Wait()
	if err := unix.Close(begin[1]); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	wg.Wait()
	return errors.Join(errs...)
}

// A stormKind says which threads of a storm run on each CPU: so many ordinary ones, and real-time ones of these priorities.
type stormKind struct {
	ordinary   int
	priorities []int32
	// Of three that do nothing but ask, one is soon preempted in each of two programs that are both on the tracepoint, and until it
	// goes on the others' checks are missed (README, Limits).
	pairMisses bool
}

func (k stormKind) threads() int { return runtime.NumCPU() * (k.ordinary + len(k.priorities)) }

func stormKinds() map[string]stormKind {
	return map[string]stormKind{
		"mixed":      {1, []int32{50}, false},
		"ordinary":   {8, nil, true},
		"priorities": {2, []int32{10, 30, 50, 70}, true},
	}
}

// interrupted is the helper that makes n checks while interrupts of the same CPU make others, of CAP_NET_RAW: the kernel asks for it
// before it hands out a sent packet with its time stamp, and sends what is paced from a timer. interrupted N [ROW DIR], the calls of an
// aside's row with what that keeps.
func interrupted(args []string) error {
	runtime.LockOSThread()
	ask := func() error { return askSysAdmin(args[:1]) }
	if len(args) > 1 {
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return err
		}
		calls, err := asideCalls(args[1], args[2])
		if err != nil {
			return err
		}
		ask = func() error {
			for range n {
				calls()
			}
			return nil
		}
	}
	if err := stayOn(0); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer listener.Close()
	sender, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		return err
	}
	defer sender.Close()
	receiver, err := listener.Accept()
	if err != nil {
		return err
	}
	defer receiver.Close()
	raw, err := sender.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err
	}
	var errs []error
	if err := raw.Control(func(fd uintptr) {
		errs = append(errs,
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, 10<<20),
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPING, unix.SOF_TIMESTAMPING_TX_SOFTWARE|unix.SOF_TIMESTAMPING_SOFTWARE))
	}); err != nil {
		return err
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	go func() { _, _ = io.Copy(io.Discard, receiver) }()
	sending := make(chan error, 1)
	go func() {
		// Packets come out on the CPU that sent the first of them, and this may be a thread from before the other went to its own.
		runtime.LockOSThread()
		if err := stayOn(0); err != nil {
			sending <- err
			return
		}
		packet := make([]byte, 500)
		_ = raw.Write(func(fd uintptr) (done bool) {
			for {
				// Without MSG_EOR many packets would be sent as one.
				if err := unix.Send(int(fd), packet, unix.MSG_EOR|unix.MSG_DONTWAIT); err != nil {
					select {
					case sending <- nil:
					default:
					}
					return !errors.Is(err, unix.EAGAIN)
				}
			}
		})
	}()
	if err := <-sending; err != nil {
		return err
	}
	return ask()
}

// stampsAsk has the kernel ask for a capability before it hands out time stamps.
func stampsAsk(t *testing.T) {
	const setting = "/proc/sys/net/core/tstamp_allow_data"
	before, err := os.ReadFile(setting)
	if err != nil {
		t.Skip("the kernel's time stamps ask for nothing here: ", err)
	}
	if err := os.WriteFile(setting, []byte("0"), 0); err != nil {
		t.Skip("the kernel's time stamps cannot be made to ask here: ", err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(setting, before, 0); err != nil {
			t.Error(err)
		}
	})
}

// TestInterrupted makes checks in the middle of others, in interrupts.
func TestInterrupted(t *testing.T) {
	const n, name = 500_000, "interrupted"
	stampsAsk(t)
	tr := openLive(t, Options{})
	path := executable(t, name)
	run(t, helper(path, "interrupted", strconv.Itoa(n)))
	s := checkIdentities(t, tr)
	got := by(s, name)
	if counted := got["21 granted host"]; short(counted, n, s.MissedRuns) {
		t.Errorf("%d of %d checks were counted, and %d are told to be missed", counted, n, s.MissedRuns)
	}
	stamps := Check{Capability: uint8(cap.NET_RAW)}
	asked := siteCount(s, stamps, AuditedYes, named(tr, []string{"skb_may_tx_timestamp", "__skb_tstamp_tx", "skb_complete_tx_timestamp"}))
	losses, err := tr.counters.losses()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %d checks made beside %d in interrupts; %v counted, %d by the second, %d missed of all", programsOf(tr), n, asked, got, losses.Second, s.MissedRuns)
	if asked < 100 {
		t.Errorf("only %d checks in interrupts", asked)
	}
}

// TestPreempted has real-time threads preempt tasks in the middle of checks. What one program misses is told; what Open chooses
// misses none of them.
func TestPreempted(t *testing.T) {
	const n = 100_000
	made := uint64(n * 2 * runtime.NumCPU())
	storms := func(name string, opts Options) (counted, missed uint64) {
		tr := openLive(t, opts)
		before := snapshot(t, tr)
		run(t, helper(executable(t, name), "storm", "mixed", strconv.Itoa(n)))
		s := checkIdentities(t, tr)
		counted = by(s, name)["21 granted host"]
		missed = s.MissedRuns - before.MissedRuns
		t.Logf("%s, %s, %s: %d checks made, %d counted, %d missed of all", name, tr.Info().Source, programsOf(tr), made, counted, missed)
		if short(counted, made, missed) {
			t.Errorf("%s: %d of %d checks were counted, and %d are told to be missed", name, counted, made, missed)
		}
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
		return counted, missed
	}
	one := false
	storms("storm-one", Options{pair: &one})
	if counted, missed := storms("storm", Options{}); counted != made || missed != 0 {
		t.Errorf("%d of %d checks were counted with what Open chooses, and %d are told to be missed", counted, made, missed)
	}
}

// TestStorms: storms of different making, the first right after the start, are counted to the last check by what Open chooses. On arm64
// the first of two programs has no entry to stand at.
func TestStorms(t *testing.T) {
	for name, kind := range stormKinds() {
		t.Run(name, func(t *testing.T) { weather(t, name, Options{}, kind.pairMisses && runtime.GOARCH == "arm64") })
	}
}

// TestStormsOfPair: with both programs on the tracepoint, where the kernel has no entry for the first, what is missed of a storm is told.
func TestStormsOfPair(t *testing.T) {
	two := true
	for name, kind := range stormKinds() {
		t.Run(name, func(t *testing.T) { weather(t, name, Options{pair: &two}, kind.pairMisses) })
	}
}

func weather(t *testing.T, name string, opts Options, mayMiss bool) {
	kind := stormKinds()[name]
	threads := kind.threads()
	each := *stormChecks / threads
	tr := openLive(t, opts)
	mayMiss = mayMiss && bothPreempted(tr)
	for _, when := range []string{"cold", "warm"} {
		process := "storm-" + name + "-" + when
		before := snapshot(t, tr)
		run(t, helper(executable(t, process), "storm", name, strconv.Itoa(each)))
		s := checkIdentities(t, tr)
		counted, made := by(s, process)["21 granted host"], uint64(threads*each)
		missed, unwound := s.MissedRuns-before.MissedRuns, s.Unwinds-before.Unwinds
		t.Logf("%s: %s, %d checks made, %d counted, %d missed of all, %d unwound", when, programsOf(tr), made, counted, missed, unwound)
		if short(counted, made, missed) || !mayMiss && (counted != made || missed != 0) {
			t.Errorf("%s: %d of %d checks were counted; %d are told to be missed of all", when, counted, made, missed)
		}
		if unwound > made/100 {
			t.Errorf("%s: %d of %d checks had to be unwound", when, unwound, made)
		}
	}
}

// bothPreempted tells whether there are two programs, each of which can be preempted.
func bothPreempted(tr *Tracer) bool { return tr.objects.Banks() == 2 && !tr.objects.AtEntry() }

// programsOf says what a tracer counts with.
func programsOf(tr *Tracer) string {
	switch {
	case tr.objects.AtEntry():
		return "two programs, the first at an entry"
	case tr.objects.Banks() == 2:
		return "two programs"
	}
	return "one program"
}

// TestEntry: where programs on the tracepoint are preemptible, the first of two is at __traceiter_cap_capable's entry, or it is told why
// not.
func TestEntry(t *testing.T) {
	needsRoot(t)
	var log strings.Builder
	tr := openLive(t, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	preemptible, err := tr.source.Preemptible(tr.features)
	if err != nil {
		t.Fatal(err)
	}
	want := preemptible && tr.source.Name == source.Tracepoint
	told := strings.Contains(log.String(), "both of the programs that count are preemptible")
	t.Logf("%s: %s", programsOf(tr), log.String())
	if got := tr.objects.AtEntry(); runtime.GOARCH == "amd64" && got != want || told != (want && !got) {
		t.Errorf("the first program is at the entry: %t, want %t; told: %t", got, want, told)
	}
}

// TestBesideAtEntry has others come and go at __traceiter_cap_capable while checks are made.
func TestBesideAtEntry(t *testing.T) {
	inGuest(t)
	const function = "__traceiter_cap_capable"
	for name, attach := range map[string]func(*testing.T) func(){
		"kprobe":           func(t *testing.T) func() { return probe(t, "p:someones "+function) },
		"kretprobe":        func(t *testing.T) func() { return returnProbe(t, function) },
		"function-tracer":  func(t *testing.T) func() { return functionTracer(t, "function", function) },
		"function-graph":   func(t *testing.T) func() { return functionTracer(t, "function_graph", function) },
		"second-of-theirs": func(t *testing.T) func() { return foreign(t, testprog.Empty) },
	} {
		t.Run(name, func(t *testing.T) {
			const n = 200_000
			tr := openLive(t, Options{sources: []Source{SourceTracepoint}})
			times := comesAndGoes(t, helper(executable(t, name), "sethostname", strconv.Itoa(n)), func() func() { return attach(t) })
			s := checkIdentities(t, tr)
			got := by(s, name)
			t.Logf("%s; %d times; %v counted, %d missed of all, %d unwound", programsOf(tr), times, got, s.MissedRuns, s.Unwinds)
			if short(total(got), n, mayMiss(t, tr, s)) || tr.objects.AtEntry() && (total(got) != n || s.MissedRuns != 0) {
				t.Errorf("asked for %v, and %d were missed, want %d", got, s.MissedRuns, n)
			}
			if sites := sitesOf(s, name, Check{Capability: 21}); len(sites) != 1 || symbolName(sites[0]) != "sys_sethostname" {
				t.Errorf("asked by %v, want sethostname alone", sites)
			}
		})
	}
}

// functionTracer sets one of ftrace's own tracers on a function, and returns what takes it off.
func functionTracer(t *testing.T, tracer, function string) func() {
	t.Helper()
	dir := tracefs(t)
	set := func(file, what string) { write(t, filepath.Join(dir, file), what) }
	set("set_ftrace_filter", function)
	set("current_tracer", tracer)
	return func() {
		set("current_tracer", "nop")
		set("set_ftrace_filter", "")
	}
}

var stormChecks = flag.Int("storm.checks", 200_000, "how many checks TestStorms makes in each storm")
