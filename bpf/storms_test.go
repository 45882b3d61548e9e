package bpf

import (
	"os/exec"
	"strconv"
	"testing"
	"time"

	"capability_exporter/bpf/internal/testprog"
)

// comesAndGoes attaches and detaches something, over and over, for as long as a command runs. It returns how often.
func comesAndGoes(t *testing.T, cmd *exec.Cmd, attach func() func()) (times int) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for running := true; running; times++ {
		detach := attach()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			running = false
		case <-time.After(20 * time.Millisecond):
		}
		detach()
		time.Sleep(5 * time.Millisecond)
	}
	return times
}

// comesAndGoesOften is comesAndGoes until that was ten times or more: a fast CPU is soon done with a command, and real-time threads leave
// little time for it. So the command may run several times.
func comesAndGoesOften(t *testing.T, command func() *exec.Cmd, attach func() func()) (times int, runs uint64) {
	t.Helper()
	for ; times < 10; runs++ {
		times += comesAndGoes(t, command(), attach)
	}
	return times, runs
}

// somebodys attaches a test program, as often as it is told.
func somebodys(t *testing.T, program string) (attach func() (detach func())) {
	t.Helper()
	p, err := testprog.Load(program)
	if err != nil {
		t.Skip("the kernel lets nobody have such a program: ", err)
	}
	t.Cleanup(p.Close)
	return func() func() {
		l, err := p.Attach()
		if err != nil {
			t.Fatal(err)
		}
		return func() {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestStormsBeside has somebody's program on the tracepoint come and go in the middle of storms: the kernel then changes under each of
// many threads what it calls, and where all stands on the stack.
func TestStormsBeside(t *testing.T) {
	two := true
	for name, pair := range map[string]*bool{"as-Open-chooses": nil, "two-on-the-tracepoint": &two} {
		t.Run(name, func(t *testing.T) {
			for kind := range stormKinds() {
				t.Run(kind, func(t *testing.T) { stormBeside(t, kind, Options{sources: []Source{SourceTracepoint}, pair: pair}) })
			}
		})
	}
}

func stormBeside(t *testing.T, name string, opts Options) {
	kind := stormKinds()[name]
	threads := kind.threads()
	each := *stormChecks / threads
	process := "beside-" + name
	attach := somebodys(t, testprog.Empty)
	tr := openLive(t, opts)
	before := snapshot(t, tr)
	times, runs := comesAndGoesOften(t, func() *exec.Cmd { return helper(executable(t, process), "storm", name, strconv.Itoa(each)) }, attach)
	made := runs * uint64(threads*each)
	s := checkIdentities(t, tr)
	counted, missed, unwound := by(s, process)["21 granted host"], s.MissedRuns-before.MissedRuns, s.Unwinds-before.Unwinds
	t.Logf("%s, %d times another: %d checks made, %d counted, %d missed of all, %d unwound", programsOf(tr), times, made, counted, missed, unwound)
	// Of the other processes, few ask meanwhile.
	if short(counted, made, missed) || missed > made-counted+100 {
		t.Errorf("%d of %d checks were counted, and %d are told to be missed", counted, made, missed)
	}
	if mayMiss := kind.pairMisses && bothPreempted(tr); missed != 0 && !mayMiss {
		t.Errorf("%d checks were missed", missed)
	}
	if sites := sitesOf(s, process, Check{Capability: 21}); len(sites) != 1 || symbolName(sites[0]) != "sys_sethostname" {
		t.Errorf("asked by %v, want sethostname alone", sites)
	}
	if n := unknownCount(s); n != 0 {
		t.Errorf("%d checks of unknown class", n)
	}
	if unwound > made/1000 {
		t.Errorf("%d of %d checks had to be unwound", unwound, made)
	}
}
