package bpf

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"math/bits"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf/internal/programs"
	"capability_exporter/bpf/internal/source"
)

// A holdings test looks when it wants to.
const never = 24 * time.Hour

// sets are how many processes hold each capability, by "name scope".
type sets map[string]uint32

func scopeOf(userns bool) string { return map[bool]string{true: "userns", false: "host"}[userns] }

// add counts a process that holds a set.
func (s sets) add(set uint64, userns bool) {
	if set == everything() {
		s["all "+scopeOf(userns)]++
		return
	}
	for ; set != 0; set &= set - 1 {
		s[fmt.Sprintf("%s %s", cap.Value(bits.TrailingZeros64(set)), scopeOf(userns))]++
	}
}

func everything() uint64 { return 1<<cap.MaxBits() - 1 }

// setsIn sums up what is held in a cgroup; in all of them if path is "".
func setsIn(held Held, path string) sets {
	sums := sets{}
	add := func(name string, userns bool, n uint32) {
		if n > 0 {
			sums[name+" "+scopeOf(userns)] += n
		}
	}
	for _, c := range held.Counts {
		if path != "" && c.Cgroup.Path != path {
			continue
		}
		add("all", c.UserNS, c.All)
		for capability, n := range c.Each {
			add(cap.Value(capability).String(), c.UserNS, n)
		}
	}
	return sums
}

// openHoldings opens them alone, with what the exporter has and no more.
func openHoldings(t *testing.T, opts Options) *holdings {
	t.Helper()
	needsRoot(t)
	f, err := source.Probe()
	if err != nil {
		t.Fatal(err)
	}
	opts.HeldInterval = never
	opts.setDefaults()
	var h *holdings
	asExporter(t, func() { h = newHoldings(f, &opts, opts.Logger) })
	if held := h.last(); held.Refused != "" {
		t.Fatalf("nothing is known: %s", held.Refused)
	}
	t.Cleanup(func() {
		if err := h.close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// lookNow looks once, and must be able to.
func (h *holdings) lookNow(t *testing.T) Held {
	t.Helper()
	h.look()
	held := h.last()
	if held.Refused != "" {
		t.Fatalf("nothing is known: %s", held.Refused)
	}
	return held
}

// sees looks until a cgroup holds that: to whoever starts a program it has begun a moment before it has its own capabilities.
func (h *holdings) sees(t *testing.T, path string, want sets) Held {
	t.Helper()
	for tries := 0; ; tries++ {
		held := h.lookNow(t)
		got := setsIn(held, path)
		if maps.Equal(got, want) {
			return held
		}
		if tries == 200 {
			t.Errorf("%s: %v, want %v", path, got, want)
			return held
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// idle is a program that does nothing, and keeps all that it is given.
func idle(t *testing.T, name string) string {
	t.Helper()
	return threadsWith(t, name, math.MaxInt64)
}

// holder starts a program in a cgroup, and ends it at the test's end.
func holder(t *testing.T, dir string, cmd *exec.Cmd) *os.Process {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		removeEmptied(dir)
	})
	write(t, filepath.Join(dir, "cgroup.procs"), strconv.Itoa(cmd.Process.Pid))
	return cmd.Process
}

// removeEmptied removes a cgroup whose last process has just ended: the kernel takes a moment to see that it is empty.
func removeEmptied(dir string) {
	for range 100 {
		if !errors.Is(os.Remove(dir), unix.EBUSY) {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// asNobodyWith gives a program capabilities and nothing else.
func asNobodyWith(cmd *exec.Cmd, capabilities ...uintptr) *exec.Cmd {
	cmd = asNobody(cmd)
	cmd.SysProcAttr.AmbientCaps = capabilities
	return cmd
}

// inUserNS makes a program root of a user namespace.
func inUserNS(cmd *exec.Cmd) *exec.Cmd {
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER, UidMappings: []syscall.SysProcIDMap{{Size: 1}}, GidMappings: []syscall.SysProcIDMap{{Size: 1}},
	}
	return cmd
}

// eventually waits for what takes a moment.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for range 500 {
		if is() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("never: ", what)
}

// procSets is what /proc says of all processes: pid to what its threads hold. Kernel threads have no executable, and those that have
// ended hold nothing.
func procSets(t *testing.T) (all sets, seen string) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	all = sets{}
	for _, entry := range entries {
		if _, err := strconv.Atoi(entry.Name()); err != nil {
			continue
		}
		dir := filepath.Join("/proc", entry.Name())
		set := procSet(t, dir)
		// A kernel thread's PF_KTHREAD stands among its flags.
		stat, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil {
			continue
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if flags, err := strconv.ParseUint(fields[6], 10, 64); err != nil || flags&0x00200000 != 0 {
			continue
		}
		users, err := os.ReadFile(filepath.Join(dir, "uid_map"))
		if err != nil {
			continue
		}
		userns := strings.Join(strings.Fields(string(users)), " ") != "0 0 4294967295"
		all.add(set, userns)
		seen += fmt.Sprintf("%s %x %t\n", entry.Name(), set, userns)
	}
	return all, seen
}

// procSet is what /proc says that the threads of a process hold.
func procSet(t *testing.T, dir string) (set uint64) {
	t.Helper()
	threads, err := filepath.Glob(filepath.Join(dir, "task/*/status"))
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		status, err := os.ReadFile(thread)
		if err != nil {
			continue // it has ended
		}
		text := string(status)
		if strings.Contains(text, "\nState:\tZ") || strings.Contains(text, "\nState:\tX") {
			continue
		}
		_, permitted, _ := strings.Cut(text, "\nCapPrm:\t")
		n, err := strconv.ParseUint(permitted[:16], 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		set |= n
	}
	return set
}

// TestHeld looks at processes whose sets are known, and at all there are: those are as /proc has them.
func TestHeld(t *testing.T) {
	h := openHoldings(t, Options{})
	const chown, all = 1 << unix.CAP_CHOWN, 1<<unix.CAP_CHOWN | 1<<unix.CAP_NET_RAW | 1<<unix.CAP_KILL
	three := []uintptr{unix.CAP_CHOWN, unix.CAP_NET_RAW, unix.CAP_KILL}
	both := sets{"cap_chown host": 1, "cap_net_raw host": 1, "cap_kill host": 1}
	for name, test := range map[string]struct {
		start func(dir string) *os.Process
		want  sets
	}{
		"none": {func(dir string) *os.Process { return holder(t, dir, asNobody(exec.Command(idle(t, "none")))) }, sets{}},
		"one": {func(dir string) *os.Process {
			return holder(t, dir, asNobodyWith(exec.Command(idle(t, "one")), unix.CAP_NET_RAW))
		}, sets{"cap_net_raw host": 1}},
		"above": {func(dir string) *os.Process {
			return holder(t, dir, asNobodyWith(exec.Command(idle(t, "above")), unix.CAP_BPF, unix.CAP_PERFMON))
		}, sets{"cap_bpf host": 1, "cap_perfmon host": 1}},
		"thread": {func(dir string) *os.Process {
			return holder(t, dir, asNobodyWith(exec.Command(threadsWith(t, "thread", chown, all)), three...))
		}, both},
		"leader": {func(dir string) *os.Process {
			return holder(t, dir, asNobodyWith(exec.Command(threadsWith(t, "leader", ends, all)), three...))
		}, both},
		"moved": { // which its first thread, that has ended, is not
			func(string) *os.Process {
				return holder(t, newCgroup(t, "held-before"), asNobodyWith(exec.Command(threadsWith(t, "moved", ends, all)), three...))
			}, both,
		},
		"two": {func(dir string) *os.Process {
			holder(t, dir, asNobodyWith(exec.Command(idle(t, "two")), unix.CAP_NET_RAW))
			return holder(t, dir, asNobodyWith(exec.Command(idle(t, "two")), unix.CAP_NET_RAW, unix.CAP_KILL))
		}, sets{"cap_net_raw host": 2, "cap_kill host": 1}},
		"user namespace": {func(dir string) *os.Process { return holder(t, dir, inUserNS(exec.Command(idle(t, "userns")))) }, sets{"all userns": 1}},
	} {
		path := "held-" + strings.ReplaceAll(name, " ", "-")
		dir := newCgroup(t, path) // which goes once the processes do, at the end
		p := test.start(dir)
		t.Run(name, func(t *testing.T) {
			if name == "leader" || name == "moved" {
				eventually(t, "the leader ends", func() bool {
					stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Pid))
					return err == nil && strings.Contains(string(stat), ") Z ")
				})
			}
			if name == "moved" {
				write(t, filepath.Join(dir, "cgroup.procs"), strconv.Itoa(p.Pid))
			}
			if name == "thread" {
				eventually(t, "the leader drops capabilities", func() bool {
					status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid))
					return err == nil && strings.Contains(string(status), fmt.Sprintf("CapPrm:\t%016x", chown))
				})
			}
			h.sees(t, "/"+path, test.want)
		})
	}

	// One that has ended holds nothing, also if nobody has asked for its status yet.
	ended := exec.Command(threadsWith(t, "ended", ends))
	if err := ended.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ended.Wait() }()
	agree(t, func() (sets, string) { return procSets(t) }, func() sets { return setsIn(h.lookNow(t), "") })
	if held := h.last(); held.Partial != 0 || held.Took <= 0 {
		t.Errorf("%d looks were partial, the last took %s", held.Partial, held.Took)
	}
}

// agree compares what others say with a look, once nothing changes around it. What begins and ends in between nobody else sees, so it is
// enough that they agree once.
func agree(t *testing.T, theirs func() (all sets, seen string), ours func() sets) {
	t.Helper()
	var differ []string
	var still string
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		before, seen := theirs()
		got := ours()
		if _, after := theirs(); after != seen {
			continue
		}
		if maps.Equal(got, before) {
			return
		}
		differ, still = nil, seen
		for name := range before {
			got[name] += 0
		}
		for name, n := range got {
			if before[name] != n {
				differ = append(differ, fmt.Sprintf("%s: %d, want %d", name, n, before[name]))
			}
		}
	}
	if differ == nil {
		lacks(t, "the machine never stood still")
	}
	t.Errorf("%s; seen besides:\n%s", strings.Join(differ, "; "), still)
}

// TestAsPscap compares with pscap(8), which shows the first thread of each process that holds something.
func TestAsPscap(t *testing.T) {
	h := openHoldings(t, Options{})
	pscap, err := exec.LookPath("pscap")
	if err != nil {
		lacks(t, "no pscap (make tools): ", err)
	}
	holder(t, newCgroup(t, "held-as-pscap"), asNobodyWith(exec.Command(idle(t, "held")), unix.CAP_NET_RAW, unix.CAP_BPF))
	merged := func(s sets) sets {
		sums := sets{}
		for name, n := range s {
			name, _, _ = strings.Cut(name, " ") // pscap does not tell user namespaces
			sums[strings.TrimPrefix(name, "cap_")] += n
		}
		return sums
	}
	theirs := func() (sets, string) {
		out, err := exec.Command(pscap, "-a").Output()
		if err != nil {
			t.Fatal(err)
		}
		all, seen := sets{}, ""
		heading, lines, _ := strings.Cut(string(out), "\n")
		for line := range strings.Lines(lines) {
			fields := strings.Fields(line)
			if fields[3] == "pscap" {
				continue
			}
			pid, holds := fields[1], strings.TrimRight(line[strings.Index(heading, "capabilities"):], " +@\n")
			seen += fmt.Sprintln(pid, len(strings.Split(holds, ",")), "capabilities")
			alone := sets{}
			for name := range strings.SplitSeq(holds, ", ") {
				alone[map[bool]string{true: "all", false: name}[name == "full"]]++
			}
			// It looks at the first thread alone: that of a test like this one has become an exporter.
			whole := sets{}
			whole.add(procSet(t, filepath.Join("/proc", pid)), false)
			if whole = merged(whole); len(whole) > len(alone) || whole["all"] != 0 {
				alone = whole
			}
			for name, n := range alone {
				all[name] += n
			}
		}
		return all, seen
	}
	agree(t, theirs, func() sets { return merged(setsIn(h.lookNow(t), "")) })
}

// lookInside is the helper that looks as the exporter does, with the two capabilities, where /proc shows it nothing: lookinside PATH.
func lookInside(args []string) error {
	if err := ownProc("hidepid=2"); err != nil {
		return err
	}
	runtime.LockOSThread()
	if err := becomeExporter(); err != nil {
		return err
	}
	tr, err := Open(Options{HeldInterval: never})
	if err != nil {
		return err
	}
	return errors.Join(json.NewEncoder(os.Stdout).Encode(setsIn(tr.Held(), args[0])), tr.Close())
}

// TestHeldFromInside looks from a container's PID namespace, through which no other process is seen, and where /proc is hidden.
func TestHeldFromInside(t *testing.T) {
	needsRoot(t)
	dir := newCgroup(t, "held-outside")
	holder(t, dir, asNobodyWith(exec.Command(idle(t, "outside")), unix.CAP_NET_RAW))
	holder(t, dir, inUserNS(exec.Command(idle(t, "outside-in-userns"))))
	cmd := helper("/proc/self/exe", "lookinside", "/held-outside")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, said.String())
	}
	var got sets
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	if want := (sets{"cap_net_raw host": 1, "all userns": 1}); !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// startThreads starts a program of many threads in a cgroup, of which each holds one of 24 capabilities.
func startThreads(t *testing.T, h *holdings, name string, n int) {
	t.Helper()
	sets := make([]uint64, n)
	for i := range sets {
		sets[i] = 1 << (i % 24)
	}
	p := holder(t, newCgroup(t, name), exec.Command(threadsWith(t, name, 0, sets...)))
	eventually(t, fmt.Sprint(n, " threads"), func() bool {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid))
		return err == nil && strings.Contains(string(status), fmt.Sprintf("\nThreads:\t%d\n", n+1))
	})
	eventually(t, "each has its own set", func() bool { return len(setsIn(h.lookNow(t), "/"+name)) == 24 })
}

// progress is the last look's, as the kernel side left it.
func (h *holdings) progress(t *testing.T) *programs.HeldLook {
	t.Helper()
	var l programs.HeldLook
	if err := record(h.looks, 0, &l); err != nil {
		t.Fatal(err)
	}
	return &l
}

// placed is the look's progress, in the memory that the kernel side goes on from.
func (h *holdings) placed(t *testing.T, change func(*programs.HeldLook)) {
	t.Helper()
	l := h.progress(t)
	change(l)
	if _, err := h.looks.(io.WriterAt).WriteAt(bytesOf(l), 0); err != nil {
		t.Fatal(err)
	}
}

// forgetful loses its place after runs, as if the tasks had ended that it stood at.
type forgetful struct {
	t *testing.T
	*source.Held
	h    *holdings
	lose func(l *programs.HeldLook)
	runs int
}

func (f *forgetful) Run() error {
	err := f.Held.Run()
	f.runs++
	if f.lose != nil {
		f.h.placed(f.t, f.lose)
	}
	return err
}

// TestHeldGoesOn loses the place at which a look stood between two runs: that of a thread, of a process, and of the one before it, too.
// Each process is counted once all the same.
func TestHeldGoesOn(t *testing.T) {
	h := openHoldings(t, Options{})
	after := newCgroup(t, "held-after")
	const threads = 2500
	holder(t, newCgroup(t, "held-first"), asNobodyWith(exec.Command(idle(t, "first")), unix.CAP_NET_RAW))
	startThreads(t, h, "held-threads", threads)
	holder(t, after, asNobodyWith(exec.Command(idle(t, "after")), unix.CAP_NET_RAW))
	f := &forgetful{t: t, Held: h.kernel.(*source.Held), h: h}
	h.kernel = f
	h.sees(t, "/held-after", sets{"cap_net_raw host": 1})
	f.runs = 0
	whole := setsIn(h.lookNow(t), "/held-threads")
	if f.runs < 3 {
		t.Fatalf("%d threads were looked at in %d runs", threads, f.runs)
	}
	for name, test := range map[string]struct {
		lose        func(l *programs.HeldLook)
		lost, parts uint32
	}{
		"thread":     {func(l *programs.HeldLook) { l.Tid++ }, 1, 0},
		"process":    {func(l *programs.HeldLook) { l.Tgid++ }, 1, 0},
		"everything": {func(l *programs.HeldLook) { l.Tgid++; l.LastTgid++ }, 2, 0},
		"reused":     {func(l *programs.HeldLook) { l.Start++; l.LastTgid++ }, 2, 0},
		"always":     {func(l *programs.HeldLook) { l.Tid++ }, 16, 1},
	} {
		t.Run(name, func(t *testing.T) {
			partial := h.partial
			f.lose = func(l *programs.HeldLook) {
				if l.Node != 0 && l.Node != l.Head && (l.Lost == 0 || name == "always") && l.Threads > 1000 {
					test.lose(l)
				}
			}
			held := h.lookNow(t)
			progress := h.progress(t)
			if progress.Lost < test.lost {
				t.Errorf("lost its place %d times, want %d", progress.Lost, test.lost)
			}
			if got := uint32(h.partial - partial); got != test.parts {
				t.Errorf("partial: %d, want %d", got, test.parts)
			}
			if got := setsIn(held, "/held-threads"); test.parts == 0 && !maps.Equal(got, whole) {
				t.Errorf("%v, want %v", got, whole)
			}
			if got := setsIn(held, "/held-after"); !maps.Equal(got, sets{"cap_net_raw host": 1}) {
				t.Errorf("after it: %v", got)
			}
			if got := setsIn(held, "/held-first"); !maps.Equal(got, sets{"cap_net_raw host": 1}) {
				t.Errorf("before it: %v", got)
			}
		})
	}
}

// TestHeldUnderChurn looks while processes begin and end all the time, before, behind and between those that stay.
func TestHeldUnderChurn(t *testing.T) {
	h := openHoldings(t, Options{})
	churn := func() {
		cmd := exec.Command("sh", "-c", "while :; do (:) & (:) & (:) & wait; done")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL), cmd.Wait() })
	}
	one := sets{"cap_net_raw host": 1}
	var stay []string
	for i := range 3 {
		churn()
		startThreads(t, h, fmt.Sprint("held-threads-", i), 700)
		name := fmt.Sprint("held-stays-", i)
		holder(t, newCgroup(t, name), asNobodyWith(exec.Command(idle(t, name)), unix.CAP_NET_RAW))
		stay = append(stay, "/"+name)
		h.sees(t, "/"+name, one)
	}
	looks, lost := 0, uint32(0)
	for end := time.Now().Add(time.Second); time.Now().Before(end) && !t.Failed(); looks++ {
		held := h.lookNow(t)
		for i, path := range stay {
			if got := setsIn(held, path); !maps.Equal(got, one) {
				t.Errorf("%s: %v, want %v", path, got, one)
			}
			if got := setsIn(held, fmt.Sprint("/held-threads-", i)); len(got) != 24 || got["cap_chown host"] != 1 {
				t.Errorf("%d: of its threads %v", i, got)
			}
		}
		progress := h.progress(t)
		lost += progress.Lost
	}
	t.Logf("%d looks, which lost their place %d times", looks, lost)
}

// TestHeldOfMany makes more cgroups than there is room for, as a user does below one that he was given, and then as root. Nobody is lost,
// and who was there before keeps his own.
func TestHeldOfMany(t *testing.T) {
	const most, his, ours = 64, 50, 70
	h := openHoldings(t, Options{heldMost: most})
	slice := newCgroup(t, "held-user")
	t.Cleanup(func() { _ = os.Remove(slice) })
	given := filepath.Join(slice, "given")
	inside := func(dir string, owner int) {
		t.Helper()
		if err := errors.Join(os.Mkdir(dir, 0o755), os.Chown(dir, owner, owner)); err != nil {
			t.Fatal(err)
		}
	}
	inside(given, nobody)
	t.Cleanup(func() { _ = os.Remove(given) })
	program := idle(t, "many")
	hold := func(dir string) {
		t.Helper()
		p := holder(t, dir, asNobodyWith(exec.Command(program), unix.CAP_NET_RAW))
		eventually(t, "it has its own set", func() bool { return procSet(t, fmt.Sprintf("/proc/%d", p.Pid)) == 1<<unix.CAP_NET_RAW }) // see sees
	}
	for i := range his {
		dir := filepath.Join(given, strconv.Itoa(i))
		inside(dir, nobody)
		hold(dir)
	}
	hold(newCgroup(t, "held-late"))

	one := sets{"cap_net_raw host": 1}
	held := h.sees(t, "/held-late", one)
	named, under := 0, setsIn(held, "/held-user")["cap_net_raw host"]
	for _, c := range held.Counts {
		if strings.HasPrefix(c.Cgroup.Path, "/held-user/") {
			named++
		}
	}
	if named+int(under) != his || named > most/2 || named < most/4 {
		t.Errorf("%d cgroups have their own, and %d are under the user's: of %d", named, under, his)
	}

	for i := range ours {
		hold(newCgroup(t, fmt.Sprint("held-root-", i)))
	}
	for range 2 { // the second look finds the slots of the first
		held = h.lookNow(t)
		var total uint32
		var overflow sets
		for _, c := range held.Counts {
			if c.Overflow {
				overflow = setsIn(Held{Counts: []HeldCount{c}}, "")
			}
			if c.Overflow || strings.HasPrefix(c.Cgroup.Path, "/held-user") || strings.HasPrefix(c.Cgroup.Path, "/held-root-") {
				total += c.Each[unix.CAP_NET_RAW]
			}
		}
		if len(held.Counts) > most+2 || overflow["cap_net_raw host"] == 0 || total < his+ours {
			t.Errorf("%d are counted, %v of them under no name, want %d in all; in %d cgroups", total, overflow, his+ours, len(held.Counts))
		}
		if got := setsIn(held, "/held-late"); !maps.Equal(got, one) {
			t.Errorf("who was there before them: %v", got)
		}
	}
}

// TestHeldInManyNamespaces makes user namespaces in more cgroups than those may have.
func TestHeldInManyNamespaces(t *testing.T) {
	const most, n = 64, 40
	h := openHoldings(t, Options{heldMost: most})
	program := idle(t, "namespaces")
	for i := range n {
		holder(t, newCgroup(t, fmt.Sprint("held-ns-", i)), inUserNS(exec.Command(program)))
	}
	holder(t, newCgroup(t, "held-host"), asNobodyWith(exec.Command(program), unix.CAP_NET_RAW))
	held := h.sees(t, "/held-host", sets{"cap_net_raw host": 1})
	var named, others uint32
	for _, c := range held.Counts {
		switch {
		case c.UserNS && c.Overflow:
			others = c.All
		case c.UserNS:
			named += c.All
		case c.Overflow:
			t.Errorf("on the host there was no room: %+v", c)
		}
	}
	if named > most/2 || others == 0 || named+others < n {
		t.Errorf("%d have a name and %d have none, want %d in all", named, others, n)
	}
}

// TestHeldRefused: where it may not look the tracer counts all the same, and says why it does not.
func TestHeldRefused(t *testing.T) {
	tr := openLive(t, Options{})
	tr.opts.HeldInterval = never
	if held := tr.Held(); held.Refused != "off" || held.Counts != nil {
		t.Errorf("switched off: %+v", held)
	}
	var said strings.Builder
	log := slog.New(slog.NewTextHandler(&said, nil))
	done := make(chan *holdings)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its goroutine
		var none [2]unix.CapUserData
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		if err := unix.Capset(&header, &none[0]); err != nil {
			t.Error(err)
		}
		done <- newHoldings(tr.features, &tr.opts, log)
	}()
	h := <-done
	if held := h.last(); held.Refused != "permission" || strings.Count(said.String(), "\n") != 1 || !strings.Contains(said.String(), "reason=permission") {
		t.Errorf("%+v; said %q", held, said.String())
	}
	h.run(nil) // it returns
	if err := h.close(); err != nil {
		t.Error(err)
	}
}

// broken fails when it is told.
type broken struct {
	*source.Held
	err error
}

func (b *broken) Run() error { return errors.Join(b.Held.Run(), b.err) }

// TestHeldFails: while it cannot look it tells no old numbers, and says so once. Names are had again from the next look on.
func TestHeldFails(t *testing.T) {
	var said strings.Builder
	h := openHoldings(t, Options{})
	h.logger = slog.New(slog.NewTextHandler(&said, nil))
	dir := newCgroup(t, "held-fails")
	b := &broken{Held: h.kernel.(*source.Held), err: unix.EIO}
	h.kernel = b
	holder(t, dir, asNobodyWith(exec.Command(idle(t, "fails")), unix.CAP_NET_RAW))
	for range 2 {
		h.look()
		if held := h.last(); held.Refused != "failed" || held.Counts != nil {
			t.Errorf("%+v", held)
		}
	}
	if strings.Count(said.String(), "\n") != 1 {
		t.Errorf("said %q", said.String())
	}
	b.err = nil
	h.sees(t, "/held-fails", sets{"cap_net_raw host": 1})
}

// TestHeldIsForgotten: of a cgroup that holds nothing any more no name is kept, and it is had again where it holds something again.
func TestHeldIsForgotten(t *testing.T) {
	h := openHoldings(t, Options{})
	dir := newCgroup(t, "held-for-a-while")
	named := func() bool {
		for _, c := range h.cgroups {
			if c.Path == "/held-for-a-while" {
				return true
			}
		}
		return false
	}
	for range 2 {
		cmd := asNobodyWith(exec.Command(idle(t, "while")), unix.CAP_NET_RAW)
		p := holder(t, dir, cmd)
		h.sees(t, "/held-for-a-while", sets{"cap_net_raw host": 1})
		if !named() {
			t.Error("it has no name")
		}
		_, _ = p.Kill(), cmd.Wait()
		h.sees(t, "/held-for-a-while", sets{})
		if named() {
			t.Error("its name is kept")
		}
		h.lookNow(t)
	}
}

// TestLookCost prints what a look costs where there are many threads. Of 50,000 it is run by make bench.
func TestLookCost(t *testing.T) {
	h := openHoldings(t, Options{})
	threads := 5_000
	if *cost {
		threads = 50_000
		morePIDs(t, threads+20_000)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	measure := func(what string) {
		const looks = 20
		before := threadTime(t)
		for range looks {
			h.lookNow(t)
		}
		took := (threadTime(t) - before) / looks
		progress := h.progress(t)
		t.Logf("%s: %d threads in %d processes: %.2f ms of CPU", what, progress.Threads, progress.Processes, float64(took.Microseconds())/1000)
	}
	measure("as the machine is")
	startThreads(t, h, "held-cost", threads)
	measure("many threads")
	if info, err := h.kernel.(*source.Held).Info(); err == nil {
		if n, known := info.VerifiedInstructions(); known {
			t.Logf("the verifier looked at %d instructions", n)
		}
	}
}

func threadTime(t *testing.T) time.Duration {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// morePIDs lets there be more tasks than usual, until the test's end.
func morePIDs(t *testing.T, n int) {
	t.Helper()
	const file = "/proc/sys/kernel/pid_max"
	usual, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if most, err := strconv.Atoi(strings.TrimSpace(string(usual))); err != nil || most >= n {
		return
	}
	write(t, file, strconv.Itoa(n))
	t.Cleanup(func() { write(t, file, string(usual)) })
}
