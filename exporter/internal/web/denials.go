package web

import (
	"sync"
	"sync/atomic"
	"time"

	"capability_exporter/bpf"
	"capability_exporter/collectors"
)

// maxTold is how many denials may wait for the next snapshot.
const maxTold = 4096

// Denials has the last denial of each asker, as the kernel side announces them,
// until the next snapshot: then it is known which row it is of. What is kept
// from then on is one for each series that was denied something in the window.
//
// Not every denial is announced, so the last one that was need not be the last.
type Denials struct {
	notShown atomic.Uint64

	mu   sync.Mutex
	told map[asker]*denial
}

// NotShown is how many there was no room for, or no row.
func (d *Denials) NotShown() uint64 { return d.notShown.Load() }

// denial is what is told of one. The names are as they were chosen, and made
// visible where they are shown, as few are.
type denial struct {
	Time      time.Time
	site      string
	syscall   string
	path      string
	comm      string
	UID, EUID uint32
	Probe     bool // the kernel went on all the same
	replaced  bool // or granted another capability
	instead   uint8
	TGID      uint32
	NSTGID    uint32 // in the innermost PID namespace
	// Of who found no series of their own and is counted with others: who it was.
	Workload, Process string
}

// Announce takes one announcement. It is called by the reader of the ring
// buffer, which must not wait.
func (d *Denials) Announce(n bpf.Announcement) {
	if !n.Denied || n.Borrowed { // which are in no series of denied checks
		return
	}
	last := &denial{
		Time: time.Now(), site: n.Symbol, syscall: collectors.Syscall(n), path: n.Path, comm: n.Comm,
		UID: n.UID, EUID: n.EUID, Probe: n.Probe, replaced: n.Harmless, instead: n.Instead, TGID: n.TGID, NSTGID: n.NSTGID,
	}
	// What another module refuses is counted without the user namespace.
	who := asker{Capability: n.Capability, UserNS: n.UserNS && n.LSM == "", LSM: n.LSM}
	who.Workload, who.Process = collectors.VisibleWho(n.Cgroup, n.Process, false)
	if n.Overflow {
		last.Workload, last.Process = who.Workload, who.Process
		who.Process = collectors.Other
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.told == nil {
		d.told = make(map[asker]*denial)
	}
	before, known := d.told[who]
	switch {
	case !known && len(d.told) >= maxTold:
		d.notShown.Add(1)
	case known && last.harmless() && !before.harmless(): // which says more
	default:
		d.told[who] = last
	}
}

// handOn offers each denial to take, which says whether it knew whose it is.
// One that is in no snapshot yet is offered again the next time.
func (d *Denials) handOn(now time.Time, take func(asker, *denial) bool) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for who, last := range d.told {
		switch {
		case take(who, last):
			delete(d.told, who)
		case now.Sub(last.Time) >= recentInterval:
			delete(d.told, who)
			d.notShown.Add(1)
		}
	}
}

func (d *denial) harmless() bool { return d.Probe || d.replaced }

// Instead is the capability that was granted in place of it, if one was.
func (d *denial) Instead() string {
	if !d.replaced {
		return ""
	}
	return collectors.Capability(d.instead)
}

// Site, Syscall, Comm and Path are as the metrics and the log write them.
func (d *denial) Site() string {
	return collectors.CallSite(d.site, false)
}
func (d *denial) Syscall() string { return d.syscall }
func (d *denial) Comm() string    { return collectors.Escape(d.comm) }
func (d *denial) Path() string    { return collectors.Escape(d.path) }
