package collectors

import (
	"github.com/prometheus/client_golang/prometheus"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf"
)

// checks exposes the node's totals, which have no limit on them.
type checks struct {
	total        *prometheus.Desc
	borrowed     *prometheus.Desc
	ended        *prometheus.Desc
	unclassified *prometheus.Desc
}

func newChecks() checks {
	return checks{
		total: desc("capability_checks_total",
			"Capability checks made by the kernel on this node. Checks with audited=\"no\" only looked, those with audited=\"yes\" were made to use the capability.",
			"capability", "result", "audited", "scope"),
		borrowed: desc("capability_exporter_borrowed_checks_total",
			"Audited checks made under credentials that are not the task's own; they are in no workload's series.",
			"capability", "result", "scope"),
		ended: desc("capability_exporter_ended_checks_total",
			"Audited checks that the series of workloads that are gone had counted when they ended.",
			"capability", "result", "scope"),
		unclassified: desc("capability_exporter_unclassified_checks_total",
			"Checks that could not be told to be audited or not; they stand under audited=\"unknown\" and in no workload's series."),
	}
}

func (c checks) describe(ch chan<- *prometheus.Desc) {
	ch <- c.total
	ch <- c.borrowed
	ch <- c.ended
	ch <- c.unclassified
}

// classedCheck is what capability_checks_total is split by.
type classedCheck struct {
	bpf.Check
	audited bpf.Audited
}

func (c checks) collect(s *bpf.Snapshot, ch chan<- prometheus.Metric) {
	totals := make(map[classedCheck]uint64)
	var unclassified uint64
	for i := range s.Sites {
		site := &s.Sites[i]
		if site.Count == 0 {
			continue
		}
		totals[classedCheck{site.Check, site.Audited}] += site.Count
		if site.Audited == bpf.AuditedUnknown {
			unclassified += site.Count
		}
	}
	addBaseline(totals)

	for check, count := range totals {
		ch <- counter(c.total, count, s.Attached,
			Capability(check.Capability), Result(check.Denied), AuditedLabel(check.audited), Scope(check.UserNS))
	}
	for check, count := range sumChecks(s.Borrowed) {
		ch <- counter(c.borrowed, count, s.Attached, Capability(check.Capability), Result(check.Denied), Scope(check.UserNS))
	}
	for check, count := range sumChecks(s.Ended) {
		ch <- counter(c.ended, count, s.Attached, Capability(check.Capability), Result(check.Denied), Scope(check.UserNS))
	}
	ch <- counter(c.unclassified, unclassified, s.Attached)
}

// addBaseline adds what is exposed also when it never happened: the audited
// checks of the capabilities that the shipped alerts ask about, granted on the
// host. A series that starts at 0 lets rate() and increase() see the first use,
// which they cannot in a series that starts at 1; and it tells "never used" from
// "not measured". Of all that may be asked it would be eighty zeros more, which a
// fleet pays for.
func addBaseline(totals map[classedCheck]uint64) {
	for _, capability := range [...]cap.Value{cap.SYS_ADMIN, cap.SYS_MODULE, cap.SYS_RAWIO, cap.SYS_BOOT, cap.SYS_PTRACE} {
		totals[classedCheck{bpf.Check{Capability: uint8(capability)}, bpf.AuditedYes}] += 0
	}
}

func sumChecks(counts []bpf.CheckCount) map[bpf.Check]uint64 {
	totals := make(map[bpf.Check]uint64, len(counts))
	for _, c := range counts {
		if c.Count > 0 {
			totals[c.Check] += c.Count
		}
	}
	return totals
}
