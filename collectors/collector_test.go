package collectors

import (
	"bytes"
	"errors"
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// goldens are all collectors, each by the file in testdata that has its page. Together they have each metric.
func goldens() map[string]prometheus.Collector {
	return map[string]prometheus.Collector{
		"realistic.prom":    New(&fakeTracer{info: fexitInfo, snapshot: realistic()}, fakeHoldings{}, nil),
		"fresh.prom":        New(&fakeTracer{info: tracepointInfo, snapshot: &bpf.Snapshot{Attached: attached, SeriesLimit: 4096}}, fakeHoldings{}, nil),
		"asides.prom":       New(&fakeTracer{info: tracepointInfo, snapshot: setAside()}, fakeHoldings{}, nil),
		"held.prom":         NewHoldings(fakeHoldings{holding()}, attached),
		"refused.prom":      NewHoldings(fakeHoldings{bpf.Held{Refused: "off"}}, attached),
		"bounds.prom":       NewBounds(fakeBounds{}, attached),
		"capabilities.prom": NewCapabilities(func() ([]cap.Value, error) { return []cap.Value{cap.PERFMON, cap.BPF, 63}, nil }),
	}
}

func TestGolden(t *testing.T) {
	for name, collector := range goldens() {
		t.Run(name, func(t *testing.T) {
			got := encode(t, gather(t, collector), expfmt.TypeTextPlain)
			golden := filepath.Join("testdata", name)
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			// Shows what differs, but takes the order and the help for granted.
			if err := testutil.CollectAndCompare(collector, bytes.NewReader(want)); err != nil {
				t.Error(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("not the bytes of %s; if that is meant, run the test with -update", golden)
			}

			problems, err := testutil.CollectAndLint(collector)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range problems {
				t.Errorf("lint: %s: %s", p.Metric, p.Text)
			}
		})
	}
}

// A pedantic registry checks that what is collected was described.
func TestPedanticRegistry(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	tracer := &fakeTracer{info: fexitInfo, snapshot: realistic()}
	registry.MustRegister(New(tracer, fakeHoldings{holding()}, nil), NewCapabilities(HeldByProcess), NewHoldings(fakeHoldings{holding()}, attached))
	for scrape := 1; scrape <= 3; scrape++ {
		if _, err := registry.Gather(); err != nil {
			t.Fatal(err)
		}
		if tracer.snapshots != scrape {
			t.Fatalf("%d snapshots were taken for %d scrapes", tracer.snapshots, scrape)
		}
	}
	if err := registry.Register(New(tracer, fakeHoldings{}, nil)); !errors.As(err, new(prometheus.AlreadyRegisteredError)) {
		t.Errorf("a second collector was registered: %v", err)
	}
}

// lockedTracer makes a fakeTracer safe for concurrent use.
type lockedTracer struct {
	sync.Mutex
	fakeTracer
}

func (l *lockedTracer) Snapshot() (*bpf.Snapshot, error) {
	l.Lock()
	defer l.Unlock()
	return l.fakeTracer.Snapshot()
}

// Scrapes may overlap; the race detector has to find nothing.
func TestConcurrentScrapes(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(New(&lockedTracer{fakeTracer: fakeTracer{info: fexitInfo, snapshot: realistic()}}, fakeHoldings{}, nil))
	var scrapes sync.WaitGroup
	for range 8 {
		scrapes.Go(func() {
			if _, err := registry.Gather(); err != nil {
				t.Error(err)
			}
		})
	}
	scrapes.Wait()
}

func TestScrapeFailsWithTheCause(t *testing.T) {
	cause := errors.New("look up map sites: bad file descriptor")
	tests := map[string]prometheus.Collector{
		"snapshot":     New(&fakeTracer{info: tracepointInfo, err: cause}, fakeHoldings{}, nil),
		"capabilities": NewCapabilities(func() ([]cap.Value, error) { return nil, cause }),
	}
	for name, collector := range tests {
		t.Run(name, func(t *testing.T) {
			registry := prometheus.NewPedanticRegistry()
			registry.MustRegister(collector)

			if _, err := registry.Gather(); !errors.Is(err, cause) {
				t.Errorf("gathering failed with %v, which does not wrap %q", err, cause)
			}

			response := httptest.NewRecorder()
			request := httptest.NewRequest(http.MethodGet, "/metrics", nil)
			promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(response, request)
			if response.Code != http.StatusInternalServerError {
				t.Errorf("status %d, want %d", response.Code, http.StatusInternalServerError)
			}
			if body := response.Body.String(); !strings.Contains(body, cause.Error()) {
				t.Errorf("the answer does not name the cause %q:\n%s", cause, body)
			}
		})
	}
}

// What is known without a snapshot is still told to who can do with a part.
func TestSourceIsExposedWithoutSnapshot(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(New(&fakeTracer{info: tracepointInfo, err: errors.New("no")}, fakeHoldings{}, nil))
	families, err := registry.Gather()
	if err == nil {
		t.Error("gathering did not fail")
	}
	if len(families) != 1 || families[0].GetName() != "capability_exporter_source_info" {
		t.Errorf("got %v, want capability_exporter_source_info alone", families)
	}
}

// Each source that was refused is told with each of its reasons, once, also
// where two were refused for the same one.
func TestRefusedSources(t *testing.T) {
	info := tracepointInfo
	info.Refused = []bpf.Refusal{
		{Source: bpf.SourceTracepoint, Reason: "absent"},
		{Source: bpf.SourceFexit, Reason: "absent"},
		{Source: bpf.SourceFexit, Reason: "absent"},
		{Source: bpf.SourceFexit, Reason: "memlock"},
	}
	want := `# HELP capability_exporter_source_refused_info A source that was tried before the one in use, and why it could not be used: absent, permission, verifier or memlock.
# TYPE capability_exporter_source_refused_info gauge
capability_exporter_source_refused_info{reason="absent",source="fexit"} 1
capability_exporter_source_refused_info{reason="absent",source="tracepoint"} 1
capability_exporter_source_refused_info{reason="memlock",source="fexit"} 1
`
	collector := New(&fakeTracer{info: info, snapshot: realistic()}, fakeHoldings{}, nil)
	if err := testutil.CollectAndCompare(collector, strings.NewReader(want), "capability_exporter_source_refused_info"); err != nil {
		t.Error(err)
	}
}
