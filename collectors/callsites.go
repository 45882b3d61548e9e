package collectors

import (
	"github.com/prometheus/client_golang/prometheus"

	"capability_exporter/bpf"
)

// callSites exposes why the kernel asked: the function that wanted to know.
type callSites struct {
	checks *prometheus.Desc
}

func newCallSites() callSites {
	return callSites{checks: desc("capability_call_site_checks_total",
		"Capability checks by the kernel function that asked; call_site=\"_unknown\" has no name, call_site=\"_other\" found no free series.",
		"capability", "result", "audited", "call_site")}
}

func (c callSites) describe(ch chan<- *prometheus.Desc) {
	ch <- c.checks
}

// siteCheck is what capability_call_site_checks_total is split by.
type siteCheck struct {
	capability uint8
	denied     bool
	audited    bpf.Audited
	site       string
}

func (c callSites) collect(s *bpf.Snapshot, ch chan<- prometheus.Metric) {
	totals := make(sums[siteCheck], len(s.Sites))
	for i := range s.Sites {
		slot := &s.Sites[i]
		check := siteCheck{slot.Capability, slot.Denied, slot.Audited, CallSite(slot.Symbol, slot.Overflow)}
		totals.add(check, slot.Count, slot.Created)
	}

	for check, total := range totals {
		ch <- counter(c.checks, total.count, total.created,
			Capability(check.capability), Result(check.denied), AuditedLabel(check.audited), check.site)
	}
}
