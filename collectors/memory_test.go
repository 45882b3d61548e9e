package collectors

import (
	"runtime"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// TestMemoryOfASeries holds what is kept of a series, and what each scrape makes
// anew, to so many bytes: where each series has a workload of its own, which takes
// most. What the whole program takes is seldom measured (make bench-scrape).
func TestMemoryOfASeries(t *testing.T) {
	const slots, mostKept, mostMade = 1 << 14, 1020, 200
	snapshot := full(slots)
	snapshot.Sites = nil
	collector := New(&fakeTracer{info: tracepointInfo, snapshot: snapshot}, fakeHoldings{}, nil)
	scrape := func() {
		metrics := make(chan prometheus.Metric, 1000)
		go func() {
			collector.Collect(metrics)
			close(metrics)
		}()
		for range metrics {
		}
	}
	memory := func() (m runtime.MemStats) {
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m
	}
	before := memory()
	scrape()
	warm := memory()
	scrape()
	after := memory()
	runtime.KeepAlive(collector)
	kept, made := int(warm.HeapAlloc-before.HeapAlloc)/slots, int(after.TotalAlloc-warm.TotalAlloc)/slots
	t.Logf("%d bytes of each series are kept, and %d made at each scrape", kept, made)
	if kept > mostKept || made > mostMade {
		t.Errorf("want %d and %d at most", mostKept, mostMade)
	}
}
