package web

import (
	"context"
	"fmt"
	"math"
	"path"
	"slices"
	"sync"
	"time"

	"capability_exporter/bpf"
	"capability_exporter/collectors"
)

const (
	recentInterval = 10 * time.Second
	recentWindow   = 5 * time.Minute
	recentPatience = 3 * recentInterval // for a snapshot
)

// Source is where the snapshots come from.
type Source interface {
	Snapshot() (*bpf.Snapshot, error)
}

// Recent knows who asked for what in the last recentWindow: it takes a
// snapshot each recentInterval and keeps what each added to the one before.
// The page is made of that, so that looking at it costs the kernel nothing.
//
// Of each series it keeps its name, once, and a few numbers; of each interval
// only what was added in it. So it is some tens of megabytes also where 65,536
// series count all the time.
type Recent struct {
	source  Source
	denials *Denials // may be nil

	mu       sync.Mutex
	taken    uint32 // how many snapshots were, and failures to
	askers   map[asker]*counts
	asked    int           // how many of them asked in the window
	numbered []*series     // by their numbers
	unused   []uint32      // numbers
	adding   []addition    // room for a step
	steps    []step        // oldest first, none older than recentWindow
	snapshot *bpf.Snapshot // the last one that could be taken; its series are not kept
	at       time.Time     // it was, or the history began
	err      error         // why the last one could not be
}

// NewRecent has the history of one source of snapshots, from when Run is called,
// with what is told of denials meanwhile.
func NewRecent(source Source, denials *Denials) *Recent {
	return &Recent{source: source, denials: denials, at: time.Now()}
}

// counts is what is kept of an asker.
type counts struct {
	parts []*series // by kind, of which there are few
	owner uint64    // whose share of the series it draws on
	last  *denial   // nil where none was told in the window
}

// kind is what an asker's checks are told apart by. The kernel side has a slot
// for each, whose life is its own.
type kind struct {
	denied bool
	bpf.Aside
}

// series is a part of what people tell a series by. The slots that count it come
// and go, a service that is restarted has a new one: only their sum means
// something.
type series struct {
	kind
	number   uint32 // that no other has
	standsIn uint32 // which snapshot total is of
	total
	before   total  // of the snapshot before
	recently uint64 // the sum of the steps
	// sites are the kernel functions by way of which it asked in the window:
	// sorted, each once.
	sites []string
}

// total is the sum of a series' slots.
type total struct {
	count   uint64
	created int64 // of the oldest, in nanoseconds
}

// since returns what was added to a series since an earlier snapshot. One that
// had ended and came back has another creation time, and counts from 0.
func (t total) since(before total) uint64 {
	if before.count > t.count || t.created > before.created {
		return t.count
	}
	return t.count - before.count
}

// step is what was asked for between two snapshots.
type step struct {
	time  time.Time
	added []addition
}

// addition is what was added to the series of a number. Of all that is kept of a
// series that counts all the time, this is kept most often.
type addition struct{ to, n uint32 }

// asker is one row of the table, without its result; the names are made visible.
type asker struct {
	Capability uint8
	UserNS     bool
	LSM        string // which has refused what was granted; "" of a row of checks
	Workload   string
	Process    string
}

// asked is how often, and by way of which kernel functions it was granted and
// denied. What another security module refused is denied here.
type asked struct {
	Granted, Denied           uint64
	Harmless                  uint64   // of the denials
	GrantedSites, DeniedSites []string // sorted, each once
	Last                      *denial  // the last one that was told, if it was denied
}

// row is one asker with the sum over the window.
type row struct {
	asker
	asked
	owner uint64
}

// recentView is the history at one moment.
type recentView struct {
	Rows     []row         // the most important first
	Snapshot *bpf.Snapshot // without its series; nil before the first
	Err      error         // why the last snapshot failed; nil if it did not
}

// Run takes snapshots until the context is done.
func (r *Recent) Run(ctx context.Context) {
	tick := time.NewTicker(recentInterval)
	defer tick.Stop()
	for {
		snapshot, err := r.source.Snapshot()
		r.add(time.Now(), snapshot, err)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// GoesOn fails where no snapshot could be taken for so long that several should
// have been.
func (r *Recent) GoesOn(now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	since := now.Sub(r.at).Round(time.Second)
	switch {
	case since <= recentPatience:
		return nil
	case r.err != nil:
		return fmt.Errorf("no snapshot could be taken for %v: %w", since, r.err)
	default:
		return fmt.Errorf("a snapshot takes more than %v", since)
	}
}

// add takes in one snapshot, or the error in its place.
func (r *Recent) add(now time.Time, snapshot *bpf.Snapshot, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()

	r.taken++
	r.forget(now)
	r.err = err
	if err != nil {
		r.denials.handOn(now, func(asker, *denial) bool { return false })
		return // the next one that succeeds also tells what was asked since the last that did
	}

	of := r.sumUp(snapshot)
	r.asked = 0
	added := r.adding[:0]
	for key, c := range r.askers {
		var granted, denied bool
		for _, s := range c.parts {
			if s.standsIn != r.taken {
				s.before, s.total = s.total, total{} // it has ended
			}
			n := s.since(s.before)
			s.recently += n
			for n > 0 { // once, unless it is as much as nobody asks in an interval
				part := min(n, math.MaxUint32)
				added = append(added, addition{s.number, uint32(part)})
				n -= part
			}
			switch {
			case s.recently == 0:
				s.sites = nil
			case s.denied:
				denied = true
			default:
				granted = true
			}
		}
		if !denied {
			c.last = nil
		}
		if granted || denied {
			r.asked++
		}
		c.parts = slices.DeleteFunc(c.parts, func(s *series) bool {
			gone := s.recently == 0 && s.standsIn != r.taken
			if gone {
				r.numbered[s.number] = nil
				r.unused = append(r.unused, s.number)
			}
			return gone
		})
		if len(c.parts) == 0 {
			delete(r.askers, key)
		}
	}
	for i, slot := range snapshot.Workloads {
		if s := of[i]; s.since(s.before) > 0 {
			s.sites = union(s.sites, visibleSites(slot.CallSites))
		}
	}
	r.denials.handOn(now, func(who asker, last *denial) bool {
		c := r.countedAs(who)
		if c == nil {
			return false // this snapshot was taken before
		}
		if c.last == nil || c.last.harmless() || !last.harmless() { // what harmed nobody is told where nothing else is
			c.last = last
		}
		return true
	})
	if len(added) > 0 {
		r.steps = append(r.steps, step{now, slices.Clone(added)})
	}
	r.adding = added
	head := *snapshot
	head.Workloads, head.Sites, head.Refusals = nil, nil, nil
	r.snapshot, r.at = &head, now
}

// forget takes back what was added before the window.
func (r *Recent) forget(now time.Time) {
	old := r.old(now)
	for _, step := range r.steps[:old] {
		for _, added := range step.added {
			r.numbered[added.to].recently -= uint64(added.n)
		}
	}
	r.steps = slices.Delete(r.steps, 0, old)
}

// old is how many steps are not in the window any more.
func (r *Recent) old(now time.Time) int {
	n := 0
	for n < len(r.steps) && now.Sub(r.steps[n].time) >= recentWindow {
		n++
	}
	return n
}

// sumUp sums the slots of each series. It returns which one's each workload's slot is.
func (r *Recent) sumUp(snapshot *bpf.Snapshot) []*series {
	if r.askers == nil {
		r.askers = make(map[asker]*counts)
	}
	of := make([]*series, len(snapshot.Workloads))
	for i, slot := range snapshot.Workloads {
		who := asker{Capability: slot.Capability, UserNS: slot.UserNS}
		who.Workload, who.Process = collectors.VisibleWho(slot.Cgroup, slot.Process, slot.Overflow)
		of[i] = r.sum(who, kind{slot.Denied, slot.Aside}, slot.Owner, total{slot.Count, slot.Created.UnixNano()})
	}
	for _, slot := range snapshot.Refusals {
		who := asker{Capability: slot.Capability, LSM: slot.LSM}
		who.Workload, who.Process = collectors.VisibleWho(slot.Cgroup, slot.Process, slot.Overflow)
		r.sum(who, kind{denied: true}, slot.Owner, total{slot.Count, slot.Created.UnixNano()})
	}
	return of
}

// sum adds a slot to the series that it is of.
func (r *Recent) sum(who asker, k kind, owner uint64, slot total) *series {
	c := r.askers[who]
	if c == nil {
		c = &counts{}
		r.askers[who] = c
	}
	c.owner = owner
	s := r.part(c, k)
	if s.standsIn != r.taken {
		s.standsIn, s.before, s.total = r.taken, s.total, total{created: slot.created}
	}
	s.count += slot.count
	s.created = min(s.created, slot.created)
	return s
}

func (r *Recent) part(c *counts, k kind) *series {
	for _, s := range c.parts {
		if s.kind == k {
			return s
		}
	}
	s := &series{kind: k}
	if last := len(r.unused) - 1; last >= 0 {
		s.number, r.unused = r.unused[last], r.unused[:last]
		r.numbered[s.number] = s
	} else {
		s.number = uint32(len(r.numbered))
		r.numbered = append(r.numbered, s)
	}
	c.parts = append(c.parts, s)
	return s
}

// countedAs finds where somebody is counted. For who found no series of their
// own that is with their workload's others, or with those of the one that it was
// made in, whose share it draws on, or else with all others.
func (r *Recent) countedAs(who asker) *counts {
	if who.Process == collectors.Other {
		for at := who.Workload; ; at = path.Dir(at) {
			who.Workload = at
			if c := r.askers[who]; c != nil {
				return c
			}
			if at == path.Dir(at) {
				break
			}
		}
		who.Workload = collectors.Other
	}
	return r.askers[who]
}

// visibleSites is sorted, each once.
func visibleSites(symbols []string) []string {
	sites := make([]string, 0, len(symbols))
	for _, symbol := range symbols {
		sites = append(sites, collectors.CallSite(symbol, false))
	}
	slices.Sort(sites)
	return slices.Compact(sites)
}

// union of two sorted lists; it changes neither.
func union(a, b []string) []string {
	switch {
	case len(b) == 0, slices.Equal(a, b): // as most often
		return a
	case len(a) == 0:
		return b
	}
	both := slices.Concat(a, b)
	slices.Sort(both)
	return slices.Compact(both)
}

// version is another one whenever view returns something else, but for the
// passing of time.
func (r *Recent) version() uint32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.taken
}

// view sums up the window that ends now.
func (r *Recent) view(now time.Time) recentView {
	r.mu.Lock()
	defer r.mu.Unlock()

	gone := make(map[uint32]uint64)
	for _, step := range r.steps[:r.old(now)] { // since the last snapshot
		for _, added := range step.added {
			gone[added.to] += uint64(added.n)
		}
	}
	rows := make([]row, 0, r.asked)
	granted := make(map[asker]uint64) // in the place of what was denied to them
	for key, c := range r.askers {
		one := row{asker: key, owner: c.owner}
		for _, s := range c.parts {
			n := s.recently - gone[s.number]
			switch {
			case n == 0:
			case s.denied:
				one.Denied += n
				one.DeniedSites = union(one.DeniedSites, s.sites)
				if s.Probe {
					one.Harmless += n
				}
			default:
				one.Granted += n
				one.GrantedSites = union(one.GrantedSites, s.sites)
				for capability := range s.Firsts() {
					first := key
					first.Capability = capability
					granted[first] += n
				}
			}
		}
		if one.Denied > 0 {
			one.Last = c.last
		}
		if one.Granted+one.Denied > 0 {
			rows = append(rows, one)
		}
	}
	if len(granted) > 0 {
		for i := range rows { // of two that belong together the window may have one
			rows[i].Harmless = min(rows[i].Harmless+granted[rows[i].asker], rows[i].Denied)
		}
	}
	slices.SortFunc(rows, compareRows)
	return recentView{Rows: rows, Snapshot: r.snapshot, Err: r.err}
}
