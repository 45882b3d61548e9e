package collectors

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"capability_exporter/bpf"
)

// workloads exposes who asked, what is known of them, and how much of the room
// for that is in use.
type workloads struct {
	overflow    *prometheus.Desc
	series      *prometheus.Desc
	seriesLimit *prometheus.Desc
	evicted     *prometheus.Desc

	mu     sync.Mutex // guards all below
	scrape uint64
	names  whoNames
	checks *sums[workloadCheck]
	asides asides
	last   *lastChecks
	info   *info
}

func newWorkloads(pods Pods) *workloads {
	common := pairs{}
	return &workloads{
		overflow: desc("capability_exporter_overflow_checks_total",
			"Audited checks that stand under process=\"_other\" because the workload had used up its share of the series, or there were none left."),
		series: desc("capability_exporter_workload_series",
			"Workload series in use."),
		seriesLimit: desc("capability_exporter_workload_series_limit",
			"Workload series there is room for, as set by --series.limit."),
		evicted: desc("capability_exporter_evicted_series_total",
			"Workload series that ended because they had counted nothing for an hour and more than half of the room was in use, or because more than there is room for had no cgroup left that counts in them."),

		names: newWhoNames(),
		checks: newSums(desc("capability_workload_checks_total",
			"Audited capability checks by who asked. Those that found no series of their own stand under process=\"_other\", and where there was none for that either under workload=\"_other\".",
			"capability", "result", "scope", "workload", "process"),
			func(c workloadCheck) []*dto.LabelPair {
				return []*dto.LabelPair{
					common.of("capability", Capability(c.Capability)), &c.process.pair, common.of("result", Result(c.Denied)),
					common.of("scope", Scope(c.UserNS)), &c.workload.pair,
				}
			}),
		asides: newAsides(common),
		last:   newLastChecks(common),
		info:   newInfo(pods, common),
	}
}

func (w *workloads) describe(ch chan<- *prometheus.Desc) {
	ch <- w.checks.desc
	w.asides.describe(ch)
	ch <- w.last.desc
	ch <- w.info.desc
	ch <- w.overflow
	ch <- w.series
	ch <- w.seriesLimit
	ch <- w.evicted
}

// workloadCheck is what capability_workload_checks_total is split by.
type workloadCheck struct {
	bpf.Check
	who
}

func sumOf(slot *bpf.WorkloadCount) sum { return sum{count: slot.Count, created: slot.Created} }

// workloadMetrics are those of one scrape.
type workloadMetrics struct {
	checks, fallbacks, probes []sumMetric
	last                      []lastMetric
	info                      []*infoMetric
}

// collect needs the snapshot no longer than until all is summed, which is when
// its metrics begin to be encoded: both together are most of what a scrape takes.
func (w *workloads) collect(s *bpf.Snapshot, held []bpf.HeldCount, ch chan<- prometheus.Metric) {
	var overflow uint64
	for i := range s.Workloads {
		if slot := &s.Workloads[i]; slot.Overflow || slot.Process.Kind == bpf.ProcessOther {
			overflow += slot.Count
		}
	}
	ch <- counter(w.overflow, overflow, s.Attached)
	ch <- gauge(w.series, float64(s.Series))
	ch <- gauge(w.seriesLimit, float64(s.SeriesLimit))
	ch <- counter(w.evicted, s.Evicted, s.Attached)

	metrics := w.metrics(s, held) // whoever waits for the channel waits without the lock
	send(metrics.checks, ch)
	send(metrics.fallbacks, ch)
	send(metrics.probes, ch)
	for i := range metrics.last {
		ch <- &metrics.last[i]
	}
	for _, metric := range metrics.info {
		ch <- metric
	}
}

func (w *workloads) metrics(s *bpf.Snapshot, held []bpf.HeldCount) (m workloadMetrics) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.scrape++
	slots := s.Workloads
	whose := make([]who, len(slots))
	for i := range slots {
		if slots[i].Count > 0 {
			whose[i] = w.names.of(&slots[i], w.scrape)
		}
	}
	holders := w.names.holders(held, w.scrape)
	m.checks = w.checks.of(len(slots), func(yield func(workloadCheck, sum) bool) {
		for i := range slots {
			if !yield(workloadCheck{slots[i].Check, whose[i]}, sumOf(&slots[i])) {
				return
			}
		}
	})
	m.fallbacks, m.probes = w.asides.of(slots, whose)
	m.last = w.last.of(s, whose, &w.names, w.scrape)
	m.info = w.info.of(s, whose, holders, w.scrape)
	w.names.forget(len(slots)+len(held), w.scrape)
	return m
}
