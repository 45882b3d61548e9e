package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

func borrowedCount(s *Snapshot, capability uint8) (n uint64) {
	for _, c := range s.Borrowed {
		if c.Capability == capability {
			n += c.Count
		}
	}
	return n
}

// TestOverlay reads, as nobody, through an overlay that root has mounted: the checks on the layers are made with root's
// credentials, and say nothing about who reads.
func TestOverlay(t *testing.T) {
	tr := openLive(t, Options{})
	dir := t.TempDir()
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	openToAll(t, dir)
	lower := filepath.Join(dir, "lower")
	name := filepath.Join(lower, "secret")
	if err := os.WriteFile(name, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	// Its owner may read it, and the mounter, who is another, only by a capability.
	if err := os.Chown(name, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	merged := filepath.Join(dir, "merged")
	if err := unix.Mount("overlay", merged, "overlay", 0, "lowerdir="+lower+",upperdir="+dir+"/upper,workdir="+dir+"/work"); err != nil {
		t.Skip("the kernel mounts no overlay here: ", err)
	}
	defer func() { _ = unix.Unmount(merged, 0) }()
	const process = "overlay-reader"
	cmd := asNobody(helper(executable(t, process), "read", filepath.Join(merged, "secret")))
	before := snapshot(t, tr)
	run(t, cmd)
	s := checkIdentities(t, tr)
	const dacOverride, dacReadSearch = 1, 2
	count := func(s *Snapshot) uint64 { return borrowedCount(s, dacOverride) + borrowedCount(s, dacReadSearch) }
	if count(s) == count(before) {
		t.Error("no check under the mounter's credentials was counted as borrowed")
	}
	for check, n := range by(s, process) {
		t.Errorf("%d checks of %s stand under the reader, who needed none", n, check)
	}
}

// TestOpenersRights hands an open file to others: the kernel looks at the rights that its opener had (file_ns_capable in
// pagemap_read, fs/proc/task_mmu.c).
func TestOpenersRights(t *testing.T) {
	tr := openLive(t, Options{})
	for _, test := range []struct {
		process  string
		drop     []string
		uid      uint32
		userNS   bool
		borrowed bool
	}{
		{process: "reads-its-own"},
		// One capability less, in each of the two words that the set was made of up to 6.2.
		{process: "reads-without-chown", drop: []string{"cap_chown"}, borrowed: true},
		{process: "reads-without-perfmon", drop: []string{"cap_perfmon"}, borrowed: true},
		{process: "reads-as-nobody", uid: nobody, borrowed: true},
		// One thing differs, and nothing else.
		{process: "reads-with-another-uid", drop: []string{"uid"}, borrowed: true},
		{process: "reads-with-another-euid", drop: []string{"euid"}, borrowed: true},
		{process: "reads-with-another-suid", drop: []string{"suid"}, borrowed: true},
		{process: "reads-in-user-namespace", drop: lacking(), userNS: true, borrowed: true},
	} {
		t.Run(test.process, func(t *testing.T) {
			file, err := os.Open("/proc/self/pagemap")
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			path := executable(t, test.process)
			openToAll(t, filepath.Dir(path))
			cmd := helper(path, "pagemap", test.drop...)
			cmd.ExtraFiles = []*os.File{file}
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: test.uid, Gid: test.uid}}
			if test.userNS {
				root := []syscall.SysProcIDMap{{Size: 1}}
				cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: root, GidMappings: root}
			}
			before := snapshot(t, tr)
			run(t, cmd)
			s := checkIdentities(t, tr)
			const sysAdmin = 21
			borrowed := borrowedCount(s, sysAdmin) - borrowedCount(before, sysAdmin)
			own := by(s, test.process)["21 granted host"]
			if (borrowed > 0) != test.borrowed || (own > 0) == test.borrowed {
				t.Errorf("%d checks counted as borrowed and %d as its own", borrowed, own)
			}
		})
	}
}

// lacking names the capabilities that this process does not have, and the root of a new user namespace has.
func lacking() (names []string) {
	set := cap.GetProc()
	for c := range cap.MaxBits() {
		if has, err := set.GetFlag(cap.Permitted, c); err == nil && !has {
			names = append(names, c.String())
		}
	}
	return names
}

// TestBothRights has a process read by turns with its own rights and with those of an opener that had more, in one turn and through
// one kernel function: what was found for the one is not good for the other.
func TestBothRights(t *testing.T) {
	const process, n = "reads-with-both", 1000
	tr := openLive(t, Options{})
	file, err := os.Open("/proc/self/pagemap")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := helper(executable(t, process), "bothrights", strconv.Itoa(n))
	cmd.ExtraFiles = []*os.File{file}
	before := snapshot(t, tr)
	run(t, cmd)
	s := checkIdentities(t, tr)
	const sysAdmin = 21
	borrowed, own := borrowedCount(s, sysAdmin)-borrowedCount(before, sysAdmin), by(s, process)["21 granted host"]
	missed := mayMiss(t, tr, s)
	if short(own, n, missed) || borrowed+missed < n {
		t.Errorf("%d checks counted as borrowed and %d as its own, want %d of each", borrowed, own, n)
	}
}

// readBoth is the helper that gives up a capability, and reads by turns from a file of its own and from the one that it was handed:
// bothrights N.
func readBoth(args []string) error {
	runtime.LockOSThread()
	n, err := strconv.Atoi(args[0])
	if err := errors.Join(err, stayOn(0), giveUp("cap_chown")); err != nil {
		return err
	}
	own, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return err
	}
	handed := os.NewFile(3, "pagemap")
	var entry [8]byte
	for range n {
		_, mine := own.ReadAt(entry[:], 0)
		_, others := handed.ReadAt(entry[:], 0)
		if err := errors.Join(mine, others); err != nil {
			return err
		}
	}
	return nil
}

// giveUp has this thread give up a capability, or one of its user ids (uid, euid, suid) and no capability with it.
func giveUp(names ...string) error {
	for _, name := range names {
		if i := slices.Index([]string{"uid", "euid", "suid"}, name); i >= 0 {
			const noSetuidFixup = 1 << 2 // SECBIT_NO_SETUID_FIXUP
			ids := [3]uintptr{^uintptr(0), ^uintptr(0), ^uintptr(0)}
			ids[i] = nobody
			err := errors.Join(unix.Prctl(unix.PR_SET_SECUREBITS, noSetuidFixup, 0, 0, 0), syscall3(unix.SYS_SETRESUID, ids[0], ids[1], ids[2]))
			if err != nil {
				return err
			}
			continue
		}
		drop, err := cap.FromName(name)
		if err != nil {
			return err
		}
		set := cap.GetProc()
		if err := errors.Join(set.SetFlag(cap.Effective, false, drop), set.SetFlag(cap.Permitted, false, drop), set.SetProc()); err != nil {
			return err
		}
	}
	return nil
}

// readPagemap is the helper that gives something up and reads from the file that it was handed: pagemap [NAME]....
func readPagemap(args []string) error {
	runtime.LockOSThread()
	if err := giveUp(args...); err != nil {
		return err
	}
	var entry [8]byte
	_, err := os.NewFile(3, "pagemap").Read(entry[:])
	return err
}

// openToAll lets other users into a folder of t.TempDir.
func openToAll(t *testing.T, dir string) {
	t.Helper()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func readFile(args []string) error {
	_, err := os.ReadFile(args[0])
	return err
}

// TestAccess calls access(2) in a set-user-id program: the kernel swaps in a copy of the task's own credentials for it.
func TestAccess(t *testing.T) {
	tr := openLive(t, Options{})
	const process = "set-user-id"
	path := filepath.Join(t.TempDir(), process)
	copyFile(t, path)
	openToAll(t, filepath.Dir(path))
	if err := os.Chmod(path, 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(filepath.Dir(path), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := asNobody(helper(path, "access", file))
	before := snapshot(t, tr)
	run(t, cmd)
	s := checkIdentities(t, tr)
	got := by(s, process)
	if got["1 denied host"] == 0 || got["2 denied host"] == 0 {
		t.Errorf("asked for %v, want denials of CAP_DAC_READ_SEARCH and CAP_DAC_OVERRIDE", got)
	}
	if n := borrowedCount(s, 1) - borrowedCount(before, 1); n != 0 {
		t.Errorf("%d checks counted as borrowed", n)
	}
}

// askAccess asks what its real user may do, as access(2) does.
func askAccess(args []string) error {
	if os.Geteuid() != 0 {
		return errors.New("the set-user-id bit had no effect: is the temporary folder mounted nosuid?")
	}
	if err := unix.Access(args[0], unix.R_OK); !errors.Is(err, unix.EACCES) {
		return fmt.Errorf("access(2) as nobody, want EACCES: %w", err)
	}
	return nil
}
