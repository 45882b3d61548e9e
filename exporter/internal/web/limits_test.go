package web

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Time-outs are of seconds and minutes. In a bubble of package synctest they
// pass at once, so the connections are made in memory: a bubble's time does
// not wait for a socket.

// pipes is a listener for such connections.
type pipes struct {
	made   chan net.Conn
	closed chan struct{}
	close  func()
}

func newPipes() *pipes {
	p := &pipes{made: make(chan net.Conn), closed: make(chan struct{})}
	p.close = sync.OnceFunc(func() { close(p.closed) })
	return p
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.made:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.close(); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

func (p *pipes) dial() net.Conn {
	client, server := net.Pipe()
	p.made <- server
	return client
}

// inMemory has a server as Start makes it.
func inMemory(t *testing.T, handler http.HandlerFunc) (*Server, *pipes) {
	t.Helper()
	server := newServer(handler, slog.New(slog.DiscardHandler), func() {})
	w, listener := &Server{servers: []*http.Server{server}}, newPipes()
	w.running.Go(func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serving ended with %v", err)
		}
	})
	return w, listener
}

func send(t *testing.T, conn net.Conn, request string) {
	t.Helper()
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
}

// untilClosed reads what the server says and returns that, and how long it
// was until the server hung up.
func untilClosed(t *testing.T, conn net.Conn) (string, time.Duration) {
	t.Helper()
	start := time.Now()
	if err := conn.SetReadDeadline(start.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	said, err := io.ReadAll(conn)
	if err != nil {
		t.Errorf("the server did not hang up: %v", err)
	}
	return string(said), time.Since(start)
}

func TestSlowClientsAreHungUpOn(t *testing.T) {
	for _, test := range []struct {
		name, request, answer string
		want                  time.Duration
	}{
		{"nothing", "", "", 5 * time.Second},
		{"half a header", "GET / HTTP/1.1\r\nHost:", "", 5 * time.Second},
		{"half a body", "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf", "HTTP/1.1 400 ", 10 * time.Second},
		{"no second request", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 ", 3 * time.Minute},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, listener := inMemory(t, func(w http.ResponseWriter, r *http.Request) {
					if _, err := io.Copy(io.Discard, r.Body); err != nil {
						http.Error(w, err.Error(), http.StatusBadRequest)
					}
				})
				defer w.Stop()
				conn := listener.dial()
				send(t, conn, test.request)
				said, took := untilClosed(t, conn)
				if took != test.want {
					t.Errorf("hung up after %v, want %v", took, test.want)
				}
				if !strings.HasPrefix(said, test.answer) || test.answer == "" && said != "" {
					t.Errorf("the server said %q, want %q", said, test.answer)
				}
			})
		})
	}
}

func TestClientsThatDoNotReadAreHungUpOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		took := make(chan time.Duration, 1)
		w, listener := inMemory(t, func(w http.ResponseWriter, _ *http.Request) {
			start := time.Now()
			for page := make([]byte, 1<<16); ; {
				if _, err := w.Write(page); err != nil {
					took <- time.Since(start)
					return
				}
			}
		})
		defer w.Stop()
		send(t, listener.dial(), "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if got := <-took; got != time.Minute {
			t.Errorf("the answer was given up after %v, want a minute", got)
		}
	})
}

func TestHeadersAreLimited(t *testing.T) {
	for size, want := range map[int]string{60 << 10: "200 OK", 72 << 10: "431 Request Header Fields Too Large"} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, listener := inMemory(t, func(http.ResponseWriter, *http.Request) {})
				defer w.Stop()
				conn := listener.dial()
				go func() { // the server does not read all of it
					_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: "+strings.Repeat("x", size)+"\r\n\r\n")
				}()
				if said, _ := untilClosed(t, conn); !strings.HasPrefix(said, "HTTP/1.1 "+want) {
					t.Errorf("the server said %.60q, want %s", said, want)
				}
			})
		})
	}
}

// A request that takes half a second is answered although the program stops;
// one that takes for ever is not waited for.
func TestStopLetsRequestsEnd(t *testing.T) {
	for path, want := range map[string]struct {
		answered bool
		took     time.Duration
	}{
		"/short":   {true, 500 * time.Millisecond},
		"/endless": {false, 700 * time.Millisecond},
	} {
		t.Run(path, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				entered := make(chan struct{})
				w, listener := inMemory(t, func(w http.ResponseWriter, r *http.Request) {
					close(entered)
					if r.URL.Path == "/endless" {
						<-r.Context().Done()
						return
					}
					time.Sleep(500 * time.Millisecond)
					fmt.Fprint(w, "answered")
				})
				conn := listener.dial()
				send(t, conn, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n")
				<-entered
				said := make(chan string)
				go func() {
					answer, _ := untilClosed(t, conn)
					said <- answer
				}()
				start := time.Now()
				w.Stop()
				// net/http looks at intervals of up to half a second whether all are done.
				if took := time.Since(start); took < want.took || took > want.took+500*time.Millisecond {
					t.Errorf("stopped after %v, want %v", took, want.took)
				}
				if got := <-said; strings.Contains(got, "answered") != want.answered {
					t.Errorf("the server said %q", got)
				}
			})
		})
	}
}

func TestScrapesAtOneTimeAreLimited(t *testing.T) {
	const limit = 8
	entered, release := make(chan struct{}, limit+1), make(chan struct{})
	registry := prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		entered <- struct{}{}
		<-release
		return nil, nil
	})
	handler := newTestHandler(t, attachedState(), registry, io.Discard)
	codes := make(chan int, limit+1)
	scrape := func() { codes <- do(handler, http.MethodGet, "/m").Code }
	for n := range limit {
		go scrape()
		select {
		case <-entered:
		case code := <-codes:
			t.Errorf("scrape %d at one time: %d", n+1, code)
		}
	}
	go scrape()
	select {
	case <-entered:
		t.Error("one more than the limit is let in")
		codes <- 0
	case code := <-codes:
		if code != http.StatusServiceUnavailable {
			t.Errorf("one more than the limit: %d", code)
		}
	}
	close(release)
	for range limit {
		if code := <-codes; code != http.StatusOK {
			t.Errorf("a scrape within the limit: %d", code)
		}
	}
}

// What could be read before the failure would be an answer in which the rest
// was never asked for.
func TestAFailedScrapeHasNoMetrics(t *testing.T) {
	whole := prometheus.NewRegistry()
	whole.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "half", Help: "Half."}))
	registry := prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		families, err := whole.Gather()
		return families, errors.Join(err, errors.New("the map is gone"))
	})
	var log bytes.Buffer
	got := do(newTestHandler(t, attachedState(), registry, &log), http.MethodGet, "/m")
	if got.Code != http.StatusInternalServerError || !strings.Contains(got.Body.String(), "the map is gone") || strings.Contains(got.Body.String(), "half 0") {
		t.Errorf("answered %d\n%s", got.Code, got.Body)
	}
	if !strings.Contains(log.String(), "level=ERROR") || !strings.Contains(log.String(), "the map is gone") {
		t.Errorf("logged %q", &log)
	}
}

// failing is a registry whose tracer can't be read.
var failing = prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return nil, errors.New("the map is gone") })
