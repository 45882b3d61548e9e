package bpf

import (
	"maps"
	"os"
	"os/exec"
	"testing"
	"time"
)

func seriesOf(s *Snapshot, path, process string) (n uint64, series int) {
	for _, w := range s.Workloads {
		if w.Cgroup.Path == path && w.Process.Name == process {
			n += w.Count
			series++
		}
	}
	return n, series
}

func endedCount(s *Snapshot) (n uint64) {
	for _, c := range s.Ended {
		if c.Capability == wakeAlarm {
			n += c.Count
		}
	}
	return n
}

// endNow does what housekeeping does from time to time.
func endNow(t *testing.T, tr *Tracer) {
	t.Helper()
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if err := tr.endSeries(); err != nil {
		t.Fatal(err)
	}
}

// TestSeriesEnd follows one series from its cgroup's removal to its slot's next use.
func TestSeriesEnd(t *testing.T) {
	const name = "short-lived"
	tr := openLive(t, Options{SeriesLimit: 64, Retention: time.Millisecond, quarantine: time.Millisecond})
	path := tiny(t, name)
	dir := newCgroup(t, tr, "ending")
	for range 3 {
		run(t, inCgroup(dir, exec.Command(path)))
	}
	endNow(t, tr)
	s := checkIdentities(t, tr)
	if n, _ := seriesOf(s, "/ending", name); n != 3 {
		t.Fatalf("%d checks while the cgroup exists, want 3", n)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	time.Sleep(5 * time.Millisecond)
	endNow(t, tr)
	s = checkIdentities(t, tr)
	if n, series := seriesOf(s, "/ending", name); series != 0 || endedCount(s) != 3 {
		t.Fatalf("%d checks in %d series after the end, and %d ended, want 0, 0 and 3", n, series, endedCount(s))
	}
	time.Sleep(5 * time.Millisecond)
	endNow(t, tr) // the slot is free again
	// It comes back, and begins from 0. So many others take all slots, the freed one among them.
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, inCgroup(dir, exec.Command(path)))
	run(t, helper("/proc/self/exe", "fork", "64", path, path))
	s = checkIdentities(t, tr)
	if n, _ := seriesOf(s, "/ending", name); n != 1 {
		t.Errorf("%d checks after it came back, want 1", n)
	}
	if endedCount(s) != 3 {
		t.Errorf("%d ended, want 3", endedCount(s))
	}
	if s.Series != s.SeriesLimit {
		t.Errorf("%d series in use, want all %d: a slot was lost", s.Series, s.SeriesLimit)
	}
}

// TestRestart removes a cgroup and makes it again, as a service manager does when a service is restarted: its series goes on.
func TestRestart(t *testing.T) {
	const name = "restarted"
	tr := openLive(t, Options{Retention: 50 * time.Millisecond, quarantine: time.Millisecond})
	path := tiny(t, name)
	dir := newCgroup(t, tr, "service")
	for i := range uint64(4) {
		run(t, inCgroup(dir, exec.Command(path)))
		if i > 0 {
			time.Sleep(100 * time.Millisecond)
			endNow(t, tr) // retires the slot of the cgroup before
			s := checkIdentities(t, tr)
			if n, _ := seriesOf(s, "/service", name); n != i+1 {
				t.Fatalf("%d checks with the slot in quarantine, want %d", n, i+1)
			}
			time.Sleep(5 * time.Millisecond)
			endNow(t, tr) // frees it
		}
		s := checkIdentities(t, tr)
		if n, _ := seriesOf(s, "/service", name); n != i+1 {
			t.Fatalf("%d checks after %d restarts, want %d", n, i, i+1)
		}
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		if i < 3 {
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	time.Sleep(100 * time.Millisecond)
	endNow(t, tr)
	s := checkIdentities(t, tr)
	if n, series := seriesOf(s, "/service", name); series != 0 || endedCount(s) != 4 {
		t.Errorf("%d checks in %d series at the end, and %d ended, want 0, 0 and 4", n, series, endedCount(s))
	}
}

// TestDuplicates runs many files of one name, as when a program is replaced over and over: in the end they need one slot.
func TestDuplicates(t *testing.T) {
	const n, name = 50, "replaced"
	tr := openLive(t, Options{SeriesLimit: 64, quarantine: time.Millisecond, idle: time.Millisecond})
	for range n {
		run(t, exec.Command(tiny(t, name)))
	}
	count := func(s *Snapshot) (checks uint64) {
		for _, w := range s.Workloads {
			if w.Process.Name == name {
				checks += w.Count
			}
		}
		return checks
	}
	if s := checkIdentities(t, tr); s.Series < n || count(s) != n {
		t.Fatalf("%d series and %d checks of %d files", s.Series, count(s), n)
	}
	for range 3 {
		endNow(t, tr)
		if s := checkIdentities(t, tr); count(s) != n {
			t.Fatalf("%d checks, want %d", count(s), n)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if s := checkIdentities(t, tr); s.Series > 64-n+1 || count(s) != n {
		t.Errorf("%d series and %d checks, want one series of %d", s.Series, count(s), n)
	}
}

// TestCarriedNames: what is carried on keeps the name under which it was counted, and two cgroups whose paths have lost
// different beginnings stay two.
func TestCarriedNames(t *testing.T) {
	l := newLifecycle()
	cgroups := []Cgroup{{ID: 1, Path: "/whole"}, {ID: 2, Path: "/whole"}, {ID: 3, Path: "/tail", Truncated: true}, {ID: 4, Path: "/tail", Truncated: true}}
	for i, c := range cgroups {
		l.release(retiredSlot{slot: uint32(i), key: keyOf(&WorkloadCount{Cgroup: c}), carry: true}, 10)
	}
	carried, ended := l.counts(func(uint32) uint64 { return 0 })
	got := map[Cgroup]uint64{}
	for _, w := range carried {
		got[w.Cgroup] += w.Count
	}
	want := map[Cgroup]uint64{{Path: "/whole"}: 20, cgroups[2]: 10, cgroups[3]: 10}
	if !maps.Equal(got, want) || len(ended) != 0 {
		t.Errorf("carried %v, ended %v, want %v", got, ended, want)
	}
	l.end(func(c Cgroup) bool { return c == cgroups[2] })
	if carried, ended := l.counts(func(uint32) uint64 { return 0 }); len(carried) != 2 || len(ended) != 1 || ended[0].Count != 10 {
		t.Errorf("carried %v, ended %v after one of them was gone", carried, ended)
	}
}
