package bpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
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
func newFake() (*fakeKernel, *series) {
	k := &fakeKernel{
		whos: map[programs.WhoKey]uint32{}, counted: map[uint32]uint64{}, cgroups: map[uint64]*programs.CgroupRecord{},
		records: make([]byte, (programs.WhoFixed+fakeLimit)*binary.Size(programs.WhoRecord{})),
	}
	for slot := range uint32(fakeLimit) {
		k.free = append(k.free, programs.WhoFixed+slot)
	}
	return k, &series{
		limit: fakeLimit, retention: 10 * time.Second, quarantine: 5 * time.Second,
		records: bytes.NewReader(k.records), slots: k, counts: k, cgroups: newCgroups(fakeCgroups{k}),
		symbol: func(uint32) (string, error) { return "somewhere", nil },
		idle:   map[uint32]idleSlot{}, base: map[uint32]uint64{}, last: map[uint32]uint64{}, carried: map[seriesKey]carriedSeries{}, ended: map[Check]uint64{},
	}
}

// ask counts n checks of CAP_SYS_ADMIN by somebody, as the kernel side does. It tells whether there was a slot.
func (k *fakeKernel) ask(serial uint64, name string, n uint64, at time.Duration) bool {
	key := programs.WhoKey{Cgroup: serial, Name: uint64(len(name)), What: 21}
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

// cgroup makes a cgroup's record.
func (k *fakeKernel) cgroup(serial uint64, name string) {
	r := &programs.CgroupRecord{Serial: serial, Id: 100 + serial, Len: uint32(len(name) + 1)}
	copy(r.Names[:], name)
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
	all, _, over, err := s.all(now)
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
		all, _, _, err := s.all(at)
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
		s.release(retiredSlot{slot: uint32(i), key: keyOf(&WorkloadCount{Cgroup: c}), carry: true})
	}
	carried, ended := s.left()
	got := map[Cgroup]uint64{}
	for _, w := range carried {
		got[w.Cgroup] += w.Count
	}
	want := map[Cgroup]uint64{{Path: "/whole"}: 20, cgroups[2]: 10, cgroups[3]: 10}
	if !maps.Equal(got, want) || len(ended) != 0 {
		t.Errorf("carried %v, ended %v, want %v", got, ended, want)
	}
	s.endCarried(func(c Cgroup) bool { return c == cgroups[2] })
	if carried, ended := s.left(); len(carried) != 2 || len(ended) != 1 || ended[0].Count != 10 {
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
		all, inUse, _, err := s.all(now)
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
	carried, _ := s.left()
	if len(carried) != 1 || !carried[0].Created.Equal(began) {
		t.Errorf("carried %+v, want one since %s", carried, began)
	}
	// Another that began later changes nothing.
	s.release(retiredSlot{slot: 99, key: keyOf(&carried[0]), carry: true, created: began.Add(time.Hour)})
	if carried, _ = s.left(); len(carried) != 1 || !carried[0].Created.Equal(began) {
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
		s.cgroups.dropNameless(map[uint64]bool{3: used})
		if known := s.cgroups.known[3] != nil; known != used || len(s.cgroups.known) < 2 {
			t.Errorf("in use: %t, known: %t of %d", used, known, len(s.cgroups.known))
		}
	}
}

// TestCarriedLimit: what is carried on has no more keys than there are slots. A slot of one key more waits, and still counts.
func TestCarriedLimit(t *testing.T) {
	k, s := newFake()
	keyOfPath := func(path string) seriesKey { return keyOf(&WorkloadCount{Cgroup: Cgroup{Path: path}}) }
	for i := range fakeLimit {
		s.carried[keyOfPath(string(rune('a'+i)))] = carriedSeries{count: 1}
	}
	s.retired = []retiredSlot{{slot: 1, key: keyOfPath("more"), carry: true}, {slot: 2, key: keyOfPath("a"), carry: true}, {slot: 3, key: keyOfPath("ended")}}
	k.free, k.counted = nil, map[uint32]uint64{1: 10, 2: 10, 3: 10}
	if err := s.free(time.Hour); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(k.free, []uint32{2, 3}) || len(s.retired) != 1 || len(s.carried) != fakeLimit {
		t.Errorf("freed %v, with %d carried and %d retired", k.free, len(s.carried), len(s.retired))
	}
	carried, ended := s.left()
	var n uint64
	for _, w := range carried {
		n += w.Count
	}
	if n != fakeLimit+20 || len(ended) != 1 || ended[0].Count != 10 {
		t.Errorf("%d carried on and %v ended", n, ended)
	}
	s.endCarried(func(c Cgroup) bool { return c.Path == "b" })
	if err := s.free(time.Hour); err != nil || !slices.Contains(k.free, 1) {
		t.Errorf("freed %v (%v) when there was room", k.free, err)
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
