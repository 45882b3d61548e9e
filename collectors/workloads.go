package collectors

import (
	"github.com/prometheus/client_golang/prometheus"

	"capability_exporter/bpf"
)

// workloads exposes who asked, and how much of the room for that is in use.
type workloads struct {
	checks      *prometheus.Desc
	overflow    *prometheus.Desc
	series      *prometheus.Desc
	seriesLimit *prometheus.Desc
	evicted     *prometheus.Desc
}

func newWorkloads() workloads {
	return workloads{
		checks: desc("capability_workload_checks_total",
			"Audited capability checks by who asked. Those that found no series of their own stand under process=\"_other\", and where there was none for that either under workload=\"_other\".",
			"capability", "result", "scope", "workload", "process"),
		overflow: desc("capability_exporter_overflow_checks_total",
			"Audited checks that stand under process=\"_other\" because the workload had used up its share of the series, or there were none left."),
		series: desc("capability_exporter_workload_series",
			"Workload series in use."),
		seriesLimit: desc("capability_exporter_workload_series_limit",
			"Workload series there is room for, as set by --series.limit."),
		evicted: desc("capability_exporter_evicted_series_total",
			"Workload series that ended because they had counted nothing for an hour and more than half of the room was in use."),
	}
}

func (w workloads) describe(ch chan<- *prometheus.Desc) {
	ch <- w.checks
	ch <- w.overflow
	ch <- w.series
	ch <- w.seriesLimit
	ch <- w.evicted
}

// workloadCheck is what capability_workload_checks_total is split by.
type workloadCheck struct {
	bpf.Check
	workload, process string
}

func (w workloads) collect(s *bpf.Snapshot, ch chan<- prometheus.Metric) {
	totals := make(sums[workloadCheck], len(s.Workloads))
	var overflow uint64
	for i := range s.Workloads {
		slot := &s.Workloads[i]
		check := workloadCheck{slot.Check, Other, Other}
		if slot.Overflow || slot.Process.Kind == bpf.ProcessOther {
			overflow += slot.Count
		}
		if !slot.Overflow {
			check.workload, check.process = Workload(slot.Cgroup), Process(slot.Process)
		}
		totals.add(check, slot.Count, slot.Created)
	}

	for check, total := range totals {
		ch <- counter(w.checks, total.count, total.created,
			Capability(check.Capability), Result(check.Denied), Scope(check.UserNS), check.workload, check.process)
	}
	ch <- counter(w.overflow, overflow, s.Attached)
	ch <- gauge(w.series, float64(s.Series))
	ch <- gauge(w.seriesLimit, float64(s.SeriesLimit))
	ch <- counter(w.evicted, s.Evicted, s.Attached)
}
