package web

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf"
	"capability_exporter/collectors"
)

const (
	recentInterval = 10 * time.Second
	recentWindow   = 5 * time.Minute
)

// Source is where the snapshots come from.
type Source interface {
	Snapshot() (*bpf.Snapshot, error)
}

// Recent knows who asked for what in the last recentWindow: it takes a
// snapshot each recentInterval and keeps what each added to the one before.
// The page is made of that, so that looking at it costs the kernel nothing.
type Recent struct {
	source Source

	mu       sync.Mutex
	totals   map[series]total // of the last snapshot
	steps    []step           // oldest first, none older than recentWindow
	snapshot *bpf.Snapshot    // the last one that could be taken; its series are not kept
	err      error            // why the last one could not be
}

// NewRecent has the history of one source of snapshots, from when Run is called.
func NewRecent(source Source) *Recent { return &Recent{source: source} }

// series is what people tell a series by. The slots that count it come and go,
// a service that is restarted has a new one: only their sum means something.
type series struct {
	asker
	denied bool
}

// total is the sum of a series' slots.
type total struct {
	count   uint64
	created time.Time // of the oldest
	sites   []string  // sorted, each once
}

// since returns what was added to a series since an earlier snapshot. One that
// had ended and came back has another creation time, and counts from 0.
func (t total) since(before total) uint64 {
	if before.count > t.count || t.created.After(before.created) {
		return t.count
	}
	return t.count - before.count
}

// step is what was asked for between two snapshots.
type step struct {
	time  time.Time
	added map[asker]asked
}

// asker is one row of the table, without its result; the names are made visible.
type asker struct {
	Capability uint8
	UserNS     bool
	Workload   string
	Process    string
}

// asked is how often, and by way of which kernel functions.
type asked struct {
	Granted, Denied uint64
	CallSites       []string // sorted, each once
}

// row is one asker with the sum over the window.
type row struct {
	asker
	asked
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

// add takes in one snapshot, or the error in its place.
func (r *Recent) add(now time.Time, snapshot *bpf.Snapshot, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()

	r.steps = slices.DeleteFunc(r.steps, func(s step) bool { return now.Sub(s.time) >= recentWindow })
	r.err = err
	if err != nil {
		return // the next one that succeeds also tells what was asked since the last that did
	}

	totals := sumUp(snapshot.Workloads)
	added := make(map[asker]asked)
	for key, now := range totals {
		n := now.since(r.totals[key])
		if n == 0 {
			continue
		}
		more := asked{Granted: n, CallSites: now.sites}
		if key.denied {
			more.Granted, more.Denied = 0, n
		}
		added[key.asker] = added[key.asker].plus(more)
	}
	r.totals = totals
	if len(added) > 0 {
		r.steps = append(r.steps, step{now, added})
	}
	head := *snapshot
	head.Workloads, head.Sites = nil, nil
	r.snapshot = &head
}

// sumUp sums the slots of each series.
func sumUp(slots []bpf.WorkloadCount) map[series]total {
	totals := make(map[series]total, len(slots))
	for _, slot := range slots {
		workload, process := collectors.VisibleWho(slot.Cgroup, slot.Process, slot.Overflow)
		key := series{asker{slot.Capability, slot.UserNS, workload, process}, slot.Denied}
		sum, known := totals[key]
		sum.count += slot.Count
		if !known || slot.Created.Before(sum.created) {
			sum.created = slot.Created
		}
		sites := make([]string, 0, len(slot.CallSites))
		for _, symbol := range slot.CallSites {
			sites = append(sites, collectors.Visible(collectors.CallSite(symbol, false)))
		}
		slices.Sort(sites)
		sum.sites = union(sum.sites, slices.Compact(sites))
		totals[key] = sum
	}
	return totals
}

// union of two sorted lists; it changes neither.
func union(a, b []string) []string {
	if slices.Equal(a, b) { // as most often
		return a
	}
	both := slices.Concat(a, b)
	slices.Sort(both)
	return slices.Compact(both)
}

func (a asked) plus(b asked) asked {
	return asked{a.Granted + b.Granted, a.Denied + b.Denied, union(a.CallSites, b.CallSites)}
}

// view sums up the window that ends now.
func (r *Recent) view(now time.Time) recentView {
	r.mu.Lock()
	defer r.mu.Unlock()

	sums := make(map[asker]asked)
	for _, step := range r.steps {
		if now.Sub(step.time) >= recentWindow {
			continue
		}
		for key, added := range step.added {
			sums[key] = sums[key].plus(added)
		}
	}
	rows := make([]row, 0, len(sums))
	for key, sum := range sums {
		rows = append(rows, row{key, sum})
	}
	slices.SortFunc(rows, compareRows)
	return recentView{Rows: rows, Snapshot: r.snapshot, Err: r.err}
}

// compareRows puts denials first, among equals CAP_SYS_ADMIN, then whoever
// asked most often.
func compareRows(a, b row) int {
	return cmp.Or(
		-compareBool(a.Denied > 0, b.Denied > 0),
		-compareBool(a.SysAdmin(), b.SysAdmin()),
		-cmp.Compare(a.Granted+a.Denied, b.Granted+b.Denied),
		cmp.Compare(a.Capability, b.Capability),
		cmp.Compare(a.Workload, b.Workload),
		cmp.Compare(a.Process, b.Process),
		compareBool(a.UserNS, b.UserNS),
	)
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	default:
		return 1
	}
}

// SysAdmin reports whether the row is about CAP_SYS_ADMIN.
func (a asker) SysAdmin() bool { return a.Capability == uint8(cap.SYS_ADMIN) }
