package bpf

import (
	"time"

	"capability_exporter/bpf/internal/programs"
)

// readRing hands on the announcements until Close.
func (t *Tracer) readRing() {
	if !t.held(t.opts.holdReader) {
		return
	}
	for {
		rec, err := t.ring.Read()
		if err != nil {
			return // closed
		}
		t.ringRecords.Add(1)
		a, err := t.announcement(rec.RawSample)
		if err != nil {
			t.opts.Logger.Error("could not read an announcement", "err", err)
			continue
		}
		t.opts.Announce(a)
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

func (t *Tracer) announcement(raw []byte) (Announcement, error) {
	r, told, err := decodeTold(raw)
	if err != nil {
		return Announcement{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var cgroup Cgroup
	if told != nil {
		cgroup = pathOf(told)
	} else {
		state, err := t.cgroups.of(r.Cgroup, time.Duration(r.Time))
		if err != nil {
			return Announcement{}, err
		}
		cgroup = state.cgroup
	}
	symbol, err := t.siteRecords.symbol(r.Site)
	if err != nil {
		return Announcement{}, err
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
	}, nil
}

// readGone takes in which cgroups are gone, until Close.
func (t *Tracer) readGone() {
	if !t.held(t.opts.holdGone) {
		return
	}
	for {
		rec, err := t.gone.Read()
		if err != nil {
			return // closed
		}
		now, err := t.clock.now()
		if err == nil {
			var serial *uint64
			if serial, err = decode[uint64](rec.RawSample); err == nil {
				t.mu.Lock()
				t.cgroups.left(*serial, now)
				t.mu.Unlock()
			}
		}
		if err != nil {
			t.opts.Logger.Error("could not read that a cgroup is gone", "err", err)
		}
	}
}
