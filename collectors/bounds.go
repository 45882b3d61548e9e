package collectors

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Bounds tells what the exporter did not do, so that nobody can make it take
// more memory, time or log than it should. Each must be safe for concurrent
// use.
type Bounds interface {
	// LogLinesDropped is how many lines the log had no place for, or could not write.
	LogLinesDropped() uint64
	// AnnouncementsOverBudget is how many announcements were withheld from the
	// log because too many had come before.
	AnnouncementsOverBudget() uint64
	// AnnouncementsDropped is how many the log had no place for.
	AnnouncementsDropped() uint64
	// AnnouncementsNotShown is how many the page had no place for.
	AnnouncementsNotShown() uint64
	// ConnectionsClosed is how many clients were hung up on to make room for others.
	ConnectionsClosed() uint64
	// ScrapesRefused is how many scrapes found too many others running.
	ScrapesRefused() uint64
	// FiltersRefused is how many looks at the page through a filter were too many.
	FiltersRefused() uint64
	// AnswersGivenUp is how many answers were read so slowly that others needed the room.
	AnswersGivenUp() uint64
}

// BoundsCollector exposes them. Lines of the log that are lost begin at 0, for an
// alert on a single one; the others are there once there are any: seven series
// that nearly always are 0, of which alerts wait for a quarter of an hour.
type BoundsCollector struct {
	bounds        Bounds
	since         time.Time
	logLines      *prometheus.Desc
	announcements *prometheus.Desc
	clients       *prometheus.Desc
}

// NewBounds returns the collector of bounds that have been counting since then.
func NewBounds(bounds Bounds, since time.Time) *BoundsCollector {
	return &BoundsCollector{
		bounds: bounds,
		since:  since,
		logLines: desc("capability_exporter_log_lines_dropped_total",
			"Lines of the log that were dropped because it was not read fast enough, or could not be written."),
		announcements: desc("capability_exporter_announcements_dropped_total",
			"Announcements that are not in the log: too many had come before (budget), or it was not read fast enough (queue); or that the page had no place for (page). The checks themselves were counted.",
			"reason"),
		clients: desc("capability_exporter_http_refused_total",
			"HTTP clients that were hung up on or refused: too many connections (connections), too many scrapes at one time (scrapes), too many looks at the page through a filter (filters), or an answer that was not read (unread).",
			"reason"),
	}
}

// Describe implements [prometheus.Collector].
func (c *BoundsCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.logLines
	ch <- c.announcements
	ch <- c.clients
}

// Collect implements [prometheus.Collector].
func (c *BoundsCollector) Collect(ch chan<- prometheus.Metric) {
	ch <- counter(c.logLines, c.bounds.LogLinesDropped(), c.since)
	for _, bound := range []struct {
		desc    *prometheus.Desc
		reached uint64
		reason  string
	}{
		{c.announcements, c.bounds.AnnouncementsOverBudget(), "budget"},
		{c.announcements, c.bounds.AnnouncementsDropped(), "queue"},
		{c.announcements, c.bounds.AnnouncementsNotShown(), "page"},
		{c.clients, c.bounds.ConnectionsClosed(), "connections"},
		{c.clients, c.bounds.ScrapesRefused(), "scrapes"},
		{c.clients, c.bounds.FiltersRefused(), "filters"},
		{c.clients, c.bounds.AnswersGivenUp(), "unread"},
	} {
		if bound.reached > 0 {
			ch <- counter(bound.desc, bound.reached, c.since, bound.reason)
		}
	}
}
