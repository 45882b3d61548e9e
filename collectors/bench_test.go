package collectors

import (
	"fmt"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"capability_exporter/bpf"
)

// One scrape with both tables full, without its encoding.
func BenchmarkCollect(b *testing.B) {
	const slots = 4096
	s := &bpf.Snapshot{Attached: attached, Series: slots, SeriesLimit: slots}
	for i := range slots {
		c := bpf.Check{Capability: uint8(i % 41), Denied: i%3 == 0, UserNS: i%5 == 0}
		s.Sites = append(s.Sites, bpf.SiteCount{
			Check: c, Audited: bpf.Audited(i % 3), Symbol: fmt.Sprintf("__x64_sys_call%d.isra.0", i), Count: 1, Created: attached,
		})
		s.Workloads = append(s.Workloads, bpf.WorkloadCount{
			Check:   c,
			Cgroup:  bpf.Cgroup{ID: uint64(i), Path: fmt.Sprintf("/system.slice/unit-%d.service", i)},
			Process: bpf.Process{Name: "daemon"},
			Count:   1,
			Created: attached,
		})
	}
	collector := New(&fakeTracer{info: tracepointInfo, snapshot: s})
	b.ReportAllocs()
	for b.Loop() {
		metrics := make(chan prometheus.Metric, 1000)
		go func() {
			collector.Collect(metrics)
			close(metrics)
		}()
		for range metrics {
		}
	}
}
