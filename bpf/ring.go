package bpf

import "capability_exporter/bpf/internal/programs"

// readRing hands on the announcements until Close.
func (t *Tracer) readRing() {
	if t.opts.holdReader != nil {
		select {
		case <-t.opts.holdReader:
		case <-t.stop:
			return
		}
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

func (t *Tracer) announcement(raw []byte) (Announcement, error) {
	r, err := decode[programs.Announcement](raw)
	if err != nil {
		return Announcement{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	state, err := t.cgroup(programs.CgroupKey{Id: r.Cgroup, Hierarchy: uint64(r.Hierarchy)})
	if err != nil {
		return Announcement{}, err
	}
	symbol, err := t.symbol(r.Site)
	if err != nil {
		return Announcement{}, err
	}
	return Announcement{
		Time: t.clock.time(r.Time), New: r.Fresh != 0, Check: checkOf(uint32(r.What)),
		Cgroup: state.cgroup, Process: processOf(r.Kind, r.Name[:]),
		Overflow: r.Slot < programs.WhoBorrowed, Borrowed: r.Slot >= programs.WhoBorrowed && r.Slot < programs.WhoFixed,
		TGID: r.Tgid, TID: r.Tid, UID: r.Uid, Syscall: r.Syscall, Symbol: symbol,
	}, nil
}
