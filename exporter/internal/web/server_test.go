package web

import (
	"net/http"
	"testing"
)

func TestMethodsAndHeaders(t *testing.T) {
	handler := landed(t, nil)
	for _, path := range []string{"/", "/m", HealthyPath, ReadyPath} {
		for method, want := range map[string]int{"GET": 200, "HEAD": 200, "POST": 405, "PUT": 405, "DELETE": 405, "OPTIONS": 405} {
			got := do(handler, method, path)
			if got.Code != want {
				t.Errorf("%s %s: %d, want %d", method, path, got.Code, want)
			}
			if got.Header().Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%s %s: no nosniff", method, path)
			}
		}
	}
	if got := do(handler, http.MethodGet, "/metrics").Code; got != http.StatusNotFound {
		t.Errorf("/metrics, which is at another path: %d", got)
	}
	if got := do(handler, http.MethodGet, "/debug/pprof/").Code; got != http.StatusNotFound {
		t.Errorf("pprof: %d", got)
	}
}
