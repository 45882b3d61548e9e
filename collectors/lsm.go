package collectors

import (
	"github.com/prometheus/client_golang/prometheus"

	"capability_exporter/bpf"
)

// refusals exposes what other security modules refused of what the kernel's own
// for capabilities had granted.
type refusals struct {
	denials *sums[refusalSlot, refusal]
	ended   *prometheus.Desc
	missed  *prometheus.Desc
}

func newRefusals() refusals {
	return refusals{
		denials: newSums("capability_lsm_denials_total",
			"Capability checks that were granted, and that another security module (lsm) refused. In capability_workload_checks_total they are granted. Those that found no series of their own stand under process=\"_other\", and where there was none for that either under workload=\"_other\".",
			[]string{"lsm", "capability", "workload", "process"}, refusalSlot.labels, refusal.values),
		ended: desc("capability_exporter_lsm_ended_denials_total",
			"What the series of capability_lsm_denials_total that are gone had counted when they ended.",
			"lsm", "capability"),
		missed: desc("capability_exporter_lsm_missed_runs_total",
			"Checks of which it is not known whether another security module refused them, because the kernel skipped the program that looks."),
	}
}

func (r refusals) describe(ch chan<- *prometheus.Desc) {
	ch <- r.denials.desc
	ch <- r.ended
	ch <- r.missed
}

// refusalSlot is what a slot counts.
type refusalSlot struct {
	lsm        string
	capability uint8
	cgroup     bpf.Cgroup
	process    bpf.Process
	overflow   bool
}

// refusal is what capability_lsm_denials_total is split by.
type refusal struct {
	lsm               string
	capability        uint8
	workload, process string
}

func (s refusalSlot) labels() refusal {
	if s.overflow {
		return refusal{s.lsm, s.capability, Other, Other}
	}
	return refusal{s.lsm, s.capability, Workload(s.cgroup), Process(s.process)}
}

func (r refusal) values() []string {
	return []string{r.lsm, Capability(r.capability), r.workload, r.process}
}

func (r refusals) collect(s *bpf.Snapshot, ch chan<- prometheus.Metric) {
	r.denials.collect(len(s.Refusals), func(yield func(refusalSlot, sum) bool) {
		for i := range s.Refusals {
			c := &s.Refusals[i]
			if !yield(refusalSlot{c.LSM, c.Capability, c.Cgroup, c.Process, c.Overflow}, sum{count: c.Count, created: c.Created}) {
				return
			}
		}
	}, ch)

	type ended struct {
		lsm        string
		capability uint8
	}
	totals := make(map[ended]uint64)
	for _, c := range s.EndedRefusals { // of the host and of user namespaces
		totals[ended{c.LSM, c.Capability}] += c.Count
	}
	for of, count := range totals {
		ch <- counter(r.ended, count, s.Attached, of.lsm, Capability(of.capability))
	}
	ch <- counter(r.missed, s.MissedRefusalRuns, s.Attached)
}
