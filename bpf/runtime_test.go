package bpf

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"capability_exporter/bpf/internal/programs"
	"capability_exporter/bpf/internal/testprog"
)

// passRound is the helper that makes checks of so many kinds whenever it is its turn, and then gives the CPU to the next of a ring:
// round KINDS TURNS. It is started by ring, with its own pipe as file descriptor 3 and the next one's as 4.
//
// It keeps to one thread, and Go's runtime out of its system calls: that would have others of its threads run in between, so that a
// turn would be a task's that had none lately, with the CPU's caches full of the runtime's.
func passRound(args []string) error {
	kinds, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	turns, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	calls := cheapCalls()[:kinds]
	runtime.LockOSThread()
	token := make([]byte, 1)
	pass := func(call, fd uintptr) error {
		for {
			_, _, err := unix.RawSyscall(call, fd, uintptr(unsafe.Pointer(&token[0])), 1)
			switch err {
			case 0:
				return nil
			case unix.EINTR:
			default:
				return err
			}
		}
	}
	for range turns {
		if err := pass(unix.SYS_READ, 3); err != nil {
			return fmt.Errorf("read: %w", err)
		}
		for _, c := range calls {
			_, _, _ = unix.RawSyscall6(c[0], c[1], c[2], c[3], c[4], 0, 0)
		}
		if err := pass(unix.SYS_WRITE, 4); err != nil && !errors.Is(err, unix.EPIPE) { // the last turn's next has ended
			return fmt.Errorf("write: %w", err)
		}
	}
	return nil
}

// cheapCalls are system calls of root that ask for a capability before all else, are granted it, and then fail: each from another
// kernel function (TestKeysOfATask). None is one that works long on it: it would empty the CPU's caches between two checks.
func cheapCalls() [][5]uintptr {
	const no = ^uintptr(0)
	nowhere := uintptr(unsafe.Pointer(unsafe.StringData("/nowhere\x00")))
	root := uintptr(unsafe.Pointer(unsafe.StringData("/\x00")))
	return [][5]uintptr{
		{unix.SYS_SETHOSTNAME, 0, no},
		{unix.SYS_SETDOMAINNAME, 0, no},
		{unix.SYS_SWAPON, 0, 0},
		{unix.SYS_SWAPOFF, 0},
		{unix.SYS_REBOOT, 0, 0, 0, 0},
		{unix.SYS_FSOPEN, 0, 0},
		{unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, 63},
		{unix.SYS_ACCT, nowhere},
		{unix.SYS_BPF, unix.BPF_PROG_GET_NEXT_ID, 0, 0},
		{unix.SYS_BPF, unix.BPF_PROG_GET_FD_BY_ID, 0, 0},
		{unix.SYS_BPF, unix.BPF_MAP_GET_FD_BY_ID, 0, 0},
		{unix.SYS_CHROOT, root},
		{unix.SYS_SYSLOG, 8, 0, 0},
		{unix.SYS_FANOTIFY_INIT, no, 0},
		{unix.SYS_SETGROUPS, no >> 33, 0},
		{unix.SYS_IOPRIO_SET, 99, 0, 1 << 13},
	}
}

// ring runs n processes of different names on one CPU, each of which gives it to the next after so many kinds of check.
func ring(t *testing.T, n, kinds, turns int) {
	t.Helper()
	var readers, writers []*os.File
	for range n {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		readers, writers = append(readers, r), append(writers, w)
	}
	path := executable(t, "ring")
	var cmds []*exec.Cmd
	for i := range n {
		name := filepath.Join(filepath.Dir(path), fmt.Sprint("ring-", i))
		if err := os.Link(path, name); err != nil {
			t.Fatal(err)
		}
		cmd := helper(name, "round", strconv.Itoa(kinds), strconv.Itoa(turns))
		cmd.ExtraFiles = []*os.File{readers[i], writers[(i+1)%n]}
		cmd.Env = append(cmd.Env, "GOMAXPROCS=1")
		if err := cmd.Start(); err != nil { // on this thread's CPU
			t.Fatal(err)
		}
		cmds = append(cmds, cmd)
	}
	if _, err := writers[0].Write([]byte{0}); err != nil {
		t.Fatal(err)
	}
	for _, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	for i := range n {
		readers[i].Close()
		writers[i].Close()
	}
}

// spent is how long the kernel says a program has run, in ns, and how often.
func spent(t *testing.T, p *ebpf.Program) (ns, runs float64) {
	t.Helper()
	stats, err := p.Stats()
	if err != nil {
		t.Fatal(err)
	}
	return float64(stats.Runtime.Nanoseconds()), float64(stats.RunCount)
}

// runTimes measures by the kernel's own clock what a run of the program takes, where keys take turns. What is printed is that of this
// program, with the clock's own share.
func runTimes(t *testing.T) string {
	t.Helper()
	stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		t.Fatal(err)
	}
	defer stats.Close()
	var program *ebpf.Program
	average := func(f func()) float64 {
		ns, runs := spent(t, program)
		f()
		ns2, runs2 := spent(t, program)
		return (ns2 - ns) / (runs2 - runs)
	}
	seccomp, overcommit := seccompCall(), unixMap
	hostname := func() { _ = askSysAdmin(nil) }
	loop := func(n int, calls ...func()) func() {
		return func() {
			for range n {
				for _, call := range calls {
					call()
				}
			}
		}
	}
	oneKey, manyKeys := loop(50_000, hostname), func() { ring(t, 40, 16, 300) }
	var out strings.Builder
	fmt.Fprintf(&out, "by the kernel's own clock, ns a run: medians (lower to upper quartile), multiples of the lower quartiles (one CPU)\n")

	// What a program costs there that does nothing: the machine's share in what comes next.
	empty := load2(t, testprog.Empty)
	attached, err := empty.Attach()
	if err != nil {
		t.Fatal(err)
	}
	program = empty.Program
	var alone, among []float64
	for range 9 {
		alone, among = append(alone, average(oneKey)), append(among, average(manyKeys))
	}
	attached.Close()
	fmt.Fprintf(&out, "  %-44s %20s %8.2f\n", "an empty program, one key", spread(alone), 1.)
	fmt.Fprintf(&out, "  %-44s %20s %8.2f\n", "an empty program, 640 keys in turn", spread(among), quantile(among, 1)/quantile(alone, 1))

	one := false
	tr, err := Open(Options{pair: &one, SeriesLimit: 16384})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	program = tr.objects.Programs[0]
	say := func(name string, took []float64, base float64, f func()) {
		_, runs := spent(t, program)
		slow := slowRuns(t, tr)
		f()
		_, runs2 := spent(t, program)
		fmt.Fprintf(&out, "  %-44s %20s %8.2f   %.2f %% not in the cache\n", name, spread(took), quantile(took, 1)/base,
			100*float64(slowRuns(t, tr)-slow)/(runs2-runs))
	}
	rows := []struct {
		name string
		call func()
	}{
		{"ordinary: one key, audited", oneKey},
		{"640 keys in turn: 40 programs, 16 kinds", manyKeys},
		{"the first check of a turn: 2 programs in turn", func() { ring(t, 2, 1, 5000) }},
	}
	took := make([][]float64, len(rows))
	for round := range 10 {
		for i, r := range rows {
			if ns := average(r.call); round > 0 { // what must be learned has been by then
				took[i] = append(took[i], ns)
			}
		}
	}
	ordinary := quantile(took[0], 1)
	for i, r := range rows {
		say(r.name, took[i], ordinary, r.call)
	}

	// A new key: what as many processes of new names take more than those of one name.
	path := tiny(t, "same")
	const n = 500
	round := 0
	total := func(f func() error) float64 {
		before, _ := spent(t, program)
		if err := f(); err != nil {
			t.Fatal(err)
		}
		after, _ := spent(t, program)
		return after - before
	}
	var more []float64
	for range 9 {
		same := total(func() error { return forkMany([]string{strconv.Itoa(n), path}) })
		round++
		fresh := total(func() error { return forkMany([]string{strconv.Itoa(n), path, fmt.Sprintf("%s-%d-", path, round)}) })
		more = append(more, (fresh-same)/n)
	}
	fmt.Fprintf(&out, "  %-44s %20s %8.2f\n", "a new key, beyond a known one", spread(more), median(more)/ordinary)

	// Two no-audit checks whose keys fall on one place of the cache, by a seed that is looked for, and by one that keeps them apart.
	var askers [2]uint64
	for i, call := range []func(){seccomp, overcommit} {
		before := siteCounts(t, tr)
		loop(1000, call)()
		after := siteCounts(t, tr)
		for asker, n := range after {
			if n-before[asker] >= 900 {
				askers[i] = asker
			}
		}
	}
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
	// Loaded in turn, as it is not the same where in memory the kernel puts a program.
	both := loop(30_000, seccomp, overcommit)
	pair := []struct {
		name     string
		together bool
		took     []float64
	}{{name: "two calls in turn, no-audit"}, {name: "two calls in turn that collide", together: true}}
	const times = 5
	for loaded := range times {
		for i := range pair {
			seed := uint64(1)
			for ; (placeOf(askers[0], seed) == placeOf(askers[1], seed)) != pair[i].together; seed += 0x9E3779B97F4A7C16 {
			}
			if tr, err = Open(Options{pair: &one, seeds: [2]uint64{seed, 0}}); err != nil {
				t.Fatal(err)
			}
			program = tr.objects.Programs[0]
			both()
			for range 3 {
				pair[i].took = append(pair[i].took, average(both))
			}
			if loaded == times-1 {
				say(pair[i].name, pair[i].took, quantile(pair[0].took, 1), both)
			}
			if err := tr.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	return out.String()
}

// slowRuns is how many checks were looked up in the tables although their class was at hand: those that the cache did not hold.
func slowRuns(t *testing.T, tr *Tracer) (slow uint64) {
	t.Helper()
	for bank := range tr.counters.banks {
		var v programs.StatValues
		if err := readAt(tr.counters.pages, tr.counters.at(bank, programs.StatPage), &v); err != nil {
			t.Fatal(err)
		}
		slow += v.Slow
	}
	return slow
}

// placeOf is where a no-audit check of CAP_SYS_ADMIN has its first place in the cache: body.h's cache_page and cache_place.
func placeOf(asker, seed uint64) [2]uint64 {
	mark := uint64(unix.CAP_SYS_ADMIN | programs.ClassNoAudit<<programs.WhatClassShift)
	hash := (asker ^ mark<<32) * seed
	place := hash * seed >> 59
	if place >= uint64(len(programs.Cache{}.Cached)/2) {
		place = 0
	}
	pages := bits.Len(programs.SitePage - programs.CachePage - 1)
	return [2]uint64{hash >> (64 - pages), place}
}

// siteCounts is how often each kernel function has asked for CAP_SYS_ADMIN without audit, by return address.
func siteCounts(t *testing.T, tr *Tracer) map[uint64]uint64 {
	t.Helper()
	snapshot(t, tr)
	counts := map[uint64]uint64{}
	for slot := uint32(programs.SiteFixed); slot < uint32(programs.SiteFixed+tr.opts.SiteLimit); slot++ {
		if tr.counters.site(slot) == 0 {
			continue
		}
		var r programs.SiteRecord
		if err := record(tr.siteRecords, slot, &r); err != nil {
			t.Fatal(err)
		}
		if auditedOf(r.What) == AuditedNo && checkOf(r.What) == (Check{Capability: unix.CAP_SYS_ADMIN}) {
			counts[r.Asker] += tr.counters.site(slot)
		}
	}
	return counts
}

func unixMap() {
	p, _, _ := unix.RawSyscall6(unix.SYS_MMAP, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON, ^uintptr(0), 0)
	unix.RawSyscall(unix.SYS_MUNMAP, p, 4096, 0)
}

// seccompCall makes a check without audit, and fails right after it: before it allocates anything for the filter.
func seccompCall() func() {
	filter := unix.SockFprog{Len: 1}
	return func() {
		unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&filter)))
	}
}

// costOfExec holds fork, exec and exit of /bin/true with ours against without, by the CPU's time, in pairs, until the difference is known
// within half a per cent (95 %), or for as long as it may take. Each of a pair comes first as often as the other. Both attach the
// program, and the one without takes it off again, before it begins: what comes after the kernel has changed its own code takes
// longer, whatever is attached. What attaching and detaching leave to be done later, such as waiting for all CPUs, is done by then,
// too. Of each the logarithm is taken: the mean of quotients of noisy times is above that of the times, by the square of the noise.
func costOfExec(t *testing.T) string {
	t.Helper()
	const runs, most = 20, 5000
	one := false
	tr := openDetached(t, Options{pair: &one})
	runtime.GC()
	execs := func(n int) float64 {
		start := cpuTime(t)
		for range n {
			if err := exec.Command("/bin/true").Run(); err != nil {
				t.Fatal(err)
			}
		}
		return cpuTime(t) - start
	}
	program := tr.objects.Programs[0]
	measure := func(attached bool) float64 {
		l, err := link.AttachTracing(link.TracingOptions{Program: program})
		if err != nil {
			t.Fatal(err)
		}
		if attached {
			defer l.Close()
		} else {
			l.Close()
		}
		time.Sleep(30 * time.Millisecond)
		execs(2)
		return math.Log(execs(runs))
	}
	var differences []float64
	mean, half := 0.0, math.Inf(1)
	for len(differences) < most && (len(differences) < 50 || half > 0.5) {
		first := len(differences)%2 == 0
		a, b := measure(first), measure(!first)
		if !first {
			a, b = b, a
		}
		differences = append(differences, 100*(a-b))
		mean, half = interval(differences)
	}
	known := ""
	if half > 0.5 {
		known = "; the machine is too busy to know it within half a per cent"
	}
	return fmt.Sprintf("fork, exec and exit of /bin/true: %+.2f %% with ours, 95 %% confidence interval %+.2f to %+.2f %%, of %d pairs of %d runs%s\n",
		mean, mean-half, mean+half, len(differences), runs, known) + shareOfExec(t, program, execs)
}

// cpuTime is what this process and those that it has waited for have had of the CPUs, in ns.
func cpuTime(t *testing.T) (ns float64) {
	t.Helper()
	for _, whose := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		if err := unix.Getrusage(whose, &u); err != nil {
			t.Fatal(err)
		}
		ns += float64(u.Utime.Nano() + u.Stime.Nano())
	}
	return ns
}

// shareOfExec is what the program itself takes of that, by the kernel's own clock.
func shareOfExec(t *testing.T, program *ebpf.Program, execs func(n int) float64) string {
	t.Helper()
	const n = 500
	stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		t.Fatal(err)
	}
	defer stats.Close()
	l, err := link.AttachTracing(link.TracingOptions{Program: program})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	execs(2)
	before, err := program.Stats()
	if err != nil {
		t.Fatal(err)
	}
	took := execs(n)
	after, err := program.Stats()
	if err != nil {
		t.Fatal(err)
	}
	runs, ns := float64(after.RunCount-before.RunCount), float64(after.Runtime-before.Runtime)
	return fmt.Sprintf("of which the program itself takes %.2f %%: %.1f checks of %.0f ns each\n", 100*ns/took, runs/n, ns/runs)
}

// interval is the mean without the tenth of the values that lie furthest out on each side, and half of its 95 % confidence interval
// (Tukey and McLaughlin, for a trimmed mean).
func interval(values []float64) (mean, half float64) {
	v := sorted(values)
	g := len(v) / 10
	kept := v[g : len(v)-g]
	for _, x := range kept {
		mean += x / float64(len(kept))
	}
	n, w, s := float64(len(v)), 0.0, 0.0
	winsorized := append(append(repeat(kept[0], g), kept...), repeat(kept[len(kept)-1], g)...)
	for _, x := range winsorized {
		w += x / n
	}
	for _, x := range winsorized {
		s += (x - w) * (x - w) / (n - 1)
	}
	return mean, 1.96 * math.Sqrt(s) / (0.8 * math.Sqrt(n))
}

func repeat(x float64, n int) (v []float64) {
	for range n {
		v = append(v, x)
	}
	return v
}
