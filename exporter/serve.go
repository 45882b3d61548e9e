package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/prometheus/client_golang/prometheus"
	promcollectors "github.com/prometheus/client_golang/prometheus/collectors"
	versioncollector "github.com/prometheus/client_golang/prometheus/collectors/version"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/version"

	"capability_exporter/bpf"
	"capability_exporter/collectors"
	"capability_exporter/exporter/internal/announce"
	"capability_exporter/exporter/internal/confine"
	"capability_exporter/exporter/internal/limits"
	"capability_exporter/exporter/internal/logging"
	"capability_exporter/exporter/internal/pods"
	"capability_exporter/exporter/internal/sdnotify"
	"capability_exporter/exporter/internal/web"
)

// fallbackWait is for how long a denial may wait to be told that harms nobody if
// the kernel grants another capability in its place. It does so at once, unless
// the task is preempted in between.
const fallbackWait = time.Second

// serve is the command of the same name: it opens the port, attaches, and
// serves until ctx is done or something fails. The port comes first, so that
// one in use is told before anything is attached.
//
// clients is how many it has room for.
func serve(ctx context.Context, e env, cfg *config, found circumstances, clients int) (err error) {
	started := time.Now()
	log := logging.New(*cfg.log, e.stderr)
	defer log.Stop() // after all else: what fails on the way out is logged, too
	logger := log.Logger
	logger.Info("Starting capability_exporter", "version", version.Info(), "build", version.BuildContext())

	memory := limits.ReadMemory(memlimit.FromCgroup, logger)
	if err := memory.Start(); err != nil {
		return err
	}

	announcements, denials := announce.NewLog(logger), &web.Denials{}
	state := &web.State{}
	if clients < web.MaxConnections {
		logger.Warn("Few files may be open at one time, and so fewer HTTP connections than usual (systemd: LimitNOFILE=; a shell: ulimit -n)",
			"connections", clients, "usual", web.MaxConnections)
		state.LimitConnections(clients)
	}
	registry, err := newRegistry(e.held, collectors.NewBounds(bounds{state, log, announcements, denials}, started))
	if err != nil {
		return err
	}
	handler, err := web.NewHandler(web.Config{TelemetryPath: cfg.telemetryPath, CreatedSamples: cfg.createdSamples}, asked(registry), state, logger)
	if err != nil {
		return err
	}
	server, err := web.Start(handler, cfg.web, state, logger)
	if err != nil {
		return err
	}
	// Requests may read the tracer, so they end before it does.
	stopServer := sync.OnceFunc(server.Stop)
	defer stopServer()

	manager, err := e.manager() // before it is confined
	if err != nil {
		logger.Warn("The service manager is not told anything: where it waits to be, it will end this", "err", err)
	}
	defer func() { err = errors.Join(err, manager.Close()) }()
	tracer, err := e.openTracer(bpf.Options{
		SeriesLimit:  cfg.seriesLimit,
		HeldInterval: cfg.heldInterval,
		FallbackWait: fallbackWait,
		Logger:       logger, // it says which source is in use, and why others are not
		Announce: func(n bpf.Announcement) {
			announcements.Announce(n)
			denials.Announce(n)
		},
		Fits: func(kernel bpf.Memory) error { return memory.Fits(kernel, cfg.seriesLimit) },
		Name: collectors.Workload,
	})
	if err != nil {
		return fmt.Errorf("cannot attach to the kernel's capability checks: %w", found.ExplainRefusal(err))
	}
	defer func() { err = errors.Join(err, tracer.Close()) }()
	names := podNames(cfg, logger)
	if err := settle(e, cfg, tracer, logger); err != nil {
		return err
	}
	metrics := collectors.New(tracer, tracer, names)
	if err := errors.Join(registry.Register(metrics), registry.Register(collectors.NewHoldings(tracer, started))); err != nil {
		return fmt.Errorf("registering the metrics: %w", err)
	}

	history := web.NewRecent(tracer, denials)
	historyCtx, stopHistory := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { history.Run(historyCtx) })
	state.Attach(tracer.Info(), history)
	running.Go(func() { watch(historyCtx, manager, history, server, logger) })
	warn(logger, manager.Ready(fmt.Sprintf("Counting capability checks via %s", tracer.Info().Source)))

	select {
	case <-ctx.Done():
		logger.Info("Stopping")
	case err = <-server.Failed():
		err = fmt.Errorf("serving stopped: %w", err)
	}
	warn(logger, manager.Stopping())
	state.Detach()
	stopHistory()
	stopServer()
	running.Wait()
	return err
}

// watch feeds the watchdog for as long as snapshots are taken and HTTP is answered.
func watch(ctx context.Context, manager *sdnotify.Manager, history *web.Recent, server *web.Server, logger *slog.Logger) {
	works := func() error { return errors.Join(history.GoesOn(time.Now()), server.Answers()) }
	manager.Watch(ctx, works, func(err error) { logger.Error("The watchdog is not fed", "err", err) })
}

// warn is for what is told to the service manager: nothing else depends on it.
func warn(logger *slog.Logger, err error) {
	if err != nil {
		logger.Warn("The service manager was not told how it is", "err", err)
	}
}

// settle gives up what is of no use once the kernel side is attached.
func settle(e env, cfg *config, tracer tracer, logger *slog.Logger) error {
	if cfg.keep == keepNone {
		if err := e.dropRest(); err != nil {
			return err
		}
		if err := tracer.Recheck(); err != nil {
			return fmt.Errorf("--privileges.keep=none: the kernel does not let BPF maps be read without CAP_BPF, as Linux 5.19 and later do, "+
				"and others with the sysctl kernel.unprivileged_bpf_disabled=0: start with --privileges.keep=attach: %w", err)
		}
	}
	folders, err := web.ConfigFolders(*cfg.web.WebConfigFile)
	if err != nil {
		return err
	}
	files := confine.Files{Read: append(folders, "/proc", "/sys")}
	if cfg.podsDir != "" {
		files.List = []string{cfg.podsDir}
	}
	return e.confine(files, logger)
}

// podNames knows the names of pods, unless nobody wants it to.
func podNames(cfg *config, logger *slog.Logger) collectors.Pods {
	if cfg.podsDir == "" {
		return nil
	}
	return pods.Open(cfg.podsDir, logger)
}

// bounds has what several rooms were not let do.
type bounds struct {
	*web.State
	log           *logging.Log
	announcements *announce.Log
	denials       *web.Denials
}

func (b bounds) LogLinesDropped() uint64         { return b.log.Dropped() }
func (b bounds) AnnouncementsOverBudget() uint64 { return b.announcements.OverBudget() }
func (b bounds) AnnouncementsDropped() uint64    { return b.announcements.NotTaken() }
func (b bounds) AnnouncementsNotShown() uint64   { return b.denials.NotShown() }

// newRegistry holds what does not depend on a tracer.
func newRegistry(held collectors.Held, bounds *collectors.BoundsCollector) (*prometheus.Registry, error) {
	registry := prometheus.NewRegistry()
	err := errors.Join(
		registry.Register(promcollectors.NewGoCollector(promcollectors.WithGoCollectorMemStatsMetricsDisabled(),
			promcollectors.WithoutGoCollectorRuntimeMetrics(promcollectors.MetricsAll.Matcher))),
		registry.Register(promcollectors.NewProcessCollector(promcollectors.ProcessCollectorOpts{})),
		registry.Register(versioncollector.NewCollector("capability_exporter")),
		registry.Register(collectors.NewCapabilities(held)),
		registry.Register(bounds),
	)
	if err != nil {
		return nil, fmt.Errorf("registering the metrics of the exporter itself: %w", err)
	}
	return registry, nil
}

// asked leaves out what client_golang's collectors have, and nobody asks an
// exporter of these counters for. A fleet would pay for it on each node.
func asked(registry prometheus.Gatherer) prometheus.Gatherer {
	return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		families, err := registry.Gather()
		return slices.DeleteFunc(families, func(family *dto.MetricFamily) bool {
			switch family.GetName() {
			case "go_gc_duration_seconds", // a summary, of seven series
				"go_memstats_last_gc_time_seconds", "go_threads",
				"process_network_receive_bytes_total", "process_network_transmit_bytes_total", // of the whole network namespace
				"process_virtual_memory_bytes", "process_virtual_memory_max_bytes": // says nothing of a Go program
				return true
			}
			return false
		}), err
	})
}
