package bpf

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"capability_exporter/bpf/internal/programs"
	"capability_exporter/bpf/internal/source"
)

// refusalSlots is how many refusals can be told apart of each LSM.
const refusalSlots = 512

// RefusalCount is how often an LSM refused one executable in one cgroup what the capability module had granted.
type RefusalCount struct {
	LSM        string
	Capability uint8
	Cgroup     Cgroup
	Process    Process
	// Overflow is set for those that found no slot of their own, nor one of their workload's; Cgroup and Process are zero there.
	Overflow bool
	Owner    uint64 // as WorkloadCount.Owner
	Count    uint64
	Created  time.Time
}

// EndedRefusals is what series that have ended had counted.
type EndedRefusals struct {
	LSM        string
	Capability uint8
	Count      uint64
}

// refusals are what one LSM refuses of what the capability module has granted: counted in slots of their own, apart from the checks, whose
// lives are like those of theirs.
type refusals struct {
	lsm        string
	objects    *source.Objects
	settings   programs.SettingValues
	counts     refusalCounts
	stats      *counters
	cgroups    *cgroups
	series     *series
	ring, gone *ringbuf.Reader
	missed     uint64 // runs that the kernel skipped
	goneLost   uint64
}

// refusalCounts are the kernel side's, by slot.
type refusalCounts struct{ io.ReaderAt }

func (c refusalCounts) who(slot uint32) (n uint64) {
	_ = readAt(c, int64(slot)*8, &n) // which is memory, and as long as there are slots
	return n
}

// openRefusals loads what sees the refusals of each LSM that is active. To lack it is no reason not to count the checks: it is said, here
// and by Info.
func (t *Tracer) openRefusals() {
	for _, lsm := range source.LSMs() {
		active, err := lsm.Active(t.opts.sys)
		if err == nil && !active {
			continue
		}
		var r *refusals
		if err == nil {
			r, err = t.watch(lsm)
		}
		if err != nil {
			t.unwatched(lsm.Name, err)
			continue
		}
		t.refusals = append(t.refusals, r)
	}
}

// attachRefusals begins to count them.
func (t *Tracer) attachRefusals() {
	t.refusals = slices.DeleteFunc(t.refusals, func(r *refusals) bool {
		r.series.clock = t.clock
		if err := r.objects.Attach(); err != nil {
			t.unwatched(r.lsm, errors.Join(err, r.close()))
			return true
		}
		t.lsms = append(t.lsms, r.lsm)
		return false
	})
}

func (t *Tracer) unwatched(lsm string, err error) {
	t.opts.Logger.Warn("what this security module refuses of what the kernel's own grants will not be seen", "lsm", lsm, "err", err)
	t.lsms = append(t.lsms, lsm+"_unavailable")
}

func (t *Tracer) watch(lsm source.LSM) (_ *refusals, err error) {
	limit := t.opts.refusalLimit
	objects, err := lsm.Open(t.features, source.Options{
		SeriesLimit: limit, SeriesKept: keptOf(limit), RingSize: 64 << 10, GoneSize: 16 << 10, DenialBurst: t.opts.denialBurst,
		Seed: t.opts.seeds[0], NameSeed: t.opts.seeds[1], NameMask: *t.opts.nameMask,
	})
	if err != nil {
		return nil, err
	}
	r := &refusals{lsm: lsm.Name, objects: objects}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	maps := objects.Collection.Maps
	if err := errors.Join(
		fillBySystemCall(maps["path_arguments"], pathArguments()),
		fillSlots(maps["free_whos"], programs.WhoFixed, limit-keptOf(limit)),
		fillSlots(maps["free_kept"], programs.WhoFixed+limit-keptOf(limit), keptOf(limit)),
	); err != nil {
		return nil, err
	}
	memory := map[string]*ebpf.Memory{}
	for _, name := range []string{"refusals", "pages", "who_records"} {
		if memory[name], err = maps[name].Memory(); err != nil {
			return nil, fmt.Errorf("map the memory of %s: %w", name, err)
		}
	}
	if r.ring, err = ringbuf.NewReader(maps["ring"]); err != nil {
		return nil, fmt.Errorf("open the ring buffer of refusals: %w", err)
	}
	if r.gone, err = ringbuf.NewReader(maps["gone"]); err != nil {
		return nil, fmt.Errorf("open the ring buffer of cgroups that are gone: %w", err)
	}
	if err := objects.Collection.Variables["settings"].Get(&r.settings); err != nil {
		return nil, fmt.Errorf("read the settings: %w", err)
	}
	r.counts = refusalCounts{memory["refusals"]}
	r.stats = &counters{pages: memory["pages"], banks: maps["pages"].MaxEntries(), bankPages: r.settings.BankPages}
	r.cgroups = newCgroups(cgroupMap{maps["cgroups"]}, t.opts.Name)
	r.series = newSeries(limit, t.opts.Retention, t.opts.quarantine)
	r.series.records, r.series.slots, r.series.counts = memory["who_records"], slotsOf(objects, limit), r.counts
	r.series.cgroups = r.cgroups
	r.series.symbol = func(uint32) (string, error) { return "", nil } // who asked, and not for what, is known of them
	return r, nil
}

// fillSlots makes slots free.
func fillSlots(free *ebpf.Map, first, n int) error {
	for slot := first; slot < first+n; slot++ {
		if err := free.Put(nil, uint32(slot)); err != nil {
			return fmt.Errorf("fill %s: %w", free, err)
		}
	}
	return nil
}

// tick is the kernel side's clock. The caller holds the tracer's mu, as of all below.
func (r *refusals) tick() error {
	r.settings.Tick++
	r.settings.Window = r.settings.Tick / windowTicks
	if err := r.objects.Collection.Variables["settings"].Set(r.settings); err != nil {
		return fmt.Errorf("write the settings of the BPF program for %s: %w", r.lsm, err)
	}
	return nil
}

// end ends the series of workloads that are gone.
func (r *refusals) end(now time.Duration) error {
	losses, err := r.stats.losses()
	if err != nil {
		return err
	}
	if losses.GoneLost != r.goneLost {
		if err := r.cgroups.lookAgain(now); err != nil {
			return err
		}
		r.goneLost = losses.GoneLost
	}
	_, err = r.series.end(now)
	return err
}

// add adds them to a snapshot.
func (r *refusals) add(s *Snapshot, now time.Duration) error {
	for slot := range uint32(programs.WhoBorrowed) {
		if n := r.counts.who(slot); n > 0 {
			s.Refusals = append(s.Refusals, RefusalCount{LSM: r.lsm, Capability: checkOf(slot).Capability, Overflow: true, Count: n, Created: s.Attached})
		}
	}
	all, _, ended, err := r.series.all(nil, now)
	if err != nil {
		return err
	}
	for _, w := range all {
		s.Refusals = append(s.Refusals, RefusalCount{
			LSM: r.lsm, Capability: w.Capability, Cgroup: w.Cgroup, Process: w.Process, Owner: w.Owner, Count: w.Count, Created: w.Created,
		})
	}
	for _, c := range ended {
		s.EndedRefusals = append(s.EndedRefusals, EndedRefusals{LSM: r.lsm, Capability: c.Capability, Count: c.Count})
	}
	losses, err := r.stats.losses()
	if err != nil {
		return err
	}
	s.RingLost += losses.Lost
	s.RingWithheld += losses.Withheld
	skipped, err := r.objects.Skipped()
	if err != nil {
		return err
	}
	r.missed = max(r.missed, skipped)
	s.MissedRefusalRuns += r.missed
	return nil
}

func (r *refusals) close() error {
	var errs []error
	for _, reader := range []*ringbuf.Reader{r.ring, r.gone} {
		if reader != nil {
			errs = append(errs, reader.Close())
		}
	}
	return errors.Join(errors.Join(errs...), r.objects.Close())
}
