package collectors

import (
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"capability_exporter/bpf"
)

// lastChecks exposes when a workload last made checks of a capability: the time
// of the snapshot that had more of them than the one before. That outlives the
// series that counted them, for as long as the workload has any.
//
// Of a series it keeps a few numbers, and no name; names are kept once for each
// cgroup and workload.
type lastChecks struct {
	desc *prometheus.Desc
	seed maphash.Seed

	mu        sync.Mutex
	time      time.Time // of the last snapshot
	taken     uint64    // how many snapshots were
	cgroups   map[lastPlace]*lastCgroup
	workloads map[string]*lastWorkload
	series    map[uint64]lastSeries // by a hash of what tells one from others
	known     int                   // checks of all workloads
	common    map[pair]*dto.LabelPair
}

// lastPlace is a cgroup, or what stands for all that found no slot.
type lastPlace struct {
	bpf.Cgroup
	overflow bool
}

// lastCgroup is a cgroup that has series.
type lastCgroup struct {
	of    *lastWorkload
	taken uint64 // the last snapshot that it was in
}

// lastWorkload is a workload that has series, with the checks that it was seen
// to make.
type lastWorkload struct {
	label  *dto.LabelPair
	checks []*lastCheck // a few
	taken  uint64       // the last snapshot that it was in
}

// lastCheck is when a workload last made checks of a kind.
type lastCheck struct {
	labels  []*dto.LabelPair // by name, as client_golang wants them
	at      time.Time
	counted uint64 // the last snapshot with a series that counts them
}

// lastSeries is the sum of the slots that are told apart by nothing that people
// see. It only grows; one that ended and came back began later.
type lastSeries struct {
	check              *lastCheck
	taken              uint64 // the last snapshot that it was in
	count, before      uint64
	created, createdAt int64 // of the oldest slot: in that snapshot, and the one before
}

// lastSlot is what a series is told by.
type lastSlot struct {
	bpf.Check
	process  bpf.Process
	workload string
}

func newLastChecks() *lastChecks {
	return &lastChecks{
		desc: desc("capability_workload_last_check_timestamp_seconds",
			"When audited checks of a capability by a workload were last seen to have been made since the exporter started, some seconds late.",
			"capability", "result", "workload"),
		seed:      maphash.MakeSeed(),
		cgroups:   make(map[lastPlace]*lastCgroup),
		workloads: make(map[string]*lastWorkload),
		series:    make(map[uint64]lastSeries),
		common:    make(map[pair]*dto.LabelPair),
	}
}

func (l *lastChecks) describe(ch chan<- *prometheus.Desc) {
	ch <- l.desc
}

func (l *lastChecks) collect(_ *bpf.Snapshot, ch chan<- prometheus.Metric) {
	metrics := l.metrics() // whoever waits for the channel waits without the lock
	for i := range metrics {
		ch <- &metrics[i]
	}
}

func (l *lastChecks) metrics() []lastMetric {
	l.mu.Lock()
	defer l.mu.Unlock()
	metrics := make([]lastMetric, 0, l.known)
	for _, w := range l.workloads {
		for _, check := range w.checks {
			metrics = append(metrics, lastMetric{desc: l.desc, labels: check.labels, value: float64(check.at.UnixMilli()) / 1000})
		}
	}
	for i := range metrics {
		metrics[i].gauge.Value = &metrics[i].value
	}
	return metrics
}

// see takes in a snapshot. Snapshots may overlap; one that comes too late is
// passed over.
func (l *lastChecks) see(s *bpf.Snapshot) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.Time.Before(l.time) {
		return
	}
	l.time = s.Time
	l.taken++
	for i := range s.Workloads {
		if slot := &s.Workloads[i]; slot.Count > 0 {
			l.add(slot)
		}
	}
	for hash, series := range l.series {
		if series.taken != l.taken {
			delete(l.series, hash)
			continue
		}
		if series.count > series.before || series.created > series.createdAt {
			series.check.at = s.Time
		}
		series.check.counted = l.taken
		series.before, series.createdAt = series.count, series.created
		l.series[hash] = series
	}
	l.forget(s.SeriesLimit)
}

// add puts a slot to its series.
func (l *lastChecks) add(slot *bpf.WorkloadCount) {
	w := l.workload(slot)
	hash := maphash.Comparable(l.seed, lastSlot{slot.Check, slot.Process, w.label.GetValue()})
	series, known := l.series[hash]
	if !known {
		series.check = l.check(w, slot.Check)
	}
	created := slot.Created.UnixNano()
	if series.taken != l.taken {
		series.taken, series.count, series.created = l.taken, 0, created
	}
	series.count += slot.Count
	series.created = min(series.created, created)
	l.series[hash] = series
}

func (l *lastChecks) workload(slot *bpf.WorkloadCount) *lastWorkload {
	place := lastPlace{slot.Cgroup, slot.Overflow}
	seen := l.cgroups[place]
	if seen == nil {
		name := Other
		if !slot.Overflow {
			name = Workload(slot.Cgroup)
		}
		w := l.workloads[name]
		if w == nil {
			label := "workload"
			w = &lastWorkload{label: &dto.LabelPair{Name: &label, Value: &name}}
			l.workloads[name] = w
		}
		seen = &lastCgroup{of: w}
		l.cgroups[place] = seen
	}
	seen.taken, seen.of.taken = l.taken, l.taken
	return seen.of
}

// check finds or makes what is kept of checks of a kind.
func (l *lastChecks) check(w *lastWorkload, c bpf.Check) *lastCheck {
	capability, result := l.label("capability", Capability(c.Capability)), l.label("result", Result(c.Denied))
	for _, check := range w.checks {
		if check.labels[0] == capability && check.labels[1] == result {
			return check
		}
	}
	check := &lastCheck{labels: []*dto.LabelPair{capability, result, w.label}}
	w.checks = append(w.checks, check)
	l.known++
	return check
}

// label is shared by all that have it.
func (l *lastChecks) label(name, value string) *dto.LabelPair {
	key := pair{name, value}
	if l.common[key] == nil {
		l.common[key] = &dto.LabelPair{Name: &name, Value: &value}
	}
	return l.common[key]
}

// forget lets go of the workloads that have no series any more. Of what has none
// itself no more is kept than there is room for series, the latest: who has one
// series that stays could else go through all capabilities in others.
func (l *lastChecks) forget(limit int) {
	for place, seen := range l.cgroups {
		if seen.taken != l.taken {
			delete(l.cgroups, place)
		}
	}
	var ended []time.Time
	for name, w := range l.workloads {
		if w.taken != l.taken {
			l.known -= len(w.checks)
			delete(l.workloads, name)
			continue
		}
		for _, check := range w.checks {
			if check.counted != l.taken {
				ended = append(ended, check.at)
			}
		}
	}
	if len(ended) <= limit {
		return
	}
	slices.SortFunc(ended, time.Time.Compare)
	oldest := ended[len(ended)-limit-1]
	for _, w := range l.workloads {
		before := len(w.checks)
		w.checks = slices.DeleteFunc(w.checks, func(c *lastCheck) bool { return c.counted != l.taken && !c.at.After(oldest) })
		l.known -= before - len(w.checks)
	}
}

// lastMetric is one of them, with all that it needs in one piece of memory.
type lastMetric struct {
	desc   *prometheus.Desc
	labels []*dto.LabelPair
	value  float64
	gauge  dto.Gauge
}

// Desc implements [prometheus.Metric].
func (m *lastMetric) Desc() *prometheus.Desc { return m.desc }

// Write implements [prometheus.Metric].
func (m *lastMetric) Write(out *dto.Metric) error {
	out.Label, out.Gauge = m.labels, &m.gauge
	return nil
}
