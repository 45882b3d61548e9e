package bpf

import (
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
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
		if err := giveUpCPU(); err != nil {
			return err
		}
		return askSysAdmin(nil)
	}
	return nil
}

// giveUpCPU sleeps until the kernel has counted that the thread did: what is short may be over before it has begun.
func giveUpCPU() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, now unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &before); err != nil {
		return err
	}
	for now.Nvcsw <= before.Nvcsw {
		pause := unix.Timespec{Nsec: 1000}
		_ = unix.Nanosleep(&pause, nil)
		if err := unix.Getrusage(unix.RUSAGE_THREAD, &now); err != nil {
			return err
		}
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

// TestOtherExecutable: a process that keeps the CPU gives itself another executable by prctl(2), over and over, and asks a thousand
// times before and after each change.
func TestOtherExecutable(t *testing.T) {
	const changes, asks = 51, 1000
	tr := openLive(t, Options{})
	first, second := bare(t, "exe-first", otherExecutable(t)), tiny(t, "exe-second")
	cmd := exec.Command(first)
	for _, path := range []string{second, first} { // file descriptors 3 and 4
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	run(t, cmd)
	s := checkIdentities(t, tr)
	for _, name := range []string{"exe-first", "exe-second"} {
		if got := by(s, name)["21 granted host"]; got != changes*asks {
			t.Errorf("%s: %d checks, want %d", name, got, changes*asks)
		}
	}
}

// otherExecutable is the code of a program that moves itself to memory of no file (the kernel changes no executable that is still
// mapped: replace_mm_exe_file, kernel/fork.c), and then, 51 times: asks a thousand times by sethostname(2), makes file descriptor 3
// its executable (PR_SET_MM_MAP), asks again, and makes it 4. In assembler, for amd64:
//
//	mmap(0x10000000, 4096, 7, MAP_PRIVATE|MAP_ANONYMOUS|MAP_FIXED, -1, 0); memcpy(0x10000000, 0x400000, 4096); jmp moved
//	moved: munmap(0x400000, 4096); r12 = 51
//	round: r13 = 3
//	half: r14 = 1000
//	ask: sethostname(0, -1); if (--r14) goto ask
//	map.exe_fd = r13; if (prctl(PR_SET_MM, PR_SET_MM_MAP, &map, 104, 0)) exit(errno)
//	if (++r13 != 5) goto half
//	if (--r12) goto round
//	exit(0)
//	map: a struct prctl_mm_map of addresses that the kernel lets pass
func otherExecutable(t *testing.T) []byte {
	t.Helper()
	code, err := hex.DecodeString(map[string]string{
		"amd64": "" +
			"b809000000bf00000010be00100000ba0700000041ba3200000049c7c0ffffffff4531c90f05be00004000bf00000010b900020000f348a5" +
			"8d0425b9000010ffe0b80b000000bf00004000be001000000f0541bc3300000041bd0300000041bee8030000b8aa00000031ff48c7c6ffff" +
			"ffff0f0541ffce75eb488d154800000044896a64b89d000000bf23000000be0e00000041ba680000004531c00f054885c0751241ffc54183" +
			"fd0575b241ffcc75a731ffeb0548f7d889c7b83c0000000f050f1f8000000000000040000000000000104000000000000020400000000000" +
			"0030400000000000004040000000000000404000000000000000500000000000000050000000000000105000000000000010500000000000" +
			"002050000000000000000000000000000000000000000000",
		"arm64": "" +
			"c81b80d20000a2d2010082d2e20080d2430680d204008092050080d2010000d40008a0d20100a2d2024080d2038440f8230000f9217b0bd5" +
			"9f3b03d521750bd521200091420400f121ffff549f3b03d5df3f03d50000a2d20060039100001fd6e81a80d20008a0d2010082d2010000d4" +
			"730680d2740080d2157d80d2281480d2000080d201008092010000d4b50600f161ffff5462020010546400b9e81480d2600480d2c10180d2" +
			"030d80d2040080d2010000d4e00000b5940600919f1600f1c1fdff54730600f161fdff5402000014e00300cba80b80d2010000d41f2003d5" +
			"0000400000000000001040000000000000204000000000000030400000000000004040000000000000404000000000000000500000000000" +
			"000050000000000000105000000000000010500000000000002050000000000000000000000000000000000000000000",
	}[runtime.GOARCH])
	if err != nil || len(code) == 0 {
		t.Fatalf("no machine code for %s: %v", runtime.GOARCH, err)
	}
	return code
}
