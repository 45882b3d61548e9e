package limits

import (
	"fmt"
	"log/slog"
	"math"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"golang.org/x/sys/unix"

	"capability_exporter/bpf"
)

const raiseMemory = " (systemd: MemoryMax=; Kubernetes: resources.limits.memory); raise it, or lower --series.limit"

const (
	// memoryRatio is the part of the cgroup's memory that Go's own may take; the
	// rest is for what the kernel accounts to the process besides.
	memoryRatio = 0.9

	// What it takes besides what the kernel counts in: to start at all, which is
	// mostly for reading the kernel's types, for the verifier, and for what
	// processes hold and other security modules refuse; and with all series in
	// use, scraped and looked at by many (make bench-scrape).
	toStart   = 34 << 20
	toServe   = 40 << 20
	forSeries = 11 << 9 // each
)

// Serving is about what it takes at most, besides what the kernel counts in, with
// so many series that all are in use.
func Serving(series int) uint64 { return toServe + forSeries*uint64(series) }

// Memory is what the process may take by its cgroup's limit.
type Memory struct {
	limit  uint64 // 0: there is none, or none that can be read
	logger *slog.Logger
}

// ReadMemory asks for the limit, and has Go collect its garbage before that is
// reached, unless GOMEMLIMIT says what to do.
func ReadMemory(limit memlimit.Provider, logger *slog.Logger) Memory {
	m := Memory{logger: logger}
	n, err := limit()
	if err != nil {
		logger.Debug("No memory limit is taken from the cgroup", "err", err)
		return m
	}
	m.limit = n
	m.collectWithin(n)
	return m
}

// collectWithin leaves Go that much, less what belongs to the ratio.
func (m Memory) collectWithin(n uint64) {
	limit, err := memlimit.Set(memlimit.WithRatio(memoryRatio), memlimit.WithProvider(memlimit.Limit(n)))
	if err != nil {
		m.logger.Warn("Cannot limit Go's memory", "err", err)
	} else if limit != math.MaxInt64 {
		m.logger.Info("Memory is limited", "bytes", limit)
	}
}

// Start says whether there is enough to start with.
func (m Memory) Start() error {
	if m.limit != 0 && m.limit < toStart {
		return m.tooLittle(toStart, "to start, and more for what the kernel counts in")
	}
	return nil
}

// Fits says whether there is enough for what the kernel is about to take
// besides, for that many series. What is enough for now only it warns of, and
// what the kernel takes is not left to Go.
func (m Memory) Fits(kernel bpf.Memory, series int) error {
	if m.limit == 0 {
		return nil
	}
	if least := toStart + kernel.Maps; m.limit < least {
		return m.tooLittle(least, fmt.Sprintf("%s of them for what the kernel counts in, with --series.limit=%d and this many CPUs", mebibytes(kernel.Maps), series))
	}
	if most := Serving(series) + kernel.Maps + kernel.Names; m.limit < most {
		m.logger.Warn("The memory limit of the cgroup is enough to start, and may be too low once all series are in use"+raiseMemory,
			"limit", mebibytes(m.limit), "at_most", mebibytes(most), "series_limit", series)
	}
	m.collectWithin(m.limit - kernel.Maps)
	return nil
}

func (m Memory) tooLittle(need uint64, what string) error {
	return &tooLowError{fmt.Sprintf("too little memory: the limit of its cgroup is %s, and it needs about %s, %s%s", mebibytes(m.limit), mebibytes(need), what, raiseMemory), unix.ENOMEM}
}

// mebibytes rounds up, so that who gives as much gives enough.
func mebibytes(n uint64) string { return fmt.Sprintf("%d MiB", (n+1<<20-1)>>20) }
