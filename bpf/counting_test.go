package bpf

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"capability_exporter/bpf/internal/source"
	"capability_exporter/bpf/internal/testprog"

	"github.com/cilium/ebpf/link"
)

// forkMany is the helper that starts another program n times: fork N PATH [NAME-PREFIX]. With a prefix, each start goes through
// a new name.
func forkMany(args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	for i := range n {
		path := args[1]
		if len(args) > 2 {
			path = args[2] + strconv.Itoa(i)
			if err := os.Link(args[1], path); err != nil {
				return err
			}
		}
		if err := exec.Command(path).Run(); err != nil {
			return fmt.Errorf("run %s: %w", path, err)
		}
		if len(args) > 2 {
			if err := os.Remove(path); err != nil {
				return err
			}
		}
	}
	return nil
}

func notMissed(t *testing.T, s *Snapshot) {
	t.Helper()
	if s.MissedRuns != 0 {
		t.Fatalf("the kernel skipped the program %d times, so the counts cannot be held to account", s.MissedRuns)
	}
}

// mayMiss is how many checks a count may fall short of what was made. A single program misses none, being attached alone only
// where it cannot be preempted; of two, both may have been preempted at once, and what that cost is told.
func mayMiss(t *testing.T, tr *Tracer, s *Snapshot) uint64 {
	t.Helper()
	if tr.objects.Banks() == 1 {
		notMissed(t, s)
	}
	return s.MissedRuns
}

// short tells whether got falls short of n by more than it may, or goes beyond it.
func short(got, n, missed uint64) bool { return got > n || n-got > missed }

// TestManyForks starts one executable 10,000 times; each process lives about a millisecond and asks once.
func TestManyForks(t *testing.T) {
	const n, name = 10_000, "one-of-many"
	tr := openLive(t, Options{})
	run(t, helper(self(t), "fork", strconv.Itoa(n), tiny(t, name)))
	s := checkIdentities(t, tr)
	notMissed(t, s)
	if got := by(s, name); total(got) != n || got["35 granted host"] != n {
		t.Errorf("%s asked for %v, want %d of CAP_WAKE_ALARM", name, got, n)
	}
}

// TestManyExecutables starts 10,000 executables of different names in one workload, more than there are series.
func TestManyExecutables(t *testing.T) {
	const n, prefix = 10_000, "many-"
	tr := openLive(t, Options{})
	path := tiny(t, "seed")
	run(t, helper(self(t), "fork", strconv.Itoa(n), path, filepath.Join(filepath.Dir(path), prefix)))
	s := checkIdentities(t, tr)
	notMissed(t, s)
	var named, other uint64
	for _, w := range s.Workloads {
		switch {
		case w.Process.Kind == ProcessOther && w.Check == Check{Capability: wakeAlarm}:
			other += w.Count
		case strings.HasPrefix(w.Process.Name, prefix):
			named += w.Count
			if w.Count != 1 {
				t.Errorf("%s asked %d times, want 1", w.Process.Name, w.Count)
			}
		}
	}
	if named+other != n || other == 0 {
		t.Errorf("%d in series of their own and %d under _other, want %d together, and some in each", named, other, n)
	}
	// It has all that one workload may have: twice as many as it leaves free, of which some were others' before.
	if want := s.SeriesLimit * 2 / 3; s.Series < want || s.Series > want+100 {
		t.Errorf("%d series in use, want some more than %d", s.Series, want)
	}
}

// TestFullRing holds the ring's reader: what does not fit is counted, and no name is lost.
func TestFullRing(t *testing.T) {
	const n, prefix = 100, "ring-"
	hold := make(chan struct{})
	var fresh atomic.Uint64
	tr := openLive(t, Options{
		RingSize: os.Getpagesize(), holdReader: hold, denialBurst: 1000,
		Announce: func(a Announcement) {
			if a.New {
				fresh.Add(1)
			}
		},
	})
	path := tiny(t, "seed")
	run(t, helper(self(t), "fork", strconv.Itoa(n), path, filepath.Join(filepath.Dir(path), prefix)))
	run(t, helper(executable(t, "denied"), "row", "sethostname", "without", strconv.Itoa(n), t.TempDir()))
	s := checkIdentities(t, tr)
	if s.RingLost == 0 || s.RingRecords != 0 {
		t.Fatalf("%d records lost and %d read of more than fit the ring, with its reader held", s.RingLost, s.RingRecords)
	}
	names := 0
	for _, w := range s.Workloads {
		if strings.HasPrefix(w.Process.Name, prefix) {
			names++
		}
	}
	if names != n {
		t.Errorf("%d of %d names known while the ring was full", names, n)
	}
	close(hold)
	// What must have been announced: each series once, and each denial that was not its series' first check.
	sent := func(s *Snapshot) (n uint64) {
		for _, w := range s.Workloads {
			switch {
			case w.Overflow:
			case w.Denied:
				n += w.Count
			default:
				n++
			}
		}
		return n
	}
	for range 100 {
		s = snapshot(t, tr)
		if s.RingRecords+s.RingLost+s.RingWithheld == sent(s) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d read, %d lost and %d withheld, want %d together", s.RingRecords, s.RingLost, s.RingWithheld, sent(s))
}

// TestDenialsWithheld asks in a loop for what is denied: a few are announced, and the rest counted.
func TestDenialsWithheld(t *testing.T) {
	const n, name = 1000, "denied-often"
	var announced atomic.Uint64
	tr := openLive(t, Options{Announce: func(a Announcement) {
		if a.Process.Name == name && a.Denied {
			announced.Add(1)
		}
	}})
	before := snapshot(t, tr)
	run(t, helper(executable(t, name), "row", "sethostname", "without", strconv.Itoa(n), t.TempDir()))
	var s *Snapshot
	for range 100 {
		s = snapshot(t, tr)
		// A window may have begun in between.
		if a := announced.Load(); (a == 5 || a == 10) && s.RingWithheld-before.RingWithheld >= n-a {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if got := by(s, name)["21 denied host"]; got != n {
		t.Errorf("%d denials counted, want %d", got, n)
	}
	if a := announced.Load(); a != 5 && a != 10 || s.RingWithheld-before.RingWithheld < n-a {
		t.Errorf("%d of %d denials announced, and %d withheld", a, n, s.RingWithheld-before.RingWithheld)
	}
}

// TestFullSiteTable leaves room for two call sites: all others are counted together.
func TestFullSiteTable(t *testing.T) {
	const n, name = 50, "site-table"
	tr := openLive(t, Options{SiteLimit: 2})
	run(t, helper(executable(t, name), "sethostname", strconv.Itoa(n)))
	s := checkIdentities(t, tr)
	var own int
	var other uint64
	for _, c := range s.Sites {
		if !c.Overflow {
			own++
		} else if c.Check == (Check{Capability: 21}) && c.Audited == AuditedYes {
			other += c.Count
		}
	}
	if own > 2 {
		t.Errorf("%d call sites in a table of 2", own)
	}
	if got := by(s, name)["21 granted host"]; got != n {
		t.Errorf("%d checks counted, want %d", got, n)
	}
	if own == 2 && other == 0 && siteCount(s, Check{Capability: 21}, AuditedYes, []string{"sys_sethostname"}) == 0 {
		t.Error("the audited checks stand under no call site")
	}
}

// TestSecondProgram attaches and detaches another program on the tracepoint, over and over, while checks are made: it moves
// everything on the stack, and nothing may be lost, misnamed or misclassified.
func TestSecondProgram(t *testing.T) {
	const n, name = 2_000_000, "beside-another"
	attach := somebodys(t, testprog.Empty)
	tr := openLive(t, Options{sources: []Source{SourceTracepoint}})
	times, runs := comesAndGoesOften(t, func() *exec.Cmd { return helper(executable(t, name), "sethostname", strconv.Itoa(n)) }, attach)
	made := runs * n
	s := checkIdentities(t, tr)
	if got := by(s, name); short(total(got), made, mayMiss(t, tr, s)) {
		t.Errorf("asked for %v, want %d of CAP_SYS_ADMIN", got, made)
	}
	if sites := sitesOf(s, name, Check{Capability: 21}); len(sites) != 1 || symbolName(sites[0]) != "sys_sethostname" {
		t.Errorf("asked by %v, want sethostname alone", sites)
	}
	for _, c := range s.Sites {
		if c.Audited == AuditedUnknown {
			t.Errorf("unclassified: %+v", c)
		}
	}
	tr.mu.Lock()
	single := tr.settings.Single
	tr.mu.Unlock()
	// Else everything above would hold for one layout, and say nothing about two. Where we are two programs there is but one.
	if tr.objects.Banks() == 1 && single.Capable == ^uint64(0) {
		t.Error("never saw the stack with one program on the tracepoint: somebody else has one there")
	}
	if s.Unwinds > made/10 {
		t.Errorf("%d of %d checks had to be unwound: the second layout was not learned", s.Unwinds, made)
	}
	t.Logf("%d times a second program; %d checks, %d unwound", times, made, s.Unwinds)
}

// TestForeignPrograms has somebody else's fentry and fexit programs on cap_capable. A trampoline then stands, or has stood, between
// cap_capable and its caller; the peek is enough all the same, and nothing is misnamed or misclassified.
func TestForeignPrograms(t *testing.T) {
	const n = 20_000
	for _, program := range []string{testprog.ForeignFentry, testprog.ForeignFexit} {
		for _, first := range []bool{false, true} {
			name := "beside-" + program
			if first {
				name += "-first"
			}
			t.Run(name, func(t *testing.T) {
				foreign, err := testprog.Load(program)
				if err != nil {
					t.Skip("the kernel lets nobody have such a program: ", err)
				}
				defer foreign.Close()
				attach := func() link.Link {
					l, err := foreign.Attach()
					if err != nil {
						t.Skip("the kernel lets nobody attach such a program: ", err)
					}
					return l
				}
				var l link.Link
				if first {
					l = attach()
				}
				tr := openLive(t, Options{sources: []Source{SourceTracepoint}})
				path := executable(t, name)
				// What it takes to learn is a matter of time: on a slow machine many checks are made meanwhile.
				ask := func(when string, some uint64) {
					before := snapshot(t, tr)
					run(t, helper(path, "sethostname", strconv.Itoa(n)))
					run(t, exec.Command("/bin/ls", "/"))
					s := checkIdentities(t, tr)
					checks, unwinds := total(by(s, name))-total(by(before, name)), s.Unwinds-before.Unwinds
					if short(checks, n, mayMiss(t, tr, s)) || unwinds > some {
						t.Errorf("%d checks and %d unwinds %s, want %d, and at most %d unwound", checks, unwinds, when, n, some)
					}
					t.Logf("%s: %d checks, %d unwound", when, checks, unwinds)
				}
				if !first {
					ask("before it", 2*n)
					l = attach()
				}
				ask("learning", 2*n)
				ask("beside it", n/4)
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
				ask("unlearning", 2*n)
				ask("after it", n/4)
				s := checkIdentities(t, tr)
				if sites := sitesOf(s, name, Check{Capability: 21}); len(sites) != 1 || symbolName(sites[0]) != "sys_sethostname" {
					t.Errorf("asked by %v, want sethostname alone", sites)
				}
				if got := by(s, "ls"); len(got) != 0 {
					t.Errorf("ls asked for %v", got)
				}
				for _, c := range s.Sites {
					if c.Audited == AuditedUnknown || strings.HasPrefix(c.Symbol, "bpf_trampoline") {
						t.Errorf("not told apart: %+v", c)
					}
				}
			})
		}
	}
}

// TestWithoutCast reads the stack as on a kernel without bpf_rdonly_cast.
func TestWithoutCast(t *testing.T) {
	const n, name = 100_000, "without-cast"
	mode := source.PeekProbe
	tr := openLive(t, Options{peek: &mode})
	run(t, helper(executable(t, name), "sethostname", strconv.Itoa(n)))
	s := checkIdentities(t, tr)
	if got := by(s, name); total(got) != n {
		t.Errorf("asked for %v, want %d", got, n)
	}
	if s.Unwinds > n/10 {
		t.Errorf("%d of %d checks had to be unwound", s.Unwinds, n)
	}
}

// TestLearnsAtStart: a tracer that has just been opened knows the stacks of the most usual checks, and others need not be unwound for it:
// not even those of a storm that breaks out at once.
func TestLearnsAtStart(t *testing.T) {
	const n, name, few = 5_000, "at-the-start", 200
	tr := openLive(t, Options{lessonTime: 30 * time.Second}) // where others keep the machine from it, that takes longer
	knowsLessons(t, tr)
	before := snapshot(t, tr)
	run(t, helper(executable(t, name), "storm", "ordinary", strconv.Itoa(n)))
	s := checkIdentities(t, tr)
	unwound := s.Unwinds - before.Unwinds
	t.Logf("%v counted, %d unwound, %d until then", by(s, name), unwound, before.Unwinds)
	if unwound > few {
		t.Errorf("%d checks of a storm had to be unwound, want %d at most", unwound, few)
	}
}

// TestLoadsUncounted: nothing counts yet while the kernel looks through what is loaded, and asks for a capability at each call of a helper.
func TestLoadsUncounted(t *testing.T) {
	const most = 100
	tr := openLive(t, Options{HeldInterval: never})
	s := checkIdentities(t, tr)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	own := by(s, filepath.Base(self))
	t.Logf("%s, beside: %s; asked itself for %v; %d unwound", programsOf(tr), tr.Info().LSM, own, s.Unwinds)
	if total(own) == 0 || total(own) > most || s.Unwinds > most {
		t.Errorf("%d checks by itself, %d unwound: want %d at most", total(own), s.Unwinds, most)
	}
}

func knowsLessons(t *testing.T, tr *Tracer) {
	t.Helper()
	tr.mu.Lock()
	defer tr.mu.Unlock()
	pairs := 0
	for i := range tr.settings.Pairs {
		if tr.settings.Pairs[i].Caller != 0 {
			pairs++
		}
	}
	if pairs < lessonPairs {
		t.Errorf("%d ways to cap_capable are known at the start, want %d", pairs, lessonPairs)
	}
}

// TestSeeds: where a key has its place in the cache, and what hash a name has, nobody can know beforehand.
func TestSeeds(t *testing.T) {
	var a, b Options
	a.setDefaults()
	b.setDefaults()
	for i := range a.seeds {
		if a.seeds[i] == b.seeds[i] || a.seeds[i]&1 == 0 {
			t.Errorf("seed %d of two starts: %#x and %#x, want others each time, and odd", i, a.seeds[i], b.seeds[i])
		}
	}
	if a.seeds[0] == a.seeds[1] {
		t.Errorf("the cache's seed is that of the names: %#x", a.seeds[0])
	}
}

// TestOnlyUnwinding takes the slow way at each check, and finds the same.
func TestOnlyUnwinding(t *testing.T) {
	const n, name = 10_000, "unwound"
	tr := openLive(t, Options{confirmEvery: 1})
	run(t, helper(executable(t, name), "sethostname", strconv.Itoa(n)))
	s := checkIdentities(t, tr)
	if got := by(s, name); total(got) != n {
		t.Errorf("asked for %v, want %d", got, n)
	}
	if sites := sitesOf(s, name, Check{Capability: 21}); len(sites) != 1 || symbolName(sites[0]) != "sys_sethostname" {
		t.Errorf("asked by %v", sites)
	}
	if s.Unwinds < n {
		t.Errorf("%d unwinds for %d checks that had to be confirmed each", s.Unwinds, n)
	}
}

// TestIdle runs ls, which asks the kernel for nothing: the overcommit checks of its mappings are not audited.
func TestIdle(t *testing.T) {
	tr := openLive(t, Options{})
	for range 20 {
		run(t, exec.Command("/bin/ls", "/"))
	}
	s := checkIdentities(t, tr)
	if got := by(s, "ls"); len(got) != 0 {
		t.Errorf("ls asked for %v", got)
	}
	var overcommit uint64
	for _, c := range s.Sites {
		if c.Capability == 21 && c.Audited == AuditedNo {
			overcommit += c.Count
		}
	}
	// Where cap_capable is inlined into cap_vm_enough_memory, fexit does not see them (Debian's 5.10 to 6.12).
	if overcommit < 20 && tr.Info().Source == SourceTracepoint {
		t.Errorf("%d unaudited checks of CAP_SYS_ADMIN, want some at each mapping", overcommit)
	}
}
