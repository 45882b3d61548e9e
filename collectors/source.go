package collectors

import (
	"github.com/prometheus/client_golang/prometheus"

	"capability_exporter/bpf"
)

// source exposes how the checks are seen, and what was tried before.
type source struct {
	inUse   *prometheus.Desc
	refused *prometheus.Desc
}

func newSource() source {
	return source{
		inUse: desc("capability_exporter_source_info",
			"How the exporter sees the kernel's checks, how it tells audited ones, which cgroup hierarchies have named a workload so far (v2, v1, both, none), and which other security module may refuse what is granted: none, or one whose refusals are counted, or with _unavailable behind its name one whose cannot be seen.",
			"source", "audit", "cgroups", "lsm"),
		refused: desc("capability_exporter_source_refused_info",
			"A source that was tried before the one in use, and why it could not be used: absent, permission, verifier or memlock.",
			"source", "reason"),
	}
}

func (s source) describe(ch chan<- *prometheus.Desc) {
	ch <- s.inUse
	ch <- s.refused
}

func (s source) collect(info bpf.Info, ch chan<- prometheus.Metric) {
	ch <- gauge(s.inUse, 1, string(info.Source), info.Audit, info.Cgroups, info.LSM)

	type refusal struct {
		source bpf.Source
		reason string
	}
	// One source may be refused twice for the same reason.
	seen := make(map[refusal]bool, len(info.Refused))
	for _, r := range info.Refused {
		key := refusal{r.Source, r.Reason}
		if !seen[key] {
			seen[key] = true
			ch <- gauge(s.refused, 1, string(r.Source), r.Reason)
		}
	}
}
