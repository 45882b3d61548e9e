package web

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"capability_exporter/bpf"
)

// attachedState has a tracer that has told nothing yet.
func attachedState() *State {
	state := &State{}
	state.Attach(bpf.Info{Source: bpf.SourceTracepoint}, &Recent{})
	return state
}

func newTestHandler(t *testing.T, state *State, registry prometheus.Gatherer, log io.Writer) http.Handler {
	t.Helper()
	handler, err := NewHandler(Config{TelemetryPath: "/m"}, registry, state, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return handler
}

func do(handler http.Handler, method, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest(method, path, http.NoBody))
	return w
}

func TestMethodsAndHeaders(t *testing.T) {
	handler := landed(t, nil)
	for _, path := range []string{"/", "/m", "/-/healthy", "/-/ready"} {
		for method, want := range map[string]int{"GET": 200, "HEAD": 200, "POST": 405, "PUT": 405, "DELETE": 405, "OPTIONS": 405} {
			got := do(handler, method, path)
			if got.Code != want {
				t.Errorf("%s %s: %d, want %d", method, path, got.Code, want)
			}
			for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "X-Frame-Options": "deny", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"} {
				if value := got.Header().Get(name); value != want {
					t.Errorf("%s %s: %s: %q, want %q", method, path, name, value, want)
				}
			}
		}
	}
	for _, path := range []string{"/metrics", "/m/", "/-/", "/-", "/index.html", "/debug/pprof/"} {
		if got := do(handler, http.MethodGet, path).Code; got != http.StatusNotFound {
			t.Errorf("%s: %d, want none", path, got)
		}
	}
}

func TestTheOperatorsHeadersAreKept(t *testing.T) {
	handler := landed(t, nil)
	for _, name := range []string{"X-Content-Type-Options", "X-Frame-Options", "Referrer-Policy", "Cache-Control", "Content-Security-Policy"} {
		w := httptest.NewRecorder()
		w.Header().Set(name, "operator's")
		handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", http.NoBody))
		if got := w.Header().Values(name); len(got) != 1 || got[0] != "operator's" {
			t.Errorf("%s became %q", name, got)
		}
	}
}

func TestWhatIsAnsweredBeforeAndAfter(t *testing.T) {
	state := &State{}
	handler := newTestHandler(t, state, prometheus.NewRegistry(), t.Output())
	check := func(when string, want map[string]string) {
		t.Helper()
		for path, want := range want {
			got := do(handler, http.MethodGet, path)
			if said := fmt.Sprint(got.Code, " ", strings.TrimSpace(got.Body.String())); said != want {
				t.Errorf("%s %s: %q, want %q", when, path, said, want)
			}
		}
	}
	const not = "503 Not attached to the kernel's capability checks."
	unattached := map[string]string{"/-/healthy": "200 Healthy.", "/-/ready": not, "/m": not}
	check("before", unattached)
	if page := landingPage(handler); !strings.Contains(page, "it is not attached") || strings.Contains(page, "Asked for in") {
		t.Errorf("before, the page is\n%s", page)
	}
	state.Attach(bpf.Info{}, &Recent{})
	check("attached", map[string]string{"/-/healthy": "200 Healthy.", "/-/ready": "200 Ready.", "/m": "200 "})
	state.Detach()
	check("after", unattached)
}

// OpenMetrics is served to who asks for it; created timestamps as samples only
// if they are wanted.
func TestCreatedSamples(t *testing.T) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "x_total", Help: "X."}))
	for _, samples := range []bool{false, true} {
		handler, err := NewHandler(Config{TelemetryPath: "/m", CreatedSamples: samples}, registry, attachedState(), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		request := httptest.NewRequest(http.MethodGet, "/m", http.NoBody)
		request.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, request)
		if got := w.Header().Get("Content-Type"); !strings.HasPrefix(got, "application/openmetrics-text") {
			t.Errorf("answered as %s", got)
		}
		if got := strings.Contains(w.Body.String(), "\nx_created "); got != samples {
			t.Errorf("created samples: %t, want %t\n%s", got, samples, w.Body)
		}
	}
}

func TestTheServersOwnErrorsAreWarnings(t *testing.T) {
	var log strings.Builder
	newServer(nil, &State{}, slog.New(slog.NewTextHandler(&log, nil)), func() {}).ErrorLog.Print("http: TLS handshake error")
	if !strings.Contains(log.String(), "level=WARN") {
		t.Errorf("logged %q", &log)
	}
}
