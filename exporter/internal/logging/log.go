package logging

import (
	"context"
	"io"
	"log/slog"
	"time"

	"github.com/prometheus/common/promslog"
)

// Grace is how long the end of the program waits for its last lines to be
// written.
const Grace = 200 * time.Millisecond

// Log is the program's log: a logger, and the queue behind it.
type Log struct {
	*slog.Logger
	queue *Queue
	told  uint64 // lines whose loss is in the log; the queue's goroutine alone looks at it
}

// New returns a log as the flags want it, that writes to out by way of a
// queue of its own. Where lines had to be dropped, the log says how many as
// soon as it is read again.
func New(config promslog.Config, out io.Writer) *Log {
	l := &Log{}
	l.queue = newQueue(out, func() { l.tellDropped() })
	to := func(w io.Writer) slog.Handler {
		config.Writer = w
		return promslog.New(&config).Handler()
	}
	l.Logger = slog.New(byLevel{urgent: to(l.queue), ordinary: to(ordinary{l.queue})})
	return l
}

// Dropped is how many lines were not written.
func (l *Log) Dropped() uint64 { return l.queue.Dropped() }

// Stop writes what still waits, for no longer than Grace.
func (l *Log) Stop() { l.queue.Stop(Grace) }

// tellDropped says nothing of lines that could not be written: nor could this one.
func (l *Log) tellDropped() {
	if dropped := l.queue.foundNoPlace(); dropped > l.told {
		more := dropped - l.told
		l.told = dropped
		l.Warn("Lines were dropped, the log was not read fast enough; capability_exporter_log_lines_dropped_total counts them", "count", more)
	}
}

// byLevel lets warnings and errors use all of the queue, and anything else a
// part of it.
type byLevel struct{ urgent, ordinary slog.Handler }

func (b byLevel) Enabled(ctx context.Context, level slog.Level) bool {
	return b.urgent.Enabled(ctx, level)
}

func (b byLevel) Handle(ctx context.Context, record slog.Record) error {
	if record.Level >= slog.LevelWarn {
		return b.urgent.Handle(ctx, record)
	}
	return b.ordinary.Handle(ctx, record)
}

func (b byLevel) WithAttrs(attrs []slog.Attr) slog.Handler {
	return byLevel{b.urgent.WithAttrs(attrs), b.ordinary.WithAttrs(attrs)}
}

func (b byLevel) WithGroup(name string) slog.Handler {
	return byLevel{b.urgent.WithGroup(name), b.ordinary.WithGroup(name)}
}
