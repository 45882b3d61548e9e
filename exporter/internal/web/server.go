// Package web serves the metrics, health, readiness and the page at /, which is
// made of a history of its own. It knows HTTP and what to show of a snapshot; it
// does not know where snapshots come from, nor how the process was started.
package web

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	toolkit "github.com/prometheus/exporter-toolkit/web"

	"capability_exporter/bpf"
)

// Paths that are always the same.
const (
	HealthyPath = "/-/healthy"
	ReadyPath   = "/-/ready"
)

// stopTimeout is how long requests may take to end after a signal.
const stopTimeout = 700 * time.Millisecond

// Config is what is served at which path.
type Config struct {
	TelemetryPath  string // none of the other paths
	CreatedSamples bool   // as samples of OpenMetrics
}

// State is what the server and its handlers know of the rest of the program,
// and the other way round.
type State struct {
	attached atomic.Pointer[attachment] // nil until the checks are counted, and again once the program stops
	limits   limits
}

// limits are what clients are held to, and counts of how often.
type limits struct {
	connections connections
	scrapes     atomic.Uint64 // refused
	filters     atomic.Uint64 // refused
	unread      atomic.Uint64 // answers that were given up
}

// LimitConnections sets how many clients may be connected at one time, where that
// must be fewer than MaxConnections. It is for before Start.
func (s *State) LimitConnections(most int) { s.limits.connections.limit(most) }

// ConnectionsClosed is how many connections were closed to make room for others.
func (s *State) ConnectionsClosed() uint64 { return s.limits.connections.made() }

// ScrapesRefused is how many scrapes found too many others running.
func (s *State) ScrapesRefused() uint64 { return s.limits.scrapes.Load() }

// FiltersRefused is how many looks at the page through a filter were too many.
func (s *State) FiltersRefused() uint64 { return s.limits.filters.Load() }

// AnswersGivenUp is how many answers were not read for so long that others
// needed the room.
func (s *State) AnswersGivenUp() uint64 { return s.limits.unread.Load() }

// attachment is a tracer that counts.
type attachment struct {
	info   bpf.Info
	recent *Recent
}

// Attach says that the checks are counted from now on, how, and who knows of
// the latest.
func (s *State) Attach(info bpf.Info, recent *Recent) {
	s.attached.Store(&attachment{info: info, recent: recent})
}

// Detach says that they are not counted any more.
func (s *State) Detach() { s.attached.Store(nil) }

// NewHandler serves the exporter's paths, to GET and HEAD only.
//
// A scrape with an error in it fails as a whole: the node is down for
// Prometheus then, and somebody is told. Serving what is left would be an
// answer in which capabilities just are not asked for.
func NewHandler(cfg Config, registry prometheus.Gatherer, s *State, logger *slog.Logger) (http.Handler, error) {
	landing, err := newLanding(cfg.TelemetryPath, s)
	if err != nil {
		return nil, err
	}
	metrics := promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorLog:                            slog.NewLogLogger(limited(logger).Handler(), slog.LevelError),
		ErrorHandling:                       promhttp.HTTPErrorOnError,
		EnableOpenMetrics:                   true,
		EnableOpenMetricsTextCreatedSamples: cfg.CreatedSamples,
	})

	mux := http.NewServeMux() // "GET" matches HEAD too
	mux.Handle("GET /{$}", landing)
	mux.Handle("GET "+cfg.TelemetryPath, s.whenAttached(newScrapes(metrics, &s.limits)))
	mux.HandleFunc("GET "+HealthyPath, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "Healthy.")
	})
	mux.Handle("GET "+ReadyPath, s.whenAttached(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "Ready.")
	})))
	return withSecurityHeaders(mux), nil
}

// whenAttached answers 503 as long as nothing is counted.
func (s *State) whenAttached(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.attached.Load() == nil {
			http.Error(w, "Not attached to the kernel's capability checks.", http.StatusServiceUnavailable)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func withSecurityHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		setUnlessSet(w.Header(), "X-Content-Type-Options", "nosniff")
		setUnlessSet(w.Header(), "X-Frame-Options", "deny")
		setUnlessSet(w.Header(), "Referrer-Policy", "no-referrer")
		setUnlessSet(w.Header(), "Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// setUnlessSet leaves alone what the file of --web.config.file has set.
func setUnlessSet(header http.Header, name, value string) {
	if header.Get(name) == "" {
		header.Set(name, value)
	}
}

// Server serves one handler on all addresses of the command line.
type Server struct {
	servers []*http.Server
	running sync.WaitGroup
	failed  chan error // the first failure of each server
}

// Start returns once all addresses are bound and served.
func Start(handler http.Handler, flags *toolkit.FlagConfig, s *State, logger *slog.Logger) (*Server, error) {
	// A server for each address: exporter-toolkit serves several with one, and
	// then puts TLS and authentication around its handler from several
	// goroutines at once.
	configs := []*toolkit.FlagConfig{flags}
	if !*flags.WebSystemdSocket {
		configs = nil
		for _, address := range *flags.WebListenAddresses {
			one := *flags
			one.WebListenAddresses = &[]string{address}
			configs = append(configs, &one)
		}
	}

	unlimited := logger
	logger = limited(logger)
	w := &Server{failed: make(chan error, len(configs))}
	bound := make(chan struct{}, len(configs))
	for _, config := range configs {
		var server *http.Server
		server = newServer(handler, s, logger, sync.OnceFunc(func() { // there may be several sockets, and Answers comes again and again
			if *flags.WebConfigFile != "" { // by now the toolkit has put its own around the handler
				server.Handler = tellRefused(server.Handler, unlimited)
			}
			bound <- struct{}{}
		}))
		w.servers = append(w.servers, server)
		w.running.Go(func() {
			if err := toolkit.ListenAndServe(server, config, logger); !errors.Is(err, http.ErrServerClosed) {
				w.failed <- err
			}
		})
	}
	for range configs {
		select {
		case <-bound:
		case err := <-w.failed:
			w.Stop()
			return nil, fmt.Errorf("cannot serve, see --web.listen-address: %w", err)
		}
	}
	return w, nil
}

// newServer has a limit for each thing that a client can make it wait for, or
// keep. It calls listening once it is about to accept connections.
func newServer(handler http.Handler, s *State, logger *slog.Logger, listening func()) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      60 * time.Second, // longer than any scrape_timeout in use
		IdleTimeout:       3 * time.Minute,  // longer than most scrape intervals
		MaxHeaderBytes:    64 << 10,
		HTTP2: &http.HTTP2Config{ // on one connection; nobody has a body to send
			MaxConcurrentStreams:          maxScrapes,
			MaxReceiveBufferPerConnection: 64 << 10,
			MaxReceiveBufferPerStream:     64 << 10,
		},
		ConnState: s.limits.connections.changed,
		ErrorLog:  slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
		BaseContext: func(net.Listener) context.Context {
			listening()
			return context.Background()
		},
	}
}

// Failed tells the first failure of each server.
func (w *Server) Failed() <-chan error { return w.failed }

// Stop lets running requests end, but not longer than stopTimeout.
func (w *Server) Stop() {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	var stopping sync.WaitGroup
	for _, server := range w.servers {
		stopping.Go(func() {
			if err := server.Shutdown(ctx); err != nil {
				server.Close()
			}
		})
	}
	stopping.Wait()
	w.running.Wait()
}
