package collectors

import (
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"capability_exporter/bpf"
)

// asides exposes which checks were only made because another was denied at the
// same place, and which denials the kernel did not mind. Both are parts of
// capability_workload_checks_total.
type asides struct {
	fallbacks *sums[fallbackCheck]
	probes    *sums[probeDenial]
}

func newAsides(common pairs) asides {
	return asides{
		fallbacks: newSums(desc("capability_workload_fallback_checks_total",
			"Checks of the capability in fallback that were only made because the narrower or earlier capability had been denied; of three that will do, the last stands here for each of the two before it. Part of capability_workload_checks_total, as is that denial.",
			"capability", "fallback", "result", "scope", "workload", "process"),
			func(c fallbackCheck) []*dto.LabelPair {
				return []*dto.LabelPair{
					common.of("capability", Capability(c.first)), common.of("fallback", Capability(c.Capability)), &c.process.pair,
					common.of("result", Result(c.Denied)), common.of("scope", Scope(c.UserNS)), &c.workload.pair,
				}
			}),
		probes: newSums(desc("capability_workload_probe_denials_total",
			"Denials after which the kernel went on all the same. Part of capability_workload_checks_total.",
			"capability", "scope", "workload", "process"),
			func(c probeDenial) []*dto.LabelPair {
				return []*dto.LabelPair{
					common.of("capability", Capability(c.Capability)), &c.process.pair, common.of("scope", Scope(c.UserNS)), &c.workload.pair,
				}
			}),
	}
}

func (a asides) describe(ch chan<- *prometheus.Desc) {
	ch <- a.fallbacks.desc
	ch <- a.probes.desc
}

// fallbackCheck is what capability_workload_fallback_checks_total is split by.
type fallbackCheck struct {
	first uint8
	workloadCheck
}

// probeDenial is what capability_workload_probe_denials_total is split by.
type probeDenial struct{ workloadCheck }

// of sums what is set aside of slots, whose are whose.
func (a asides) of(slots []bpf.WorkloadCount, whose []who) (fallbacks, probes []sumMetric) {
	number := 0
	for i := range slots {
		if slots[i].Aside != (bpf.Aside{}) {
			number += 2
		}
	}
	fallbacks = a.fallbacks.of(number, func(yield func(fallbackCheck, sum) bool) {
		for i := range slots {
			slot := &slots[i]
			for first := range slot.Firsts() {
				if !yield(fallbackCheck{first, workloadCheck{slot.Check, whose[i]}}, sumOf(slot)) {
					return
				}
			}
		}
	})
	probes = a.probes.of(number, func(yield func(probeDenial, sum) bool) {
		for i := range slots {
			if slot := &slots[i]; slot.Probe && !yield(probeDenial{workloadCheck{slot.Check, whose[i]}}, sumOf(slot)) {
				return
			}
		}
	})
	return fallbacks, probes
}
