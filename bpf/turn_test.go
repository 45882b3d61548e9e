package bpf

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// askInTurns is the helper that asks over and over on one CPU, and becomes another between: turns cgroup DIR..., turns exec
// PATH..., or turns rename NAME.
func askInTurns(args []string) error {
	runtime.LockOSThread()
	if err := stayOn(0); err != nil {
		return err
	}
	if err := askSysAdmin(nil); err != nil {
		return err
	}
	switch args[0] {
	case "cgroup":
		for _, dir := range args[1:] {
			if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
				return err
			}
			if err := askSysAdmin(nil); err != nil {
				return err
			}
		}
	case "exec":
		if len(args) == 1 {
			return nil
		}
		return syscall.Exec(args[1], append([]string{args[1], "exec"}, args[2:]...), os.Environ())
	case "rename":
		self, err := os.Executable()
		if err != nil {
			return err
		}
		if err := os.Rename(self, filepath.Join(filepath.Dir(self), args[1])); err != nil {
			return err
		}
		time.Sleep(time.Millisecond) // gives up the CPU
		return askSysAdmin(nil)
	}
	return nil
}

// TestTurns: the kernel side takes a task for the same as long as it has not given up the CPU. In each of these ways it becomes
// another to people.
func TestTurns(t *testing.T) {
	tr := openLive(t, Options{})
	admin := Check{Capability: 21}
	in := func(s *Snapshot, path, process string) (n uint64) {
		for _, w := range s.Workloads {
			if w.Check == admin && w.Process.Name == process && (path == "" || w.Cgroup.Path == path) {
				n += w.Count
			}
		}
		return n
	}

	const mover = "moves"
	a, b := newCgroup(t, "turns-a"), newCgroup(t, "turns-b")
	run(t, helper(executable(t, mover), "turns", "cgroup", a, b, a, b, a))

	var names []string
	var paths []string
	for i := range 5 {
		names = append(names, fmt.Sprintf("exec-%d", i))
		paths = append(paths, executable(t, names[i]))
	}
	run(t, helper(paths[0], "turns", append([]string{"exec"}, paths[1:]...)...))

	run(t, helper(executable(t, "before"), "turns", "rename", "after"))

	s := checkIdentities(t, tr)
	if x, y, all := in(s, "/turns-a", mover), in(s, "/turns-b", mover), in(s, "", mover); x != 3 || y != 2 || all != 6 {
		t.Errorf("asked %d and %d times in two cgroups, and %d in all, want 3, 2 and 6", x, y, all)
	}
	for _, name := range append(names, "before", "after") {
		if n := in(s, "", name); n != 1 {
			t.Errorf("%s asked %d times, want 1", name, n)
		}
	}
}
