// Package bpf counts the kernel's capability checks in the kernel itself, and reads what was counted. It is the public face of the
// rooms in internal: it knows what a slot is and whose it is. It knows nothing of metrics, nor of what people call a workload.
package bpf

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf/internal/callers"
	"capability_exporter/bpf/internal/programs"
	"capability_exporter/bpf/internal/source"
)

// Options say how much to keep. The zero value is good for most machines.
type Options struct {
	SeriesLimit int           // workload slots; 0: 4096
	SiteLimit   int           // call site slots; 0: 4096
	RingSize    int           // bytes, a power of two and a multiple of the page size; 0: 256 KiB
	Retention   time.Duration // how long a series is still served after its cgroup is gone; 0: 5 minutes
	// HeldInterval is how often it is looked which capabilities processes hold; 0: never.
	HeldInterval time.Duration
	Logger       *slog.Logger // nil: none
	// Name tells which cgroups are one workload to people: those of one name. A series goes on for as long as one of them lives. It sees
	// a cgroup's ID only where the path is not whole, and is called once for each cgroup. nil: those of one path.
	Name func(Cgroup) string
	// Announce is called for each record of the ring buffer, by one goroutine; while it runs the ring fills. nil: dropped.
	Announce func(Announcement)
	// FallbackWait is for how long a denial is kept from Announce, at most, where the kernel may ask for another capability in its place: to
	// know whether that is granted. 0: not at all.
	FallbackWait time.Duration
	// Fits is asked before the maps are made whether there is memory for them, where the kernel charges it to the memory cgroup
	// (since Linux 5.11). nil: there is. Its error, which should wrap unix.ENOMEM, ends Open.
	Fits func(Memory) error

	// What only tests change.
	sources      []Source
	refusalLimit int    // slots for what each LSM refuses; 0: refusalSlots
	sys          string // where the kernel says which of them are active; "": /sys
	peek         *source.Peek
	pair         *bool // whether there are two programs, both of which are then on the tracepoint or both fexit
	denialBurst  uint32
	confirmEvery uint32
	quarantine   time.Duration
	second       <-chan time.Time // of the housekeeping; nil: the clock's
	holdReader   <-chan struct{}  // the ring's reader waits for it
	holdGone     <-chan struct{}  // and so does that of the ring of cgroups that are gone,
	goneSize     int              // which has so many bytes
	heldMost     uint32           // cgroups that hold something; 0: programs.HeldMost
	nameMask     *uint64          // what is left of a name's hash in the table; nil: all
	seeds        [2]uint64        // odd; 0: others at each start
	lessonTime   time.Duration    // that Open takes at most to learn
}

func (o *Options) setDefaults() {
	set := func(v *int, to int) {
		if *v == 0 {
			*v = to
		}
	}
	set(&o.SeriesLimit, 4096)
	set(&o.SiteLimit, 4096)
	set(&o.RingSize, 256<<10)
	if o.Retention == 0 {
		o.Retention = 5 * time.Minute
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Name == nil {
		o.Name = pathName
	}
	if o.Announce == nil {
		o.Announce = func(Announcement) {}
	}
	if o.sys == "" {
		o.sys = "/sys"
	}
	if o.denialBurst == 0 {
		o.denialBurst = 5
	}
	if o.confirmEvery == 0 {
		o.confirmEvery = 8192
	}
	if o.lessonTime == 0 {
		o.lessonTime = time.Second
	}
	if o.quarantine == 0 {
		o.quarantine = time.Minute
	}
	if o.nameMask == nil {
		all := ^uint64(0)
		o.nameMask = &all
	}
	if o.heldMost == 0 {
		o.heldMost = programs.HeldMost
	}
	set(&o.goneSize, 64<<10)
	set(&o.refusalLimit, refusalSlots)
	for i := range o.seeds {
		if o.seeds[i] == 0 {
			var random [8]byte
			_, _ = rand.Read(random[:]) // it never fails
			o.seeds[i] = binary.NativeEndian.Uint64(random[:]) | 1
		}
	}
}

// windowTicks is the number of seconds in which a key may announce denialBurst denials.
const windowTicks = 60

// A Tracer counts every capability check from Open to Close. Its methods are safe for concurrent use.
type Tracer struct {
	opts     Options
	features *source.Features
	mode     source.Peek
	source   source.Source
	objects  *source.Objects
	refused  []Refusal
	clock    bootClock // its wall is when counting began
	lsms     []string  // as in Info

	holdings            *holdings
	ring, samples, gone *ringbuf.Reader
	ringRecords         atomic.Uint64
	stop, learned       chan struct{}
	running             sync.WaitGroup
	closing             func() error

	mu          sync.Mutex // guards all below
	settings    programs.SettingValues
	counters    *counters
	cgroups     *cgroups
	series      *series
	refusals    []*refusals
	siteRecords *siteRecords
	missed      missedRuns
	goneLost    uint64 // how often the ring of cgroups that are gone has been full
}

// Open tries the sources in order, and counts with the first that the kernel lets it have. It needs RequiredCapabilities.
//
// Its error joins what stood in the way of each source; errors.Is(err, unix.EPERM) holds if the kernel refused one, and of ENOMEM,
// EMFILE and ENFILE one does if there was not enough memory, or no room for another open file.
func Open(opts Options) (*Tracer, error) {
	opts.setDefaults()
	f, err := source.Probe()
	if err != nil {
		return nil, err
	}
	t := &Tracer{opts: opts, features: f, stop: make(chan struct{}), learned: make(chan struct{})}
	t.closing = sync.OnceValue(t.close)
	t.mode = f.Peek()
	if opts.peek != nil {
		t.mode = *opts.peek
	}
	var errs []error
	for _, s := range source.All() {
		if opts.sources != nil && !slices.Contains(opts.sources, Source(s.Name)) {
			continue
		}
		t.objects, err = s.Open(f, t.mode, source.Options{
			SeriesLimit: opts.SeriesLimit, SeriesKept: keptOf(opts.SeriesLimit), SiteLimit: opts.SiteLimit, RingSize: opts.RingSize, GoneSize: opts.goneSize,
			DenialBurst: opts.denialBurst, ConfirmEvery: opts.confirmEvery, Pair: opts.pair, Logger: opts.Logger,
			Seed: opts.seeds[0], NameSeed: opts.seeds[1], NameMask: *opts.nameMask, Fits: opts.Fits,
			Harmless: callers.Harmless(),
		})
		if err == nil {
			t.source = s
			break
		}
		r := Refusal{Source: Source(s.Name), Reason: source.ReasonOf(err), Err: err}
		t.refused = append(t.refused, r)
		opts.Logger.Warn("source refused", "via", s.Name, "reason", r.Reason, "err", err)
		errs = append(errs, fmt.Errorf("source %s (%s): %w", s.Name, r.Reason, err))
		if source.Exhausted(err) {
			break // there would be as little for the next one
		}
	}
	if t.objects == nil {
		return nil, fmt.Errorf("no way to see the kernel's capability checks: %w", errors.Join(errs...))
	}
	if err := t.start(); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	opts.Logger.Info("counting capability checks", "via", t.source.Name, "audit", t.Info().Audit, "programs", t.objects.Banks(), "at_entry", t.objects.AtEntry())
	return t, nil
}

func fillFallbacks(table *ebpf.Map) error {
	all := map[programs.Place]programs.Fallback{}
	for at, f := range callers.Fallbacks() {
		all[programs.Place{Function: symbolKey(at.Function), Cap: uint64(at.Capability)}] = programs.Fallback{Same: f.Same, Elsewhere: f.Elsewhere}
	}
	for _, name := range callers.Interrupts() {
		all[programs.Place{Function: symbolKey(name), Cap: uint64(cap.NET_RAW)}] = programs.Fallback{Interrupt: 1}
	}
	for at, f := range all {
		if err := table.Put(at, f); err != nil {
			return fmt.Errorf("fill the table of what is asked for after a denial: %w", err)
		}
	}
	return nil
}

// start fills the maps, attaches, and starts what runs beside the kernel side.
func (t *Tracer) start() (err error) {
	maps := t.objects.Collection.Maps
	for name, role := range callers.Roles() {
		if err := maps["roles"].Put(symbolKey(name), role); err != nil {
			return fmt.Errorf("fill the table of kernel functions: %w", err)
		}
	}
	for name, p := range callers.Probes() {
		if err := maps["probes"].Put(symbolKey(name), programs.Probe{Caps: p.Any, Plain: p.Plain}); err != nil {
			return fmt.Errorf("fill the table of kernel functions that go on: %w", err)
		}
	}
	if err := errors.Join(
		fillFallbacks(maps["fallbacks"]),
		fillBySystemCall(maps["path_arguments"], pathArguments()),
		fillFallbackCalls(maps["calls"]),
	); err != nil {
		return err
	}
	kept := keptOf(t.opts.SeriesLimit)
	if err := errors.Join(
		fillSlots(maps["free_sites"], programs.SiteFixed, t.opts.SiteLimit),
		fillSlots(maps["free_whos"], programs.WhoFixed, t.opts.SeriesLimit-kept),
		fillSlots(maps["free_kept"], programs.WhoFixed+t.opts.SeriesLimit-kept, kept),
	); err != nil {
		return err
	}
	memory := func(name string) *ebpf.Memory {
		m, failed := maps[name].Memory()
		if failed != nil {
			err = errors.Join(err, fmt.Errorf("map the memory of %s: %w", name, failed))
		}
		return m
	}
	reader := func(name string) *ringbuf.Reader {
		r, failed := ringbuf.NewReader(maps[name])
		if failed != nil {
			err = errors.Join(err, fmt.Errorf("open the ring buffer %s: %w", name, failed))
		}
		return r
	}
	pages, whoRecords := memory("pages"), memory("who_records")
	t.siteRecords = newSiteRecords(memory("site_records"), t.opts.SiteLimit)
	t.ring, t.samples, t.gone = reader("ring"), reader("samples"), reader("gone")
	if err != nil {
		return err
	}
	if err := t.objects.Collection.Variables["settings"].Get(&t.settings); err != nil {
		return fmt.Errorf("read the settings: %w", err)
	}
	// The rest is loaded before the first program counts: for each call of a helper the kernel asks for a capability, which makes thousands
	// of checks, and of their stacks nothing has been learned yet.
	t.openRefusals()
	t.holdings = newHoldings(t.features, &t.opts, t.opts.Logger)
	if t.clock, err = startClock(t.objects.BootTime); err != nil {
		return err
	}
	t.counters = newCounters(pages, maps["pages"].MaxEntries()/t.settings.BankPages, &t.settings)
	t.cgroups = newCgroups(cgroupMap{maps["cgroups"]}, t.opts.Name)
	t.series = newSeries(t.opts.SeriesLimit, t.opts.Retention, t.opts.quarantine)
	t.series.records, t.series.slots, t.series.counts = whoRecords, slotsOf(t.objects, t.opts.SeriesLimit), t.counters
	t.series.cgroups, t.series.clock, t.series.symbol = t.cgroups, t.clock, t.siteRecords.symbol
	if err := t.objects.Attach(); err != nil {
		return err
	}
	t.attachRefusals()
	t.running.Go(func() { t.holdings.run(t.stop) })
	t.running.Go(func() { t.readRing(t.ring, t.cgroups, "") })
	t.running.Go(func() { t.readGone(t.gone, t.cgroups) })
	for _, r := range t.refusals {
		t.running.Go(func() { t.readRing(r.ring, r.cgroups, r.lsm) })
		t.running.Go(func() { t.readGone(r.gone, r.cgroups) })
	}
	t.running.Go(t.learn)
	t.running.Go(t.keepHouse)
	if t.mode != source.PeekNone {
		t.giveLessons()
	}
	return nil
}

// Info tells what Open settled on.
func (t *Tracer) Info() Info {
	t.mu.Lock()
	defer t.mu.Unlock()
	info := Info{Source: Source(t.source.Name), Audit: "callsite", Cgroups: t.cgroups.hierarchies(), LSM: strings.Join(t.lsms, ","), Refused: t.refused}
	if t.source.Opts {
		info.Audit = "opts"
	}
	if t.lsms == nil {
		info.LSM = "none"
	}
	return info
}

// Recheck makes calls of the kinds that go on being made after Open. Who has given up capabilities since learns by it whether the kernel
// asks for them: before Linux 5.19 it asks for CAP_BPF at each bpf(2) call, unless the sysctl kernel.unprivileged_bpf_disabled is 0.
func (t *Tracer) Recheck() error {
	if _, err := t.objects.BootTime(); err != nil {
		return err
	}
	if _, err := (cgroupMap{t.objects.Collection.Maps["cgroups"]}).Lookup(0); err != nil {
		return err
	}
	_, err := t.Snapshot()
	return err
}

// Held tells which capabilities processes held when that was last looked at.
func (t *Tracer) Held() Held { return t.holdings.last() }

// Close stops counting and frees what Open took. To call it again does nothing.
func (t *Tracer) Close() error {
	return t.closing()
}

func (t *Tracer) close() error {
	var errs []error
	for _, r := range []*ringbuf.Reader{t.ring, t.samples, t.gone} {
		if r != nil {
			errs = append(errs, r.Close())
		}
	}
	for _, r := range t.refusals {
		errs = append(errs, r.close())
	}
	close(t.stop)
	t.running.Wait()
	if t.holdings != nil {
		errs = append(errs, t.holdings.close())
	}
	return errors.Join(append(errs, t.objects.Close())...)
}

// set changes the kernel side's settings. The caller holds mu.
func (t *Tracer) set(change func(*programs.SettingValues)) error {
	change(&t.settings)
	if err := t.objects.Collection.Variables["settings"].Set(t.settings); err != nil {
		return fmt.Errorf("write the BPF program's settings: %w", err)
	}
	return nil
}

// endSeries ends the series of workloads that are gone. The caller holds mu.
func (t *Tracer) endSeries() error {
	now, err := t.clock.now()
	if err != nil {
		return err
	}
	if err := t.counters.read(); err != nil {
		return err
	}
	losses, err := t.counters.losses()
	if err != nil {
		return err
	}
	if losses.GoneLost != t.goneLost {
		if err := t.cgroups.lookAgain(now); err != nil {
			return err
		}
		t.goneLost = losses.GoneLost
	}
	took, err := t.series.end(now)
	if took {
		// Each CPU's cache asks the table again, where the keys are no more.
		err = errors.Join(err, t.set(func(v *programs.SettingValues) { v.Epoch++ }))
	}
	return err
}

// endRefusals does the same for what LSMs refuse. The caller holds mu.
func (t *Tracer) endRefusals() error {
	now, err := t.clock.now()
	if err != nil {
		return err
	}
	for _, r := range t.refusals {
		err = errors.Join(err, r.end(now))
	}
	return err
}

// keepHouse is the kernel side's clock, and looks for series that have ended.
func (t *Tracer) keepHouse() {
	second := t.opts.second
	if second == nil {
		clock := time.NewTicker(time.Second)
		defer clock.Stop()
		second = clock.C
	}
	for n := 1; ; n++ {
		select {
		case <-t.stop:
			return
		case <-second:
		}
		t.mu.Lock()
		err := t.set(func(v *programs.SettingValues) {
			v.Tick++
			v.Window = v.Tick / windowTicks
		})
		for _, r := range t.refusals {
			err = errors.Join(err, r.tick())
		}
		if n%10 == 0 {
			err = errors.Join(err, t.endSeries(), t.endRefusals())
		}
		t.mu.Unlock()
		if err != nil {
			t.opts.Logger.Error("housekeeping failed", "err", err)
		}
	}
}

// lessonPairs is how many ways to cap_capable Open learns before it returns: overcommit, capable and ns_capable, where the kernel takes
// them for what giveLessons does.
const lessonPairs = 3

// giveLessons makes checks of the most usual kinds until the kernel side knows their stacks, so that none of a storm that comes right
// after the start need be unwound: an unwind takes long, and where programs can be preempted others are then missed. What it asks
// for is granted: memory overcommit by no-audit, and the two capabilities.
func (t *Tracer) giveLessons() {
	deadline := time.After(t.opts.lessonTime)
	for {
		_ = source.MakeCheck() // as the kernel makes one at each mapping
		_, _ = t.objects.Programs[0].Stats()
		if m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "lesson", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}); err == nil {
			m.Close()
		}
		select {
		case <-t.learned:
			return
		case <-t.stop:
			return
		case <-deadline: // the rest is learned from others
			return
		case <-time.After(time.Millisecond):
		}
	}
}

// learn takes in the stacks that the kernel side had to unwind, and gives it the offsets they show.
func (t *Tracer) learn() {
	l := callers.NewLearner(t.source.Opts)
	ready := sync.OnceFunc(func() { close(t.learned) })
	var record ringbuf.Record
	for t.samples.ReadInto(&record) == nil {
		s, err := decode[programs.Sample](record.RawSample)
		if err == nil && l.Learn(s) {
			err = t.teach(l)
			if l.Knows() >= lessonPairs {
				ready()
			}
		}
		if err != nil {
			t.opts.Logger.Error("could not learn from a stack", "err", err)
		}
	}
}

// teach hands what the learner knows to the kernel side.
func (t *Tracer) teach(l *callers.Learner) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.settings
	l.Publish(&t.settings)
	if t.settings == before {
		return nil
	}
	return t.set(func(*programs.SettingValues) {})
}
