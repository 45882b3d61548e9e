// Package announce writes what the kernel side announces to the log: a line for
// each new user of a capability and each denial. It knows which of them people
// want to be told, how many of them, and how they are named there; it does not
// know where they come from, nor what else is done with the checks.
package announce

import (
	"context"
	"log/slog"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf"
	"capability_exporter/collectors"
)

// Log writes each bpf.Announcement as one line to the log:
//
//   - warn: CAP_SYS_ADMIN over the host is asked for by an executable in a
//     workload that was not seen asking for it before. This is what people want
//     to be told.
//   - info: the same in a user namespace, where anybody may be its root; any
//     other denial; and what another security module refused of what was granted.
//     Something did not work, or was tried in vain; the kernel side already limits
//     their rate.
//   - debug: a denial that harmed nobody, because the kernel went on all the same or granted another capability in its place, and any
//     other capability that is asked for by somebody new. Right after start that is everybody.
//
// It is called by the reader of the ring buffer, which must not wait: the log
// that it is given never blocks, but drops what does not fit and says so.
type Log struct {
	handler slog.Handler
	budgets map[kind]*budget

	overBudget, notTaken atomic.Uint64
	toldOverflow         atomic.Bool
}

// kind is what a line is about, as far as who can bring it about. Each has a
// budget of its own.
type kind int

const (
	// admin is CAP_SYS_ADMIN granted on the host.
	admin kind = iota
	// granted is any other capability granted on the host.
	granted
	// anybody's are denials and user namespaces: no privilege is needed for
	// as many of them as one likes.
	anybodys
)

// NewLog has the whole of each budget. Handle of the logger's handler must
// return an error for a line that is dropped.
func NewLog(logger *slog.Logger) *Log {
	return &Log{handler: logger.Handler(), budgets: map[kind]*budget{
		admin:    newBudget(),
		granted:  newBudget(),
		anybodys: newBudget(),
	}}
}

// OverBudget is how many announcements were withheld from the log because too
// many had come before.
func (l *Log) OverBudget() uint64 { return l.overBudget.Load() }

// NotTaken is how many the log had no place for.
func (l *Log) NotTaken() uint64 { return l.notTaken.Load() }

// Announce takes one announcement. It never blocks.
func (l *Log) Announce(n bpf.Announcement) {
	ctx := context.Background()
	if n.Overflow && n.LSM == "" && !l.toldOverflow.Load() {
		l.tellOverflow(ctx, n)
	}
	level, message := lineOf(n)
	if !l.handler.Enabled(ctx, level) {
		return
	}
	now := time.Now()
	// By its own name, also where it is counted under _other.
	if !l.budgets[kindOf(n)].allows(now, collectors.Workload(n.Cgroup)) {
		l.overBudget.Add(1)
		return
	}
	workload, process := collectors.VisibleWho(n.Cgroup, n.Process, false)
	line := slog.NewRecord(now, level, message, here())
	line.AddAttrs(
		slog.String("capability", collectors.Capability(n.Capability)),
		slog.String("result", collectors.Result(n.Denied)),
		slog.String("scope", collectors.Scope(n.UserNS)),
		slog.String("workload", workload),
		slog.String("process", process),
		slog.String("comm", collectors.Escape(n.Comm)),
		slog.Uint64("tgid", uint64(n.TGID)),
		slog.Uint64("tid", uint64(n.TID)),
		slog.Uint64("ns_tgid", uint64(n.NSTGID)),
		slog.Uint64("uid", uint64(n.UID)),
		slog.Uint64("euid", uint64(n.EUID)),
		slog.String("syscall", collectors.Syscall(n)),
		slog.String("path", collectors.Escape(n.Path)),
		slog.String("call_site", collectors.CallSite(n.Symbol, false)),
		slog.String("fallback_of", fallbackOf(n.Aside)),
		slog.Bool("borrowed", n.Borrowed),
		slog.Bool("overflow", n.Overflow),
	)
	if n.Harmless {
		line.AddAttrs(slog.String("fallback", collectors.Capability(n.Instead)))
	}
	if n.LSM != "" {
		line.AddAttrs(slog.String("lsm", n.LSM))
	}
	// Not by way of a slog.Logger, which keeps the error to itself.
	if err := l.handler.Handle(ctx, line); err != nil {
		l.notTaken.Add(1)
	}
}

// tellOverflow says once that series have run out, for somebody, and what to do
// about it; from then on a metric tells.
func (l *Log) tellOverflow(ctx context.Context, n bpf.Announcement) {
	workload, process := collectors.VisibleWho(n.Cgroup, n.Process, false)
	line := slog.NewRecord(time.Now(), slog.LevelWarn, "No room for another series of this workload: its checks stand under process=_other from here on; raise --series.limit, "+
		"unless somebody runs programs under ever new names. This is said once, and counted in capability_exporter_overflow_checks_total", here())
	line.AddAttrs(slog.String("workload", workload), slog.String("process", process))
	if l.handler.Handle(ctx, line) == nil {
		l.toldOverflow.Store(true)
	}
}

func lineOf(n bpf.Announcement) (level slog.Level, message string) {
	switch {
	case n.LSM != "":
		return slog.LevelInfo, "Capability granted, and refused by another security module"
	case n.New && n.Capability == uint8(cap.SYS_ADMIN):
		level = slog.LevelWarn
		if n.UserNS {
			level = slog.LevelInfo
		}
		return level, "CAP_SYS_ADMIN asked for by a new process or workload"
	case n.Probe:
		return slog.LevelDebug, "Capability denied, which the kernel did not mind"
	case n.Harmless:
		return slog.LevelDebug, "Capability denied, and another granted in its place"
	case n.Denied:
		return slog.LevelInfo, "Capability denied"
	default:
		return slog.LevelDebug, "Capability asked for by a new process or workload"
	}
}

// fallbackOf is the capability that was denied at the same place, and that this one was only asked for instead of; or the two, the later
// first.
func fallbackOf(a bpf.Aside) string {
	var firsts []string
	for first := range a.Firsts() {
		firsts = append(firsts, collectors.Capability(first))
	}
	return strings.Join(firsts, ",")
}

func kindOf(n bpf.Announcement) kind {
	switch {
	case n.Denied || n.UserNS:
		return anybodys
	case n.Capability == uint8(cap.SYS_ADMIN):
		return admin
	default:
		return granted
	}
}

// here is the place that the log names as a line's source.
func here() uintptr {
	var caller [1]uintptr
	runtime.Callers(2, caller[:])
	return caller[0]
}
