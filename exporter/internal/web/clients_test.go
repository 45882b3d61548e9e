package web

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestClientsCannotFillTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		logger := limited(slog.New(slog.NewTextHandler(&out, nil)))
		say := func(times int) []string {
			out.Reset()
			for range times {
				logger.With("from", "outside").WithGroup("g").Warn("junk", "n", 1)
			}
			return strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		}
		const line = "level=WARN msg=junk from=outside g.n=1"
		check := func(what string, lines []string, number int, first string) {
			t.Helper()
			if len(lines) != number || !strings.HasSuffix(lines[0], first) || !strings.HasSuffix(lines[number-1], line) && number > 1 {
				t.Errorf("%s: %d lines, want %d and in the first %q:\n%s", what, len(lines), number, first, strings.Join(lines, "\n"))
			}
		}
		check("at once", say(11_646), 10, line)
		time.Sleep(10 * time.Second)
		check("later", say(1), 1, " g.suppressed=11636")
		time.Sleep(time.Hour)
		check("much later", say(100), 10, line)
		logger.Info("ours")
		if !strings.Contains(out.String(), "msg=ours") {
			t.Error("a line that no client can bring about is withheld")
		}
	})
}

// The server itself writes its lines that way.
func TestJunkDoesNotFillTheLog(t *testing.T) {
	free := listen(t)
	free.Close()
	var out bytes.Buffer // read once the server has stopped
	server, err := Start(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("junk") }),
		flagsFor(free.Addr().String()), &State{}, slog.New(slog.NewTextHandler(&out, nil)))
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if response, err := http.Get(fmt.Sprint("http://", free.Addr())); err == nil {
			response.Body.Close()
			t.Fatal("answered")
		}
	}
	http.DefaultClient.CloseIdleConnections()
	server.Stop()
	if n := strings.Count(out.String(), "http: panic serving"); n != 10 {
		t.Errorf("%d lines, want 10", n)
	}
}

// Nor do scrapes that fail.
func TestFailedScrapesDoNotFillTheLog(t *testing.T) {
	var out bytes.Buffer
	handler := newTestHandler(t, attachedState(), failing, &out)
	for range 50 {
		do(handler, http.MethodGet, "/m")
	}
	if n := strings.Count(out.String(), "the map is gone"); n != 10 {
		t.Errorf("%d lines, want 10", n)
	}
}
