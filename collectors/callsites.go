package collectors

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"capability_exporter/bpf"
)

// callSites exposes why the kernel asked: the function that wanted to know.
type callSites struct {
	mu     sync.Mutex
	scrape uint64
	names  *vocabulary[siteName]
	checks *sums[siteCheck]
}

func newCallSites() *callSites {
	common := pairs{}
	return &callSites{
		names: newVocabulary("call_site", func(n siteName) string { return CallSite(n.symbol, n.overflow) }),
		checks: newSums(desc("capability_call_site_checks_total",
			"Capability checks by the kernel function that asked; call_site=\"_unknown\" has no name, call_site=\"_other\" found no free series.",
			"capability", "result", "audited", "call_site"),
			func(c siteCheck) []*dto.LabelPair {
				return []*dto.LabelPair{
					common.of("audited", AuditedLabel(c.audited)), &c.site.pair, common.of("capability", Capability(c.capability)), common.of("result", Result(c.denied)),
				}
			}),
	}
}

func (c *callSites) describe(ch chan<- *prometheus.Desc) {
	ch <- c.checks.desc
}

// siteName is what is known of who asked.
type siteName struct {
	symbol   string
	overflow bool
}

// siteCheck is what capability_call_site_checks_total is split by.
type siteCheck struct {
	capability uint8
	denied     bool
	audited    bpf.Audited
	site       *word
}

func (c *callSites) collect(s *bpf.Snapshot, ch chan<- prometheus.Metric) {
	send(c.metrics(s), ch) // whoever waits for the channel waits without the lock
}

func (c *callSites) metrics(s *bpf.Snapshot) []sumMetric {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.scrape++
	defer c.names.forget(len(s.Sites), c.scrape)
	return c.checks.of(len(s.Sites), func(yield func(siteCheck, sum) bool) {
		for i := range s.Sites {
			slot := &s.Sites[i]
			site := c.names.of(siteName{slot.Symbol, slot.Overflow}, c.scrape)
			if !yield(siteCheck{slot.Capability, slot.Denied, slot.Audited, site}, sum{count: slot.Count, created: slot.Created}) {
				return
			}
		}
	})
}
