package bpf

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"

	"capability_exporter/bpf/internal/programs"
)

// buffers are kept from one snapshot to the next. Each slot is summed over banks and CPUs.
type buffers struct {
	page        [programs.PageSlots]uint64
	cache       programs.Cache
	sums        []uint64 // of a bank's pages from programs.SitePage on
	counts      []uint64 // the greatest that each of the sums has been
	sites, whos []uint64 // parts of counts, by slot
	fence       atomic.Uint32
}

// A cgroupState is what is known of a cgroup that asked for something.
type cgroupState struct {
	cgroup  Cgroup
	offline uint64 // boot time; 0: it exists
}

// Snapshot reads what has been counted so far. All counters are in memory that the kernel side shares; what is left are two
// bpf(2) calls, and one for each cgroup that is new. (Up to 6.1 each call is itself an audited check of CAP_BPF: bpf_capable in
// __sys_bpf, kernel/bpf/syscall.c.)
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

// readCounters sums each slot over banks and CPUs: what stands in its counters, and what is pending in a cache.
//
// What is pending moves to the counters while we read (settle in body.h): it is taken from the one before it is added to the
// other. We read them in the same order, so what is under way is in neither, at the worst, and nothing is ever in both. So a
// sum may be too small for once, and never too large: it counts when it exceeds what has been read before.
func (t *Tracer) readCounters() error {
	b, v := &t.buffers, &t.settings
	whos := int(v.WhoPage-programs.SitePage) * programs.PageSlots
	if b.counts == nil {
		b.counts = make([]uint64, (v.BankPages-programs.SitePage)*programs.PageSlots)
		b.sums = make([]uint64, len(b.counts))
		b.sites, b.whos = b.counts[:whos], b.counts[whos:]
	}
	clear(b.sums)
	err := t.eachBank(func(first uint32) error {
		for page := uint32(programs.SitePage); page < v.BankPages; page++ {
			if err := read(t.pages, pageAt(first+page), &b.page); err != nil {
				return fmt.Errorf("read the counters: %w", err)
			}
			sums := b.sums[(page-programs.SitePage)*programs.PageSlots:]
			for slot, n := range &b.page {
				sums[slot] += n
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	b.fence.Add(1) // arm64 may read the later first
	err = t.eachBank(func(first uint32) error {
		for page := uint32(programs.CachePage); page < programs.SitePage; page++ {
			if err := read(t.pages, pageAt(first+page), &b.cache); err != nil {
				return fmt.Errorf("read what is pending: %w", err)
			}
			for i := range b.cache.Cached {
				n, site, who, audited := programs.Pending(&b.cache.Cached[i])
				b.sums[site] += n
				if audited {
					b.sums[whos+int(who)] += n
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, sum := range b.sums {
		b.counts[i] = max(b.counts[i], sum)
	}
	return nil
}

// eachBank calls f with the first page of each bank of each CPU.
func (t *Tracer) eachBank(f func(first uint32) error) error {
	for first := uint32(0); first < t.objects.Collection.Maps["pages"].MaxEntries(); first += t.settings.BankPages {
		if err := f(first); err != nil {
			return err
		}
	}
	return nil
}

// pageAt is where a page begins, in bytes.
func pageAt(n uint32) int64 { return int64(n) * int64(unsafe.Sizeof(programs.Page{})) }

// read copies what stands at an offset of a map's memory.
func read[T any](m *ebpf.Memory, offset int64, v *T) error {
	_, err := m.ReadAt(unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v)), offset)
	return err
}

// whoCount leaves out what a slot had counted for the series that had it before.
func (t *Tracer) whoCount(slot uint32) uint64 { return t.buffers.whos[slot] - t.life.base[slot] }

// record reads one slot's record from a map's memory.
func record[T any](m *ebpf.Memory, slot uint32) (*T, error) {
	v := new(T)
	if err := read(m, int64(slot)*int64(unsafe.Sizeof(*v)), v); err != nil {
		return nil, fmt.Errorf("read the record of slot %d: %w", slot, err)
	}
	return v, nil
}

func (t *Tracer) addSites(s *Snapshot) error {
	for slot := range uint32(programs.SiteFixed + t.opts.SiteLimit) {
		n := t.buffers.sites[slot]
		if n == 0 {
			continue
		}
		if slot < programs.SiteFixed {
			s.Sites = append(s.Sites, SiteCount{Check: checkOf(slot), Audited: auditedOf(slot), Overflow: true, Count: n, Created: t.attached})
			continue
		}
		r, err := record[programs.SiteRecord](t.siteRecords, slot)
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
	for slot := range uint32(programs.WhoFixed) {
		n := t.whoCount(slot)
		if n == 0 {
			continue
		}
		if slot < programs.WhoBorrowed {
			s.Workloads = append(s.Workloads, WorkloadCount{Check: checkOf(slot), Overflow: true, Count: n, Created: t.attached})
		} else {
			s.Borrowed = append(s.Borrowed, CheckCount{Check: checkOf(slot), Count: n})
		}
	}
	err := t.eachSeries(func(slot uint32, r *programs.WhoRecord) error {
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

func (t *Tracer) workload(r *programs.WhoRecord) (WorkloadCount, error) {
	state, err := t.cgroup(programs.CgroupOf(r))
	if err != nil {
		return WorkloadCount{}, err
	}
	w := WorkloadCount{Check: checkOf(uint32(r.Key.What)), Cgroup: state.cgroup, Process: processOf(programs.KindOf(r), r.Name[:])}
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
	if slot < programs.SiteFixed {
		return "", nil
	}
	r, err := record[programs.SiteRecord](t.siteRecords, slot)
	if err != nil {
		return "", err
	}
	return text(r.Symbol[:]), nil
}

// cgroup returns what the kernel side noted of a cgroup. The caller holds mu.
func (t *Tracer) cgroup(key programs.CgroupKey) (*cgroupState, error) {
	if state := t.cgroups[key]; state != nil {
		return state, nil
	}
	state, err := t.readCgroup(key)
	if err == nil && state.cgroup.Path != "" {
		t.cgroups[key] = state
	}
	return state, err
}

func (t *Tracer) readCgroup(key programs.CgroupKey) (*cgroupState, error) {
	var r programs.CgroupRecord
	switch err := t.objects.Collection.Maps["cgroups"].Lookup(key, &r); {
	case errors.Is(err, ebpf.ErrKeyNotExist): // there was no memory for it
		return &cgroupState{cgroup: Cgroup{ID: key.Id}}, nil
	case err != nil:
		return nil, fmt.Errorf("read the path of cgroup %d: %w", key.Id, err)
	}
	return &cgroupState{cgroup: pathOf(&r, key.Id), offline: r.Offline}, nil
}

func (t *Tracer) addLosses(s *Snapshot) error {
	// How often it was skipped is read before how often the second program stood in, so that a check in flight makes the
	// difference too small and never too large; the next snapshot has it.
	stats, err := t.objects.Programs[0].Stats()
	if err != nil {
		return fmt.Errorf("read how often the kernel skipped the BPF program: %w", err)
	}
	var declined, second uint64
	err = t.eachBank(func(first uint32) error {
		var v programs.StatValues
		if err := read(t.pages, pageAt(first+programs.StatPage), &v); err != nil {
			return fmt.Errorf("read the statistics: %w", err)
		}
		s.RingLost += v.Lost
		s.RingWithheld += v.Withheld
		s.Unwinds += v.Unwinds
		declined += v.Declined
		second += v.Second
		return nil
	})
	if err != nil {
		return err
	}
	if left := stats.RecursionMisses + declined; left > second {
		t.missed = max(t.missed, left-second)
	}
	s.MissedRuns = t.missed
	return nil
}
