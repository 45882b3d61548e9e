// Package privilege leaves the process with the capabilities that it requires
// and nothing else, as an ordinary user, and says in plain words which of them are missing, why, and
// who refused what they are for. It knows capabilities, /proc and who can stand
// in the way of bpf(2); it does not know what the program does with them.
package privilege

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf"
)

// Drop leaves the process with those of bpf.RequiredCapabilities that it holds,
// effective and permitted, and with no way to get another: inheritable and
// ambient set empty, no_new_privs set, bounding set empty where CAP_SETPCAP
// allows. Root it makes an ordinary user, with that user's group and no other:
// without any capability uid 0 can still write root's files, and what stands in
// /proc/sys. It does so on all threads, then reads from /proc what each was left
// with, and fails if that is anything else.
//
// The kernel is asked for nothing that it would deny: PR_CAPBSET_DROP is
// tried only with CAP_SETPCAP. capset(2) itself makes one check for
// CAP_SETPCAP per thread whatever is asked of it (cap_inh_is_capped), so it is
// called once, not at all if there is nothing to change, and twice only where
// what Drop needs is permitted but has to be made effective first.
//
// It returns how the process stood before, for Circumstances.Check to judge:
// holding less than is required is no error here.
func Drop(to User) (Circumstances, error) {
	found, err := observe()
	if err != nil {
		return Circumstances{}, err
	}
	leaves, err := found.leavesRoot(to)
	if err != nil {
		return Circumstances{}, err
	}

	// Prctlw, not Prctl: the latter reaches one thread only.
	if _, err := cap.Prctlw(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return Circumstances{}, fmt.Errorf("setting no_new_privs: %w", err)
	}
	if err := raise(usedToDrop()); err != nil {
		return Circumstances{}, fmt.Errorf("making effective what is permitted: %w", err)
	}
	emptied, err := emptyBoundingSet()
	if err != nil {
		return Circumstances{}, fmt.Errorf("emptying the bounding set: %w", err)
	}
	want := found.Status
	if leaves {
		if err := become(to); err != nil {
			return Circumstances{}, fmt.Errorf("becoming the user %v: %w", &to, err)
		}
		uid, gid := uint32(to.UID), uint32(to.GID)
		want.UIDs, want.GIDs, want.Groups = [4]uint32{uid, uid, uid, uid}, [4]uint32{gid, gid, gid, gid}, ""
	}
	kept, err := keepRequired()
	if err != nil {
		return Circumstances{}, fmt.Errorf("giving up capabilities: %w", err)
	}
	// Last, for the kernel itself sets it where ids change.
	if err := setDumpable("/proc/self/fd"); err != nil {
		return Circumstances{}, err
	}

	want.Permitted, want.Effective, want.Inheritable, want.Ambient, want.NoNewPrivs = kept, kept, 0, 0, true
	if emptied {
		want.Bounding = 0
	}
	if err := checkThreads("/proc/self/task", want); err != nil {
		return Circumstances{}, fmt.Errorf("refusing to run with other privileges than intended: %w", err)
	}
	return found, nil
}

// DropRest gives up what Drop has left, on all threads, and checks it as Drop does.
func DropRest() error {
	want, err := ReadStatus("/proc/self/status")
	if err != nil {
		return err
	}
	if err := cap.NewSet().SetProc(); err != nil {
		return fmt.Errorf("giving up all capabilities: %w", err)
	}
	want.Permitted, want.Effective = 0, 0
	if err := checkThreads("/proc/self/task", want); err != nil {
		return fmt.Errorf("refusing to run with other privileges than intended: %w", err)
	}
	return nil
}

// usedToDrop lists what Drop uses where it is held, and then gives up:
// CAP_SETPCAP to empty the bounding set, and what leavesRoot asks for.
func usedToDrop() []cap.Value { return append(usedToLeaveRoot(), cap.SETPCAP) }

// usedToLeaveRoot lists what root needs to become another user and to leave its groups.
func usedToLeaveRoot() []cap.Value { return []cap.Value{cap.SETGID, cap.SETUID} }

// leavesRoot tells whether there is a root to leave. In a user namespace of its
// own uid 0 is an ordinary user of the host's, and Check says why it is of no
// use there.
func (c Circumstances) leavesRoot(to User) (bool, error) {
	if !slices.Contains(c.UIDs[:], 0) || !c.inInitialNamespace() || to == (User{}) {
		return false, nil
	}
	if missing := maskOf(usedToLeaveRoot()) &^ c.Permitted; missing != 0 {
		return false, fmt.Errorf("started as root, without %s to become the user %v\n%s", capabilityNames(missing), &to, howToLeave)
	}
	return true, nil
}

// become makes all threads another user's, which keeps what is permitted and
// leaves nothing effective.
func become(to User) error {
	if _, err := cap.Prctlw(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("keeping capabilities meanwhile: %w", err)
	}
	// Package syscall makes these on all threads.
	if err := syscall.Setgroups(nil); err != nil {
		return fmt.Errorf("leaving all groups: %w", err)
	}
	if err := syscall.Setresgid(to.GID, to.GID, to.GID); err != nil {
		return fmt.Errorf("setting the group: %w", err)
	}
	if err := syscall.Setresuid(to.UID, to.UID, to.UID); err != nil {
		return fmt.Errorf("setting the user: %w", err)
	}
	if _, err := cap.Prctlw(unix.PR_SET_KEEPCAPS, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("keeping capabilities no more: %w", err)
	}
	return nil
}

// setDumpable makes the process one that no other of its user can trace or read
// the memory of, not even one that holds the same capabilities: what is not
// dumpable belongs to root in /proc (PR_SET_DUMPABLE(2const)). Only where the
// kernel does not tell how many file descriptors there are without their being
// listed (it does since Linux 6.2, as the size of their folder), it is made
// dumpable, which execve(2) of a file with capabilities and a change of the user
// do not leave it: else each scrape that lists /proc/self/fd would itself ask
// for CAP_DAC_READ_SEARCH and be denied. Who lacks one of our capabilities can
// trace neither (cap_ptrace_access_check).
func setDumpable(fds string) error {
	folder, err := os.Stat(fds)
	if err != nil {
		return fmt.Errorf("cannot see the own file descriptors, is /proc mounted? %w", err)
	}
	want := uintptr(0)
	if folder.Size() == 0 {
		want = 1
	}
	// It is a property of the memory, not of a thread: once is enough.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, want, 0, 0, 0); err != nil {
		return fmt.Errorf("setting whether the process is dumpable: %w", err)
	}
	return nil
}

// raise makes those of the values effective that are permitted.
func raise(values []cap.Value) error {
	held := cap.GetProc()
	changes := false
	for _, value := range values {
		permitted, err := held.GetFlag(cap.Permitted, value)
		if err != nil {
			return err
		}
		effective, err := held.GetFlag(cap.Effective, value)
		if err != nil {
			return err
		}
		if permitted && !effective {
			changes = true
			if err := held.SetFlag(cap.Effective, true, value); err != nil {
				return err
			}
		}
	}
	if !changes {
		return nil
	}
	return held.SetProc()
}

// emptyBoundingSet drops all of the bounding set and says so, or does nothing
// without CAP_SETPCAP.
func emptyBoundingSet() (bool, error) {
	allowed, err := cap.GetProc().GetFlag(cap.Effective, cap.SETPCAP)
	if err != nil || !allowed {
		return false, err
	}
	for value := range cap.MaxBits() {
		in, err := cap.GetBound(value)
		if err != nil {
			return false, err
		}
		if !in {
			continue
		}
		if err := cap.DropBound(value); err != nil {
			return false, fmt.Errorf("%v: %w", value, err)
		}
	}
	return true, nil
}

// keepRequired reduces the three sets to what is required and held, and
// returns that as a mask. Emptying the inheritable set empties the ambient set
// with it (capabilities(7)).
func keepRequired() (uint64, error) {
	held, wanted := cap.GetProc(), cap.NewSet()
	var mask uint64
	for _, value := range bpf.RequiredCapabilities() {
		has, err := held.GetFlag(cap.Permitted, value)
		if err != nil {
			return 0, err
		}
		if !has {
			continue
		}
		mask |= 1 << value
		if err := errors.Join(wanted.SetFlag(cap.Permitted, true, value), wanted.SetFlag(cap.Effective, true, value)); err != nil {
			return 0, err
		}
	}
	if diff, err := held.Cf(wanted); err != nil || diff == 0 {
		return mask, err
	}
	return mask, wanted.SetProc()
}

// checkThreads compares the privileges of each thread of a process, given its
// folder of threads, with what they should be; the seccomp mode may be any.
func checkThreads(folder string, want Status) error {
	tasks, err := os.ReadDir(folder)
	if err != nil {
		return fmt.Errorf("cannot see what the threads are left with, is /proc mounted? %w", err)
	}
	for _, task := range tasks {
		got, err := ReadStatus(filepath.Join(folder, task.Name(), "status"))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // the thread has ended since
		}
		if err != nil {
			return err
		}
		got.Seccomp = want.Seccomp
		if got != want {
			return fmt.Errorf("thread %s has %v, want %v", task.Name(), got, want)
		}
	}
	return nil
}

// String shows the sets by name, in libcap's notation for them.
func (s Status) String() string {
	return fmt.Sprintf("uid %d, gid %d, groups [%s], permitted %s, effective %s, inheritable %s, ambient %s, bounding %#x, no_new_privs %t",
		s.UIDs, s.GIDs, s.Groups, capabilityNames(s.Permitted), capabilityNames(s.Effective), capabilityNames(s.Inheritable),
		capabilityNames(s.Ambient), s.Bounding, s.NoNewPrivs)
}
