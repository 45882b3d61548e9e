package collectors

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"capability_exporter/bpf"
	"capability_exporter/collectors/workload"
)

// mostLastChecks are exposed, the latest: twice as many as there are series by
// default, where each may be of a workload of its own.
const mostLastChecks = 1 << 13

// lastChecks exposes when a workload last made checks of a capability. That
// outlives the series that counted them, for as long as the workload has any.
// What was made to set the workload up is not its own: each container would have
// six series that tell when it was started.
// What is known stands with the workload's name.
type lastChecks struct {
	desc   *prometheus.Desc
	common pairs
	time   time.Time // of the last snapshot
	known  uint64    // so far
}

// lastCheck is when a workload last made checks of a kind.
type lastCheck struct {
	capability uint8
	denied     bool
	labels     [3]*dto.LabelPair // by name, as client_golang wants them
	at         int64             // in milliseconds
	scrape     uint64            // the last one with a series that counts them
	number     uint64            // how many were known of before it
	next       *lastCheck        // of the workload's
}

func newLastChecks(common pairs) *lastChecks {
	return &lastChecks{
		desc: desc("capability_workload_last_check_timestamp_seconds",
			"When audited checks of a capability by a workload were last seen to have been made since the exporter started, up to ten seconds late; for as long as the workload has any series, and of all the 8192 latest. Without those of who sets it up: a container runtime (runc, crun, youki, conmon) in a container, systemd in a unit.",
			"capability", "result", "workload"),
		common: common,
	}
}

// of takes in a snapshot's slots, whose are whose, and returns what is known of
// all workloads that have any. Of what has no series itself no more is kept than
// there is room for series, the latest: who has one series that stays could else go
// through all capabilities in others. Snapshots may overlap; from one that comes
// too late nothing is forgotten.
func (l *lastChecks) of(s *bpf.Snapshot, whose []who, names *whoNames, scrape uint64) []lastMetric {
	late := s.Time.Before(l.time)
	if !late {
		l.time = s.Time
	}
	for i := range s.Workloads {
		if slot := &s.Workloads[i]; slot.Count > 0 && !bySetUp(slot) {
			c := l.check(whose[i].workload, slot.Check)
			c.at, c.scrape = max(c.at, slot.Grown.UnixMilli()), scrape
		}
	}
	known := 0 // at most
	var ended []int64
	for w := range names.ofWorkloads {
		if w.scrape != scrape && !late {
			w.last = nil
		}
		for c := w.last; c != nil; c = c.next {
			known++
			if c.scrape != scrape && w.scrape == scrape {
				ended = append(ended, c.at)
			}
		}
	}
	if len(ended) > s.SeriesLimit && !late {
		slices.Sort(ended)
		names.forgetChecks(scrape, ended[len(ended)-s.SeriesLimit-1])
	}
	shown := make([]*lastCheck, 0, known)
	for w := range names.ofWorkloads {
		for c := w.last; c != nil && w.scrape == scrape; c = c.next {
			shown = append(shown, c)
		}
	}
	if len(shown) > mostLastChecks {
		slices.SortFunc(shown, later)
		shown = shown[:mostLastChecks]
	}
	metrics := make([]lastMetric, len(shown))
	for i, c := range shown {
		m := &metrics[i]
		m.of, m.desc, m.value = c, l.desc, float64(c.at)/1000
		m.gauge.Value = &m.value
	}
	return metrics
}

// bySetUp tells whether checks are of who sets a workload up before there is a
// program of its own: a container runtime in a container, the service manager in
// a unit. The rules of first uses go by the same names.
func bySetUp(slot *bpf.WorkloadCount) bool {
	if slot.Process.Kind != bpf.ProcessFile {
		return false
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(slot.Process.Name, "memfd:"), "_cloned:") // as a runtime copies itself
	switch name {
	case "runc", "crun", "youki", "conmon":
		return contained(&slot.Cgroup)
	case "systemd", "systemd-executor":
		is := describe(&slot.Cgroup)
		return is.Kind == workload.KindUnit && is.Name != "init.scope" && !strings.Contains(is.Name, "/") // a user's manager is the user's
	}
	return false
}

// later orders by time, the latest first, and always in the same way: of those of one time each scrape shows the same.
func later(a, b *lastCheck) int {
	return cmp.Or(cmp.Compare(b.at, a.at), cmp.Compare(a.number, b.number))
}

// check finds or makes what is known of a workload's checks of a kind.
func (l *lastChecks) check(w *word, of bpf.Check) *lastCheck {
	for c := w.last; c != nil; c = c.next {
		if c.capability == of.Capability && c.denied == of.Denied {
			return c
		}
	}
	l.known++
	w.last = &lastCheck{capability: of.Capability, denied: of.Denied, number: l.known, next: w.last, labels: [3]*dto.LabelPair{
		l.common.of("capability", Capability(of.Capability)), l.common.of("result", Result(of.Denied)), &w.pair,
	}}
	return w.last
}

// ofWorkloads goes through the names of workloads.
func (n *whoNames) ofWorkloads(yield func(*word) bool) {
	for _, w := range n.workloads.words {
		if !yield(w) {
			return
		}
	}
	for _, w := range n.others.words {
		if !yield(w) {
			return
		}
	}
}

// forgetChecks lets go of checks that no series counts any more, up to a time.
func (n *whoNames) forgetChecks(scrape uint64, oldest int64) {
	for w := range n.ofWorkloads {
		for at := &w.last; *at != nil; {
			if c := *at; c.scrape != scrape && c.at <= oldest {
				*at = c.next
			} else {
				at = &c.next
			}
		}
	}
}

// lastMetric is one of them, with all that it needs in one piece of memory.
type lastMetric struct {
	of    *lastCheck
	desc  *prometheus.Desc
	value float64
	gauge dto.Gauge
}

// Desc implements [prometheus.Metric].
func (m *lastMetric) Desc() *prometheus.Desc { return m.desc }

// Write implements [prometheus.Metric].
func (m *lastMetric) Write(out *dto.Metric) error {
	out.Label, out.Gauge = m.of.labels[:], &m.gauge
	return nil
}
