// Package source finds and attaches what shows this kernel's capability checks: what the kernel has, which of the programs that
// means, how large their maps are. It knows nothing of what they count, and asks the kernel by what it has, never by its version.
package source

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"capability_exporter/bpf/internal/programs"
)

// Options say how large the maps are, and what the kernel side is told once.
type Options struct {
	SeriesLimit, SiteLimit int // slots
	SeriesKept             int // of SeriesLimit, for what is granted on the host alone
	RingSize, GoneSize     int // bytes
	DenialBurst            uint32
	ConfirmEvery           uint32 // a power of two
	Seed, NameSeed         uint64 // odd
	NameMask               uint64 // what is left of a name's hash
	Harmless               uint64 // capabilities without which the kernel goes on wherever it asks
	Pair                   *bool  // whether there are two programs, both on the tracepoint; nil: as the kernel needs it
	Logger                 *slog.Logger
	Fits                   func(Memory) error // called before the maps are made, where they are charged to the memory cgroup; nil: they do
}

// A Peek is how the kernel side reads words off the stack.
type Peek int

// The ways to read the stack.
const (
	PeekCast  Peek = iota // plain loads, after bpf_rdonly_cast
	PeekProbe             // bpf_probe_read_kernel
	PeekNone              // not at all: the kernel could not name what is found
)

// Features are what the kernel's BTF says it can do. They are looked up by name: probing by loading programs would make
// capability checks of its own, some of them denied.
type Features struct {
	kernel *btf.Spec
	cast   bool // the kfunc bpf_rdonly_cast
	Names  bool // of kernel functions: the helper bpf_snprintf
	PtRegs bool // of the current task: the helper bpf_task_pt_regs
	rmdir  bool // the tracepoint cgroup_rmdir
	memcg  bool // map memory counts against the memory cgroup, and not against RLIMIT_MEMLOCK (5.11)
}

// Probe reads the kernel's BTF.
func Probe() (*Features, error) {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		err = fmt.Errorf("read the kernel's BTF: %w", err)
		if Exhausted(err) {
			return nil, err
		}
		return nil, fmt.Errorf("%w; it needs a kernel built with CONFIG_DEBUG_INFO_BTF, and /sys/kernel/btf/vmlinux to be readable", err)
	}
	f := &Features{kernel: kernel, cast: hasFunc(kernel, "bpf_rdonly_cast"), rmdir: hasTypedef(kernel, "btf_trace_cgroup_rmdir")}
	var helpers *btf.Enum
	if err := kernel.TypeByName("bpf_func_id", &helpers); err != nil {
		return nil, fmt.Errorf("find the kernel's BPF helpers in its BTF: %w", err)
	}
	has := func(name string) bool {
		return slices.ContainsFunc(helpers.Values, func(v btf.EnumValue) bool { return v.Name == name })
	}
	var bpfMap *btf.Struct
	if err := kernel.TypeByName("bpf_map", &bpfMap); err != nil {
		return nil, fmt.Errorf("find struct bpf_map in the kernel's BTF: %w", err)
	}
	f.memcg = slices.ContainsFunc(bpfMap.Members, func(m btf.Member) bool { return m.Name == "memcg" || m.Name == "objcg" })
	f.Names = has("BPF_FUNC_snprintf")
	f.PtRegs = has("BPF_FUNC_task_pt_regs")
	return f, nil
}

// Peek is the best way to read the stack that the kernel has.
func (f *Features) Peek() Peek {
	switch {
	case !f.Names:
		return PeekNone
	case !f.cast:
		return PeekProbe
	}
	return PeekCast
}

func hasFunc(kernel *btf.Spec, name string) bool {
	var fn *btf.Func
	return kernel.TypeByName(name, &fn) == nil
}

func hasTypedef(kernel *btf.Spec, name string) bool {
	var t *btf.Typedef
	return kernel.TypeByName(name, &t) == nil
}

// A Source is one way to see the kernel's capability checks.
type Source struct {
	Name    string
	Opts    bool // it carries opts, which tell audited
	load    func() (*ebpf.CollectionSpec, error)
	program [3]string // by Peek
	pair    [2]string // two programs in place of the one, where programs are preemptible
	entry   [2]string // better ones, the first at the iterator's entry (entry.h)
	// preemptible tells whether they are, and guarded what speaks against the better ones.
	preemptible func(*Features) (bool, error)
	guarded     func(*Features) error
	latestFirst bool // of several programs, the one that was attached last runs first
	present     func(*btf.Spec) bool
	missing     string // what present looks for
}

// Present tells whether the kernel has what the source attaches to.
func (s Source) Present(f *Features) bool { return s.present(f.kernel) }

// Preemptible tells whether the kernel can preempt this source's programs.
func (s Source) Preemptible(f *Features) (bool, error) { return s.preemptible(f) }

// The names of the sources.
const (
	Tracepoint = "tracepoint"
	Fexit      = "fexit"
)

// All lists the sources in the order in which they are tried.
func All() []Source {
	return []Source{{
		Name:        Tracepoint,
		load:        programs.LoadTracepoint,
		program:     [3]string{"tracepoint", "tracepoint_probe", "tracepoint_probe"}, // which has been there for as long as names
		pair:        [2]string{"tracepoint_first", "tracepoint_second"},
		entry:       [2]string{"entry_first", "entry_second"},
		preemptible: (*Features).Preemptible,
		guarded:     (*Features).entryGuarded,
		present:     func(kernel *btf.Spec) bool { return hasTypedef(kernel, "btf_trace_cap_capable") },
		missing:     "the tracepoint cap_capable (Linux 6.14 and later)",
	}, {
		Name:        Fexit,
		Opts:        true,
		load:        programs.LoadFexit,
		program:     [3]string{"fexit", "fexit_probe", "fexit_unnamed"},
		pair:        [2]string{"fexit_first", "fexit_second"},
		preemptible: func(*Features) (bool, error) { return fullyPreemptible() },
		latestFirst: true, // __bpf_trampoline_link_prog, kernel/bpf/trampoline.c: hlist_add_head
		present:     func(kernel *btf.Spec) bool { return hasFunc(kernel, "cap_capable") },
		missing:     "the function cap_capable in its BTF",
	}}
}

const (
	programGone    = "cgroup_gone"
	programClock   = "clock"
	programRelease = "release"
	programBeside  = "entry_beside" // of the better two
)

// mapsOfPair are those that only two programs have.
func mapsOfPair() []string { return []string{".data.marks", "spilled"} }

// errAbsent is the cause of a Refusal with the reason "absent".
var errAbsent = errors.New("the kernel lacks it")

// Objects are a loaded and attached source.
type Objects struct {
	Collection *ebpf.Collection
	Programs   []*ebpf.Program // that count, in the order in which they run
	links      []link.Link
	atEntry    link.Link // of these, that of the first, where it is at the iterator's entry

	latestFirst bool // as in Source
}

// BootTime is the kernel's CLOCK_BOOTTIME, whatever time namespace the caller is in.
func (o *Objects) BootTime() (int64, error) {
	if _, err := o.Collection.Programs[programClock].Run(&ebpf.RunOptions{}); err != nil {
		return 0, fmt.Errorf("run the BPF program %s: %w", programClock, err)
	}
	var now uint64
	if err := o.Collection.Variables["now"].Get(&now); err != nil {
		return 0, fmt.Errorf("read the kernel's time: %w", err)
	}
	return int64(now), nil
}

// Release tells the kernel side that a slot is free again, which a series had whose share it counted in.
func (o *Objects) Release(owner uint64, pool, slot uint32) error {
	if _, err := o.Collection.Programs[programRelease].Run(&ebpf.RunOptions{Context: [3]uint64{owner, uint64(pool), uint64(slot)}}); err != nil {
		return fmt.Errorf("run the BPF program %s: %w", programRelease, err)
	}
	return nil
}

// Banks is the number of programs that count, each in a bank of its own.
func (o *Objects) Banks() int { return len(o.Programs) }

// AtEntry tells whether the first of two programs is at the iterator's entry, where it is not preempted.
func (o *Objects) AtEntry() bool { return o.Collection.Programs[programBeside] != nil }

// Skipped is how often the kernel skipped the one program, or the first of two.
func (o *Objects) Skipped() (uint64, error) {
	n, err := skipped(o.Programs[0].FD())
	if err != nil {
		return 0, fmt.Errorf("read how often the kernel skipped the BPF program: %w", err)
	}
	if o.atEntry != nil {
		info, err := o.atEntry.Info()
		if err != nil {
			return 0, fmt.Errorf("read how often the kernel did not come to the BPF program: %w", err)
		}
		n += info.KprobeMulti().Missed // fprobe's own
	}
	return n, nil
}

// skipped reads what the file in /proc says of a program. Asked for the same by bpf(2), the kernel looks whether CAP_BPF is held, with an
// audited check: who has given it up would be denied it at each snapshot.
func skipped(fd int) (uint64, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(content)) {
		if value, is := strings.CutPrefix(line, "recursion_misses:"); is {
			return strconv.ParseUint(strings.TrimSpace(value), 10, 64)
		}
	}
	return 0, nil // before Linux 5.12 the kernel does not count it
}

// Detach stops counting. What was counted stays. Of two programs, the second goes first: it never counts for want of the other.
func (o *Objects) Detach() error {
	var errs []error
	for _, l := range slices.Backward(o.links) {
		errs = append(errs, l.Close())
	}
	o.links, o.atEntry = nil, nil
	return errors.Join(errs...)
}

// Close detaches the programs and frees all.
func (o *Objects) Close() error {
	err := o.Detach()
	if o.Collection != nil {
		o.Collection.Close()
	}
	return err
}

// Open loads the source. Nothing is counted until attach.
func (s Source) Open(f *Features, mode Peek, opts Options) (*Objects, error) {
	if !s.Present(f) {
		return nil, fmt.Errorf("%w: %s", errAbsent, s.missing)
	}
	two, err := s.wantsTwo(f, mode, opts)
	if err != nil {
		return nil, err
	}
	if !two {
		return s.open(f, opts, s.program[mode])
	}
	if s.guarded != nil && opts.Pair == nil {
		o, err := s.openEntry(f, opts)
		if err == nil || Exhausted(err) {
			return o, err
		}
		opts.Logger.Info("both of the programs that count are preemptible; what is missed while both have been is counted as missed runs", "err", err)
	}
	return s.open(f, opts, s.pair[:]...)
}

func (s Source) openEntry(f *Features, opts Options) (*Objects, error) {
	if err := s.guarded(f); err != nil {
		return nil, err
	}
	return s.open(f, opts, s.entry[:]...)
}

// open loads the programs of those names, in the order in which they run.
func (s Source) open(f *Features, opts Options, names ...string) (*Objects, error) {
	spec, err := s.load()
	if err != nil {
		return nil, fmt.Errorf("read the BPF object: %w", err)
	}
	wanted := append([]string{programClock, programRelease}, names...)
	if f.rmdir {
		wanted = append(wanted, programGone)
	}
	if names[0] == s.entry[0] {
		wanted = append(wanted, programBeside)
	}
	for _, name := range wanted {
		if spec.Programs[name] == nil {
			return nil, fmt.Errorf("%w: the BPF object has no program %s for this architecture", errAbsent, name)
		}
	}
	for name, p := range spec.Programs {
		if !slices.Contains(wanted, name) {
			delete(spec.Programs, name)
			continue
		}
		p.KernelVersion = anyVersion
		leaveOutStays(p, func(name string) bool { return hasFunc(f.kernel, name) })
	}
	if len(names) == 1 {
		for _, name := range mapsOfPair() {
			delete(spec.Maps, name)
		}
		// A variable is not loaded without its map.
		maps.DeleteFunc(spec.Variables, func(_ string, v *ebpf.VariableSpec) bool { return spec.Maps[v.SectionName] == nil })
	}
	memory, err := size(spec, f, opts, len(names))
	if err != nil {
		return nil, err
	}
	if opts.Fits != nil && f.memcg {
		if err := opts.Fits(memory); err != nil {
			return nil, err
		}
	}
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
		Programs: ebpf.ProgramOptions{KernelTypes: f.kernel},
	})
	if err != nil {
		return nil, f.explain(fmt.Errorf("load the BPF objects: %w", err), memory)
	}
	o := &Objects{Collection: c, latestFirst: s.latestFirst}
	for _, name := range names {
		o.Programs = append(o.Programs, c.Programs[name])
	}
	return o, nil
}

// wantsTwo tells whether one program would miss checks. A kernel that cannot be asked gets the one, and
// capability_exporter_missed_runs_total tells what that costs.
func (s Source) wantsTwo(f *Features, mode Peek, opts Options) (bool, error) {
	if mode != PeekCast {
		return false, nil
	}
	if opts.Pair != nil {
		return *opts.Pair, nil
	}
	two, err := s.preemptible(f)
	if errors.Is(err, unix.EPERM) || Exhausted(err) {
		return false, err // the source itself will be refused, too
	}
	if err != nil {
		opts.Logger.Warn("cannot tell whether BPF programs are preemptible; if they are, some checks are missed, and counted as missed runs", "err", err)
	}
	return two, nil
}

// size gives the maps their sizes and the constants their values. It returns what that takes.
func size(spec *ebpf.CollectionSpec, f *Features, opts Options, banks int) (Memory, error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return Memory{}, fmt.Errorf("count the CPUs: %w", err)
	}
	sitePages := (programs.SiteFixed + opts.SiteLimit + programs.PageSlots - 1) / programs.PageSlots
	whoPages := (programs.WhoFixed + opts.SeriesLimit + programs.PageSlots - 1) / programs.PageSlots
	bankPages := programs.SitePage + sitePages + whoPages
	if err := setSizes(spec, map[string]int{
		"pages":        cpus * banks * bankPages,
		"free_sites":   opts.SiteLimit,
		"free_whos":    opts.SeriesLimit,
		"free_kept":    opts.SeriesLimit,
		"shares":       opts.SeriesLimit + 4*cpus, // each has a slot
		"site_records": programs.SiteFixed + opts.SiteLimit,
		"who_records":  programs.WhoFixed + opts.SeriesLimit,
		// An element that one CPU is about to give up is still taken while others look for a free one.
		"sites":   opts.SiteLimit + 4*cpus,
		"whos":    opts.SeriesLimit + 4*cpus,
		"cgroups": opts.SeriesLimit + 4*cpus, // each has a slot, so it can't get full
		"ring":    opts.RingSize,
		"gone":    opts.GoneSize,
	}); err != nil {
		return Memory{}, err
	}
	if err := setVariables(spec, map[string]any{
		"has_snprintf": number(f.Names),
		"has_pt_regs":  number(f.PtRegs),
		"denial_burst": opts.DenialBurst,
		"name_mask":    opts.NameMask,
		"harmless":     opts.Harmless,
		"preemptible":  number(banks == 2 && f.stays()),
		"slots":        [2]uint32{uint32(opts.SeriesLimit - opts.SeriesKept), uint32(opts.SeriesKept)},
	}); err != nil {
		return Memory{}, err
	}
	var v programs.SettingValues
	if err := spec.Variables["settings"].Get(&v); err != nil {
		return Memory{}, fmt.Errorf("read the BPF object's settings: %w", err)
	}
	v.WhoPage, v.BankPages, v.CpuPages = uint32(programs.SitePage+sitePages), uint32(bankPages), uint32(banks*bankPages)
	v.ConfirmEvery = opts.ConfirmEvery
	v.Seed, v.NameSeed = opts.Seed, opts.NameSeed
	if err := setVariables(spec, map[string]any{"settings": v}); err != nil {
		return Memory{}, err
	}
	return memoryOf(spec, cpus), nil
}

func setSizes(spec *ebpf.CollectionSpec, entries map[string]int) error {
	for name, n := range entries {
		m := spec.Maps[name]
		if m == nil {
			return fmt.Errorf("the BPF object has no map %s", name)
		}
		m.MaxEntries = uint32(n)
	}
	return nil
}

func setVariables(spec *ebpf.CollectionSpec, values map[string]any) error {
	for name, value := range values {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("set the BPF object's %s: %w", name, err)
		}
	}
	return nil
}

func number(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}

// order is that in which the programs are attached.
func (o *Objects) order() []*ebpf.Program {
	order := slices.Clone(o.Programs)
	if o.latestFirst {
		slices.Reverse(order)
	}
	if beside := o.Collection.Programs[programBeside]; beside != nil {
		order = slices.Insert(order, 1, beside) // when the second comes, it is not alone: all goes by the first
	}
	if gone := o.Collection.Programs[programGone]; gone != nil {
		order = append(order, gone)
	}
	return order
}

// Attach begins to count.
func (o *Objects) Attach() error {
	for _, p := range o.order() {
		var l link.Link
		var err error
		switch p.Type() {
		case ebpf.Kprobe:
			l, err = attachEntry(p)
			o.atEntry = l
		case ebpf.RawTracepoint:
			l, err = attachSELinux(p)
		default:
			l, err = link.AttachTracing(link.TracingOptions{Program: p})
		}
		if err != nil {
			return fmt.Errorf("attach the BPF program %s: %w", p, err)
		}
		o.links = append(o.links, l)
	}
	return nil
}

// ErrMemlock is the cause of a Refusal with the reason "memlock".
var ErrMemlock = errors.New("RLIMIT_MEMLOCK is too low")

// errLockdown is the cause of a Refusal by kernel lockdown.
var errLockdown = errors.New("kernel lockdown is at confidentiality, which keeps BPF programs from reading kernel memory (LOCKDOWN_BPF_READ_KERNEL); boot with lockdown=integrity or without")

// explain puts the cause before an error that does not tell it.
//
// To CAP_PERFMON the kernel denies the helpers that read its memory for no other reason than lockdown (bpf_base_func_proto,
// kernel/bpf/helpers.c).
func (f *Features) explain(err error, need Memory) error {
	var limit unix.Rlimit
	if errors.Is(err, unix.EPERM) && !f.memcg && unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit) == nil && limit.Cur != unix.RLIM_INFINITY && smallMapFits() {
		return fmt.Errorf("%w: it is %d KiB, and on this kernel (Linux before 5.11) what the exporter counts in is charged to it, about %d KiB; raise it before the start, as the exporter may not (systemd: LimitMEMLOCK=infinity in the unit; a shell: ulimit -l unlimited): %w", ErrMemlock, limit.Cur/1024, need.Maps/1024, err)
	}
	var refused *ebpf.VerifierError
	if !errors.As(err, &refused) {
		return err
	}
	for _, line := range refused.Log {
		if strings.Contains(line, "bpf_probe_read") && (strings.Contains(line, "cannot use helper") || strings.Contains(line, "unknown func")) {
			return fmt.Errorf("%w: %w", errLockdown, err)
		}
	}
	return err
}

// smallMapFits tells a limit, which small maps are within, from a refusal of all.
func smallMapFits() bool {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return false
	}
	m.Close()
	return true
}

// ReasonOf sorts what stood in the way of a source, for capability_exporter_source_refused_info.
func ReasonOf(err error) string {
	switch {
	case errors.Is(err, errAbsent), errors.Is(err, ebpf.ErrNotSupported):
		return "absent"
	case errors.Is(err, ErrMemlock):
		return "memlock"
	case errors.Is(err, unix.ENOMEM):
		return "memory"
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return "files"
	case errors.Is(err, unix.EPERM), errors.Is(err, errLockdown):
		return "permission"
	}
	return "verifier"
}
