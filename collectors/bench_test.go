package collectors

import (
	"cmp"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"

	"capability_exporter/bpf"
)

var scrapeCost = flag.Bool("scrape", false, "measure what a scrape costs beside one of ready-made metrics")

// full is a snapshot with both tables full.
func full(slots int) *bpf.Snapshot {
	s := &bpf.Snapshot{Attached: attached, Series: slots, SeriesLimit: slots}
	for i := range slots {
		c := bpf.Check{Capability: uint8(i % 41), Denied: i%3 == 0, UserNS: i%5 == 0}
		if i < 4096 { // there are no more of these
			s.Sites = append(s.Sites, bpf.SiteCount{
				Check: c, Audited: bpf.Audited(i % 3), Symbol: fmt.Sprintf("__x64_sys_call%d.isra.0", i), Count: 1, Created: attached,
			})
		}
		s.Workloads = append(s.Workloads, bpf.WorkloadCount{
			Check:   c,
			Cgroup:  bpf.Cgroup{ID: uint64(i), Path: fmt.Sprintf("/system.slice/unit-%d.service", i)},
			Process: bpf.Process{Name: "daemon"},
			Count:   1,
			Created: attached,
		})
	}
	return s
}

// One scrape with both tables full, without its encoding.
func BenchmarkCollect(b *testing.B) {
	collector := New(&fakeTracer{info: tracepointInfo, snapshot: full(4096)}, fakeHoldings{}, nil)
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

// readyMade exposes metrics that were made before.
type readyMade []prometheus.Metric

func (r readyMade) Describe(chan<- *prometheus.Desc) {}

func (r readyMade) Collect(ch chan<- prometheus.Metric) {
	for _, m := range r {
		ch <- m
	}
}

// made are the same metrics as client_golang makes them.
func made(families []*dto.MetricFamily) readyMade {
	var all readyMade
	for _, family := range families {
		for _, m := range family.GetMetric() {
			var names, values []string
			for _, label := range m.GetLabel() {
				names, values = append(names, label.GetName()), append(values, label.GetValue())
			}
			d := desc(family.GetName(), family.GetHelp(), names...)
			if family.GetType() == dto.MetricType_COUNTER {
				all = append(all, counter(d, uint64(m.GetCounter().GetValue()), m.GetCounter().GetCreatedTimestamp().AsTime(), values...))
			} else {
				all = append(all, gauge(d, m.GetGauge().GetValue(), values...))
			}
		}
	}
	return all
}

// TestScrapeCost compares whole scrapes, in turns: of a full table, and of as
// many metrics that are there already.
func TestScrapeCost(t *testing.T) {
	if !*scrapeCost {
		t.Skip("takes a minute and an idle machine: -scrape")
	}
	const most = 1.5
	for _, slots := range []int{4096, 65536} {
		ours := New(&fakeTracer{info: tracepointInfo, snapshot: full(slots)}, fakeHoldings{}, nil)
		handler := func(c prometheus.Collector) http.Handler {
			registry := prometheus.NewRegistry()
			registry.MustRegister(c)
			return promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true})
		}
		handlers := map[string]http.Handler{"ours": handler(ours), "ready-made": handler(made(gather(t, ours)))}
		for _, encoding := range []string{"identity", "gzip"} {
			took, size := make(map[string][]time.Duration), make(map[string]int)
			for range 4 + 10*65536/slots {
				for name, handler := range handlers {
					request := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
					request.Header.Set("Accept-Encoding", encoding)
					w := httptest.NewRecorder()
					runtime.GC() // who leaves garbage pays for it, and not whose turn is next
					start := time.Now()
					handler.ServeHTTP(w, request)
					took[name] = append(took[name], time.Since(start))
					size[name] = w.Body.Len()
				}
			}
			median := func(name string) time.Duration {
				all := took[name][1:]
				slices.SortFunc(all, cmp.Compare)
				return all[len(all)/2]
			}
			ratio := float64(median("ours")) / float64(median("ready-made"))
			t.Logf("%5d series, %-8s: %.2f times as long as ready-made metrics, %v to %v, %d bytes",
				slots, encoding, ratio, median("ours").Round(time.Microsecond), median("ready-made").Round(time.Microsecond), size["ours"])
			if ratio > most || encoding == "identity" && size["ours"] != size["ready-made"] {
				t.Errorf("want at most %.1f, of as many bytes (%d)", most, size["ready-made"])
			}
		}
	}
}
