package bpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"capability_exporter/bpf/internal/programs"
)

// A fakeKernel is the kernel side's tables, without a kernel.
type fakeKernel struct {
	whos    map[programs.WhoKey]uint32
	free    []uint32
	records []byte
	counted map[uint32]uint64
	cgroups map[uint64]*programs.CgroupRecord
	lookups int
	failing error
	part    uint64 // of what is asked
}

func (k *fakeKernel) Take(key programs.WhoKey) error { delete(k.whos, key); return k.failing }
func (k *fakeKernel) Free(slot uint32, _ uint64, _ uint32) error {
	if k.failing == nil {
		k.free = append(k.free, slot)
	}
	return k.failing
}
func (k *fakeKernel) who(slot uint32) uint64 { return k.counted[slot] }

// fakeCgroups are a fakeKernel's cgroups.
type fakeCgroups struct{ *fakeKernel }

func (k fakeCgroups) Lookup(serial uint64) (*programs.CgroupRecord, error) {
	k.lookups++
	return k.cgroups[serial], k.failing
}
func (k fakeCgroups) Delete(serial uint64) error { delete(k.cgroups, serial); return k.failing }

const fakeLimit = 4

// newFake makes series of so many slots, whose retention and quarantine are ten and five seconds.
func newFake() (*fakeKernel, *series) { return newFakeOf(fakeLimit, pathName) }

func newFakeOf(limit int, nameOf func(Cgroup) string) (*fakeKernel, *series) {
	k := &fakeKernel{
		whos: map[programs.WhoKey]uint32{}, counted: map[uint32]uint64{}, cgroups: map[uint64]*programs.CgroupRecord{},
		records: make([]byte, (programs.WhoFixed+limit)*binary.Size(programs.WhoRecord{})),
	}
	for slot := range uint32(limit) {
		k.free = append(k.free, programs.WhoFixed+slot)
	}
	s := newSeries(limit, 10*time.Second, 5*time.Second)
	s.records, s.slots, s.counts = bytes.NewReader(k.records), k, k
	s.cgroups = newCgroups(fakeCgroups{k}, nameOf)
	s.symbol = func(uint32) (string, error) { return "somewhere", nil }
	return k, s
}

// byFirst takes all that lies below one folder for one workload.
func byFirst(c Cgroup) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(c.Path, "/"), "/")
	return name
}

// ask counts n checks of CAP_SYS_ADMIN by somebody, as the kernel side does. It tells whether there was a slot.
func (k *fakeKernel) ask(serial uint64, name string, n uint64, at time.Duration) bool {
	key := programs.WhoKey{Cgroup: serial, Name: uint64(crc32.ChecksumIEEE([]byte(name))), What: 21 | k.part}
	slot, known := k.whos[key]
	if !known {
		if len(k.free) == 0 {
			return false
		}
		slot, k.free = k.free[0], k.free[1:]
		k.whos[key] = slot
		r := programs.WhoRecord{Key: key, Created: uint64(at), Len: uint32(len(name)), Sites: [4]uint32{1}, Pool: programs.PoolGranted, Owner: 1000 + serial}
		if strings.HasPrefix(name, "denied") {
			r.Pool = 0
		}
		copy(r.Name[:], name)
		copy(k.records[int(slot)*binary.Size(r):], bytesOf(&r))
	}
	k.counted[slot] += n
	return true
}

// cgroup makes the record of a cgroup, which lies in the folders that are given from the root on.
func (k *fakeKernel) cgroup(serial uint64, names ...string) {
	slices.Reverse(names)
	all := strings.Join(names, "\x00") + "\x00"
	r := &programs.CgroupRecord{Serial: serial, Id: 100 + serial, Len: uint32(len(all))}
	copy(r.Names[:], all)
	k.cgroups[serial] = r
}

// An owner is what people see of the series of one process.
type owner struct {
	path    string
	process string
	count   uint64
}

func ownersOf(t *testing.T, s *series, now time.Duration) (owners []owner, ended uint64) {
	t.Helper()
	all, _, over, err := s.all(nil, now)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range all {
		owners = append(owners, owner{w.Cgroup.Path, w.Process.Name, w.Count})
		if w.Owner < 1000 {
			t.Errorf("%s in %s draws on the share of %d", w.Process.Name, w.Cgroup.Path, w.Owner)
		}
	}
	for _, c := range over {
		ended += c.Count
	}
	return owners, ended
}

func (k *fakeKernel) check(t *testing.T, s *series, now time.Duration, ended uint64, want ...owner) {
	t.Helper()
	got, over := ownersOf(t, s, now)
	sum := over
	for _, l := range got {
		sum += l.count
	}
	var counted uint64
	for _, n := range k.counted {
		counted += n
	}
	if sum != counted {
		t.Errorf("%d counted, %d in series and ended", counted, sum)
	}
	if !slices.Equal(got, want) || over != ended {
		t.Errorf("%v and %d ended, want %v and %d", got, over, want, ended)
	}
}

func endAt(t *testing.T, s *series, now time.Duration) bool {
	t.Helper()
	took, err := s.end(now)
	if err != nil {
		t.Fatal(err)
	}
	return took
}

// TestSeriesLife follows a slot from its first check to its next owner.
func TestSeriesLife(t *testing.T) {
	k, s := newFake()
	k.cgroup(1, "a")
	k.ask(1, "x", 3, time.Second)
	k.ask(0, "root", 1, time.Second)
	k.check(t, s, 2*time.Second, 0, owner{"/a", "x", 3}, owner{"/", "root", 1})
	if endAt(t, s, time.Hour) {
		t.Error("a series ended although its cgroup exists")
	}
	s.cgroups.left(1, time.Hour)
	if endAt(t, s, time.Hour+10*time.Second) {
		t.Error("a series ended within the retention")
	}
	now := time.Hour + 10*time.Second + 1
	if !endAt(t, s, now) {
		t.Fatal("no series ended after the retention")
	}
	k.check(t, s, now, 3, owner{"/", "root", 1})
	if len(k.cgroups) != 0 || len(k.whos) != 1 || len(k.free) != fakeLimit-2 {
		t.Errorf("left: records %v, keys %v, free slots %v", k.cgroups, k.whos, k.free)
	}
	k.counted[programs.WhoFixed] += 2 // a program that had found it
	k.check(t, s, now, 5, owner{"/", "root", 1})
	endAt(t, s, now+4*time.Second)
	if len(k.free) != fakeLimit-2 {
		t.Error("a slot was free within its quarantine")
	}
	endAt(t, s, now+5*time.Second)
	if !slices.Contains(k.free, programs.WhoFixed) {
		t.Fatalf("the slot is not free after its quarantine: %v", k.free)
	}
	k.check(t, s, now, 5, owner{"/", "root", 1})
	k.free = []uint32{programs.WhoFixed}
	k.cgroup(2, "b")
	k.ask(2, "y", 7, 2*time.Hour)
	k.check(t, s, 2*time.Hour, 5, owner{"/b", "y", 7}, owner{"/", "root", 1})
}

// TestSeriesGoesOn: a cgroup of the same path comes before the one that is gone is over.
func TestSeriesGoesOn(t *testing.T) {
	k, s := newFake()
	for serial := range uint64(6) {
		at := time.Duration(serial) * time.Minute
		k.cgroup(serial+1, "service")
		if !k.ask(serial+1, "x", 10, at+1) {
			t.Fatalf("no slot for restart %d", serial)
		}
		if serial > 0 {
			s.cgroups.left(serial, at)
			endAt(t, s, at+30*time.Second)
			ownersOf(t, s, at+30*time.Second) // while a slot is in quarantine, too
			endAt(t, s, at+40*time.Second)
		}
		ownersOf(t, s, at)
		all, _, _, err := s.all(nil, at)
		if err != nil {
			t.Fatal(err)
		}
		var n uint64
		for _, w := range all {
			n += w.Count
			if w.Created.After(s.clock.time(uint64(at + 1))) {
				t.Errorf("created %s", w.Created)
			}
		}
		if n != 10*(serial+1) {
			t.Errorf("%d checks after %d restarts", n, serial)
		}
	}
	s.cgroups.left(6, time.Hour)
	endAt(t, s, 2*time.Hour)
	k.check(t, s, 2*time.Hour, 60)
}

// TestFailingKernel: what cannot be freed is tried again, and no count is lost.
func TestFailingKernel(t *testing.T) {
	k, s := newFake()
	k.cgroup(1, "a")
	k.ask(1, "x", 3, 1)
	if _, err := s.end(1); err != nil {
		t.Fatal(err)
	}
	s.cgroups.left(1, 1)
	endAt(t, s, time.Minute)
	k.failing = errors.New("no")
	if _, err := s.end(2 * time.Minute); !errors.Is(err, k.failing) {
		t.Errorf("the error is %v", err)
	}
	k.check(t, s, 2*time.Minute, 3)
	k.failing = nil
	endAt(t, s, 3*time.Minute)
	if len(k.free) != fakeLimit {
		t.Errorf("%d free slots, want all %d", len(k.free), fakeLimit)
	}
	k.check(t, s, 3*time.Minute, 3)
}

// TestNameless: a slot whose cgroup has no record does not live for ever, and has a name as soon as there is one.
func TestNameless(t *testing.T) {
	k, s := newFake()
	k.ask(9, "x", 1, 1)
	endAt(t, s, time.Second)
	k.check(t, s, time.Second, 0, owner{"", "x", 1})
	endAt(t, s, time.Minute)
	k.check(t, s, time.Minute, 1)
	endAt(t, s, 2*time.Minute)
	k.cgroup(9, "a")
	k.ask(9, "x", 5, 2*time.Minute)
	k.check(t, s, 2*time.Minute, 1, owner{"/a", "x", 5})
	endAt(t, s, time.Hour)
	k.check(t, s, time.Hour, 1, owner{"/a", "x", 5})
	if len(s.cgroups.known) != 1 {
		t.Errorf("knows %v", s.cgroups.known)
	}
}

// TestAskedOnce: at rest nothing is asked of the kernel for any cgroup.
func TestAskedOnce(t *testing.T) {
	k, s := newFake()
	for serial := uint64(1); serial <= fakeLimit; serial++ {
		k.cgroup(serial, string(rune('a'+serial)))
		k.ask(serial, "x", 1, 1)
	}
	for now := time.Second; now < time.Hour/2; now += time.Minute { // not so long that they are idle
		endAt(t, s, now)
		ownersOf(t, s, now)
	}
	if k.lookups != fakeLimit {
		t.Errorf("%d look-ups for %d cgroups", k.lookups, fakeLimit)
	}
	k.cgroups[2].Offline = 1
	if err := s.cgroups.lookAgain(time.Hour / 2); err != nil {
		t.Fatal(err)
	}
	endAt(t, s, time.Hour*3/4)
	if got, _ := ownersOf(t, s, time.Hour*3/4); len(got) != fakeLimit-1 {
		t.Errorf("%v after one of them was seen to be gone", got)
	}
}

// TestCarriedNames: what is carried on keeps the name under which it was counted, and two cgroups whose paths have lost
// different beginnings stay two.
func TestCarriedNames(t *testing.T) {
	k, s := newFake()
	cgroups := []Cgroup{{ID: 1, Path: "/whole"}, {ID: 2, Path: "/whole"}, {ID: 3, Path: "/tail", Truncated: true}, {ID: 4, Path: "/tail", Truncated: true}}
	for i, c := range cgroups {
		k.counted[uint32(i)] = 10
		s.release(retiredSlot{slot: uint32(i), key: seriesKey{name: s.cgroups.name(c)}, cgroup: shown(c), carry: true})
	}
	carried, ended := s.left(nil)
	got := map[Cgroup]uint64{}
	for _, w := range carried {
		got[w.Cgroup] += w.Count
	}
	want := map[Cgroup]uint64{{Path: "/whole"}: 20, cgroups[2]: 10, cgroups[3]: 10}
	if !maps.Equal(got, want) || len(ended) != 0 {
		t.Errorf("carried %v, ended %v, want %v", got, ended, want)
	}
	s.endCarried(func(key seriesKey) bool { return key.name == s.cgroups.name(cgroups[2]) })
	if carried, ended := s.left(nil); len(carried) != 2 || len(ended) != 1 || ended[0].Count != 10 {
		t.Errorf("carried %v, ended %v after one of them was gone", carried, ended)
	}
}

// TestSeriesBegan: a series has begun when its first slot's did, and knows who asked for it, whatever becomes of the slots.
func TestSeriesBegan(t *testing.T) {
	k, s := newFake()
	s.clock = bootClock{wall: time.Unix(1000, 0), boot: time.Second}
	began := time.Unix(1001, 0)
	check := func(now time.Duration, n int) {
		t.Helper()
		all, inUse, _, err := s.all(nil, now)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range all {
			if len(all) == 1 && !w.Created.Equal(began) {
				t.Errorf("began %s, want %s", w.Created, began)
			}
			if w.Count != 1 {
				t.Errorf("%d checks, want 1 in each slot", w.Count)
			}
			if !slices.Equal(w.CallSites, []string{"somewhere"}) {
				t.Errorf("asked by %v", w.CallSites)
			}
		}
		if len(all) != n || inUse > n {
			t.Errorf("%d series, %d in use, want %d", len(all), inUse, n)
		}
	}
	k.cgroup(1, "service")
	k.cgroup(2, "service")
	k.ask(1, "x", 1, 2*time.Second)
	check(3*time.Second, 1)
	k.ask(2, "x", 1, 5*time.Second)
	s.cgroups.left(1, 6*time.Second)
	endAt(t, s, time.Minute) // retires the first
	check(time.Minute, 2)
	endAt(t, s, 2*time.Minute) // releases it
	check(2*time.Minute, 2)
	carried, _ := s.left(nil)
	if len(carried) != 1 || !carried[0].Created.Equal(began) {
		t.Errorf("carried %+v, want one since %s", carried, began)
	}
	// Another that began later changes nothing.
	s.release(retiredSlot{slot: 99, key: seriesKey{"/service", carried[0].Process, carried[0].Check, Aside{}}, carry: true, created: began.Add(time.Hour)})
	if carried, _ = s.left(nil); len(carried) != 1 || !carried[0].Created.Equal(began) {
		t.Errorf("carried %+v, want one since %s", carried, began)
	}
}

// TestHierarchies: what is said of them is what has named a workload.
func TestHierarchies(t *testing.T) {
	for want, records := range map[string][]uint16{"none": nil, "v1": {1}, "v2": {0}, "both": {1, 0}} {
		k, s := newFake()
		for i, v1 := range records {
			k.cgroup(uint64(i+1), "x")
			k.cgroups[uint64(i+1)].V1 = v1
			if _, err := s.cgroups.of(uint64(i+1), 0); err != nil {
				t.Fatal(err)
			}
		}
		if got := s.cgroups.hierarchies(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestKnownCgroups: a cgroup is gone since it was first told, or since its record says; one that has no name is kept in mind for as long
// as a slot is its own.
func TestKnownCgroups(t *testing.T) {
	k, s := newFake()
	k.cgroup(1, "a")
	k.cgroup(2, "b")
	k.cgroups[2].Offline = 7
	for serial, want := range map[uint64]time.Duration{1: 5, 2: 7} {
		if _, err := s.cgroups.of(serial, 1); err != nil {
			t.Fatal(err)
		}
		s.cgroups.left(serial, 5)
		s.cgroups.left(serial, 9)
		if state, err := s.cgroups.of(serial, 10); err != nil || state.gone != want {
			t.Errorf("cgroup %d: %+v, %v, want it gone at %d", serial, state, err, want)
		}
	}
	if state, err := s.cgroups.of(3, 10); err != nil || !state.nameless || state.gone != 10 {
		t.Errorf("%+v, %v, want a nameless one", state, err)
	}
	k.cgroup(4, "d")
	s.cgroups.known[4] = &cgroupState{gone: 1, nameless: true} // as it was before there was a record
	if state, err := s.cgroups.of(4, 10); err != nil || state.nameless || state.gone != 0 || state.cgroup.Path != "/d" {
		t.Errorf("%+v, %v, want /d, which has a name by now", state, err)
	}
	for _, used := range []bool{true, false} {
		slots := map[uint64]*cgroupState{}
		if used {
			slots[3] = s.cgroups.known[3]
		}
		s.cgroups.dropNameless(slots)
		if known := s.cgroups.known[3] != nil; known != used || len(s.cgroups.known) < 2 {
			t.Errorf("in use: %t, known: %t of %d", used, known, len(s.cgroups.known))
		}
	}
}

// TestShownToName: who names workloads sees of a cgroup what stays the same over restarts, and is asked once for each.
func TestShownToName(t *testing.T) {
	var asked []Cgroup
	k, s := newFakeOf(fakeLimit, func(c Cgroup) string { asked = append(asked, c); return c.Path })
	k.cgroup(1, "a")
	k.cgroup(2, "b")
	k.cgroups[2].Truncated = 1
	for range 3 {
		for _, serial := range []uint64{0, 1, 2, 3} {
			if _, err := s.cgroups.of(serial, 1); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := []Cgroup{{Path: "/"}, {Path: "/a"}, {ID: 102, Path: "/b", Truncated: true}, {ID: 3}}
	if !slices.Equal(asked, want) {
		t.Errorf("asked for %v, want %v", asked, want)
	}
}

// TestCarriedLimit: of the series that no slot counts any more no more are carried on than there are slots. Those of denials end
// first, then those that have counted nothing for longest, and none that still has a slot.
func TestCarriedLimit(t *testing.T) {
	k, s := newFakeOf(fakeLimit, byFirst)
	k.cgroup(1, "pod", "stays")
	k.ask(1, "stays", 1, 1)
	key := func(process string, check Check) seriesKey {
		return seriesKey{"pod", Process{Name: process}, check, Aside{}}
	}
	admin := Check{Capability: 21}
	s.carried[key("stays", admin)] = carriedSeries{count: 100} // as a container before it had counted
	s.carried[key("waits", admin)] = carriedSeries{count: 200}
	s.retired = []retiredSlot{{slot: 99, key: key("waits", admin), carry: true, since: time.Hour}}
	for i := range fakeLimit {
		s.carried[key(fmt.Sprint("left", i), admin)] = carriedSeries{count: 10, grown: time.Duration(i)}
	}
	denied := Check{Capability: 21, Denied: true}
	s.carried[key("denied", denied)] = carriedSeries{count: 5, grown: time.Hour}
	if endAt(t, s, time.Second) {
		t.Error("a slot was taken")
	}
	for process, want := range map[string]bool{"stays": true, "waits": true, "left0": false, "left1": false, "left2": true, "left3": true} {
		if _, ok := s.carried[key(process, admin)]; ok != want {
			t.Errorf("%s is carried on: %t", process, ok)
		}
	}
	if s.ended[denied] != 5 || s.ended[admin] != 20 || s.evicted != 3 || len(s.carried) != fakeLimit {
		t.Errorf("ended %v, %d evicted, %d carried on", s.ended, s.evicted, len(s.carried))
	}
}

// TestPodGoesOn: containers come one after the other in a pod, beside one that stays. What they count is one series that has begun with
// the first, until the last one has been gone for the retention.
func TestPodGoesOn(t *testing.T) {
	k, s := newFakeOf(8, byFirst)
	s.clock = bootClock{wall: time.Unix(1000, 0)}
	k.cgroup(1, "pod", "pause")
	k.ask(1, "runc", 1, time.Second)
	const restarts = 20
	for i := range uint64(restarts) {
		at := time.Duration(i+1) * time.Minute
		k.cgroup(i+2, "pod", fmt.Sprint("container", i))
		if !k.ask(i+2, "crasher", 10, at) {
			t.Fatalf("no slot for restart %d", i)
		}
		endAt(t, s, at+30*time.Second)
		all, _, ended, err := s.all(nil, at)
		if err != nil {
			t.Fatal(err)
		}
		var n uint64
		began := time.Time{}
		for _, w := range all {
			if w.Process.Name == "crasher" && byFirst(w.Cgroup) == "pod" {
				n += w.Count
				if began.IsZero() || w.Created.Before(began) {
					began = w.Created
				}
			}
		}
		if n != 10*(i+1) || len(ended) != 0 || !began.Equal(time.Unix(1060, 0)) {
			t.Fatalf("%d checks since %s after %d restarts, ended %v", n, began, i, ended)
		}
		s.cgroups.left(i+2, at+40*time.Second)
	}
	s.cgroups.left(1, time.Hour)
	endAt(t, s, time.Hour+10*time.Second) // within the retention
	if got, _ := ownersOf(t, s, time.Hour); len(got) == 0 {
		t.Error("the series ended with the last container")
	}
	endAt(t, s, time.Hour+11*time.Second)
	k.check(t, s, time.Hour, 10*restarts+1)
}

// TestSeriesNeverCountBackwards has many cgroups of a few workloads come and go, ask and be idle, in any order. What people see as one
// series never falls while it has begun at the same time, and nothing is lost: what is no more in any series has ended.
func TestSeriesNeverCountBackwards(t *testing.T) {
	type seen struct {
		count   uint64
		created time.Time
	}
	var ends, evictions, comebacks int
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 1))
		k, s := newFakeOf(16, byFirst)
		var now time.Duration
		var living []uint64
		serial := uint64(0)
		before, endedBefore := map[string]seen{}, uint64(0)
		for range 400 {
			now += time.Duration(rng.Int64N(int64([]time.Duration{time.Second, 10 * time.Second, time.Hour}[rng.IntN(3)]))) + 1
			switch rng.IntN(8) {
			case 0, 1:
				serial++
				k.cgroup(serial, fmt.Sprint("pod", rng.IntN(3)), fmt.Sprint("container", serial))
				living = append(living, serial)
			case 2:
				if len(living) > 0 {
					i := rng.IntN(len(living))
					if k.cgroups[living[i]] != nil {
						k.cgroups[living[i]].Offline = uint64(now)
					}
					s.cgroups.left(living[i], now)
					living = slices.Delete(living, i, i+1)
				}
			case 3, 4, 5:
				if len(living) > 0 {
					asking := living[rng.IntN(len(living))]
					if k.cgroups[asking] == nil { // its record went with its last slot, and comes with the next
						k.cgroup(asking, fmt.Sprint("pod", rng.IntN(3)), fmt.Sprint("container", asking))
					}
					k.part = rng.Uint64N(2) * programs.WhatProbe // with a slot of its own, and in the same series
					k.ask(asking, []string{"a", "b", "denied"}[rng.IntN(3)], 1+rng.Uint64N(5), now)
				}
			default:
				endAt(t, s, now)
			}
			all, _, over, err := s.all(nil, now)
			if err != nil {
				t.Fatal(err)
			}
			after, ended := map[string]seen{}, uint64(0)
			for _, c := range over {
				ended += c.Count
			}
			sum := ended
			for _, w := range all {
				key := fmt.Sprint(s.cgroups.name(w.Cgroup), w.Process, w.Check)
				one, known := after[key]
				one.count += w.Count
				if !known || w.Created.Before(one.created) {
					one.created = w.Created
				}
				after[key] = one
				sum += w.Count
			}
			var counted uint64
			for _, n := range k.counted {
				counted += n
			}
			if sum != counted {
				t.Fatalf("seed %d, at %s: %d counted, %d in series and ended", seed, now, counted, sum)
			}
			if len(s.carried) > 2*16 || len(s.retired) > 16 {
				t.Fatalf("seed %d: %d carried on, %d retired", seed, len(s.carried), len(s.retired))
			}
			for key, was := range before {
				is, there := after[key]
				switch {
				case !there:
					ends++
				case is.created.Equal(was.created):
					if is.count < was.count {
						t.Fatalf("seed %d, at %s: %s fell from %d to %d", seed, now, key, was.count, is.count)
					}
					continue
				case is.created.Before(was.created):
					t.Fatalf("seed %d, at %s: %s began %s, and now %s", seed, now, key, was.created, is.created)
				default:
					comebacks++
				}
				if ended < endedBefore+was.count {
					t.Fatalf("seed %d, at %s: %s is no more, and of its %d have %d ended", seed, now, key, was.count, ended-endedBefore)
				}
			}
			before, endedBefore = after, ended
		}
		evictions += int(s.evicted)
	}
	if ends < 100 || evictions < 100 {
		t.Errorf("%d series ended, %d were evicted: too few to tell anything", ends, evictions)
	}
	t.Log(ends, "ended,", evictions, "evicted,", comebacks, "came back at once")
}

// TestChurn has containers come and go for twenty minutes, 100,000 an hour, in pods that stay: what is kept of them stays what it is,
// also where they need more slots than there are.
func TestChurn(t *testing.T) {
	const limit, pods, containers, every = 4096, 100, 33_333, time.Hour / 100_000
	for _, slots := range []int{1, 5} {
		k, s := newFakeOf(limit, byFirst)
		s.retention, s.quarantine = 5*time.Minute, time.Minute
		for pod := range uint64(pods) {
			k.cgroup(pod+1, fmt.Sprint("pod", pod), "pause")
			k.ask(pod+1, "0", 1, 1)
		}
		type alive struct {
			serial uint64
			until  time.Duration
		}
		var living []alive
		var asked, most int
		missed, inTheEnd := 0, 0
		now := time.Duration(0)
		for i := range uint64(containers) {
			now += every
			serial := i + pods + 1
			for process := range slots {
				if process == 0 {
					k.cgroup(serial, fmt.Sprint("pod", i%pods), fmt.Sprint(i))
				}
				asked++
				if !k.ask(serial, fmt.Sprint(process), 1, now) {
					missed++
				}
			}
			living = append(living, alive{serial, now + 2*time.Second})
			for len(living) > 0 && living[0].until <= now {
				k.cgroups[living[0].serial].Offline = uint64(now)
				s.cgroups.left(living[0].serial, now)
				living = living[1:]
			}
			if i%280 == 0 { // ten seconds
				endAt(t, s, now)
				for serial := range k.cgroups { // the kernel keeps no record without a slot
					if s.cgroups.known[serial] == nil && serial < living[0].serial {
						delete(k.cgroups, serial)
					}
				}
				most = max(most, len(s.carried)+len(s.retired)+len(s.cgroups.known))
			}
		}
		for end := now + 7*time.Minute; now < end; now += 10 * time.Second {
			for _, one := range living {
				k.cgroups[one.serial].Offline = uint64(now)
				s.cgroups.left(one.serial, now)
			}
			living = nil
			endAt(t, s, now)
		}
		all, inUse, _, err := s.all(nil, 2*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		var counted uint64
		names := map[string]bool{}
		for _, w := range all {
			names[byFirst(w.Cgroup)+" "+w.Process.Name] = true
			counted += w.Count
		}
		for range limit {
			if len(k.free) > 0 && k.ask(1, fmt.Sprint("later", inTheEnd), 1, 2*time.Hour) {
				inTheEnd++
			}
		}
		t.Logf("%d slots each: %d of %d found none; %d series of %d rows, %d slots in use, %d free; at most %d things were kept",
			slots, missed, asked, len(names), len(all), inUse, inTheEnd, most)
		if slots == 1 && missed > 0 || len(names) != pods*slots || most > 5*limit || counted != uint64(asked-missed+pods) || inTheEnd != limit-inUse {
			t.Error("something grows, or is lost")
		}
	}
}

// TestIdleSeriesEnd: where slots are scarce a series that has counted nothing for an hour ends, denials first, until half of them are
// free; and one whose cgroup is gone does not wait for its retention.
func TestIdleSeriesEnd(t *testing.T) {
	k, s := newFake()
	s.retention, s.quarantine = 5*time.Minute, time.Minute
	k.cgroup(1, "a")
	k.cgroup(2, "b")
	k.ask(1, "granted", 3, time.Second)
	k.ask(2, "denied", 5, time.Second)
	k.ask(0, "busy", 1, time.Second)
	endAt(t, s, time.Minute)
	k.ask(0, "busy", 1, 2*time.Minute)
	if endAt(t, s, time.Hour) || s.evicted != 0 {
		t.Fatal("a series ended before it was idle for an hour")
	}
	now := time.Hour + time.Minute
	if !endAt(t, s, now) || s.evicted != 1 {
		t.Fatalf("%d series evicted, want the denied one", s.evicted)
	}
	k.check(t, s, now, 5, owner{"/a", "granted", 3}, owner{"/", "busy", 2})
	if k.cgroups[2] != nil || k.cgroups[1] == nil {
		t.Errorf("left: %v, want the record of the cgroup that has a slot", k.cgroups)
	}
	now += time.Minute
	endAt(t, s, now) // the quarantine is over, and half of the slots are free
	if endAt(t, s, now+time.Hour) || s.evicted != 1 {
		t.Errorf("%d series evicted although half of the slots are free", s.evicted)
	}
	now += time.Hour
	k.ask(2, "again", 1, now) // without a record, as its cgroup had one when its first slot was taken
	k.ask(1, "granted", 1, now)
	k.ask(0, "busy", 1, now)
	k.ask(1, "more", 1, now)
	s.cgroups.left(1, now)
	endAt(t, s, now+scarceRetention)
	k.check(t, s, now, 5, owner{"/a", "granted", 4}, owner{"/a", "more", 1}, owner{"/", "busy", 3}, owner{"", "again", 1})
	endAt(t, s, now+scarceRetention+1)
	if got, _ := ownersOf(t, s, now); slices.ContainsFunc(got, func(o owner) bool { return o.path == "/a" }) {
		t.Errorf("%v are still there, and slots are scarce", got)
	}
}

// TestGrown: each series says when it was last seen to have grown, by whoever looked, also when no slot of its own counts it any more.
func TestGrown(t *testing.T) {
	k, s := newFakeOf(fakeLimit, byFirst)
	k.cgroup(1, "pod", "a")
	grown := func(now time.Duration) map[string]time.Duration {
		all, _, _, err := s.all(nil, now)
		if err != nil {
			t.Fatal(err)
		}
		times := map[string]time.Duration{}
		for _, w := range all {
			times[w.Process.Name] = max(times[w.Process.Name], w.Grown.Sub(s.clock.time(0)))
		}
		return times
	}
	k.ask(1, "x", 3, time.Second)
	k.ask(1, "y", 3, time.Second)
	grown(10 * time.Second)
	k.ask(1, "x", 1, 15*time.Second)
	endAt(t, s, 20*time.Second) // it looks, too
	k.ask(1, "y", 1, 25*time.Second)
	if got, want := grown(30*time.Second), map[string]time.Duration{"x": 20 * time.Second, "y": 30 * time.Second}; !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got, want := grown(40*time.Second), map[string]time.Duration{"x": 20 * time.Second, "y": 30 * time.Second}; !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	x := seriesKey{"pod", Process{Name: "z"}, Check{Capability: 21}, Aside{}}
	s.retired = []retiredSlot{{slot: 99, key: x, carry: true, grown: 50 * time.Second, since: time.Minute}}
	if got := grown(time.Minute)["z"]; got != 50*time.Second {
		t.Errorf("what is retired grew at %v", got)
	}
	s.retired = nil
	s.carried[x] = carriedSeries{count: 7, grown: 55 * time.Second}
	if got := grown(2 * time.Minute)["z"]; got != 55*time.Second {
		t.Errorf("what is carried on grew at %v", got)
	}
}

// TestIdleSeriesEndWhole: a series that several slots count is idle when all of them are, and ends with all of them and with what it
// has carried on.
func TestIdleSeriesEndWhole(t *testing.T) {
	k, s := newFakeOf(fakeLimit, byFirst)
	x := seriesKey{"pod", Process{Name: "x"}, Check{Capability: 21}, Aside{}}
	k.cgroup(1, "pod", "a")
	k.cgroup(2, "pod", "b")
	k.ask(1, "x", 3, time.Second)
	k.ask(2, "x", 5, time.Second)
	s.carried[x] = carriedSeries{cgroup: Cgroup{Path: "/pod/gone"}, count: 7}
	end := func(now time.Duration) bool {
		k.ask(0, "busy", 1, now)
		k.ask(1, "busy", 1, now) // in the same workload
		return endAt(t, s, now)
	}
	end(time.Minute)
	k.ask(1, "x", 1, time.Hour) // in the first of its slots
	if end(time.Hour+2*time.Minute) || s.evicted != 0 {
		t.Fatal("a series was evicted of which one slot has counted")
	}
	// Neither has one ended that counted in a slot which is no more.
	s.retired = []retiredSlot{{slot: 99, key: x, carry: true, grown: 2 * time.Hour, since: 3 * time.Hour}}
	if end(2*time.Hour+5*time.Minute) || s.evicted != 0 {
		t.Fatal("a series was evicted that has counted in a slot which is retired")
	}
	s.retired = nil
	s.carried[x] = carriedSeries{cgroup: Cgroup{Path: "/pod/gone"}, count: 7, grown: 2 * time.Hour}
	if end(2*time.Hour+6*time.Minute) || s.evicted != 0 {
		t.Fatal("a series was evicted that has counted in a slot which was released")
	}
	if !end(3*time.Hour+5*time.Minute) || s.evicted != 1 {
		t.Fatalf("%d series evicted, want the one", s.evicted)
	}
	got, ended := ownersOf(t, s, 4*time.Hour)
	if want := []owner{{"/", "busy", 5}, {"/pod/a", "busy", 5}}; !slices.Equal(got, want) || ended != 4+5+7 {
		t.Errorf("left: %v, and %d ended, want %v and 16", got, ended, want)
	}
}

// TestEvictedMeanwhile: a cgroup whose series was evicted while a new one of it has been made, and has not been read yet, keeps its name.
func TestEvictedMeanwhile(t *testing.T) {
	k, s := newFake()
	k.cgroup(1, "a")
	k.ask(1, "denied", 5, time.Second)
	k.ask(0, "x", 1, time.Second)
	k.ask(0, "busy", 1, time.Second)
	endAt(t, s, time.Minute)
	k.ask(0, "busy", 1, time.Minute)
	k.ask(1, "new", 0, 2*time.Hour)
	endAt(t, s, 2*time.Hour)
	if s.evicted == 0 || k.cgroups[1] == nil {
		t.Errorf("%d series evicted; records: %v, want that of the new series", s.evicted, k.cgroups)
	}
}

// TestLooksMakeLittle: names are made once for each slot, and what is read of it is not kept, however often there is a look.
func TestLooksMakeLittle(t *testing.T) {
	const limit = 1000
	k, s := newFakeOf(limit, pathName)
	k.cgroup(1, "a")
	for n := range limit {
		k.ask(1, fmt.Sprint("program", n), 1, time.Second)
	}
	look := func() {
		all, inUse, _, err := s.all(nil, time.Minute)
		if err != nil || len(all) != limit || inUse != limit || len(all[0].CallSites) != 1 {
			t.Fatalf("%d series, %d in use: %v", len(all), inUse, err)
		}
		if _, err := s.end(time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	look()
	if got := testing.AllocsPerRun(10, look); got > 100 {
		t.Errorf("%.0f pieces of memory for a look at %d slots", got, limit)
	}
}

// TestCallSitesOfASlot: what is kept of a slot's record is what the record says now.
func TestCallSitesOfASlot(t *testing.T) {
	k, s := newFake()
	k.cgroup(1, "a")
	k.ask(1, "first", 1, time.Second)
	s.symbol = func(slot uint32) (string, error) { return fmt.Sprint("function", slot), nil }
	for _, test := range []struct {
		name  string
		sites [4]uint32
		want  []string
	}{
		{"first", [4]uint32{1}, []string{"function0"}},
		{"first", [4]uint32{1}, []string{"function0"}},
		{"first", [4]uint32{1, 3}, []string{"function0", "function2"}},
		{"second", [4]uint32{2}, []string{"function1"}},
		{"third", [4]uint32{}, nil},
	} {
		var r programs.WhoRecord
		if err := record(s.records, programs.WhoFixed, &r); err != nil {
			t.Fatal(err)
		}
		clear(r.Name[:])
		copy(r.Name[:], test.name)
		r.Sites = test.sites
		copy(k.records[programs.WhoFixed*binary.Size(r):], bytesOf(&r))
		all, _, _, err := s.all(nil, time.Minute)
		if err != nil || len(all) != 1 || all[0].Process.Name != test.name || !slices.Equal(all[0].CallSites, test.want) {
			t.Errorf("%+v, %v, want %s by way of %q", all, err, test.name, test.want)
		}
	}
}
