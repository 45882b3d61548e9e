package bpf

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// inCgroups makes a command start in several cgroups, and at the root of every other hierarchy that can name a workload.
func inCgroups(t *testing.T, cmd *exec.Cmd, dirs ...string) *exec.Cmd {
	t.Helper()
	var places []string
	for _, h := range append([]string{"v2"}, v1Hierarchies()...) {
		if mount := hierarchyMount(t, h); mount != "" {
			places = append(places, mount)
		}
	}
	places = append(places, dirs...)
	script := `for place in ` + strings.Join(places, " ") + `; do echo 0 >"$place/cgroup.procs" || exit; done; exec "$0" "$@"`
	sh := exec.Command("/bin/sh", append([]string{"-c", script}, cmd.Args...)...)
	sh.Env, sh.Dir = cmd.Env, cmd.Dir
	return sh
}

// v1Hierarchies are those by which a workload may be told, best first.
func v1Hierarchies() []string { return []string{"memory", "pids", "devices", "freezer", "cpu"} }

// TestWhichCgroup: what tells a workload is decided for each task by where it stands, whatever others do.
func TestWhichCgroup(t *testing.T) {
	tr := openLive(t, Options{})
	if got := tr.Info().Cgroups; got != "none" && got != "v1" && got != "v2" && got != "both" {
		t.Errorf("cgroups: %q", got)
	}
	v1 := map[string]string{}
	for _, h := range v1Hierarchies() {
		if hierarchyMount(t, h) != "" {
			v1[h] = newCgroupIn(t, h, "which-"+h)
		}
	}
	v2 := newCgroupIn(t, "v2", "which-v2")
	all := []string{v2}
	for _, dir := range v1 {
		all = append(all, dir)
	}
	type place struct {
		dirs []string
		want string
	}
	places := map[string]place{
		"at-the-roots": {nil, "/"},
		"in-v2":        {[]string{v2}, "/which-v2"},
		"in-all":       {all, "/which-v2"},
	}
	for i, h := range v1Hierarchies() {
		if v1[h] == "" {
			continue
		}
		places["in-"+h] = place{[]string{v1[h]}, "/which-" + h}
		var rest []string
		best := ""
		for _, h := range v1Hierarchies()[i:] { // it and those behind it
			if v1[h] != "" {
				rest = append(rest, v1[h])
				if best == "" {
					best = "/which-" + h
				}
			}
		}
		places["from-"+h] = place{rest, best}
	}
	for range 2 { // each beside the others, and again once all are known
		for name, p := range places {
			run(t, inCgroups(t, exec.Command(tiny(t, name)), p.dirs...))
		}
	}
	s := checkIdentities(t, tr)
	for name, p := range places {
		if n, series := seriesOf(s, p.want, name); n != 2 || series != 1 {
			t.Errorf("%s: %d checks in %d series of %s, want both in one; all it asked for: %v", name, n, series, p.want, by(s, name))
		}
	}
	want := "v2"
	if len(v1) > 0 {
		want = "both"
	}
	if got := tr.Info().Cgroups; got != want {
		t.Errorf("cgroups: %q, want %q", got, want)
	}
}

// TestMovedBetweenHierarchies: somebody puts a process below the root of v2 on a machine whose services are in v1, and takes it away
// again: nothing changes for the others.
func TestMovedBetweenHierarchies(t *testing.T) {
	if hierarchyMount(t, "pids") == "" {
		lacks(t, "no v1 hierarchy is mounted here")
	}
	services := []string{newCgroupIn(t, "pids", "r1A"), newCgroupIn(t, "pids", "r1B")}
	other := newCgroupIn(t, "v2", "somebody")
	// One is there already when it starts.
	holder(t, other, exec.Command(idle(t, "somebody-else")))
	tr := openLive(t, Options{})
	for i := range 3 {
		for _, dir := range services {
			run(t, inCgroups(t, helper(executable(t, "r1"), "sethostname", "1000"), dir))
		}
		if i == 1 {
			run(t, inCgroups(t, exec.Command(tiny(t, "somebody")), other))
			endNow(t, tr)
		}
	}
	s := checkIdentities(t, tr)
	for _, path := range []string{"/r1A", "/r1B"} {
		if n, _ := seriesOf(s, path, "r1"); n != 3000 {
			t.Errorf("%d checks in %s, want 3000", n, path)
		}
	}
}

// records counts the kernel side's records of cgroups.
func records(t *testing.T, tr *Tracer) int {
	t.Helper()
	return len(keysOf(t, tr, "cgroups", uint64(0)))
}

// TestCgroupRecords: whatever becomes of a check, no cgroup leaves a record that nobody frees, and new ones have names.
func TestCgroupRecords(t *testing.T) {
	const limit, n = 64, 200
	tr := openLive(t, Options{
		SeriesLimit: limit, RingSize: os.Getpagesize(), holdReader: make(chan struct{}), // the ring is full soon
		Retention: time.Millisecond, quarantine: time.Millisecond, second: neverNow(),
	})
	asker, denied, borrowed := tiny(t, "in-many"), executable(t, "denied-in-many"), executable(t, "borrows-in-many")
	root := newCgroup(t, "many")
	pagemap, err := os.Open("/proc/self/pagemap")
	if err != nil {
		t.Fatal(err)
	}
	defer pagemap.Close()
	for i := range n {
		dir := filepath.Join(root, strconv.Itoa(i))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		run(t, inCgroup(dir, exec.Command(asker)))
		if i%10 == 0 {
			run(t, inCgroup(dir, helper(denied, "row", "sethostname", "without", "1", t.TempDir())))
			reader := inCgroup(dir, helper(borrowed, "pagemap", "cap_sys_admin"))
			reader.ExtraFiles = []*os.File{pagemap}
			run(t, reader)
		}
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		if s := snapshot(t, tr); records(t, tr) > s.Series+1 {
			t.Fatalf("%d records of cgroups, and %d series", records(t, tr), s.Series)
		}
	}
	if s := checkIdentities(t, tr); s.Series != limit || borrowedCount(s, 21) == 0 {
		t.Errorf("%d series in use, want all %d; %d checks borrowed, want some", s.Series, limit, borrowedCount(s, 21))
	}
	if owners := len(keysOf(t, tr, "shares", uint64(0))); owners > limit {
		t.Errorf("%d owners have shares, of %d slots", owners, limit)
	}
	endAll(t, tr)
	s := checkIdentities(t, tr)
	for _, w := range s.Workloads {
		if strings.HasPrefix(w.Cgroup.Path, "/many") || w.Cgroup.Path == "" && !w.Overflow {
			t.Errorf("still there: %+v", w)
		}
	}
	if got := records(t, tr); got > s.Series {
		t.Errorf("%d records of cgroups, and %d series", got, s.Series)
	}
	run(t, inCgroup(newCgroup(t, "after-many"), exec.Command(tiny(t, "after-many"))))
	if n, _ := seriesOf(checkIdentities(t, tr), "/after-many", "after-many"); n != 1 {
		t.Errorf("%d checks in a cgroup that came later, want 1 under its name", n)
	}
}

// TestGoneRing removes more cgroups than the ring that tells of it can hold.
func TestGoneRing(t *testing.T) {
	tr := openLive(t, Options{Retention: time.Millisecond, quarantine: time.Millisecond, goneSize: os.Getpagesize(), holdGone: make(chan struct{})})
	const n = 400 // with 16 bytes each, a page holds 256
	path := tiny(t, "gone")
	root := newCgroup(t, "gone")
	for i := range n {
		dir := filepath.Join(root, strconv.Itoa(i))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		run(t, inCgroup(dir, exec.Command(path)))
	}
	endNow(t, tr) // it knows them all
	for i := range n {
		if err := os.Remove(filepath.Join(root, strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
	endAll(t, tr)
	s := checkIdentities(t, tr)
	for _, w := range s.Workloads {
		if strings.HasPrefix(w.Cgroup.Path, "/gone/") {
			t.Fatalf("still there: %+v", w)
		}
	}
	if tr.goneLost == 0 {
		t.Error("the ring was not full")
	}
}

// A sight is what the helper "watch" says of a series.
type sight struct {
	Path, Process string
	Count         uint64
	Age           time.Duration // since it began
}

// watchRetention is that of who watches.
const watchRetention = 3 * time.Second

// watch is the helper that counts, wherever it has been put: for each line of its input it does what housekeeping does, and says
// what it sees as a line of JSON.
func watch(args []string) error {
	if len(args) > 0 {
		if err := ownProc(args[0]); err != nil {
			return err
		}
	}
	return watchWith(Options{Retention: watchRetention})
}

// watchUnheard is "watch" without what is announced: what it knows of a cgroup it learns when it looks.
func watchUnheard([]string) error {
	return watchWith(Options{Retention: watchRetention, holdReader: make(chan struct{})})
}

func watchWith(opts Options) error {
	tr, err := Open(opts)
	if err != nil {
		return err
	}
	defer tr.Close()
	fmt.Println("[]")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		tr.mu.Lock()
		err := tr.endSeries()
		tr.mu.Unlock()
		if err != nil {
			return err
		}
		s, err := tr.Snapshot()
		if err != nil {
			return err
		}
		var seen []sight
		for _, w := range s.Workloads {
			seen = append(seen, sight{w.Cgroup.Path, w.Process.Name, w.Count, time.Since(w.Created)})
		}
		if err := json.NewEncoder(os.Stdout).Encode(seen); err != nil {
			return err
		}
	}
	return nil
}

// watchInTime is the helper "unheard" in a time namespace whose boot was another: watchintime SECONDS.
func watchInTime(args []string) error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWTIME); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := os.WriteFile("/proc/self/timens_offsets", []byte("boottime "+args[0]+" 0\n"), 0); err != nil {
		return err
	}
	// A child that shares its parent's memory for a while, as package os starts them, may not enter it on older kernels.
	path, err := unix.BytePtrFromString("/proc/self/exe")
	if err != nil {
		return err
	}
	argv, err := syscall.SlicePtrFromStrings([]string{"unheard"})
	if err != nil {
		return err
	}
	env, err := syscall.SlicePtrFromStrings([]string{helperVariable + "=unheard"})
	if err != nil {
		return err
	}
	child, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("clone: %w", errno)
	}
	if child == 0 {
		_, _, errno = unix.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&env[0])))
		unix.RawSyscall(unix.SYS_EXIT_GROUP, uintptr(errno), 0, 0)
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(int(child), &status, 0, nil); err != nil {
		return fmt.Errorf("wait4: %w", err)
	}
	if status.ExitStatus() != 0 {
		return fmt.Errorf("the child ended with %d", status.ExitStatus())
	}
	return nil
}

// inside is a helper that runs another as in a container: it has PID, mount and cgroup namespaces of its own, and the cgroup in which it
// stands is all there is.
func inside(args []string) error {
	cmd := helper("/proc/self/exe", args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP}
	return cmd.Run()
}

// ownProc mounts a /proc of the PID namespace.
func ownProc(options string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, options); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return nil
}

// startWatch starts a helper that watches, and returns what asks it.
func startWatch(t *testing.T, cmd *exec.Cmd) (look func() []sight) {
	t.Helper()
	say, hear := converse(t, cmd)
	hear() // it counts
	return func() (seen []sight) {
		say()
		if err := json.Unmarshal(hear(), &seen); err != nil {
			t.Fatal(err)
		}
		return seen
	}
}

// converse starts a helper that answers each line of its input with one, until there is no more.
func converse(t *testing.T, cmd *exec.Cmd) (say func(), hear func() []byte) {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
			t.Errorf("%v: %s", err, said.String())
		}
	})
	lines := bufio.NewReader(out)
	say = func() {
		if _, err := io.WriteString(in, "\n"); err != nil {
			t.Fatal(err)
		}
	}
	hear = func() []byte {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			t.Fatalf("%v: %s", err, said.String())
		}
		return line
	}
	return say, hear
}

// TestFromInside counts from a container's namespaces: others' processes are not to be seen there, and their cgroups have other paths.
func TestFromInside(t *testing.T) {
	needsRoot(t)
	inV1 := hierarchyMount(t, "pids") != ""
	cgroup, own := newCgroup(t, "from-inside"), []string{newCgroup(t, "container")}
	if inV1 {
		own = append(own, newCgroupIn(t, "pids", "container"))
	}
	look := startWatch(t, inCgroups(t, helper(self(t), "inside", "watch", "hidepid=2"), own...))
	want := []sight{{Path: "/from-inside", Process: "outside-v2"}}
	run(t, inCgroup(cgroup, exec.Command(tiny(t, "outside-v2"))))
	if inV1 {
		run(t, inCgroups(t, exec.Command(tiny(t, "outside-v1")), newCgroupIn(t, "pids", "from-inside-v1")))
		want = append(want, sight{Path: "/from-inside-v1", Process: "outside-v1"})
	}
	seen := look()
	for _, w := range want {
		n := uint64(0)
		for _, s := range seen {
			if s.Path == w.Path && s.Process == w.Process {
				n += s.Count
			}
		}
		if n != 1 {
			t.Errorf("%d checks of %s in %s, want 1; seen: %v", n, w.Process, w.Path, seen)
		}
	}
}

// TestTimeNamespace counts from time namespaces in which the machine seems to have booted long before it did, and after: the series of
// a cgroup that is gone lives for its retention, and no longer, and has begun when it began.
func TestTimeNamespace(t *testing.T) {
	needsRoot(t)
	if _, err := os.Stat("/proc/self/ns/time"); err != nil {
		t.Skip("the kernel has no time namespaces: ", err)
	}
	for _, ahead := range []string{"10000000", "-1000"} {
		t.Run(ahead, func(t *testing.T) {
			var ts unix.Timespec
			if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
				t.Fatal(err)
			}
			if ahead[0] == '-' { // not before its own boot
				ahead = "-" + strconv.FormatInt(ts.Sec/2, 10)
			}
			look := startWatch(t, helper(self(t), "watchintime", ahead))
			asks := func(name string) (dir string) {
				dir = newCgroup(t, name)
				run(t, inCgroup(dir, exec.Command(tiny(t, name))))
				return dir
			}
			find := func(seen []sight, name string) int {
				return slices.IndexFunc(seen, func(s sight) bool { return s.Process == name && s.Path == "/"+name })
			}
			// Of the one it is told when it goes, of the other it learns when it has gone.
			const known, late = "in-time", "gone-unseen"
			dirs := map[string]string{known: asks(known)}
			seen := look()
			i := find(seen, known)
			if i < 0 {
				t.Fatal("no series")
			}
			if age := seen[i].Age; age < 0 || age > 5*time.Second {
				t.Errorf("the series began %s ago, want some milliseconds", age)
			}
			dirs[late] = asks(late)
			removed := time.Now()
			for _, dir := range dirs {
				if err := os.Remove(dir); err != nil {
					t.Fatal(err)
				}
			}
			for len(dirs) > 0 {
				seen := look()
				since := time.Since(removed)
				for name := range dirs {
					switch there := find(seen, name) >= 0; {
					case !there && since < watchRetention:
						t.Fatalf("%s: the series ended within its retention", name)
					case there && since > watchRetention+10*time.Second:
						t.Fatalf("%s: the series does not end", name)
					case !there:
						delete(dirs, name)
					}
				}
				time.Sleep(100 * time.Millisecond)
			}
		})
	}
}

// TestBackFromOther fills the table, and has a program ask without end that found it full: it has a series as soon as there is room.
func TestBackFromOther(t *testing.T) {
	const limit, name = 64, "found-it-full"
	tr := openLive(t, Options{SeriesLimit: limit, Retention: time.Millisecond, quarantine: time.Millisecond})
	emptied := fillTable(t, tr)
	cmd := helper(executable(t, name), "asking")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = errors.Join(cmd.Process.Kill(), cmd.Wait()) }()
	for range 20 {
		time.Sleep(100 * time.Millisecond)
		if n := total(by(snapshot(t, tr), name)); n != 0 {
			t.Fatalf("%d checks of its own in a table that is full", n)
		}
	}
	emptied()
	endAll(t, tr) // the slots are free
	for range 40 {
		if n := total(by(snapshot(t, tr), name)); n != 0 {
			checkIdentities(t, tr)
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	s := snapshot(t, tr)
	t.Errorf("still without a series after four seconds, with %d of %d in use", s.Series, s.SeriesLimit)
}

// askOnAndOn is the helper that asks 500 times a second on one CPU, whose cache then is all that it is counted by, until it is killed.
func askOnAndOn([]string) error {
	runtime.LockOSThread()
	if err := stayOn(0); err != nil {
		return err
	}
	for range time.Tick(2 * time.Millisecond) {
		if err := askSysAdmin(nil); err != nil {
			return err
		}
	}
	return nil
}

// TestAtRest looks with strace which bpf(2) calls a tracer with many cgroups makes while nothing changes.
func TestAtRest(t *testing.T) {
	needsRoot(t)
	strace, err := exec.LookPath("strace")
	if err != nil {
		lacks(t, "not installed: ", err)
	}
	const n = 300
	log := filepath.Join(t.TempDir(), "calls")
	cmd := helper(self(t), "watch")
	cmd.Args = append([]string{"strace", "-f", "-o", log, "-e", "trace=bpf", "-e", "signal=none"}, cmd.Args...)
	cmd.Path = strace
	look := startWatch(t, cmd)
	path := tiny(t, "resting")
	root := newCgroup(t, "resting")
	for i := range n {
		dir := filepath.Join(root, strconv.Itoa(i))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(dir) })
		run(t, inCgroup(dir, exec.Command(path)))
	}
	calls := func() int {
		raw, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(raw), "bpf(")
	}
	series := 0
	for _, s := range look() {
		if s.Process == "resting" {
			series++
		}
	}
	if series != n {
		t.Fatalf("%d series, want %d", series, n)
	}
	if before := calls(); before < n {
		t.Fatalf("%d calls for %d cgroups: strace did not see them", before, n)
	}
	const looks = 20
	most := 0
	if openDetached(t, Options{}).objects.AtEntry() {
		most = looks // how often the kernel did not come to it
	}
	for range 3 { // others on the machine may ask in a new cgroup meanwhile
		before := calls()
		for range looks {
			look()
		}
		made := calls() - before
		if made <= most {
			return
		}
		if made >= n {
			t.Fatalf("%d bpf(2) calls for %d looks at %d cgroups", made, looks, n)
		}
		t.Logf("%d bpf(2) calls for %d looks at %d cgroups, want %d at most", made, looks, n, most)
	}
	t.Error("so it is in each of three rounds")
}
