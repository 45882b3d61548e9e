package bpf

import (
	"errors"
	"io"
	"time"

	"capability_exporter/bpf/internal/programs"
)

// Snapshot reads what has been counted so far. All counters are in memory that the kernel side shares; what is left is a bpf(2) call
// for each cgroup that is new, and one where the first program is at an entry. (Up to 6.1 each call is itself an audited check of
// CAP_BPF: bpf_capable in __sys_bpf, kernel/bpf/syscall.c.)
func (t *Tracer) Snapshot() (*Snapshot, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.counters.read(); err != nil {
		return nil, err
	}
	s := &Snapshot{Time: time.Now(), Attached: t.clock.wall, SeriesLimit: t.opts.SeriesLimit, RingRecords: t.ringRecords.Load()}
	if err := errors.Join(t.addSites(s), t.addWorkloads(s), t.addLosses(s), t.addRefusals(s)); err != nil {
		return nil, err
	}
	return s, nil
}

func (t *Tracer) addSites(s *Snapshot) error {
	s.Sites = make([]SiteCount, 0, t.siteRecords.named)
	for slot := range uint32(programs.SiteFixed + t.opts.SiteLimit) {
		n := t.counters.site(slot)
		if n == 0 {
			continue
		}
		if slot < programs.SiteFixed {
			s.Sites = append(s.Sites, SiteCount{Check: checkOf(slot), Audited: auditedOf(slot), Overflow: true, Count: n, Created: t.clock.wall})
			continue
		}
		symbol, err := t.siteRecords.symbol(slot)
		if err != nil {
			return err
		}
		r := &t.siteRecords.read
		s.Sites = append(s.Sites, SiteCount{
			Check: checkOf(r.What), Audited: auditedOf(r.What), Symbol: symbol, Count: n, Created: t.clock.time(r.Created),
		})
	}
	return nil
}

// siteRecords are the kernel side's records of site slots. Their names are made once.
type siteRecords struct {
	io.ReaderAt
	names []string // by slot
	named int      // how many have one
	read  programs.SiteRecord
}

func newSiteRecords(records io.ReaderAt, limit int) *siteRecords {
	return &siteRecords{ReaderAt: records, names: make([]string, programs.SiteFixed+limit)}
}

// symbol names a slot's kernel function. What else its record says is then in read.
func (s *siteRecords) symbol(slot uint32) (string, error) {
	if slot < programs.SiteFixed {
		return "", nil
	}
	if err := record(s, slot, &s.read); err != nil {
		return "", err
	}
	if symbol := untilNUL(s.read.Symbol[:]); s.names[slot] != string(symbol) {
		if s.names[slot] == "" {
			s.named++
		}
		s.names[slot] = string(symbol)
	}
	return s.names[slot], nil
}

func (t *Tracer) addWorkloads(s *Snapshot) error {
	now, err := t.clock.now()
	if err != nil {
		return err
	}
	for slot := range uint32(programs.WhoFixed) {
		n := t.counters.who(slot)
		if n == 0 {
			continue
		}
		if slot < programs.WhoBorrowed {
			s.Workloads = append(s.Workloads, WorkloadCount{
				Check: checkOf(slot), Overflow: true, Count: n, Created: t.clock.wall, Grown: t.clock.time(uint64(t.series.grew(slot, n, now))),
			})
		} else {
			s.Borrowed = append(s.Borrowed, CheckCount{Check: checkOf(slot), Count: n})
		}
	}
	s.Workloads, s.Series, s.Ended, err = t.series.all(s.Workloads, now)
	s.Evicted = t.series.evicted
	return err
}

func (t *Tracer) addLosses(s *Snapshot) error {
	skipped, err := t.objects.Skipped()
	if err != nil {
		return err
	}
	losses, err := t.counters.losses()
	if err != nil {
		return err
	}
	s.RingLost, s.RingWithheld, s.Unwinds = losses.Lost, losses.Withheld, losses.Unwinds
	s.MissedRuns = t.missed.told(skipped+losses.Declined, losses.Second)
	return nil
}

// missedRuns are checks that no program counted.
type missedRuns struct{ seen, agreed uint64 }

// told is what two looks in a row agree on: of how many checks the first program had left to the second, and how many of these that
// has counted. A check in between, whose task may be preempted there, is in the one and not yet in the other. By the next look it is
// in both, or it was missed.
func (m *missedRuns) told(left, taken uint64) uint64 {
	seen := m.seen
	m.seen = left - min(left, taken) // what is read later may be of more checks
	m.agreed = max(m.agreed, min(seen, m.seen))
	return m.agreed
}

func (t *Tracer) addRefusals(s *Snapshot) error {
	now, err := t.clock.now()
	for _, r := range t.refusals {
		err = errors.Join(err, r.add(s, now))
	}
	return err
}
