package bpf

import (
	"bufio"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"capability_exporter/bpf/internal/programs"

	"golang.org/x/sys/unix"
)

// neverNow is a housekeeping that does nothing on its own.
func neverNow() <-chan time.Time { return make(chan time.Time) }

// TestManyCgroups has one process on one CPU go through more cgroups than a page of the cache has places: each has a series of its own,
// under its own name.
func TestManyCgroups(t *testing.T) {
	const n, name = 200, "through-many"
	tr := openLive(t, Options{})
	root := newCgroup(t, "through-many")
	args := []string{"cgroup"}
	for i := range n {
		dir := filepath.Join(root, strconv.Itoa(i))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(dir) })
		args = append(args, dir)
	}
	run(t, helper(executable(t, name), "turns", append(args, args[1:]...)...))
	s := checkIdentities(t, tr)
	missed := mayMiss(t, tr, s)
	wrong := 0
	for i := range n {
		if got, series := seriesOf(s, "/through-many/"+strconv.Itoa(i), name); short(got, 2, missed) || series != 1 {
			wrong++
		}
	}
	if wrong != 0 {
		t.Errorf("%d of %d cgroups have other than one series of 2 checks under their name", wrong, n)
	}
}

// TestNamelessLives takes away the record of a cgroup before anybody has read it. Its slot is then taken from it; a program that goes
// on asking is given another, and a name, and does not go on in what its CPU's cache has.
func TestNamelessLives(t *testing.T) {
	const name = "nameless-lives"
	tr := openLive(t, Options{
		Retention: time.Millisecond, quarantine: time.Millisecond, second: neverNow(), holdReader: make(chan struct{}),
	})
	// One task on one CPU: another would have another page of the cache.
	say, hear := converse(t, inCgroup(newCgroup(t, name), helper(executable(t, name), "askwhentold")))
	ask := func() { say(); hear() }
	ask()
	table := cgroupMap{tr.objects.Collection.Maps["cgroups"]}
	var serial uint64
	taken := 0
	for _, each := range keysOf(t, tr, "cgroups", serial) {
		r, err := table.Lookup(each)
		if err != nil {
			t.Fatal(err)
		}
		if r != nil && pathOf(r).Path == "/"+name {
			taken++
			if err := table.Delete(each); err != nil {
				t.Fatal(err)
			}
		}
	}
	if taken != 1 {
		t.Fatalf("%d records of the cgroup, want 1", taken)
	}
	endNow(t, tr) // sees that there is none
	endAll(t, tr)
	before := snapshot(t, tr)
	ask()
	s := checkIdentities(t, tr)
	if n, series := seriesOf(s, "/"+name, name); short(n, 2, mayMiss(t, tr, s)) || series != 1 {
		t.Errorf("%d checks in %d series under its name, want 2 in one; before: %v", n, series, by(before, name))
	}
}

// askWhenTold is a helper that asks twice for each line, on one CPU.
func askWhenTold([]string) error {
	runtime.LockOSThread()
	if err := stayOn(0); err != nil {
		return err
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if err := askSysAdmin([]string{"2"}); err != nil {
			return err
		}
		fmt.Println()
	}
	return nil
}

// keysOf reads the keys of one of the kernel side's tables.
func keysOf[K any](t *testing.T, tr *Tracer, table string, key K) (keys []K) {
	t.Helper()
	var value []byte
	all := tr.objects.Collection.Maps[table].Iterate()
	for all.Next(&key, &value) {
		keys = append(keys, key)
	}
	if err := all.Err(); err != nil {
		t.Fatal(err)
	}
	return keys
}

// TestOnePlace has all checks fall on one place of the cache, and one process ask by two kernel functions in turn: what a check was asked
// by tells entries apart.
func TestOnePlace(t *testing.T) {
	const name, n = "on-one-place", 1000
	tr := openLive(t, Options{seeds: [2]uint64{1, 0}}) // addresses in the kernel begin with ones, which choose the page and the place
	run(t, helper(executable(t, name), "bytwo", strconv.Itoa(n)))
	s := checkIdentities(t, tr)
	missed := mayMiss(t, tr, s)
	if got := by(s, name)["21 granted host"]; short(got, 2*n, missed) {
		t.Errorf("%d checks, want %d", got, 2*n)
	}
	if !tr.features.Names {
		return
	}
	for _, site := range []string{"sys_sethostname", "sys_setdomainname"} {
		if got := siteCount(s, Check{Capability: 21}, AuditedYes, []string{site}); got+missed < n || got > n+n/2 {
			t.Errorf("%d checks by %s, want %d", got, site, n)
		}
	}
}

// askByTwo is the helper that asks by sethostname(2) and setdomainname(2) in turn: bytwo N.
func askByTwo(args []string) error {
	runtime.LockOSThread()
	n, err := strconv.Atoi(args[0])
	if err := errors.Join(err, stayOn(0)); err != nil {
		return err
	}
	for range n {
		if err := askSysAdmin(nil); err != nil {
			return err
		}
		if err := syscall3(unix.SYS_SETDOMAINNAME, 0, ^uintptr(0), 0); !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("setdomainname: %w", err)
		}
	}
	return nil
}

// TestMovedMeanwhile: somebody on another CPU moves a process that keeps its own.
func TestMovedMeanwhile(t *testing.T) {
	const name, rounds = "moved-meanwhile", 50
	if runtime.NumCPU() < 2 {
		t.Skip("it takes two CPUs")
	}
	tr := openLive(t, Options{})
	a, b := newCgroup(t, "moved-a"), newCgroup(t, "moved-b")
	run(t, inCgroup(b, helper(executable(t, name), "moved", strconv.Itoa(rounds), a, b)))
	s := checkIdentities(t, tr)
	missed := mayMiss(t, tr, s)
	for _, path := range []string{"/moved-a", "/moved-b"} {
		if n, _ := seriesOf(s, path, name); short(n, rounds, missed) {
			t.Errorf("%d checks in %s, want %d", n, path, rounds)
		}
	}
}

// askWhileMoved is the helper that asks, is moved by a thread of its own on another CPU while it waits without giving up its own, and asks
// again: moved ROUNDS DIR DIR. It is to be started in the second.
func askWhileMoved(args []string) error {
	rounds, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	var now atomic.Int64 // odd: the other's turn
	go func() {
		runtime.LockOSThread()
		if err := stayOn(1); err != nil {
			failed <- err
			return
		}
		for i := range int64(rounds) {
			for now.Load() != 2*i+1 {
			}
			if err := os.WriteFile(filepath.Join(args[1+i%2], "cgroup.procs"), []byte("0"), 0); err != nil {
				failed <- err
				return
			}
			now.Store(2*i + 2)
		}
	}()
	runtime.LockOSThread()
	if err := stayOn(0); err != nil {
		return err
	}
	for i := range int64(rounds) {
		if err := askSysAdmin(nil); err != nil {
			return err
		}
		now.Store(2*i + 1)
		for now.Load() != 2*i+2 {
			if len(failed) > 0 {
				return <-failed
			}
		}
		if err := askSysAdmin(nil); err != nil {
			return err
		}
	}
	return nil
}

// TestAtOnce has two CPUs make the first check of a key at once, over and over: it has one slot, and the other's is not lost.
func TestAtOnce(t *testing.T) {
	const name, n, limit = "asks-at-once", 300, 1024
	if runtime.NumCPU() < 2 {
		t.Skip("it takes two CPUs")
	}
	tr := openLive(t, Options{SeriesLimit: limit, second: neverNow()})
	root := newCgroup(t, "at-once")
	t.Cleanup(func() {
		for i := range n {
			_ = os.Remove(filepath.Join(root, strconv.Itoa(i)))
		}
	})
	run(t, helper(executable(t, name), "race", strconv.Itoa(n), root))
	s := checkIdentities(t, tr)
	missed := mayMiss(t, tr, s)
	for i := range n {
		if got, series := seriesOf(s, fmt.Sprint("/at-once/", i), name); short(got, 2, missed) || series > 1 {
			t.Errorf("%d checks in %d series of cgroup %d, want 2 in one", got, series, i)
		}
	}
	free := 0
	var slot uint32
	for _, queue := range []string{"free_whos", "free_kept"} {
		for tr.objects.Collection.Maps[queue].LookupAndDelete(nil, &slot) == nil {
			free++
		}
	}
	if used := len(keysOf(t, tr, "whos", [24]byte{})); free+used != limit {
		t.Errorf("%d slots are free and %d have a key, of %d", free, used, limit)
	}
}

// askAtOnce is the helper that makes cgroups below a folder, and asks in each on two CPUs at once: race N DIR.
func askAtOnce(args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	var begun, done atomic.Int64
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := stayOn(1); err != nil {
			failed <- err
			return
		}
		for i := range int64(n) {
			for begun.Load() != i+1 {
			}
			if err := askSysAdmin(nil); err != nil {
				failed <- err
				return
			}
			done.Store(i + 1)
		}
	}()
	runtime.LockOSThread()
	if err := stayOn(0); err != nil {
		return err
	}
	for i := range int64(n) {
		dir := filepath.Join(args[1], strconv.FormatInt(i, 10))
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
			return err
		}
		begun.Store(i + 1)
		if err := askSysAdmin(nil); err != nil {
			return err
		}
		for done.Load() != i+1 {
			if len(failed) > 0 {
				return <-failed
			}
		}
	}
	return nil
}

// TestHousekeeping lets minutes pass at once: every tenth second series end, and in each minute five denials are announced.
func TestHousekeeping(t *testing.T) {
	const name, denials = "keeps-house", 20
	second := make(chan time.Time)
	var announced atomic.Uint64
	tr := openLive(t, Options{
		Retention: time.Millisecond, quarantine: time.Millisecond, second: second,
		Announce: func(a Announcement) {
			if a.Process.Name == name && a.Denied && a.Capability == 21 {
				announced.Add(1)
			}
		},
	})
	passed := uint32(0)
	pass := func(n uint32) {
		for range n {
			second <- time.Time{}
		}
		passed += n
	}
	until := func(what string, f func() bool) {
		t.Helper()
		for range 200 {
			if f() {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Errorf("after %d seconds: not %s", passed, what)
	}
	path, dir := executable(t, name), t.TempDir()
	for _, minute := range []struct {
		seconds uint32
		want    uint64
	}{{0, 5}, {59, 5}, {1, 10}, {59, 10}, {1, 15}} {
		pass(minute.seconds)
		until("in time", func() bool { tr.mu.Lock(); defer tr.mu.Unlock(); return tr.settings.Tick == passed })
		run(t, helper(path, "row", "sethostname", "without", strconv.Itoa(denials), dir))
		until(fmt.Sprintf("%d denials announced", minute.want), func() bool { return announced.Load() == minute.want })
	}

	cgroup := newCgroup(t, name)
	run(t, inCgroup(cgroup, helper(path, "sethostname")))
	if n, _ := seriesOf(snapshot(t, tr), "/"+name, name); n != 1 {
		t.Fatalf("%d checks in the cgroup, want 1", n)
	}
	if err := os.Remove(cgroup); err != nil {
		t.Fatal(err)
	}
	until("that a cgroup is gone is told", func() bool {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		for _, c := range tr.cgroups.known {
			if c.cgroup.Path == "/"+name {
				return c.gone != 0
			}
		}
		return false
	})
	time.Sleep(10 * time.Millisecond) // the retention is over
	pass(10)
	until("the end of a series whose cgroup is gone", func() bool { _, series := seriesOf(snapshot(t, tr), "/"+name, name); return series == 0 })
}

// TestAnnounced: what is told of a check is who made it, and how.
func TestAnnounced(t *testing.T) {
	const name = "announced"
	told := make(chan Announcement, 100)
	tr := openLive(t, Options{Announce: func(a Announcement) {
		if a.Process.Name == name && a.Capability == 21 {
			told <- a
		}
	}})
	path := executable(t, name)
	openToAll(t, filepath.Dir(path))
	cgroup := newCgroup(t, "announced")
	cmd := asNobody(helper(path, "thread"))
	before := time.Now()
	run(t, cmd)
	run(t, inCgroup(cgroup, helper(path, "sethostname", "2")))
	var both [2]Announcement
	for i := range both {
		select {
		case both[i] = <-told:
		case <-time.After(10 * time.Second):
			t.Fatalf("told %d times of 2", i)
		}
	}
	denied, granted := both[0], both[1]
	for _, a := range []Announcement{denied, granted} {
		if !a.New || a.Overflow || a.Borrowed || a.Time.Before(before.Add(-time.Second)) || a.Time.After(time.Now().Add(time.Second)) {
			t.Errorf("new: %t, overflow: %t, borrowed: %t, at %s", a.New, a.Overflow, a.Borrowed, a.Time)
		}
		if a.Syscall != unix.SYS_SETHOSTNAME && a.Syscall != -1 || symbolName(a.Symbol) != named(tr, []string{"sys_sethostname"})[0] {
			t.Errorf("system call %d at %s", a.Syscall, a.Symbol)
		}
	}
	if !denied.Denied || denied.UID != nobody || denied.TGID != uint32(cmd.Process.Pid) || denied.TID == denied.TGID || denied.TID == 0 {
		t.Errorf("thread %d of process %d as user %d, denied: %t; want another thread of process %d as user %d", denied.TID, denied.TGID, denied.UID, denied.Denied, cmd.Process.Pid, nobody)
	}
	if granted.Denied || granted.UID != 0 || granted.TID != granted.TGID || granted.Cgroup.Path != "/announced" {
		t.Errorf("thread %d of process %d as user %d in %v, denied: %t; want one of root's in /announced", granted.TID, granted.TGID, granted.UID, granted.Cgroup, granted.Denied)
	}
	if len(told) != 0 {
		t.Errorf("told %d times more", len(told))
	}
}

// TestAnnouncedOverflow: a denial that has no slot of its own is announced with the cgroup and the process it came from.
func TestAnnouncedOverflow(t *testing.T) {
	const name = "announced-overflow"
	told := make(chan Announcement, 100)
	tr := openLive(t, Options{SeriesLimit: 1, Announce: func(a Announcement) {
		if a.Process.Name == name && a.Capability == 21 && a.Denied {
			told <- a
		}
	}})
	run(t, exec.Command(tiny(t, "takes-the-slot")))
	run(t, inCgroup(newCgroup(t, name), helper(executable(t, name), "row", "sethostname", "without", "1", t.TempDir())))
	checkIdentities(t, tr)
	select {
	case a := <-told:
		if !a.Overflow || a.New || a.Cgroup.Path != "/"+name {
			t.Errorf("overflow: %t, new: %t, in %v, want a known one under _other in /%s", a.Overflow, a.New, a.Cgroup, name)
		}
	case <-time.After(5 * time.Second):
		t.Error("not announced")
	}
}

// TestTooDeepCgroup: of a path of more names than are kept those nearest to the root are missing, and it says so.
func TestTooDeepCgroup(t *testing.T) {
	const name, kept = "too-deep", 64
	tr := openLive(t, Options{})
	dir := newCgroup(t, "top")
	for range kept {
		dir = filepath.Join(dir, "d")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		made := dir
		t.Cleanup(func() { _ = os.Remove(made) })
	}
	run(t, inCgroup(dir, helper(executable(t, name), "sethostname")))
	got := map[Cgroup]uint64{}
	for _, w := range snapshot(t, tr).Workloads {
		if w.Process.Name == name {
			w.Cgroup.ID = 0
			got[w.Cgroup] += w.Count
		}
	}
	if got[Cgroup{Path: strings.Repeat("/d", kept), Truncated: true}] != 1 {
		t.Errorf("asked in %v, want a path without its first name that says so", got)
	}
}

// TestKeysInTurn: keys that take turns on one CPU, a third as many as its cache has entries, all find room in it: they are looked up in the
// tables when they are new. What others on the machine ask is looked up, too, so the best of a few runs counts.
func TestKeysInTurn(t *testing.T) {
	const tasks, kinds, turns, most = 40, 16, 200, 2 * 40 * 16
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := stayOn(0); err != nil {
		t.Fatal(err)
	}
	tr := openLive(t, Options{})
	best := uint64(math.MaxUint64)
	for range 5 {
		before := slowRuns(t, tr)
		ring(t, tasks, kinds, turns)
		best = min(best, slowRuns(t, tr)-before)
		if best <= most {
			break
		}
	}
	s := checkIdentities(t, tr)
	if best > most {
		t.Errorf("%d of %d checks of %d keys were looked up in the tables; %d missed", best, tasks*kinds*turns, tasks*kinds, s.MissedRuns)
	}
}

// TestKeysOfATask: a task's keys, 16 of 16 kinds of check, are on its page, and marked as found there while it goes on asking for
// them.
func TestKeysOfATask(t *testing.T) {
	const tasks, kinds = 2, 16
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := stayOn(0); err != nil {
		t.Fatal(err)
	}
	one := false
	tr := openLive(t, Options{pair: &one})
	ring(t, tasks, kinds, 50)
	type keys struct{ there, found int }
	byName := map[uint64]map[uint32]*keys{}
	for page := uint32(programs.CachePage); page < programs.SitePage; page++ {
		var c programs.Cache
		if err := readAt(tr.counters.pages, tr.counters.at(0, page), &c); err != nil {
			t.Fatal(err)
		}
		for i, e := range c.Cached {
			if e.Name == 0 || e.Asker == 0 {
				continue
			}
			if byName[e.Name] == nil {
				byName[e.Name] = map[uint32]*keys{}
			}
			k := byName[e.Name][page]
			if k == nil {
				k = &keys{}
				byName[e.Name][page] = k
			}
			k.there++
			if (c.Turn.Found[0]|c.Turn.Found[1]|c.Turn.Found[2])>>i&1 != 0 {
				k.found++
			}
		}
	}
	found := 0
	for name, pages := range byName {
		all, most := 0, keys{}
		for _, k := range pages {
			all += k.there
			if k.there > most.there {
				most = *k
			}
		}
		t.Logf("%x: %d keys, on one page %+v", name, all, most)
		if all >= kinds && most.there >= kinds-2 && most.found > kinds/2 { // some may have gone elsewhere, or have not been asked for again
			found++
		}
	}
	if found < tasks {
		t.Errorf("%d of %d tasks have their %d keys on one page, most of them marked", found, tasks, kinds)
	}
}
