package web

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
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
func inMemory(t *testing.T, handler http.Handler) (*Server, *pipes) {
	t.Helper()
	server := newServer(handler, &State{}, slog.New(slog.DiscardHandler), func() {})
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
				w, listener := inMemory(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if _, err := io.Copy(io.Discard, r.Body); err != nil {
						http.Error(w, err.Error(), http.StatusBadRequest)
					}
				}))
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
		w, listener := inMemory(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			start := time.Now()
			for page := make([]byte, 1<<16); ; {
				if _, err := w.Write(page); err != nil {
					took <- time.Since(start)
					return
				}
			}
		}))
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
				w, listener := inMemory(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
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
				w, listener := inMemory(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					close(entered)
					if r.URL.Path == "/endless" {
						<-r.Context().Done()
						return
					}
					time.Sleep(500 * time.Millisecond)
					fmt.Fprint(w, "answered")
				}))
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

// Eight are taken on, of which two run; what is more is refused at once.
func TestScrapesAtOneTimeAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit, atOnce = 8, 2
		release := make(chan struct{})
		var running, most atomic.Int32
		registry := prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
			most.Store(max(most.Load(), running.Add(1)))
			<-release
			running.Add(-1)
			return nil, nil
		})
		state := attachedState()
		handler := newTestHandler(t, state, registry, io.Discard)
		codes := make(chan int, limit)
		for range limit {
			go func() { codes <- do(handler, http.MethodGet, "/m").Code }()
		}
		synctest.Wait()
		if code := do(handler, http.MethodGet, "/m").Code; code != http.StatusServiceUnavailable || state.ScrapesRefused() != 1 {
			t.Errorf("one more than the limit: %d, %d counted", code, state.ScrapesRefused())
		}
		if running.Load() != atOnce {
			t.Errorf("%d run, want %d", running.Load(), atOnce)
		}
		close(release)
		for range limit {
			if code := <-codes; code != http.StatusOK {
				t.Errorf("a scrape within the limit: %d", code)
			}
		}
		if most.Load() != atOnce {
			t.Errorf("%d ran at one time, want %d", most.Load(), atOnce)
		}
		if code := do(handler, http.MethodGet, "/m").Code; code != http.StatusOK {
			t.Errorf("afterwards: %d", code)
		}
	})
}

// Who has gone does not run when it would be its turn.
func TestAScrapeWhoseClientHasGoneDoesNotRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var ran atomic.Int32
		registry := prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
			ran.Add(1)
			<-release
			return nil, nil
		})
		handler := newTestHandler(t, attachedState(), registry, io.Discard)
		for range 2 {
			go do(handler, http.MethodGet, "/m")
		}
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		go handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, "/m", http.NoBody))
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(release)
		synctest.Wait()
		if ran.Load() != 2 {
			t.Errorf("%d ran, want 2", ran.Load())
		}
	})
}

// page is a registry with one metric that a page of that size is made of.
func page(size int) prometheus.Gatherer {
	registry := prometheus.NewRegistry()
	noise := make([]byte, size/2)
	random := rand.NewChaCha8([32]byte{})
	_, _ = random.Read(noise)
	registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "page", Help: hex.EncodeToString(noise)}))
	return registry
}

const scrapeRequest = "GET /m HTTP/1.1\r\nHost: x\r\n\r\n"

func TestClientsThatDoNotReadHoldUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, listener := inMemory(t, newTestHandler(t, attachedState(), page(1<<20), io.Discard))
		defer w.Stop()
		for range 20 {
			conn := listener.dial()
			t.Cleanup(func() { conn.Close() })
			send(t, conn, scrapeRequest)
			synctest.Wait()
		}
		start := time.Now()
		conn := listener.dial()
		send(t, conn, "GET /m HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		said, took := untilClosed(t, conn)
		if !strings.HasPrefix(said, "HTTP/1.1 200 ") || !strings.HasSuffix(said, "\npage 0\n") || time.Since(start) != 0 {
			t.Errorf("after %v the server said %.80q", took, said)
		}
	})
}

// What they are kept is bounded, and it is not the one that reads who pays for it.
func TestWhatIsKeptForThoseWhoDoNotReadIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := &State{}
		answer := bytes.Repeat([]byte{'x'}, 6<<20)
		w, listener := inMemory(t, newScrapes(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip") // so that it is kept as it is
			_, _ = w.Write(answer)
		}), &state.limits))
		defer w.Stop()
		const fit = 5
		var silent []net.Conn
		for n := range fit + 3 {
			conn := listener.dial()
			silent = append(silent, conn)
			send(t, conn, scrapeRequest)
			synctest.Wait()
			if got, want := state.AnswersGivenUp(), max(0, n+1-fit); got != uint64(want) {
				t.Fatalf("%d answers given up of %d, want %d", got, n+1, want)
			}
		}
		for n, conn := range silent {
			// The oldest have been hung up on: a pipe has no deadline then.
			if closed := conn.SetDeadline(time.Time{}) != nil; closed != (n < 3) {
				t.Errorf("connection %d is closed: %t", n, closed)
			}
			conn.Close()
		}
		synctest.Wait()
		for range 20 { // what was kept has gone with them
			conn := listener.dial()
			send(t, conn, "GET /m HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
			if said, _ := untilClosed(t, conn); len(said) < len(answer) {
				t.Error("an answer that is read is not whole")
			}
		}
		if got := state.AnswersGivenUp(); got != 3 {
			t.Errorf("%d answers given up, want 3", got)
		}
	})
}

func TestAnswersAreKeptCompressed(t *testing.T) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "page", Help: strings.Repeat("x", 1<<20)}))
	var plain string
	for _, accept := range []string{"identity", "gzip"} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			server := httptest.NewServer(newTestHandler(t, attachedState(), registry, io.Discard))
			request, err := http.NewRequestWithContext(t.Context(), method, server.URL+"/m", http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Accept-Encoding", accept)
			response, err := server.Client().Do(request)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(response.Body)
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			server.Close()
			if got := response.Header.Get("Content-Encoding"); (got == "gzip") != (accept == "gzip") {
				t.Errorf("%s accepting %q: encoded as %q", method, accept, got)
			}
			if method == http.MethodHead {
				continue
			}
			if response.ContentLength != int64(len(body)) {
				t.Errorf("accepting %q: %d bytes, said to be %d", accept, len(body), response.ContentLength)
			}
			if accept == "identity" {
				plain = string(body)
				continue
			}
			unpacked, err := gzip.NewReader(bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			if body, err = io.ReadAll(unpacked); err != nil || string(body) != plain {
				t.Errorf("another page where it is compressed: %v", err)
			}
		}
	}
	if !strings.HasSuffix(plain, "\npage 0\n") {
		t.Errorf("the page ends in %q", plain[max(0, len(plain)-100):])
	}

	s := newScrapes(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, plain) }), &limits{})
	s.taken <- struct{}{}
	if kept := s.answer(httptest.NewRequest(http.MethodGet, "/m", http.NoBody)).body.Len(); kept > len(plain)/50 {
		t.Errorf("%d bytes are kept of a page of %d", kept, len(plain))
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
