package bpf

import (
	"errors"
	"fmt"
	"slices"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
)

// buffers are kept from one snapshot to the next.
type buffers struct {
	keys     []uint32
	pages    []counterPage // of each key, one for each CPU
	counters []uint64      // summed over the CPUs
	stats    []statValues
	noBatch  bool // the kernel reads one page at a time
}

// A cgroupState is what is known of a cgroup that asked for something.
type cgroupState struct {
	cgroup  Cgroup
	offline uint64 // boot time; 0: it exists
}

// Snapshot reads what has been counted so far: all counters in one bpf(2) call where the kernel can (5.13), and a few more
// calls for the rest. Up to 6.1 each call is itself an audited check of CAP_BPF (bpf_capable in kernel/bpf/syscall.c).
func (t *Tracer) Snapshot() (*Snapshot, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.readCounters(); err != nil {
		return nil, err
	}
	s := &Snapshot{Time: time.Now(), Attached: t.attached, SeriesLimit: t.opts.SeriesLimit, RingRecords: t.ringRecords.Load()}
	if err := errors.Join(t.addSites(s), t.addWorkloads(s), t.addLosses(s)); err != nil {
		return nil, err
	}
	return s, nil
}

// readCounters sums each slot over the CPUs.
func (t *Tracer) readCounters() error {
	b := &t.buffers
	if err := t.readPages(); err != nil {
		return fmt.Errorf("read the counters: %w", err)
	}
	cpus := len(b.pages) / len(b.keys)
	clear(b.counters)
	bank := len(b.counters) / pageSlots
	for i := range b.pages {
		page := i / cpus % bank
		sum := b.counters[page*pageSlots:][:pageSlots]
		for slot, n := range &b.pages[i].Count {
			sum[slot] += n
		}
	}
	return nil
}

func (t *Tracer) readPages() error {
	b := &t.buffers
	m := t.objects.collection.Maps["counters"]
	if b.keys == nil {
		cpus, err := ebpf.PossibleCPU()
		if err != nil {
			return err
		}
		b.keys = make([]uint32, m.MaxEntries())
		b.pages = make([]counterPage, len(b.keys)*cpus)
		b.counters = make([]uint64, len(b.keys)/t.objects.banks()*pageSlots)
	}
	if !b.noBatch {
		var cursor ebpf.MapBatchCursor
		n, err := m.BatchLookup(&cursor, b.keys, b.pages, nil)
		if n == len(b.keys) && (err == nil || errors.Is(err, ebpf.ErrKeyNotExist)) {
			return nil
		}
		t.opts.Logger.Debug("no batch look-up; the counters are read one page at a time", "err", err)
		b.noBatch = true
	}
	cpus := len(b.pages) / len(b.keys)
	for page := range b.keys {
		if err := m.Lookup(uint32(page), b.pages[page*cpus:][:cpus]); err != nil {
			return err
		}
	}
	return nil
}

func (t *Tracer) siteCount(slot uint32) uint64 { return t.buffers.counters[slot] }

// whoCount leaves out what a slot had counted for the series that had it before.
func (t *Tracer) whoCount(slot uint32) uint64 {
	return t.buffers.counters[t.settings.WhoPage*pageSlots+slot] - t.life.base[slot]
}

// record reads one slot's record from a map's memory.
func record[T any](m *ebpf.Memory, slot uint32) (*T, error) {
	v := new(T)
	raw := unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))
	if _, err := m.ReadAt(raw, int64(slot)*int64(len(raw))); err != nil {
		return nil, fmt.Errorf("read the record of slot %d: %w", slot, err)
	}
	return v, nil
}

func (t *Tracer) addSites(s *Snapshot) error {
	for slot := range uint32(siteFixed + t.opts.SiteLimit) {
		n := t.siteCount(slot)
		if n == 0 {
			continue
		}
		if slot < siteFixed {
			s.Sites = append(s.Sites, SiteCount{Check: checkOf(slot), Audited: auditedOf(slot), Overflow: true, Count: n, Created: t.attached})
			continue
		}
		r, err := record[siteRecord](t.siteRecords, slot)
		if err != nil {
			return err
		}
		s.Sites = append(s.Sites, SiteCount{
			Check: checkOf(r.What), Audited: auditedOf(r.What), Symbol: text(r.Symbol[:]), Count: n, Created: t.clock.time(r.Created),
		})
	}
	return nil
}

func (t *Tracer) addWorkloads(s *Snapshot) error {
	for slot := range uint32(whoFixed) {
		n := t.whoCount(slot)
		if n == 0 {
			continue
		}
		if slot < whoBorrowed {
			s.Workloads = append(s.Workloads, WorkloadCount{Check: checkOf(slot), Overflow: true, Count: n, Created: t.attached})
		} else {
			s.Borrowed = append(s.Borrowed, CheckCount{Check: checkOf(slot), Count: n})
		}
	}
	err := t.eachSeries(func(slot uint32, r *whoRecord) error {
		w, err := t.workload(r)
		if err != nil {
			return err
		}
		w.Count, w.Created = t.whoCount(slot), t.clock.time(r.Created)
		s.Workloads = append(s.Workloads, w)
		s.Series++
		return nil
	})
	carried, ended := t.life.counts(t.whoCount)
	s.Workloads, s.Ended = append(s.Workloads, carried...), ended
	return err
}

func (t *Tracer) workload(r *whoRecord) (WorkloadCount, error) {
	state, err := t.cgroup(r.cgroup())
	if err != nil {
		return WorkloadCount{}, err
	}
	w := WorkloadCount{Check: checkOf(uint32(r.Key.What)), Cgroup: state.cgroup, Process: processOf(r.Key.Kind, r.Name[:])}
	for _, site := range r.Sites {
		if site == 0 {
			break
		}
		symbol, err := t.symbol(site - 1)
		if err != nil {
			return WorkloadCount{}, err
		}
		if !slices.Contains(w.CallSites, symbol) {
			w.CallSites = append(w.CallSites, symbol)
		}
	}
	return w, nil
}

// symbol names a site slot's kernel function.
func (t *Tracer) symbol(slot uint32) (string, error) {
	if slot < siteFixed {
		return "", nil
	}
	r, err := record[siteRecord](t.siteRecords, slot)
	if err != nil {
		return "", err
	}
	return text(r.Symbol[:]), nil
}

// cgroup returns what the kernel side noted of a cgroup. The caller holds mu.
func (t *Tracer) cgroup(key cgroupKey) (*cgroupState, error) {
	if state := t.cgroups[key]; state != nil {
		return state, nil
	}
	state, err := t.readCgroup(key)
	if err == nil && state.cgroup.Path != "" {
		t.cgroups[key] = state
	}
	return state, err
}

func (t *Tracer) readCgroup(key cgroupKey) (*cgroupState, error) {
	var r cgroupRecord
	switch err := t.objects.collection.Maps["cgroups"].Lookup(key, &r); {
	case errors.Is(err, ebpf.ErrKeyNotExist): // there was no memory for it
		return &cgroupState{cgroup: Cgroup{ID: key.Id}}, nil
	case err != nil:
		return nil, fmt.Errorf("read the path of cgroup %d: %w", key.Id, err)
	}
	return &cgroupState{cgroup: r.path(key.Id), offline: r.Offline}, nil
}

func (t *Tracer) addLosses(s *Snapshot) error {
	// How often it was skipped is read before how often the second program stood in, so that a check in flight makes the
	// difference too small and never too large; the next snapshot has it.
	stats, err := t.objects.programs[0].Stats()
	if err != nil {
		return fmt.Errorf("read how often the kernel skipped the BPF program: %w", err)
	}
	var declined, second uint64
	for bank := range uint32(t.objects.banks()) {
		if err := t.objects.collection.Maps["stats"].Lookup(bank, &t.buffers.stats); err != nil {
			return fmt.Errorf("read the statistics: %w", err)
		}
		for _, v := range t.buffers.stats {
			s.RingLost += v.Lost
			s.RingWithheld += v.Withheld
			s.Unwinds += v.Unwinds
			declined += v.Declined
			second += v.Second
		}
	}
	if left := stats.RecursionMisses + declined; left > second {
		t.missed = max(t.missed, left-second)
	}
	s.MissedRuns = t.missed
	return nil
}
