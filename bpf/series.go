package bpf

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/cilium/ebpf"

	"capability_exporter/bpf/internal/programs"
	"capability_exporter/bpf/internal/source"
)

// A seriesKey is what people tell a series by. A service that is restarted has a new cgroup, and so has each container of a pod: while
// they have one name, their series goes on.
type seriesKey struct {
	name    string // of the workload
	process Process
	check   Check
	aside   Aside
}

// whole is what is shown as one series, all of which must end at one time: with those of its checks that are set aside, which have slots
// of their own.
func (k seriesKey) whole() seriesKey {
	k.aside = Aside{}
	return k
}

// shown is what people see of a cgroup.
func shown(c Cgroup) Cgroup {
	if c.Path != "" && !c.Truncated {
		c.ID = 0
	}
	return c
}

// A carriedSeries is what slots that are no more had counted, while a cgroup of the workload lives on.
type carriedSeries struct {
	cgroup  Cgroup // one of those that it was counted in
	owner   uint64
	count   uint64
	created time.Time
	sites   []string
	grown   time.Duration // boot time at which one of its slots was last seen to have grown
}

// A slotTable is the kernel side's own of who slots.
type slotTable interface {
	// Take takes a slot from its key: who asks next under that gets another.
	Take(key programs.WhoKey) error
	// Free gives a slot to whoever needs one, and takes it off the share of the owner whose series it had.
	Free(slot uint32, owner uint64, pool uint32) error
}

// series are the lives of the who slots: which is whose, which belongs to a cgroup that is gone, and what becomes of what a slot had
// counted when it changes hands.
type series struct {
	limit                 int
	retention, quarantine time.Duration
	records               io.ReaderAt // the kernel side's, by slot
	slots                 slotTable
	counts                interface{ who(slot uint32) uint64 }
	cgroups               *cgroups
	clock                 bootClock
	symbol                func(siteSlot uint32) (string, error)

	seen    []slotState // by slot
	evicted uint64      // series that ended for having been idle
	carried map[seriesKey]carriedSeries
	ended   map[Check]uint64
	retired []retiredSlot
	read    programs.WhoRecord // the last one
}

func newSeries(limit int, retention, quarantine time.Duration) *series {
	return &series{
		limit: limit, retention: retention, quarantine: quarantine,
		seen: make([]slotState, programs.WhoFixed+limit), carried: map[seriesKey]carriedSeries{}, ended: map[Check]uint64{},
	}
}

// A retiredSlot no longer has a series of its own. A program that found it before may still be about to count in it, so it is
// given to nobody else for a while, and what it has counted stands under key: carried on if set, and else ended.
type retiredSlot struct {
	slot    uint32
	owner   uint64
	pool    uint32
	key     seriesKey
	cgroup  Cgroup // as it is shown
	carry   bool
	created time.Time
	sites   []string
	grown   time.Duration // boot times
	since   time.Duration
}

// A slotState is what is known of a slot from one look at it to the next.
type slotState struct {
	base  uint64        // what it had counted when its present series began
	left  uint64        // when the series that left it had begun (boot time), and one; 0: none has
	count uint64        // what it had counted when that was last seen to have grown,
	grown time.Duration // at that boot time

	// What its record says, as long as it says so: to make the same names at each look would take more than all else that there is to read.
	name    string
	sites   [len(programs.WhoRecord{}.Sites)]uint32
	symbols []string // never written to: it is in snapshots
}

// process is by whom a slot's record was made.
func (s *slotState) process(r *programs.WhoRecord) Process {
	p := processOf(programs.KindOf(r), nil)
	if p.Kind == ProcessFile {
		if name := untilNUL(r.Name[:]); s.name != string(name) {
			s.name = string(name)
		}
		p.Name = s.name
	}
	return p
}

const (
	// idleRetention is how long a series that counts nothing is kept where slots are scarce.
	idleRetention = time.Hour
	// scarceRetention is, there, how long one is whose cgroup is gone.
	scarceRetention = 30 * time.Second
)

// count leaves out what a slot had counted for the series that had it before.
func (s *series) count(slot uint32) uint64 { return s.counts.who(slot) - s.seen[slot].base }

func (s *series) keyOf(state *cgroupState, slot uint32, r *programs.WhoRecord) seriesKey {
	return seriesKey{state.name, s.seen[slot].process(r), checkOf(uint32(r.Key.What)), asideOf(partOf(r))}
}

// record reads a slot's record. It stands until the next is read.
func (s *series) record(slot uint32) (*programs.WhoRecord, error) {
	return &s.read, record(s.records, slot, &s.read)
}

// each calls f for each slot that has a series.
func (s *series) each(f func(slot uint32, r *programs.WhoRecord) error) error {
	for slot := uint32(programs.WhoFixed); slot < uint32(programs.WhoFixed+s.limit); slot++ {
		if s.count(slot) == 0 {
			continue
		}
		r, err := s.record(slot)
		if err != nil {
			return err
		}
		if s.seen[slot].left == r.Created+1 {
			continue // retired
		}
		if err := f(slot, r); err != nil {
			return err
		}
	}
	return nil
}

// workload says whose a slot is, without its count.
func (s *series) workload(slot uint32, r *programs.WhoRecord, now time.Duration) (WorkloadCount, error) {
	state, err := s.cgroups.of(r.Key.Cgroup, now)
	if err != nil {
		return WorkloadCount{}, err
	}
	sites, err := s.callSites(slot, r)
	return WorkloadCount{
		Check: checkOf(uint32(r.Key.What)), Aside: asideOf(partOf(r)), Cgroup: state.cgroup, Process: s.seen[slot].process(r),
		Owner: r.Owner, Created: s.clock.time(r.Created), CallSites: sites,
	}, err
}

// callSites names the kernel functions that a slot's record has.
func (s *series) callSites(slot uint32, r *programs.WhoRecord) ([]string, error) {
	seen := &s.seen[slot]
	if seen.sites == r.Sites {
		return seen.symbols, nil
	}
	var symbols []string
	for _, site := range r.Sites {
		if site == 0 {
			break
		}
		symbol, err := s.symbol(site - 1)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(symbols, symbol) {
			symbols = append(symbols, symbol)
		}
	}
	seen.sites, seen.symbols = r.Sites, symbols
	return symbols, nil
}

// grew takes in what a slot has counted, and returns when that was last seen to have grown.
func (s *series) grew(slot uint32, n uint64, now time.Duration) time.Duration {
	if seen := &s.seen[slot]; seen.count != n {
		seen.count, seen.grown = n, now
	}
	return s.seen[slot].grown
}

// all adds every series to what there is already: those with a slot, how many of them there are, and those that are carried on without
// one. ended is what is in none any more.
func (s *series) all(already []WorkloadCount, now time.Duration) (all []WorkloadCount, inUse int, ended []CheckCount, err error) {
	room := len(s.carried)
	for slot := uint32(programs.WhoFixed); slot < uint32(programs.WhoFixed+s.limit); slot++ {
		if s.count(slot) != 0 { // or it is retired, and carried on
			room++
		}
	}
	all = slices.Grow(already, room)
	err = s.each(func(slot uint32, r *programs.WhoRecord) error {
		w, err := s.workload(slot, r, now)
		if err != nil {
			return err
		}
		w.Count = s.count(slot)
		w.Grown = s.clock.time(uint64(s.grew(slot, w.Count, now)))
		all = append(all, w)
		inUse++
		return nil
	})
	all, ended = s.left(all)
	return all, inUse, ended, err
}

// left adds what no slot of its own counts any more.
func (s *series) left(already []WorkloadCount) (all []WorkloadCount, ended []CheckCount) {
	all = already
	add := func(key seriesKey, c carriedSeries) {
		all = append(all, WorkloadCount{
			Check: key.check, Aside: key.aside, Cgroup: c.cgroup, Process: key.process,
			Owner: c.owner, Count: c.count, Created: c.created, Grown: s.clock.time(uint64(c.grown)), CallSites: c.sites,
		})
	}
	for key, c := range s.carried {
		add(key, c)
	}
	sums := map[Check]uint64{}
	for check, n := range s.ended {
		sums[check] += n
	}
	for _, r := range s.retired {
		if r.carry {
			add(r.key, carriedSeries{cgroup: r.cgroup, owner: r.owner, count: s.count(r.slot), created: r.created, grown: r.grown, sites: r.sites})
		} else {
			sums[r.key.check] += s.count(r.slot)
		}
	}
	for check, n := range sums {
		ended = append(ended, CheckCount{Check: check, Count: n})
	}
	return all, ended
}

// end ends the series of workloads whose last cgroup has been gone for the retention, and takes the slots of all cgroups that have been.
// It tells whether it took any: each CPU's cache must then ask the table again. What is counted must have been read just before.
func (s *series) end(now time.Duration) (took bool, err error) {
	if err := s.free(now); err != nil {
		return false, err
	}
	evicted, scarce, err := s.evict(now)
	took = len(evicted) > 0
	if err != nil {
		return took, err
	}
	used, live := map[uint64]*cgroupState{}, map[string]bool{}
	err = s.each(func(_ uint32, r *programs.WhoRecord) error {
		state, err := s.cgroups.of(r.Key.Cgroup, now)
		if err != nil {
			return err
		}
		used[r.Key.Cgroup] = state
		live[state.name] = live[state.name] || state.gone == 0
		return nil
	})
	if err != nil {
		return took, err
	}
	over := map[uint64]bool{}
	served := map[string]bool{} // workloads with a cgroup that exists or is still within the retention
	for serial, state := range used {
		retention := s.retention
		switch {
		case scarce && live[state.name]:
			retention = 0 // the series goes on without the slot
		case scarce:
			retention = min(retention, scarceRetention)
		}
		over[serial] = state.over(now, retention)
		served[state.name] = served[state.name] || !over[serial]
	}
	s.cgroups.dropNameless(used)
	s.endCarried(func(key seriesKey) bool { return !served[key.name] })
	if err := s.trimCarried(); err != nil {
		return took, err
	}
	if err := s.forgetUnused(evicted); err != nil {
		return took, err
	}
	err = s.each(func(slot uint32, r *programs.WhoRecord) error {
		if !over[r.Key.Cgroup] {
			return nil
		}
		took = true
		_, err := s.retire(slot, r, func(key seriesKey) bool { return served[key.name] }, now)
		return err
	})
	if err != nil {
		return took, err
	}
	for serial := range over {
		if !over[serial] {
			continue
		}
		if err := s.cgroups.forget(serial); err != nil {
			return took, err
		}
	}
	return took, nil
}

// evict ends series that have been idle for long, denials and user namespaces first, until half of the slots are free. It tells
// whose it took, by the cgroup's serial number, and whether slots are scarce: whether more than half are in use.
//
// A series ends as a whole, with all of its slots and what it has carried on, or else it would count backwards.
func (s *series) evict(now time.Duration) (took map[uint64]bool, scarce bool, err error) {
	inUse, anyIdle := len(s.retired), false
	err = s.each(func(slot uint32, _ *programs.WhoRecord) error {
		inUse++
		grown := s.grew(slot, s.count(slot), now)
		anyIdle = anyIdle || now-grown >= idleRetention
		return nil
	})
	if err != nil || inUse <= s.limit/2 {
		return nil, false, err
	}
	if !anyIdle { // as most often, and to look for whole series takes a while
		return nil, true, nil
	}
	idle, err := s.idleSeries(now)
	if err != nil {
		return nil, true, err
	}
	took = map[uint64]bool{}
	for _, slots := range idle {
		if inUse <= s.limit/2 {
			break
		}
		s.evicted++
		for _, slot := range slots {
			r, err := s.record(slot)
			if err != nil {
				return took, true, err
			}
			key, err := s.retire(slot, r, func(seriesKey) bool { return false }, now)
			if err != nil {
				return took, true, err
			}
			s.drop(key)
			took[r.Key.Cgroup] = true
			inUse--
		}
	}
	return took, true, nil
}

// idleSeries are the slots of each series that has counted nothing for long, denials and user namespaces first.
func (s *series) idleSeries(now time.Duration) (idle [][]uint32, err error) {
	slots, busy := map[seriesKey][]uint32{}, map[seriesKey]bool{}
	var pools [programs.PoolGranted + 1][]seriesKey
	err = s.each(func(slot uint32, r *programs.WhoRecord) error {
		state, err := s.cgroups.of(r.Key.Cgroup, now)
		if err != nil {
			return err
		}
		key := s.keyOf(state, slot, r).whole()
		if slots[key] == nil {
			pools[r.Pool&programs.PoolGranted] = append(pools[r.Pool&programs.PoolGranted], key)
		}
		slots[key] = append(slots[key], slot)
		busy[key] = busy[key] || now-s.seen[slot].grown < idleRetention
		return nil
	})
	for _, r := range s.retired {
		key := r.key.whole()
		busy[key] = busy[key] || r.carry && now-r.grown < idleRetention
	}
	for key, c := range s.carried {
		key = key.whole()
		busy[key] = busy[key] || now-c.grown < idleRetention
	}
	for _, key := range slices.Concat(pools[:]...) {
		if !busy[key] {
			idle = append(idle, slots[key])
		}
	}
	return idle, err
}

// forgetUnused forgets those cgroups, of whose slots some were evicted, that have none any more. One that nothing has been counted in
// yet has a record that says whose it is.
func (s *series) forgetUnused(evicted map[uint64]bool) error {
	if len(evicted) == 0 {
		return nil
	}
	for slot := uint32(programs.WhoFixed); slot < uint32(programs.WhoFixed+s.limit); slot++ {
		r, err := s.record(slot)
		if err != nil {
			return err
		}
		if r.Created != 0 && s.seen[slot].left != r.Created+1 {
			delete(evicted, r.Key.Cgroup)
		}
	}
	for serial := range evicted {
		if err := s.cgroups.forget(serial); err != nil {
			return err
		}
	}
	return nil
}

// retire takes a slot from its key, and into quarantine. Its series, which is returned, goes on without it if carry says so of it, and
// ends if not.
func (s *series) retire(slot uint32, r *programs.WhoRecord, carry func(seriesKey) bool, now time.Duration) (seriesKey, error) {
	state, err := s.cgroups.of(r.Key.Cgroup, now)
	if err != nil {
		return seriesKey{}, err
	}
	w, err := s.workload(slot, r, now)
	if err != nil {
		return seriesKey{}, err
	}
	if err := s.slots.Take(r.Key); err != nil {
		return seriesKey{}, fmt.Errorf("retire a slot: %w", err)
	}
	key := s.keyOf(state, slot, r)
	s.seen[slot].left = r.Created + 1
	s.retired = append(s.retired, retiredSlot{
		slot: slot, owner: r.Owner, pool: r.Pool, key: key, cgroup: shown(w.Cgroup), carry: carry(key), created: w.Created, sites: w.CallSites,
		grown: s.seen[slot].grown, since: now,
	})
	return key, nil
}

// endCarried ends what was carried on for workloads that are no more.
func (s *series) endCarried(gone func(seriesKey) bool) {
	for i := range s.retired {
		if gone(s.retired[i].key) {
			s.retired[i].carry = false
		}
	}
	for key, c := range s.carried {
		if gone(key) {
			s.ended[key.check] += c.count
			delete(s.carried, key)
		}
	}
}

// drop ends what is carried on of one series.
func (s *series) drop(key seriesKey) {
	s.endCarried(func(k seriesKey) bool { return k.whole() == key.whole() })
}

// trimCarried sees to it that no more series without a slot are carried on than there are slots: somebody who has one cgroup that stays
// could else have any number of them. Denials and user namespaces end first, and then what has counted nothing for longest. A series that
// has a slot goes on in it, and so must what it has carried on.
func (s *series) trimCarried() error {
	over := len(s.carried) - s.limit
	if over <= 0 {
		return nil
	}
	counted := map[seriesKey]bool{}
	for _, r := range s.retired {
		counted[r.key.whole()] = counted[r.key.whole()] || r.carry
	}
	err := s.each(func(slot uint32, r *programs.WhoRecord) error {
		state, err := s.cgroups.of(r.Key.Cgroup, 0)
		if err != nil {
			return err
		}
		counted[s.keyOf(state, slot, r).whole()] = true
		return nil
	})
	if err != nil {
		return err
	}
	parts, grown := map[seriesKey]int{}, map[seriesKey]time.Duration{}
	for key, c := range s.carried {
		if key = key.whole(); !counted[key] {
			parts[key]++
			grown[key] = max(grown[key], c.grown)
		}
	}
	granted := func(key seriesKey) int {
		if key.check.Denied || key.check.UserNS {
			return 0
		}
		return 1
	}
	left := slices.SortedFunc(maps.Keys(parts), func(a, b seriesKey) int {
		return cmp.Or(cmp.Compare(granted(a), granted(b)), cmp.Compare(grown[a], grown[b]))
	})
	for _, key := range left {
		if over <= 0 {
			break
		}
		over -= parts[key]
		s.drop(key)
		s.evicted++
	}
	return nil
}

// free gives back the slots that have been out of use long enough.
func (s *series) free(now time.Duration) error {
	kept := s.retired[:0]
	var failed error
	for _, r := range s.retired {
		if failed != nil || now-r.since < s.quarantine {
			kept = append(kept, r)
			continue
		}
		if failed = s.slots.Free(r.slot, r.owner, r.pool); failed != nil {
			kept = append(kept, r)
			continue
		}
		s.release(r)
	}
	s.retired = kept
	if failed != nil {
		return fmt.Errorf("free a slot: %w", failed)
	}
	return nil
}

// release ends a slot's quarantine.
func (s *series) release(r retiredSlot) {
	n := s.count(r.slot)
	s.seen[r.slot] = slotState{base: s.seen[r.slot].base + n, left: s.seen[r.slot].left}
	if !r.carry {
		s.ended[r.key.check] += n
		return
	}
	c, known := s.carried[r.key]
	c.cgroup, c.owner, c.grown = r.cgroup, r.owner, max(c.grown, r.grown)
	c.count += n
	if !known || r.created.Before(c.created) {
		c.created = r.created
	}
	if len(c.sites) == 0 {
		c.sites = r.sites
	}
	s.carried[r.key] = c
}

// keptOf is how many of the slots are kept for what is granted on the host: denials and user namespaces, which anybody can bring
// about, never have them.
func keptOf(limit int) int { return limit / 4 }

// slotMaps are the kernel side's own table.
type slotMaps struct {
	whos  *ebpf.Map
	free  [2]*ebpf.Map // the slots for all, and those that are kept
	first uint32       // of those that are kept
	// release takes a slot off its owner's share.
	release func(owner uint64, pool, slot uint32) error
}

func slotsOf(o *source.Objects, limit int) slotMaps {
	tables := o.Collection.Maps
	return slotMaps{
		whos: tables["whos"], free: [2]*ebpf.Map{tables["free_whos"], tables["free_kept"]},
		first:   uint32(programs.WhoFixed + limit - keptOf(limit)),
		release: o.Release,
	}
}

func (m slotMaps) Take(key programs.WhoKey) error {
	if err := m.whos.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	return nil
}

func (m slotMaps) Free(slot uint32, owner uint64, pool uint32) error {
	free := m.free[0]
	if slot >= m.first {
		free = m.free[1]
	}
	if err := free.Put(nil, slot); err != nil {
		return err
	}
	return m.release(owner, pool, slot)
}
