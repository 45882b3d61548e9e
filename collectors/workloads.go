package collectors

import (
	"github.com/prometheus/client_golang/prometheus"

	"capability_exporter/bpf"
)

// workloads exposes who asked, and how much of the room for that is in use.
type workloads struct {
	checks      *sums[whoSlot, workloadCheck]
	overflow    *prometheus.Desc
	series      *prometheus.Desc
	seriesLimit *prometheus.Desc
	evicted     *prometheus.Desc
}

func newWorkloads() workloads {
	return workloads{
		checks: newSums("capability_workload_checks_total",
			"Audited capability checks by who asked. Those that found no series of their own stand under process=\"_other\", and where there was none for that either under workload=\"_other\".",
			[]string{"capability", "result", "scope", "workload", "process"}, whoSlot.labels, workloadCheck.values),
		overflow: desc("capability_exporter_overflow_checks_total",
			"Audited checks that stand under process=\"_other\" because the workload had used up its share of the series, or there were none left."),
		series: desc("capability_exporter_workload_series",
			"Workload series in use."),
		seriesLimit: desc("capability_exporter_workload_series_limit",
			"Workload series there is room for, as set by --series.limit."),
		evicted: desc("capability_exporter_evicted_series_total",
			"Workload series that ended because they had counted nothing for an hour and more than half of the room was in use, or because more than there is room for had no cgroup left that counts in them."),
	}
}

func (w workloads) describe(ch chan<- *prometheus.Desc) {
	ch <- w.checks.desc
	ch <- w.overflow
	ch <- w.series
	ch <- w.seriesLimit
	ch <- w.evicted
}

// whoSlot is what a slot counts.
type whoSlot struct {
	bpf.Check
	cgroup   bpf.Cgroup
	process  bpf.Process
	overflow bool
}

// workloadCheck is what capability_workload_checks_total is split by.
type workloadCheck struct {
	bpf.Check
	workload, process string
}

func (s whoSlot) labels() workloadCheck {
	if s.overflow {
		return workloadCheck{s.Check, Other, Other}
	}
	return workloadCheck{s.Check, Workload(s.cgroup), Process(s.process)}
}

func (c workloadCheck) values() []string {
	return []string{Capability(c.Capability), Result(c.Denied), Scope(c.UserNS), c.workload, c.process}
}

func (w workloads) collect(s *bpf.Snapshot, ch chan<- prometheus.Metric) {
	var overflow uint64
	w.checks.collect(len(s.Workloads), func(yield func(whoSlot, sum) bool) {
		for i := range s.Workloads {
			slot := &s.Workloads[i]
			if slot.Overflow || slot.Process.Kind == bpf.ProcessOther {
				overflow += slot.Count
			}
			if !yield(whoSlot{slot.Check, slot.Cgroup, slot.Process, slot.Overflow}, sum{count: slot.Count, created: slot.Created}) {
				return
			}
		}
	}, ch)
	ch <- counter(w.overflow, overflow, s.Attached)
	ch <- gauge(w.series, float64(s.Series))
	ch <- gauge(w.seriesLimit, float64(s.SeriesLimit))
	ch <- counter(w.evicted, s.Evicted, s.Attached)
}
