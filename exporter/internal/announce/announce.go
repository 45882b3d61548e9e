// Package announce writes what the kernel side announces to the log: a line for
// each new user of a capability and each denial. It knows which of them people
// want to be told, and how they are named there; it does not know where they
// come from, nor what else is done with the checks.
package announce

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"

	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf"
	"capability_exporter/collectors"
)

// queueLength is how many announcements may wait for a slow log.
const queueLength = 1024

// Log writes each bpf.Announcement as one line to the log:
//
//   - warn: CAP_SYS_ADMIN over the host is asked for by an executable in a
//     workload that was not seen asking for it before. This is what people want
//     to be told.
//   - info: the same in a user namespace, where anybody may be its root; and any
//     other denial. Something did not work, or was tried in vain; the kernel side
//     already limits their rate.
//   - debug: any other capability that is asked for by somebody new. Right
//     after start that is everybody.
//
// The ring buffer's reader must not wait for a log that is not read, so the
// lines are written by a goroutine of their own, and what does not fit in the
// queue is dropped and its number logged.
type Log struct {
	logger  *slog.Logger
	queue   chan bpf.Announcement
	dropped atomic.Uint64
	written sync.WaitGroup
}

// NewLog starts the goroutine; Stop ends it.
func NewLog(logger *slog.Logger) *Log {
	l := &Log{logger: logger, queue: make(chan bpf.Announcement, queueLength)}
	l.written.Go(l.write)
	return l
}

// Announce takes one announcement. It never blocks, and must not be called
// after Stop.
func (l *Log) Announce(announcement bpf.Announcement) {
	select {
	case l.queue <- announcement:
	default:
		l.dropped.Add(1)
	}
}

// Stop writes what is still in the queue and ends the goroutine.
func (l *Log) Stop() {
	close(l.queue)
	l.written.Wait()
}

func (l *Log) write() {
	for announcement := range l.queue {
		l.line(announcement)
		if dropped := l.dropped.Swap(0); dropped > 0 {
			l.logger.Warn("Announcements were not logged, the log is too slow; the metrics have counted them", "count", dropped)
		}
	}
}

func (l *Log) line(n bpf.Announcement) {
	level, message := slog.LevelDebug, "Capability asked for by a new process or workload"
	switch {
	case n.New && n.Capability == uint8(cap.SYS_ADMIN):
		level, message = slog.LevelWarn, "CAP_SYS_ADMIN asked for by a new process or workload"
		if n.UserNS {
			level = slog.LevelInfo
		}
	case n.Denied:
		level, message = slog.LevelInfo, "Capability denied"
	}
	if !l.logger.Enabled(context.Background(), level) {
		return
	}
	workload, process := collectors.VisibleWho(n.Cgroup, n.Process, n.Overflow)
	l.logger.LogAttrs(context.Background(), level, message,
		slog.String("capability", collectors.Capability(n.Capability)),
		slog.String("result", collectors.Result(n.Denied)),
		slog.String("scope", collectors.Scope(n.UserNS)),
		slog.String("workload", workload),
		slog.String("process", process),
		slog.Uint64("tgid", uint64(n.TGID)),
		slog.Uint64("tid", uint64(n.TID)),
		slog.Uint64("uid", uint64(n.UID)),
		slog.Int64("syscall", n.Syscall),
		slog.String("call_site", collectors.Visible(collectors.CallSite(n.Symbol, false))),
		slog.Bool("borrowed", n.Borrowed),
	)
}
