package bpf

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"capability_exporter/bpf/internal/programs"
	"capability_exporter/bpf/internal/source"
)

// Held is which capabilities processes held when that was last looked at.
type Held struct {
	// Refused says why nothing is known, "" where something is: off, failed, or a Refusal's reason.
	Refused string
	Time    time.Time     // of the look; zero: there was none yet
	Took    time.Duration // of it
	Partial uint64        // looks so far that did not see all processes
	Counts  []HeldCount   // those of the host first, and of these those that have the oldest process
}

// HeldCount is how many processes hold what in one cgroup and one kind of user namespace. What a process holds is what any of its
// threads has permitted, and so may make effective.
type HeldCount struct {
	Cgroup   Cgroup
	UserNS   bool   // in another than the initial user namespace
	Overflow bool   // all that there was no room for; Cgroup is zero
	All      uint32 // processes that hold every capability there is, which are not in Each
	Each     [programs.Capabilities]uint32
}

// The values of Refused that are not a Refusal's.
const (
	heldOff    = "off"
	heldFailed = "failed"
)

// maxHeldRuns bounds a look. Each run is of HELD_STEPS threads at most, so this is two million.
const maxHeldRuns = 2048

// holdings look at what processes hold.
type holdings struct {
	kernel interface {
		Begin(number uint32) error
		Run() error
		Close() error
	}
	looks, slots, names io.ReaderAt // the kernel side's
	interval            time.Duration
	logger              *slog.Logger

	// Of the one goroutine that looks.
	number  uint32
	cgroups map[uint32]Cgroup // by slot
	partial uint64

	mu     sync.Mutex // guards the last look
	latest Held
}

// newHoldings looks for the first time. Where that can't be had, it says why to the log, and has nothing to tell.
func newHoldings(f *source.Features, opts *Options, logger *slog.Logger) *holdings {
	h := &holdings{interval: opts.HeldInterval, logger: logger, cgroups: map[uint32]Cgroup{}}
	if h.interval <= 0 {
		h.latest.Refused = heldOff
		return h
	}
	kernel, err := source.OpenHeld(f, opts.seeds[0], opts.heldMost)
	if err != nil {
		h.latest.Refused = source.ReasonOf(err)
		logger.Warn("Which capabilities processes hold cannot be seen, and is not told", "reason", h.latest.Refused, "err", err)
		return h
	}
	h.kernel, h.looks, h.slots, h.names = kernel, kernel.Looks, kernel.Slots, kernel.Names
	h.look()
	return h
}

// run looks each interval, until stop is closed.
func (h *holdings) run(stop <-chan struct{}) {
	if h.kernel == nil {
		return
	}
	clock := time.NewTicker(h.interval)
	defer clock.Stop()
	for {
		select {
		case <-stop:
			return
		case <-clock.C:
			h.look()
		}
	}
}

func (h *holdings) close() error {
	if h.kernel == nil {
		return nil
	}
	return h.kernel.Close()
}

// last is the last look. Nobody changes it.
func (h *holdings) last() Held {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.latest
}

// look looks, and keeps what was seen. Where that fails nothing is told until it can be done again: an old number is none.
func (h *holdings) look() {
	began := time.Now()
	progress, err := h.pass()
	held := Held{Time: began}
	if err == nil {
		held.Counts, err = h.counts(progress)
	}
	if err != nil {
		h.number++ // so that slots whose names may not have been taken are nobody's
		held = Held{Refused: heldFailed}
		if h.latest.Refused == "" {
			h.logger.Warn("Which capabilities processes hold could not be seen, and is not told", "reason", held.Refused, "err", err)
		}
	}
	held.Partial, held.Took = h.partial, time.Since(began)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.latest = held
}

// pass has the kernel side go over all processes, and takes the names that it gives.
func (h *holdings) pass() (*programs.HeldLook, error) {
	h.number++
	if err := h.kernel.Begin(h.number); err != nil {
		return nil, err
	}
	progress := &programs.HeldLook{}
	for range maxHeldRuns {
		if err := h.kernel.Run(); err != nil {
			return nil, err
		}
		if err := record(h.looks, 0, progress); err != nil {
			return nil, err
		}
		if progress.Init == 0 {
			return nil, errors.New("the kernel's first task was not found among the exporter's ancestors")
		}
		for i := range min(progress.Names, programs.HeldNames) {
			var name programs.HeldName
			if err := record(h.names, i, &name); err != nil {
				return nil, err
			}
			h.cgroups[uint32(name.Slot)] = pathOf((*programs.CgroupRecord)(&name.Cgroup))
		}
		if progress.Done != 0 {
			if progress.Unseen != 0 {
				h.partial++
			}
			return progress, nil
		}
	}
	h.partial++
	return progress, nil
}

// counts reads what was counted, and forgets the names of slots that nobody has.
func (h *holdings) counts(progress *programs.HeldLook) ([]HeldCount, error) {
	type placed struct {
		place uint32
		count HeldCount
	}
	var found []placed
	var slot programs.HeldSlot
	for i := range uint32(programs.HeldSlots) {
		if err := record(h.slots, i, &slot); err != nil {
			return nil, fmt.Errorf("read what processes hold: %w", err)
		}
		if slot.Look != h.number {
			delete(h.cgroups, i)
			continue
		}
		found = append(found, placed{slot.Place, heldCount(&slot.Processes, h.cgroups[i], slot.Userns != 0)})
	}
	slices.SortFunc(found, func(a, b placed) int {
		if a.count.UserNS != b.count.UserNS {
			return cmp.Compare(number(a.count.UserNS), number(b.count.UserNS))
		}
		return cmp.Compare(a.place, b.place)
	})
	counts := make([]HeldCount, 0, len(found)+len(progress.Others))
	for _, f := range found {
		counts = append(counts, f.count)
	}
	for userns := range progress.Others {
		if others := heldCount(&progress.Others[userns], Cgroup{}, userns != 0); others.any() {
			others.Overflow = true
			counts = append(counts, others)
		}
	}
	return counts, nil
}

func heldCount(processes *[programs.HeldAll + 1]uint32, cgroup Cgroup, userns bool) HeldCount {
	return HeldCount{Cgroup: cgroup, UserNS: userns, All: processes[programs.HeldAll], Each: [programs.Capabilities]uint32(processes[:programs.HeldAll])}
}

func (c *HeldCount) any() bool { return c.All != 0 || c.Each != [programs.Capabilities]uint32{} }

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}
