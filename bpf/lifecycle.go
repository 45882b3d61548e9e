package bpf

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cilium/ebpf"

	"capability_exporter/bpf/internal/programs"
)

// A seriesKey is what people tell a series by. A service that is restarted has a new cgroup of the same path, and its series
// goes on; where the path is not whole, people see the cgroup's number, too.
type seriesKey struct {
	cgroup  Cgroup // without its ID where the path alone is shown
	process Process
	check   Check
}

func keyOf(w *WorkloadCount) seriesKey { return seriesKey{shown(w.Cgroup), w.Process, w.Check} }

// shown is what people see of a cgroup.
func shown(c Cgroup) Cgroup {
	if c.Path != "" && !c.Truncated {
		c.ID = 0
	}
	return c
}

// A carriedSeries is what the slots of cgroups that are gone had counted, while another cgroup of the same path lives on.
type carriedSeries struct {
	count   uint64
	created time.Time
	sites   []string
}

// lifecycle keeps account of slots that change hands.
type lifecycle struct {
	base       map[uint32]uint64 // what a slot had counted when its present series began
	last       map[uint32]uint64 // by slot: when the series that left it had begun (boot time)
	carried    map[seriesKey]carriedSeries
	ended      map[Check]uint64
	quarantine []retiredSlot
	seen       map[uint32]seenCount // by slot
}

// A seenCount is a slot's count, and since when it has been that.
type seenCount struct {
	count uint64
	since time.Time
}

// A retiredSlot no longer has a series of its own. A program that found it before may still be about to count in it, so it is
// given to nobody else for a while, and what it has counted stands under key: carried on if set, and else ended.
type retiredSlot struct {
	slot    uint32
	key     seriesKey
	carry   bool
	created time.Time
	sites   []string
	since   time.Time
}

func newLifecycle() lifecycle {
	return lifecycle{
		base: map[uint32]uint64{}, last: map[uint32]uint64{},
		carried: map[seriesKey]carriedSeries{}, ended: map[Check]uint64{}, seen: map[uint32]seenCount{},
	}
}

func (l *lifecycle) retired(slot uint32, created uint64) bool {
	last, ok := l.last[slot]
	return ok && last == created
}

// counts returns what no slot of its own counts any more.
func (l *lifecycle) counts(count func(slot uint32) uint64) (carried []WorkloadCount, ended []CheckCount) {
	add := func(key seriesKey, c carriedSeries) {
		carried = append(carried, WorkloadCount{
			Check: key.check, Cgroup: key.cgroup, Process: key.process, Count: c.count, Created: c.created, CallSites: c.sites,
		})
	}
	for key, c := range l.carried {
		add(key, c)
	}
	sums := map[Check]uint64{}
	for check, n := range l.ended {
		sums[check] += n
	}
	for _, r := range l.quarantine {
		if r.carry {
			add(r.key, carriedSeries{count: count(r.slot), created: r.created, sites: r.sites})
		} else {
			sums[r.key.check] += count(r.slot)
		}
	}
	for check, n := range sums {
		ended = append(ended, CheckCount{Check: check, Count: n})
	}
	return carried, ended
}

// release ends a slot's quarantine.
func (l *lifecycle) release(r retiredSlot, n uint64) {
	l.base[r.slot] += n
	delete(l.seen, r.slot)
	if !r.carry {
		l.ended[r.key.check] += n
		return
	}
	c, known := l.carried[r.key]
	c.count += n
	if !known || r.created.Before(c.created) {
		c.created = r.created
	}
	if len(c.sites) == 0 {
		c.sites = r.sites
	}
	l.carried[r.key] = c
}

// end ends what was carried on for paths that are no more.
func (l *lifecycle) end(gone func(Cgroup) bool) {
	for i := range l.quarantine {
		if gone(l.quarantine[i].key.cgroup) {
			l.quarantine[i].carry = false
		}
	}
	for key, c := range l.carried {
		if gone(key.cgroup) {
			l.ended[key.check] += c.count
			delete(l.carried, key)
		}
	}
}

// endSeries ends the series of paths whose last cgroup has been gone for the retention, and takes their slots from cgroups
// that are gone. The caller holds mu.
func (t *Tracer) endSeries() error {
	if err := t.readCounters(); err != nil {
		return err
	}
	if err := t.freeSlots(); err != nil {
		return err
	}
	now, err := bootTime()
	if err != nil {
		return err
	}
	series, err := t.meetCgroups()
	if err != nil {
		return err
	}
	over := map[programs.CgroupKey]bool{}
	served := map[Cgroup]bool{} // by what is shown: those with a cgroup that exists or is still within the retention
	for key := range t.cgroups {
		state, err := t.readCgroup(key)
		if err != nil {
			return err
		}
		t.cgroups[key].offline = state.offline
		if state.offline != 0 && now-int64(state.offline) > int64(t.opts.Retention) {
			over[key] = true
		} else {
			served[shown(state.cgroup)] = true
		}
	}
	t.life.end(func(c Cgroup) bool { return !served[c] })
	retired := false
	if 2*series > t.opts.SeriesLimit {
		if retired, err = t.retireDuplicates(); err != nil {
			return err
		}
	}
	if len(over) == 0 && !retired {
		return nil
	}
	if err := t.retireSlots(over, served); err != nil {
		return err
	}
	for key := range over {
		if err := t.objects.Collection.Maps["cgroups"].Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget a cgroup: %w", err)
		}
		delete(t.cgroups, key)
	}
	// Each CPU's cache asks the table again, where the keys are no more.
	return t.set(func(v *programs.SettingValues) { v.Epoch++ })
}

// meetCgroups makes sure that the cgroup of each slot is known, even if nobody has asked for a snapshot. It counts the slots.
func (t *Tracer) meetCgroups() (series int, err error) {
	err = t.eachSeries(func(_ uint32, r *programs.WhoRecord) error {
		series++
		_, err := t.cgroup(programs.CgroupOf(r))
		return err
	})
	return series, err
}

// eachSeries calls f for each slot that has a series.
func (t *Tracer) eachSeries(f func(slot uint32, r *programs.WhoRecord) error) error {
	for slot := uint32(programs.WhoFixed); slot < uint32(programs.WhoFixed+t.opts.SeriesLimit); slot++ {
		if t.whoCount(slot) == 0 {
			continue
		}
		r, err := record[programs.WhoRecord](t.whoRecords, slot)
		if err != nil {
			return err
		}
		if t.life.retired(slot, r.Created) {
			continue
		}
		if err := f(slot, r); err != nil {
			return err
		}
	}
	return nil
}

// retireSlots takes the slots of the cgroups that are over.
func (t *Tracer) retireSlots(over map[programs.CgroupKey]bool, served map[Cgroup]bool) error {
	return t.eachSeries(func(slot uint32, r *programs.WhoRecord) error {
		if !over[programs.CgroupOf(r)] {
			return nil
		}
		w, err := t.workload(r)
		if err != nil {
			return err
		}
		return t.retire(slot, r, &w, served[shown(w.Cgroup)])
	})
}

// retire takes a slot from its key, and into quarantine. Its series goes on without it if carry is set, and ends if not.
func (t *Tracer) retire(slot uint32, r *programs.WhoRecord, w *WorkloadCount, carry bool) error {
	if err := t.objects.Collection.Maps["whos"].Delete(r.Key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("retire a slot: %w", err)
	}
	t.life.last[slot] = r.Created
	t.life.quarantine = append(t.life.quarantine, retiredSlot{
		slot: slot, key: keyOf(w), carry: carry,
		created: t.clock.time(r.Created), sites: w.CallSites, since: time.Now(),
	})
	return nil
}

// retireDuplicates takes slots whose series has a newer one, once they have been idle for a while. A file that is replaced, or
// forgotten by the kernel and looked up again, is another file to the kernel side and the same name to people.
func (t *Tracer) retireDuplicates() (retired bool, err error) {
	type use struct {
		slot   uint32
		record *programs.WhoRecord
		series WorkloadCount
	}
	uses := map[seriesKey][]use{}
	err = t.eachSeries(func(slot uint32, r *programs.WhoRecord) error {
		w, err := t.workload(r)
		if w.Cgroup.Path != "" { // else nobody knows how long the cgroup lives
			key := keyOf(&w)
			uses[key] = append(uses[key], use{slot, r, w})
		}
		return err
	})
	if err != nil {
		return false, err
	}
	for _, same := range uses {
		newest := slices.MaxFunc(same, func(a, b use) int { return cmp.Compare(a.record.Created, b.record.Created) })
		for _, u := range same {
			if u.slot == newest.slot || !t.life.idle(u.slot, t.whoCount(u.slot), t.opts.idle) {
				continue
			}
			if err := t.retire(u.slot, u.record, &u.series, true); err != nil {
				return retired, err
			}
			retired = true
		}
	}
	return retired, nil
}

// idle tells whether a slot has counted nothing for so long, as far as it has been asked.
func (l *lifecycle) idle(slot uint32, count uint64, long time.Duration) bool {
	seen, known := l.seen[slot]
	if !known || seen.count != count {
		l.seen[slot] = seenCount{count, time.Now()}
		return false
	}
	return time.Since(seen.since) >= long
}

// freeSlots gives back the slots that have been out of use long enough.
func (t *Tracer) freeSlots() error {
	kept := t.life.quarantine[:0]
	for _, r := range t.life.quarantine {
		if _, known := t.life.carried[r.key]; time.Since(r.since) < t.opts.quarantine ||
			r.carry && !known && len(t.life.carried) >= t.opts.SeriesLimit {
			kept = append(kept, r)
			continue
		}
		t.life.release(r, t.whoCount(r.slot))
		if err := t.objects.Collection.Maps["free_whos"].Put(nil, r.slot); err != nil {
			return fmt.Errorf("free a slot: %w", err)
		}
	}
	t.life.quarantine = kept
	return nil
}
