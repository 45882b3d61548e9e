package web

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// What is told of those who are refused is nothing that they can make long, or
// look like something else, nor often.
func TestTellRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		status := http.StatusUnauthorized
		handler := tellRefused(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "", status)
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Error(err)
			}
		}), slog.New(slog.NewTextHandler(&out, nil)))
		ask := func(user string) string {
			t.Helper()
			out.Reset()
			w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/m", http.NoBody)
			if user != "" {
				r.SetBasicAuth(user, "secret")
			}
			handler.ServeHTTP(w, r)
			if w.Code != status {
				t.Errorf("status %d became %d", status, w.Code)
			}
			_, told, _ := strings.Cut(strings.TrimSuffix(out.String(), "\n"), "level=WARN ")
			return told
		}
		const wrong = `msg="A client is refused: wrong user or password" client=192.0.2.1:1234 user=`
		for user, want := range map[string]string{
			"":                       `msg="A client is refused: it gives no password" client=192.0.2.1:1234`,
			"alice":                  wrong + "alice",
			"a\u202eb\x1b":           wrong + `a\xe2\x80\xaeb\x1b`,
			strings.Repeat("a", 100): wrong + strings.Repeat("a", 21) + "…" + strings.Repeat("a", 42),
		} {
			if got := ask(user); got != want {
				t.Errorf("of %q is told %q, want %q", user, got, want)
			}
		}
		for _, status = range []int{http.StatusOK, http.StatusNotFound, http.StatusServiceUnavailable} {
			if got := ask("alice"); got != "" {
				t.Errorf("with status %d is told %q", status, got)
			}
		}

		status = http.StatusUnauthorized
		lines := 0
		for range 4 * 60 * 24 { // a scraper's day
			if ask("alice") != "" {
				lines++
			}
			time.Sleep(15 * time.Second)
		}
		if want := 6 + 24*6; lines < want-1 || lines > want+1 {
			t.Errorf("%d lines, want %d", lines, want)
		}
	})
}
