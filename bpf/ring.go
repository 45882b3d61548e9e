package bpf

import (
	"errors"
	"os"
	"time"

	"github.com/cilium/ebpf/ringbuf"

	"capability_exporter/bpf/internal/programs"
)

// readRing hands on the announcements of a ring, whose cgroups those are, until Close.
func (t *Tracer) readRing(ring *ringbuf.Reader, cgroups *cgroups, lsm string) {
	if !t.held(t.opts.holdReader) {
		return
	}
	o := newOutcomes(t.opts.FallbackWait, t.opts.Announce)
	defer o.tellAll()
	for {
		ring.SetDeadline(o.deadline())
		rec, err := ring.Read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			o.tellOld(time.Now())
			continue
		}
		if err != nil {
			return // closed
		}
		t.ringRecords.Add(1)
		a, r, err := t.announcement(rec.RawSample, cgroups)
		if err != nil {
			t.opts.Logger.Error("could not read an announcement", "err", err)
			continue
		}
		a.LSM = lsm
		now := time.Now()
		o.take(a, r, now)
		o.tellOld(now)
	}
}

// held waits where a test wants that. It returns false once the tracer is closed.
func (t *Tracer) held(until <-chan struct{}) bool {
	if until == nil {
		return true
	}
	select {
	case <-until:
		return true
	case <-t.stop:
		return false
	}
}

func (t *Tracer) announcement(raw []byte, cgroups *cgroups) (Announcement, relation, error) {
	r, told, err := decodeTold(raw)
	if err != nil {
		return Announcement{}, relation{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var cgroup Cgroup
	if told != nil {
		cgroup = pathOf(told)
	} else {
		state, err := cgroups.of(r.Cgroup, time.Duration(r.Time))
		if err != nil {
			return Announcement{}, relation{}, err
		}
		cgroup = state.cgroup
	}
	symbol, err := t.siteRecords.symbol(r.Site)
	if err != nil {
		return Announcement{}, relation{}, err
	}
	name := ""
	if r.Compat == 0 {
		name = syscallName(r.Syscall)
	}
	return Announcement{
		Time: t.clock.time(r.Time), New: r.Fresh != 0, Check: checkOf(uint32(r.What)), Aside: asideOf(uint32(r.Part)),
		Cgroup: cgroup, Process: processOf(r.Kind, r.Name[:]),
		Overflow: r.Slot < programs.WhoBorrowed || r.Slot >= programs.WhoFixed && told != nil, Borrowed: r.Slot >= programs.WhoBorrowed && r.Slot < programs.WhoFixed,
		Comm: text(r.Comm[:]), TGID: r.Tgid, TID: r.Tid, NSTGID: r.NsTgid, UID: r.Uid, EUID: r.Euid,
		Syscall: r.Syscall, SyscallName: name, Path: givenPath(r.Path[:]), Symbol: symbol,
	}, relation{of: denial{r.Tid, r.Time}, after: denial{r.Tid, r.After}, awaits: r.Awaits != 0}, nil
}

// readGone takes in which cgroups are gone, until Close.
func (t *Tracer) readGone(gone *ringbuf.Reader, cgroups *cgroups) {
	if !t.held(t.opts.holdGone) {
		return
	}
	for {
		rec, err := gone.Read()
		if err != nil {
			return // closed
		}
		now, err := t.clock.now()
		if err == nil {
			var serial *uint64
			if serial, err = decode[uint64](rec.RawSample); err == nil {
				t.mu.Lock()
				cgroups.left(*serial, now)
				t.mu.Unlock()
			}
		}
		if err != nil {
			t.opts.Logger.Error("could not read that a cgroup is gone", "err", err)
		}
	}
}
