package collectors

import (
	"github.com/prometheus/client_golang/prometheus"

	"capability_exporter/bpf"
)

// callSites exposes why the kernel asked: the function that wanted to know.
type callSites struct {
	checks *sums[siteSlot, siteCheck]
}

func newCallSites() callSites {
	return callSites{checks: newSums("capability_call_site_checks_total",
		"Capability checks by the kernel function that asked; call_site=\"_unknown\" has no name, call_site=\"_other\" found no free series.",
		[]string{"capability", "result", "audited", "call_site"}, siteSlot.labels, siteCheck.values)}
}

func (c callSites) describe(ch chan<- *prometheus.Desc) {
	ch <- c.checks.desc
}

// siteSlot is what a slot counts.
type siteSlot struct {
	bpf.Check
	audited  bpf.Audited
	symbol   string
	overflow bool
}

// siteCheck is what capability_call_site_checks_total is split by.
type siteCheck struct {
	capability uint8
	denied     bool
	audited    bpf.Audited
	site       string
}

func (s siteSlot) labels() siteCheck {
	return siteCheck{s.Capability, s.Denied, s.audited, CallSite(s.symbol, s.overflow)}
}

func (c siteCheck) values() []string {
	return []string{Capability(c.capability), Result(c.denied), AuditedLabel(c.audited), c.site}
}

func (c callSites) collect(s *bpf.Snapshot, ch chan<- prometheus.Metric) {
	c.checks.collect(len(s.Sites), func(yield func(siteSlot, sum) bool) {
		for i := range s.Sites {
			slot := &s.Sites[i]
			if !yield(siteSlot{slot.Check, slot.Audited, slot.Symbol, slot.Overflow}, sum{count: slot.Count, created: slot.Created}) {
				return
			}
		}
	}, ch)
}
