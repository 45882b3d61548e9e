package bpf

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync/atomic"
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

// seriesNamed is seriesOf in all cgroups.
func seriesNamed(s *Snapshot, process string) (n uint64, series int) {
	for _, w := range s.Workloads {
		if w.Process.Name == process {
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

// endAll does so until what is gone has ended and its slots are free. It takes a few rounds: the kernel side's word that a cgroup is gone
// comes a moment later, the retention must be over, and a slot waits out its quarantine.
func endAll(t *testing.T, tr *Tracer) {
	t.Helper()
	for round := 1; round <= 500; round++ {
		time.Sleep(10 * time.Millisecond)
		endNow(t, tr)
		if round >= 5 && goneRecords(t, tr) == 0 && inQuarantine(tr) == 0 {
			return
		}
	}
	t.Fatalf("after five seconds there are %d records of cgroups that are gone, and %d slots in quarantine", goneRecords(t, tr), inQuarantine(tr))
}

// goneRecords counts the kernel side's records of cgroups that are gone. It notes that in rmdir(2) itself.
func goneRecords(t *testing.T, tr *Tracer) (n int) {
	t.Helper()
	table := cgroupMap{tr.objects.Collection.Maps["cgroups"]}
	for _, serial := range keysOf(t, tr, "cgroups", uint64(0)) {
		r, err := table.Lookup(serial)
		if err != nil {
			t.Fatal(err)
		}
		if r != nil && r.Offline != 0 {
			n++
		}
	}
	return n
}

func inQuarantine(tr *Tracer) int {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return len(tr.series.retired)
}

// TestSeriesEnd follows one series from its cgroup's removal to its slot's next use.
func TestSeriesEnd(t *testing.T) {
	for _, hierarchy := range []string{"v2", "pids"} {
		t.Run(hierarchy, func(t *testing.T) {
			if hierarchyMount(t, hierarchy) == "" {
				return // a kernel that has v2 alone
			}
			seriesEnd(t, hierarchy)
		})
	}
}

func seriesEnd(t *testing.T, hierarchy string) {
	const name = "short-lived"
	tr := openLive(t, Options{SeriesLimit: 64, Retention: time.Millisecond, quarantine: time.Millisecond})
	path := tiny(t, name)
	dir := newCgroupIn(t, hierarchy, "ending")
	for range 3 {
		run(t, inCgroups(t, exec.Command(path), dir))
	}
	endNow(t, tr)
	s := checkIdentities(t, tr)
	if n, _ := seriesOf(s, "/ending", name); n != 3 {
		t.Fatalf("%d checks while the cgroup exists, want 3", n)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	endAll(t, tr)
	s = checkIdentities(t, tr)
	if n, series := seriesOf(s, "/ending", name); series != 0 || endedCount(s) != 3 {
		t.Fatalf("%d checks in %d series after the end, and %d ended, want 0, 0 and 3", n, series, endedCount(s))
	}
	// The slot is free again. It comes back, and begins from 0. So many others take all slots, the freed one among them.
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, inCgroups(t, exec.Command(path), dir))
	fillTable(t, tr)
	s = checkIdentities(t, tr)
	if n, _ := seriesOf(s, "/ending", name); n != 1 {
		t.Errorf("%d checks after it came back, want 1", n)
	}
	if endedCount(s) != 3 {
		t.Errorf("%d ended, want 3", endedCount(s))
	}
}

// TestRenamed renames a v1 cgroup, which v2 does not let: it keeps the name that it had at its first check, for as long as it has a series,
// and gives it to none that comes later.
func TestRenamed(t *testing.T) {
	const was, is = "/named-before", "/named-after"
	// With nothing announced, the first look at the name comes when there is another.
	tr := openLive(t, Options{Retention: time.Millisecond, quarantine: time.Millisecond, holdReader: make(chan struct{})})
	dir := newCgroupIn(t, "pids", was)
	renamed := filepath.Join(filepath.Dir(dir), is)
	t.Cleanup(func() { _ = os.Remove(renamed) })
	often, late := tiny(t, "before-and-after"), tiny(t, "after-alone")
	run(t, inCgroups(t, exec.Command(often), dir))
	if err := os.Rename(dir, renamed); err != nil {
		t.Fatal(err)
	}
	run(t, inCgroups(t, exec.Command(often), renamed))
	run(t, inCgroups(t, exec.Command(late), renamed))
	endNow(t, tr)
	s := checkIdentities(t, tr)
	for path, want := range map[string]map[string]uint64{was: {"before-and-after": 2, "after-alone": 1}, is: {"before-and-after": 0, "after-alone": 0}} {
		for process, want := range want {
			if n, _ := seriesOf(s, path, process); n != want {
				t.Errorf("%d checks of %s in %s, want %d", n, process, path, want)
			}
		}
	}
	if err := os.Remove(renamed); err != nil {
		t.Fatal(err)
	}
	endAll(t, tr)
	if err := os.Mkdir(renamed, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, inCgroups(t, exec.Command(late), renamed))
	s = checkIdentities(t, tr)
	if n, series := seriesOf(s, was, "after-alone"); series != 0 || endedCount(s) != 3 {
		t.Errorf("%d checks in %d series of a cgroup that is gone, and %d ended, want none and 3", n, series, endedCount(s))
	}
	if n, _ := seriesOf(s, is, "after-alone"); n != 1 {
		t.Errorf("%d checks in a cgroup of the new name, want 1", n)
	}
}

// TestRestart removes a cgroup and makes it again, as a service manager does when a service is restarted: its series goes on.
func TestRestart(t *testing.T) {
	const name = "restarted"
	tr := openLive(t, Options{Retention: 50 * time.Millisecond, quarantine: time.Millisecond})
	path := tiny(t, name)
	dir := newCgroup(t, "service")
	for i := range uint64(4) {
		run(t, inCgroup(dir, exec.Command(path)))
		if i > 0 {
			endAll(t, tr) // retires the slot of the cgroup before, and frees it
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
	endAll(t, tr)
	s := checkIdentities(t, tr)
	if n, series := seriesOf(s, "/service", name); series != 0 || endedCount(s) != 4 {
		t.Errorf("%d checks in %d series at the end, and %d ended, want 0, 0 and 4", n, series, endedCount(s))
	}
}

// TestPodRestarts has containers come and go in a pod, each in a cgroup of its own: what they count is one series, which has begun with
// the first of them, and ends with the pod.
func TestPodRestarts(t *testing.T) {
	for _, hierarchy := range []string{"v2", "pids"} {
		t.Run(hierarchy, func(t *testing.T) {
			if hierarchyMount(t, hierarchy) == "" {
				return // a kernel that has v2 alone
			}
			podRestarts(t, hierarchy)
		})
	}
}

func podRestarts(t *testing.T, hierarchy string) {
	const pod, name = "/kubepods-pod12fdc709_933e_41d0_917f_cd84de9afa94.slice", "crasher"
	tr := openLive(t, Options{
		Retention: time.Millisecond, quarantine: time.Millisecond, second: neverNow(),
		Name: func(c Cgroup) string { return filepath.Dir(c.Path) },
	})
	path := tiny(t, name)
	dir := newCgroupIn(t, hierarchy, pod)
	pause, container := filepath.Join(dir, "pause.scope"), func(i int) string { return filepath.Join(dir, fmt.Sprint("cri-", i, ".scope")) }
	t.Cleanup(func() { _ = os.Remove(pause) })
	if err := os.Mkdir(pause, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, inCgroups(t, exec.Command(tiny(t, "pause")), pause))
	var began time.Time
	look := func(want uint64) {
		t.Helper()
		var n uint64
		created := time.Now()
		s := checkIdentities(t, tr)
		for _, w := range s.Workloads {
			if filepath.Dir(w.Cgroup.Path) == pod && w.Process.Name == name {
				n += w.Count
				if w.Created.Before(created) {
					created = w.Created
				}
			}
		}
		if began.IsZero() {
			began = created
		}
		if n != want || want > 0 && !created.Equal(began) {
			t.Fatalf("%d checks since %s, want %d since %s", n, created, want, began)
		}
	}
	const restarts = 6
	for i := range restarts {
		if err := os.Mkdir(container(i), 0o755); err != nil {
			t.Fatal(err)
		}
		run(t, inCgroups(t, exec.Command(path), container(i)))
		look(uint64(i + 1))
		if err := os.Remove(container(i)); err != nil {
			t.Fatal(err)
		}
		look(uint64(i + 1))
		endAll(t, tr)
		look(uint64(i + 1))
	}
	if s := snapshot(t, tr); records(t, tr) > s.Series {
		t.Errorf("%d records of cgroups for %d slots", records(t, tr), s.Series)
	}
	if err := os.Remove(pause); err != nil {
		t.Fatal(err)
	}
	endAll(t, tr)
	look(0)
	if ended := endedCount(snapshot(t, tr)); ended != restarts+1 {
		t.Errorf("%d checks ended, want %d", ended, restarts+1)
	}
}

// TestOneName runs many files of one name, as when a program is replaced over and over: they are one series, and new once.
func TestOneName(t *testing.T) {
	const n, name = 50, "replaced"
	var fresh atomic.Uint64
	tr := openLive(t, Options{SeriesLimit: 64, Announce: func(a Announcement) {
		if a.New && a.Process.Name == name {
			fresh.Add(1)
		}
	}})
	inUse := tiny(t, "in-use")
	for i := range 40 { // of 64 slots more than half are taken then, and no share is used up
		run(t, inCgroup(newCgroup(t, fmt.Sprint("in-use-", i)), exec.Command(inUse)))
	}
	for range n {
		run(t, exec.Command(tiny(t, name)))
	}
	s := checkIdentities(t, tr)
	checks, series := seriesNamed(s, name)
	if checks != n || series != 1 {
		t.Errorf("%d checks in %d series of %d files, want one series of all", checks, series, n)
	}
	eventually(t, "all is announced", func() bool { s := snapshot(t, tr); return s.RingRecords >= uint64(s.Series) && fresh.Load() > 0 })
	if got := fresh.Load(); got != 1 {
		t.Errorf("announced as new %d times", got)
	}
}

// TestOneHash gives all names one hash: each still has a slot of its own, as many as are tried, and the rest are the workload's _other.
func TestOneHash(t *testing.T) {
	tr := openLive(t, Options{nameMask: new(uint64)})
	// The second is the first's beginning, as far as whole words go.
	names := []string{"one-hash-and-longer", "one-hash", "one-hash-c", "one-hash-d", "one-hash-e", "one-hash-f"}
	for round := range 3 {
		for _, name := range names {
			run(t, exec.Command(tiny(t, name)))
		}
		s := checkIdentities(t, tr)
		var own, other uint64
		for _, w := range s.Workloads {
			switch {
			case slices.Contains(names, w.Process.Name) && w.Check == Check{Capability: wakeAlarm}:
				own += w.Count
				if w.Count != uint64(round+1) {
					t.Errorf("%s: %d checks, want %d", w.Process.Name, w.Count, round+1)
				}
			case w.Process.Kind == ProcessOther && w.Check == Check{Capability: wakeAlarm}:
				other += w.Count
			}
		}
		if made := uint64(len(names) * (round + 1)); own+other != made || own == 0 || other == 0 {
			t.Errorf("%d checks under their names and %d under _other, of %d", own, other, made)
		}
	}
}
