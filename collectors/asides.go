package collectors

import (
	"github.com/prometheus/client_golang/prometheus"

	"capability_exporter/bpf"
)

// asides exposes which checks were only made because another was denied at the
// same place, and which denials the kernel did not mind. Both are parts of
// capability_workload_checks_total.
type asides struct {
	fallbacks *sums[asideSlot, fallbackCheck]
	probes    *sums[asideSlot, probeDenial]
}

func newAsides() asides {
	return asides{
		fallbacks: newSums("capability_workload_fallback_checks_total",
			"Checks of the capability in fallback that were only made because the narrower or earlier capability had been denied at the same place. Part of capability_workload_checks_total, as is that denial.",
			[]string{"capability", "fallback", "result", "scope", "workload", "process"}, asideSlot.fallback, fallbackCheck.values),
		probes: newSums("capability_workload_probe_denials_total",
			"Denials after which the kernel went on all the same. Part of capability_workload_checks_total.",
			[]string{"capability", "scope", "workload", "process"}, asideSlot.probe, probeDenial.values),
	}
}

func (a asides) describe(ch chan<- *prometheus.Desc) {
	ch <- a.fallbacks.desc
	ch <- a.probes.desc
}

// asideSlot is a slot of which there is more to say.
type asideSlot struct {
	whoSlot
	bpf.Aside
}

type fallbackCheck struct {
	first uint8
	workloadCheck
}

func (s asideSlot) fallback() fallbackCheck { return fallbackCheck{s.First, s.labels()} }

func (c fallbackCheck) values() []string {
	return []string{Capability(c.first), Capability(c.Capability), Result(c.Denied), Scope(c.UserNS), c.workload, c.process}
}

type probeDenial struct{ workloadCheck }

func (s asideSlot) probe() probeDenial { return probeDenial{s.labels()} }

func (c probeDenial) values() []string {
	return []string{Capability(c.Capability), Scope(c.UserNS), c.workload, c.process}
}

func (a asides) collect(s *bpf.Snapshot, ch chan<- prometheus.Metric) {
	of := func(is func(bpf.Aside) bool) func(yield func(asideSlot, sum) bool) {
		return func(yield func(asideSlot, sum) bool) {
			for i := range s.Workloads {
				slot := &s.Workloads[i]
				if is(slot.Aside) && !yield(
					asideSlot{whoSlot{slot.Check, slot.Cgroup, slot.Process, slot.Overflow}, slot.Aside},
					sum{count: slot.Count, created: slot.Created},
				) {
					return
				}
			}
		}
	}
	a.fallbacks.collect(len(s.Workloads), of(func(a bpf.Aside) bool { return a.Fallback }), ch)
	a.probes.collect(len(s.Workloads), of(func(a bpf.Aside) bool { return a.Probe }), ch)
}
