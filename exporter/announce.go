package main

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"

	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf"
	"capability_exporter/collectors"
)

// announcementQueue is how many announcements may wait for a slow log.
const announcementQueue = 1024

// announcer writes each bpf.Announcement as one line to the log:
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
type announcer struct {
	logger  *slog.Logger
	queue   chan bpf.Announcement
	dropped atomic.Uint64
	written sync.WaitGroup
}

// newAnnouncer starts the goroutine; stop ends it.
func newAnnouncer(logger *slog.Logger) *announcer {
	a := &announcer{logger: logger, queue: make(chan bpf.Announcement, announcementQueue)}
	a.written.Go(a.write)
	return a
}

// announce takes one announcement. It never blocks, and must not be called
// after stop.
func (a *announcer) announce(announcement bpf.Announcement) {
	select {
	case a.queue <- announcement:
	default:
		a.dropped.Add(1)
	}
}

// stop writes what is still in the queue and ends the goroutine.
func (a *announcer) stop() {
	close(a.queue)
	a.written.Wait()
}

func (a *announcer) write() {
	for announcement := range a.queue {
		a.log(announcement)
		if dropped := a.dropped.Swap(0); dropped > 0 {
			a.logger.Warn("Announcements were not logged, the log is too slow; the metrics have counted them", "count", dropped)
		}
	}
}

func (a *announcer) log(n bpf.Announcement) {
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
	if !a.logger.Enabled(context.Background(), level) {
		return
	}
	workload, process := collectors.VisibleWho(n.Cgroup, n.Process, n.Overflow)
	a.logger.LogAttrs(context.Background(), level, message,
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
