package bpf

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"capability_exporter/bpf/internal/testprog"

	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// A witness sees every check with its whole stack, by a program and by rules of its own. It shares nothing with the product.
type witness struct {
	program string
	loaded  *testprog.Loaded
	symbols []kernelSymbol

	mu   sync.Mutex
	seen []testprog.Sighting
}

type kernelSymbol struct {
	address uint64
	name    string
}

// A testimony is what the witness can say about a check, and so can the product.
type testimony struct {
	check   Check
	audited Audited
	asker   string
}

// newWitness attaches a program, testprog.Witness or one of its like, and others that it is told by.
func newWitness(t *testing.T, program string, beside ...string) *witness {
	needsRoot(t)
	loaded, err := testprog.Load(program, beside...)
	if err != nil {
		t.Skipf("the kernel lets nobody have the program %s: %v", program, err)
	}
	t.Cleanup(loaded.Close)
	w := &witness{program: program, loaded: loaded, symbols: readSymbols(t)}
	reader, err := ringbuf.NewReader(loaded.Collection.Maps["sightings"])
	if err != nil {
		t.Fatal(err)
	}
	var links []link.Link
	for _, name := range append(beside, program) {
		l, err := loaded.AttachOf(name)
		if err != nil {
			t.Fatal(err)
		}
		links = append(links, l)
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		for {
			rec, err := reader.Read()
			if err != nil {
				return
			}
			s, err := decode[testprog.Sighting](rec.RawSample)
			if err != nil {
				t.Error(err)
				return
			}
			w.mu.Lock()
			w.seen = append(w.seen, *s)
			w.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		for _, l := range links {
			l.Close()
		}
		reader.Close()
		reading.Wait()
	})
	return w
}

func readSymbols(t *testing.T) (symbols []kernelSymbol) {
	f, err := os.Open("/proc/kallsyms")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		address, err := strconv.ParseUint(fields[0], 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		if kind := strings.ToLower(fields[1]); kind == "t" || kind == "w" {
			symbols = append(symbols, kernelSymbol{address, fields[2]})
		}
	}
	slices.SortFunc(symbols, func(a, b kernelSymbol) int { return cmp.Compare(a.address, b.address) })
	if len(symbols) == 0 || symbols[len(symbols)-1].address == 0 {
		lacks(t, "/proc/kallsyms shows no addresses: kernel.kptr_restrict is 2, or this is not root")
	}
	return symbols
}

func (w *witness) name(ret uint64) string {
	i, _ := slices.BinarySearchFunc(w.symbols, ret, func(s kernelSymbol, to uint64) int { return cmp.Compare(s.address, to) })
	if i == 0 {
		return ""
	}
	return symbolName(w.symbols[i-1].name) // the last one below the return address
}

// sightings returns how many checks have been seen, once all that were made are in.
func (w *witness) sightings(t *testing.T) int {
	t.Helper()
	var made, lost uint64
	if err := w.loaded.Collection.Variables["sightings_made"].Get(&made); err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		w.mu.Lock()
		n := len(w.seen)
		w.mu.Unlock()
		if err := w.loaded.Collection.Variables["sightings_lost"].Get(&lost); err != nil {
			t.Fatal(err)
		}
		if lost != 0 {
			t.Fatalf("the witness lost %d checks", lost)
		}
		if uint64(n) >= made {
			return n
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the witness does not come to an end")
	return 0
}

// tell sums up the sightings from one to another. class says what a check is by its sighting, its wrapper and its asker.
func (w *witness) tell(t *testing.T, from, to int, class func(s *testprog.Sighting, wrapper, asker string) Audited) map[testimony]uint64 {
	sums := map[testimony]uint64{}
	w.mu.Lock()
	seen := slices.Clone(w.seen[from:to])
	w.mu.Unlock()
	for i := range seen {
		sums[w.testimony(t, &seen[i], class)]++
	}
	return sums
}

// testimony is what the witness makes of one sighting.
func (w *witness) testimony(t *testing.T, s *testprog.Sighting, class func(s *testprog.Sighting, wrapper, asker string) Audited) testimony {
	stack := s.Stack[:s.Depth]
	at := slices.IndexFunc(stack, func(ip uint64) bool { return w.name(ip) == "cap_capable" })
	if at < 0 || at+4 >= len(stack) {
		t.Fatalf("a stack without cap_capable: %x", stack)
	}
	frames := stack[at+1:]
	if w.name(frames[0]) == "security_capable" {
		frames = frames[1:]
	}
	wrapper := w.name(frames[0])
	switch w.name(frames[1]) { // these ask for their callers, too, where they are not the wrapper themselves
	case "security_vm_enough_memory_mm", "aa_change_profile":
		frames = frames[1:]
	}
	asker := w.name(frames[1])
	return testimony{Check{Capability: uint8(s.Cap), Denied: s.Ret != 0, UserNS: s.Level != 0}, class(s, wrapper, asker), asker}
}

// witnessBeside is the program that sees what a tracer's source does, result and all.
func witnessBeside(tr *Tracer) string {
	if tr.Info().Source == SourceFexit {
		return testprog.Both
	}
	return testprog.Witness
}

// skipped is how often the kernel has skipped one of the witness's programs, which somebody preempted was still in.
func (w *witness) skipped(t *testing.T) (n uint64) {
	for _, p := range w.loaded.Collection.Programs {
		stats, err := p.Stats()
		if err != nil {
			t.Fatal(err)
		}
		n += stats.RecursionMisses
	}
	return n
}

// askedInPlace are, by rules of the test's own, the pairs of capabilities that the kernel asks for one after the other; and by which
// function it asks for the second, where that is another than the one that asked for the first.
func askedInPlace(first, second uint8, by string) bool {
	here := map[[2]cap.Value]string{
		{cap.BPF, cap.SYS_ADMIN}: "", {cap.PERFMON, cap.SYS_ADMIN}: "", {cap.CHECKPOINT_RESTORE, cap.SYS_ADMIN}: "", {cap.NET_ADMIN, cap.SYS_ADMIN}: "",
		{cap.SYSLOG, cap.SYS_ADMIN}: "", {cap.SYS_RESOURCE, cap.SYS_ADMIN}: "", {cap.SYS_ADMIN, cap.SYS_NICE}: "", {cap.NET_ADMIN, cap.SYS_MODULE}: "",
		{cap.DAC_READ_SEARCH, cap.DAC_OVERRIDE}: "", {cap.NET_RAW, cap.NET_ADMIN}: "sockopt_ns_capable",
		{cap.FOWNER, cap.DAC_OVERRIDE}: "generic_permission", {cap.SYS_ADMIN, cap.DAC_OVERRIDE}: "generic_permission",
		{cap.SYS_ADMIN, cap.SYS_PTRACE}: "__ptrace_may_access cap_ptrace_access_check", {cap.SYS_PTRACE, cap.PERFMON}: "mm_access may_access_mm",
	}
	functions, known := here[[2]cap.Value{cap.Value(first), cap.Value(second)}]
	return known && (by == "" || slices.Contains(strings.Fields(functions), by))
}

// asides names the audited checks of threads that are watched, with what each was made for want of: the check before it, if that was
// denied in the same system call.
func (w *witness) asides(t *testing.T, from, to int) map[string]uint64 {
	class := byOpts
	if w.program == testprog.Witness {
		class = byWrapper(t)
	}
	w.mu.Lock()
	seen := slices.Clone(w.seen[from:to])
	w.mu.Unlock()
	type check struct {
		testimony
		call  uint64
		after string
	}
	sums, last := map[string]uint64{}, map[uint32]check{} // by thread
	for i := range seen {
		s := &seen[i]
		now, before := check{testimony: w.testimony(t, s, class), call: s.Call}, last[s.Tid]
		if now.audited != AuditedYes || now.check.Capability == uint8(cap.SETPCAP) && !now.check.Denied { // the helper's own capset(2)
			continue
		}
		by := now.asker
		if by == before.asker {
			by = ""
		}
		if before.call == now.call && before.check.Denied && askedInPlace(before.check.Capability, now.check.Capability, by) {
			now.after = fmt.Sprint(" after ", before.check.Capability) + before.after
		}
		sums[now.check.String()+now.after]++
		last[s.Tid] = now
	}
	return sums
}

// byWrapper is how a check's class is told without opts, by names and rules of the test's own.
func byWrapper(t *testing.T) func(*testprog.Sighting, string, string) Audited {
	return func(_ *testprog.Sighting, wrapper, asker string) Audited {
		switch {
		case strings.HasSuffix(wrapper, "_noaudit"), strings.HasSuffix(wrapper, "vm_enough_memory_mm"),
			wrapper == "cap_vm_enough_memory", wrapper == "ptracer_capable", wrapper == "kallsyms_show_value",
			wrapper == "priv_restricted_transition", wrapper == "aa_change_profile":
			return AuditedNo
		case strings.HasSuffix(wrapper, "capable"), strings.HasSuffix(wrapper, "capable_setid"),
			wrapper == "capable_wrt_inode_uidgid", strings.HasSuffix(wrapper, "has_capability"),
			wrapper == "cap_capset", wrapper == "cap_task_prctl", wrapper == "cap_mmap_addr":
			return AuditedYes
		}
		t.Errorf("the witness does not know the wrapper %s, called by %s", wrapper, asker)
		return AuditedUnknown
	}
}

const capOptNoAudit = 1 << 1 // linux/security.h

// byOpts is how the kernel itself says it.
func byOpts(s *testprog.Sighting, _, _ string) Audited {
	if s.Opts&capOptNoAudit != 0 {
		return AuditedNo
	}
	return AuditedYes
}

func tellSites(s *Snapshot) map[testimony]uint64 {
	sums := map[testimony]uint64{}
	for _, c := range s.Sites {
		sums[testimony{c.Check, c.Audited, symbolName(c.Symbol)}] += c.Count
	}
	return sums
}

// TestWitness holds every call site's counts against the witness, over a broad workload.
func TestWitness(t *testing.T) {
	w := newWitness(t, testprog.Witness)
	tr := openLive(t, Options{sources: []Source{SourceTracepoint}})
	compare(t, tr, w, byWrapper(t), func(k testimony) testimony { return k })
}

// TestOpts holds what the product tells of each call site, by looking at the stack, against the opts that the kernel itself
// passes, with one program on the tracepoint and with two.
func TestOpts(t *testing.T) {
	w := newWitness(t, testprog.Opts)
	unanswered := func(k testimony) testimony { k.check.Denied = false; return k }
	tr := openLive(t, Options{sources: []Source{SourceTracepoint}})
	t.Run("alone", func(t *testing.T) {
		askers := compare(t, tr, w, byOpts, unanswered)
		for _, asker := range modulesThatAsk(t) {
			if !askers[asker] {
				t.Errorf("%s has not asked for anything, although its security module is on", asker)
			}
		}
	})
	second := load2(t, testprog.Empty)
	l, err := second.Attach()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Run("beside another", func(t *testing.T) { compare(t, tr, w, byOpts, unanswered) })
}

// modulesThatAsk are the functions of security modules that are on, and that the workload makes ask cap_capable directly, and not
// through security_capable.
func modulesThatAsk(t *testing.T) (askers []string) {
	read := func(path string) string {
		content, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(content))
	}
	modules := strings.Split(read("/sys/kernel/security/lsm"), ",")
	if slices.Contains(modules, "apparmor") {
		askers = append(askers, "aa_may_manage_policy")
		if read("/proc/sys/kernel/apparmor_restrict_unprivileged_unconfined") == "1" {
			askers = append(askers, "do_setattr")
		}
	}
	if slices.Contains(modules, "selinux") {
		askers = append(askers, "selinux_inode_setxattr", "selinux_inode_getsecurity", "selinux_lsm_setattr")
	}
	return askers
}

// compare runs the broad workload, and returns who asked. What the witness cannot know, known takes off both testimonies.
func compare(t *testing.T, tr *Tracer, w *witness, class func(*testprog.Sighting, string, string) Audited, known func(testimony) testimony) map[string]bool {
	a := w.sightings(t)
	first := snapshot(t, tr)
	b := w.sightings(t)
	work(t)
	c := w.sightings(t)
	last := snapshot(t, tr)
	d := w.sightings(t)
	missed := last.MissedRuns - first.MissedRuns
	// The witness is one program, and misses what is asked while it has been preempted: on the tracepoint, where ours can be, too.
	stats, err := w.loaded.Program.Stats()
	if err != nil {
		t.Fatal(err)
	}
	unseen := stats.RecursionMisses
	tolerable := uint64(20)
	if tr.objects.Banks() == 1 {
		notMissed(t, last)
		if w.program == testprog.Witness {
			tolerable = 0
		}
	}
	if unseen > tolerable {
		t.Fatalf("the witness was skipped %d times, want %d at most", unseen, tolerable)
	}

	// Checks made while a snapshot is being read may stand on either side of it.
	atLeast, atMost := only(known, w.tell(t, b, c, class)), only(known, w.tell(t, a, d, class))
	before, after := only(known, tellSites(first)), only(known, tellSites(last))
	keys := map[testimony]bool{}
	for k := range atMost {
		keys[k] = true
	}
	for k := range after {
		keys[k] = true
	}
	var checks uint64
	askers := map[string]bool{}
	for k := range keys {
		n := after[k] - before[k]
		if n+missed < atLeast[k] || n > atMost[k]+unseen {
			t.Errorf("%s, audited %d, by %s: the product counts %d, the witness %s", k.check, k.audited, k.asker, n, fmt.Sprintf("%d to %d", atLeast[k], atMost[k]))
		}
		checks += n
		askers[k.asker] = true
	}
	if checks < 10_000 || len(askers) < 25 {
		t.Errorf("the workload made only %d checks from %d kernel functions", checks, len(askers))
	}
	t.Logf("%d checks of %d kinds from %d kernel functions, %d unwound; %d missed, and %d by the witness", checks, len(keys), len(askers), last.Unwinds-first.Unwinds, missed, unseen)
	return askers
}

func only(known func(testimony) testimony, sums map[testimony]uint64) map[testimony]uint64 {
	to := map[testimony]uint64{}
	for k, n := range sums {
		to[known(k)] += n
	}
	return to
}
