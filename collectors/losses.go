package collectors

import (
	"github.com/prometheus/client_golang/prometheus"

	"capability_exporter/bpf"
)

// losses exposes what the tracer read, what it missed and what it had to do
// the slow way. All are there from the first scrape on, also at 0.
type losses struct {
	ringRecords  *prometheus.Desc
	ringLost     *prometheus.Desc
	ringWithheld *prometheus.Desc
	unwinds      *prometheus.Desc
	missedRuns   *prometheus.Desc
}

func newLosses() losses {
	return losses{
		ringRecords: desc("capability_exporter_ring_records_total",
			"Announcements of new workloads and denials read from the ring buffer."),
		ringLost: desc("capability_exporter_ring_lost_total",
			"Announcements that found the ring buffer full; the checks themselves were counted."),
		ringWithheld: desc("capability_exporter_ring_withheld_total",
			"Denials that were counted but not announced because of the rate limit."),
		unwinds: desc("capability_exporter_unwinds_total",
			"Checks whose kernel stack had to be unwound to tell who asked."),
		missedRuns: desc("capability_exporter_missed_runs_total",
			"Times the kernel skipped the exporter's program; the checks made then were not counted."),
	}
}

func (l losses) describe(ch chan<- *prometheus.Desc) {
	ch <- l.ringRecords
	ch <- l.ringLost
	ch <- l.ringWithheld
	ch <- l.unwinds
	ch <- l.missedRuns
}

func (l losses) collect(s *bpf.Snapshot, ch chan<- prometheus.Metric) {
	ch <- counter(l.ringRecords, s.RingRecords, s.Attached)
	ch <- counter(l.ringLost, s.RingLost, s.Attached)
	ch <- counter(l.ringWithheld, s.RingWithheld, s.Attached)
	ch <- counter(l.unwinds, s.Unwinds, s.Attached)
	ch <- counter(l.missedRuns, s.MissedRuns, s.Attached)
}
