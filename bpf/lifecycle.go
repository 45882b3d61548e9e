package bpf

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
)

// lifecycle keeps account of slots that change hands.
type lifecycle struct {
	base       map[uint32]uint64 // what a slot had counted when its present series began
	last       map[uint32]uint64 // by slot: when the series that ended there had begun (boot time)
	ended      [1 << 8]uint64    // by what: series whose slots are free again
	quarantine []retiredSlot
}

func newLifecycle() lifecycle {
	return lifecycle{base: map[uint32]uint64{}, last: map[uint32]uint64{}}
}

// A retiredSlot's series has ended. A program that found the slot before may still be about to count in it, so it is given to
// nobody else for a while, and what it counts until then is ended, too.
type retiredSlot struct {
	slot, what uint32
	since      time.Time
}

func (l *lifecycle) retired(slot uint32, created uint64) bool {
	last, ok := l.last[slot]
	return ok && last == created
}

func (l *lifecycle) endedCounts(count func(slot uint32) uint64) []CheckCount {
	sums := l.ended
	for _, r := range l.quarantine {
		sums[r.what] += count(r.slot)
	}
	var counts []CheckCount
	for what, n := range sums {
		if n != 0 {
			counts = append(counts, CheckCount{Check: checkOf(uint32(what)), Count: n})
		}
	}
	return counts
}

// endSeries ends the series of cgroups that have been gone for the retention, and frees the slots of those that ended before.
// The caller holds mu.
func (t *Tracer) endSeries() error {
	if err := t.readCounters(); err != nil {
		return err
	}
	if err := t.freeSlots(); err != nil {
		return err
	}
	clock, err := readBootClock()
	if err != nil {
		return err
	}
	over := map[cgroupKey]bool{}
	for key := range t.cgroups {
		state, err := t.readCgroup(key)
		if err != nil {
			return err
		}
		t.cgroups[key].offline = state.offline
		if state.offline != 0 && clock.wall.Sub(clock.time(state.offline)) > t.opts.Retention {
			over[key] = true
		}
	}
	if len(over) == 0 {
		return nil
	}
	maps := t.objects.collection.Maps
	for slot := uint32(whoFixed); slot < uint32(whoFixed+t.opts.SeriesLimit); slot++ {
		if t.whoCount(slot) == 0 {
			continue
		}
		r, err := record[whoRecord](t.whoRecords, slot)
		if err != nil {
			return err
		}
		if t.life.retired(slot, r.Created) || !over[cgroupKey{Id: r.Key.Cgroup, Hierarchy: uint64(r.Key.Hierarchy)}] {
			continue
		}
		if err := maps["whos"].Delete(r.Key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("end a series: %w", err)
		}
		t.life.last[slot] = r.Created
		t.life.quarantine = append(t.life.quarantine, retiredSlot{slot: slot, what: uint32(r.Key.What), since: clock.wall})
	}
	for key := range over {
		if err := maps["cgroups"].Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget a cgroup: %w", err)
		}
		delete(t.cgroups, key)
	}
	// Each CPU's cache asks the table again, where the keys are no more.
	return t.set(func(v *settingValues) { v.Epoch++ })
}

// freeSlots gives back the slots that have been out of use long enough.
func (t *Tracer) freeSlots() error {
	kept := t.life.quarantine[:0]
	for _, r := range t.life.quarantine {
		if time.Since(r.since) < t.opts.quarantine {
			kept = append(kept, r)
			continue
		}
		n := t.whoCount(r.slot)
		t.life.ended[r.what] += n
		t.life.base[r.slot] += n
		if err := t.objects.collection.Maps["free_whos"].Put(nil, r.slot); err != nil {
			return fmt.Errorf("free a slot: %w", err)
		}
	}
	t.life.quarantine = kept
	return nil
}
