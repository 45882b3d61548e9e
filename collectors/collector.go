// Package collectors turns what package bpf has counted into Prometheus metrics.
//
// It keeps no numbers of its own: each scrape is one [bpf.Snapshot], and every
// number exposed is a sum over the slots of that snapshot. What it keeps from
// one scrape to the next is how slots are named, and when they last counted.
package collectors

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"capability_exporter/bpf"
)

// Tracer is what a [Collector] reads; *bpf.Tracer is one. Both methods must be
// safe for concurrent use, since scrapes may overlap.
type Tracer interface {
	// Snapshot reads every counter at one time.
	Snapshot() (*bpf.Snapshot, error)
	// Info says how the checks are seen.
	Info() bpf.Info
}

// part exposes one group of metrics out of a snapshot.
type part interface {
	describe(chan<- *prometheus.Desc)
	collect(*bpf.Snapshot, chan<- prometheus.Metric)
}

// Collector exposes all metrics that come from a Tracer. It takes exactly one
// snapshot for each scrape, so that the numbers of a scrape agree with each other.
type Collector struct {
	tracer    Tracer
	holdings  Holdings
	source    source
	parts     []part
	workloads *workloads
	failed    *prometheus.Desc
}

// New returns the collector of a tracer's metrics. holdings tell of whom else
// than who asks there are series (see [NewHoldings]). pods may be nil.
func New(tracer Tracer, holdings Holdings, pods Pods) *Collector {
	checks := newChecks()
	return &Collector{
		tracer:    tracer,
		holdings:  holdings,
		source:    newSource(),
		parts:     []part{checks, newRefusals(), newCallSites(), newLosses()},
		workloads: newWorkloads(pods),
		failed:    checks.total,
	}
}

// Describe implements [prometheus.Collector].
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	c.source.describe(ch)
	for _, p := range c.parts {
		p.describe(ch)
	}
	c.workloads.describe(ch)
}

// Collect implements [prometheus.Collector]. If no snapshot can be had the
// scrape fails with the cause: a missing counter would look like a silent node.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	c.source.collect(c.tracer.Info(), ch)

	snapshot, err := c.tracer.Snapshot()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.failed, fmt.Errorf(
			"reading the kernel's counters failed (if it keeps failing, restart the exporter; counting then starts from 0): %w", err))
		return
	}
	for _, p := range c.parts {
		p.collect(snapshot, ch)
	}
	c.workloads.collect(snapshot, c.holdings.Held().Counts, ch) // the last that needs it, and not for long
}

// desc returns the description of a metric without constant labels.
func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// counter returns a counter that has counted since created.
func counter(d *prometheus.Desc, value uint64, created time.Time, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetricWithCreatedTimestamp(d, prometheus.CounterValue, float64(value), created, labels...)
}

// gauge returns a gauge.
func gauge(d *prometheus.Desc, value float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
}
