package collectors

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"capability_exporter/bpf"
)

// refusals exposes what other security modules refused of what the kernel's own
// for capabilities had granted.
type refusals struct {
	ended  *prometheus.Desc
	missed *prometheus.Desc

	mu      sync.Mutex // guards denials
	denials *sums[refusal]
}

func newRefusals() *refusals {
	return &refusals{
		denials: newSums(desc("capability_lsm_denials_total",
			"Capability checks that were granted, and that another security module (lsm) refused. In capability_workload_checks_total they are granted. Those that found no series of their own stand under process=\"_other\", and where there was none for that either under workload=\"_other\".",
			"lsm", "capability", "workload", "process"), refusal.write),
		ended: desc("capability_exporter_lsm_ended_denials_total",
			"What the series of capability_lsm_denials_total that are gone had counted when they ended.",
			"lsm", "capability"),
		missed: desc("capability_exporter_lsm_missed_runs_total",
			"Checks of which it is not known whether another security module refused them, because the kernel skipped the program that looks."),
	}
}

func (r *refusals) describe(ch chan<- *prometheus.Desc) {
	ch <- r.denials.desc
	ch <- r.ended
	ch <- r.missed
}

// refusal is what capability_lsm_denials_total is split by.
type refusal struct {
	lsm               string
	capability        uint8
	workload, process string
}

func refusalOf(slot *bpf.RefusalCount) refusal {
	if slot.Overflow {
		return refusal{slot.LSM, slot.Capability, Other, Other}
	}
	return refusal{slot.LSM, slot.Capability, Workload(slot.Cgroup), Process(slot.Process)}
}

func (r refusal) write() []*dto.LabelPair {
	return []*dto.LabelPair{
		{Name: new("capability"), Value: new(Capability(r.capability))},
		{Name: new("lsm"), Value: &r.lsm},
		{Name: new("process"), Value: &r.process},
		{Name: new("workload"), Value: &r.workload},
	}
}

func (r *refusals) sums(slots []bpf.RefusalCount) []sumMetric {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.denials.of(len(slots), func(yield func(refusal, sum) bool) {
		for i := range slots {
			if c := &slots[i]; !yield(refusalOf(c), sum{count: c.Count, created: c.Created}) {
				return
			}
		}
	})
}

func (r *refusals) collect(s *bpf.Snapshot, ch chan<- prometheus.Metric) {
	send(r.sums(s.Refusals), ch) // whoever waits for the channel waits without the lock

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
