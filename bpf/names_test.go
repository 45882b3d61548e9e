package bpf

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestHostileNames runs executables of the worst names a file can have. Here they come back byte for byte; escaping is the
// collectors' business.
func TestHostileNames(t *testing.T) {
	tr := openLive(t, Options{})
	names := []string{
		strings.Repeat("n", 255), "new\nline", `quo"te`, `back\slash`, "bad\xff\xfeutf8", "tab\tand\x01control", "\u202egnirts",
		"[kernel]", "_other", " ", "-rf", strings.Repeat("\xf0\x9f\x94\x92", 63),
	}
	for _, name := range names {
		run(t, exec.Command(tiny(t, name)))
	}
	s := checkIdentities(t, tr)
	for _, name := range names {
		if got := by(s, name); total(got) != 1 {
			t.Errorf("%q asked for %v, want one check", name, got)
		}
	}
}

// TestNamesOfEachLength: names are hashed and compared in words of eight bytes. Two that differ in the last byte alone are two series, and
// two files of one name are one, whatever the kernel has behind it.
func TestNamesOfEachLength(t *testing.T) {
	tr := openLive(t, Options{})
	var names []string
	for _, n := range []int{1, 2, 6, 7, 8, 9, 15, 16, 17, 63, 64, 65, 240, 247, 248, 249, 254, 255} {
		for _, last := range []string{"y", "z"} {
			names = append(names, strings.Repeat("l", n-1)+last)
		}
	}
	for range 2 {
		for _, name := range names {
			run(t, exec.Command(tiny(t, name)))
		}
	}
	s := checkIdentities(t, tr)
	for _, name := range names {
		if checks, series := seriesNamed(s, name); checks != 2 || series != 1 {
			t.Errorf("%d checks in %d series of %q, want 2 in one", checks, series, name)
		}
	}
}

// TestManyCgroupNames makes cgroups of bad names, and one deeper than the kernel side's buffer is long.
func TestHostileCgroups(t *testing.T) {
	tr := openLive(t, Options{})
	const name = "in-cgroups"
	path := tiny(t, name)
	for _, cgroup := range []string{"plain", `quo"te`, "bad\xff", "[kernel]", strings.Repeat("c", 255)} {
		dir := newCgroup(t, cgroup)
		run(t, inCgroup(dir, exec.Command(path)))
		found := false
		for _, w := range snapshot(t, tr).Workloads {
			found = found || w.Process.Name == name && w.Cgroup.Path == "/"+cgroup && !w.Cgroup.Truncated && w.Count == 1
		}
		if !found {
			t.Errorf("no series of %s in the cgroup /%q", name, cgroup)
		}
	}
}

func TestDeepCgroup(t *testing.T) {
	tr := openLive(t, Options{})
	const name = "deep"
	dir := newCgroup(t, "level")
	deepest := dir
	for range 20 {
		deepest = filepath.Join(deepest, strings.Repeat("d", 250))
		if len(deepest) >= unix.PathMax-20 {
			break
		}
		if err := os.Mkdir(deepest, 0o755); err != nil {
			t.Fatal(err)
		}
		made := deepest
		t.Cleanup(func() { _ = os.Remove(made) })
		dir = deepest
	}
	run(t, inCgroup(dir, exec.Command(tiny(t, name))))
	for _, w := range snapshot(t, tr).Workloads {
		if w.Process.Name != name {
			continue
		}
		if w.Cgroup.Truncated || !strings.HasPrefix(w.Cgroup.Path, "/level/ddd") || !strings.HasSuffix(dir, w.Cgroup.Path) {
			t.Errorf("truncated: %t; path of %d bytes: %.20q...", w.Cgroup.Truncated, len(w.Cgroup.Path), w.Cgroup.Path)
		}
		return
	}
	t.Error("no series")
}

// TestProcessNames asks as processes whose name is not plainly that of a file that is there.
func TestProcessNames(t *testing.T) {
	tr := openLive(t, Options{})
	once := map[string]func(name string){
		"interpreter": func(name string) {
			script := filepath.Join(t.TempDir(), "a-script")
			if err := os.WriteFile(script, []byte("#!"+tiny(t, name)+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			run(t, exec.Command(script))
		},
		"thread": func(name string) { run(t, helper(executable(t, name), "thread")) },
		"io_uring worker": func(name string) {
			run(t, helper(executable(t, name), "iouring"))
		},
		"deleted": func(name string) {
			path := executable(t, name)
			whileWaiting(t, helper(path, "wait"), func() { _ = os.Remove(path) })
		},
		"renamed": func(name string) {
			path := executable(t, "old-name")
			whileWaiting(t, helper(path, "wait"), func() { _ = os.Rename(path, filepath.Join(filepath.Dir(path), name)) })
		},
		"memfd:of-mine": func(string) {
			fd, err := unix.MemfdCreate("of-mine", 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			file, err := os.ReadFile(tiny(t, "seed"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := unix.Write(fd, file); err != nil {
				t.Fatal(err)
			}
			run(t, exec.Command(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd)))
		},
	}
	for name, ask := range once {
		ask(name)
		got := by(snapshot(t, tr), name)
		want := uint64(1)
		if name == "io_uring worker" {
			// The worker is a thread of the process, under a name of its own (iou-wrk-PID).
			if got["2 granted host"]+got["1 granted host"] != want {
				t.Errorf("%s asked for %v", name, got)
			}
			continue
		}
		if total(got) != want {
			t.Errorf("%s asked for %v, want one check", name, got)
		}
	}
}

// whileWaiting starts the helper "wait", does something, and lets the helper ask.
func whileWaiting(t *testing.T, cmd *exec.Cmd, do func()) {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	do()
	if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
		t.Fatal(err)
	}
}

// waitAndAsk says that it is there, and asks when its standard input ends.
func waitAndAsk([]string) error {
	fmt.Println("ready")
	_, err := io.Copy(io.Discard, os.Stdin)
	return errors.Join(err, askSysAdmin(nil))
}

// askInThread asks from a thread that has given itself another name.
func askInThread([]string) error {
	var wg sync.WaitGroup
	var err error
	for asked := false; !asked; {
		wg.Go(func() {
			runtime.LockOSThread() // and it is never unlocked, so that the next is on another one
			if unix.Gettid() == unix.Getpid() {
				return
			}
			asked = true
			name := []byte("another-name\x00")
			err = errors.Join(unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0, 0, 0), askSysAdmin(nil))
		})
		wg.Wait()
	}
	return err
}

// TestInodeReuse runs two executables that have had the same inode number, one after the other.
func TestInodeReuse(t *testing.T) {
	tr := openLive(t, Options{})
	dir := t.TempDir()
	image, err := os.ReadFile(tiny(t, "seed"))
	if err != nil {
		t.Fatal(err)
	}
	inode := func(name string) uint64 {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*syscall.Stat_t).Ino
	}
	for i := range 200 {
		first, second := filepath.Join(dir, fmt.Sprint("first", i)), filepath.Join(dir, fmt.Sprint("second", i))
		if err := os.WriteFile(first, image, 0o755); err != nil {
			t.Fatal(err)
		}
		run(t, exec.Command(first))
		was := inode(first)
		if err := errors.Join(os.Remove(first), os.WriteFile(second, image, 0o755)); err != nil {
			t.Fatal(err)
		}
		run(t, exec.Command(second))
		s := snapshot(t, tr)
		for _, name := range []string{first, second} {
			if got := by(s, filepath.Base(name)); total(got) != 1 {
				t.Errorf("%s asked for %v, want one check", name, got)
			}
		}
		if inode(second) == was {
			return
		}
	}
	t.Skipf("the file system of %s did not use an inode number again in 200 tries", dir)
}

// TestKernelThread has a kernel thread ask: kdevtmpfs makes the node of a new device.
func TestKernelThread(t *testing.T) {
	tr := openLive(t, Options{})
	control, err := os.Open("/dev/loop-control")
	if err != nil {
		t.Skip("no way to have a kernel thread ask for something: ", err)
	}
	defer control.Close()
	const free = 4242
	if err := unix.IoctlSetInt(int(control.Fd()), unix.LOOP_CTL_ADD, free); err != nil {
		t.Skip("cannot add a loop device: ", err)
	}
	defer func() { _ = unix.IoctlSetInt(int(control.Fd()), unix.LOOP_CTL_REMOVE, free) }()
	for _, w := range snapshot(t, tr).Workloads {
		if w.Process == (Process{Kind: ProcessKernel}) {
			return
		}
	}
	t.Error("no series of a kernel thread")
}
