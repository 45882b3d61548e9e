// Package privilege leaves the process with the capabilities that it requires
// and nothing else, and says in plain words which of them are missing, why, and
// who refused what they are for. It knows capabilities, /proc and who can stand
// in the way of bpf(2); it does not know what the program does with them.
package privilege

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf"
)

// Drop leaves the process with those of bpf.RequiredCapabilities that it holds,
// effective and permitted, and with no way to get another: inheritable and
// ambient set empty, no_new_privs set, bounding set empty where CAP_SETPCAP
// allows. It does so on all threads, then reads from /proc what each was left
// with, and fails if that is anything else. A uid of 0 stays 0: with an empty
// bounding set, and with no_new_privs, execve(2) gives it nothing.
//
// The kernel is asked for nothing that it would deny: PR_CAPBSET_DROP is
// tried only with CAP_SETPCAP. capset(2) itself makes one check for
// CAP_SETPCAP per thread whatever is asked of it (cap_inh_is_capped), so it is
// called once, not at all if there is nothing to change, and twice only where
// CAP_SETPCAP is permitted but has to be made effective first.
//
// It returns how the process stood before, for Circumstances.Check to judge:
// holding less than is required is no error here.
func Drop() (Circumstances, error) {
	found, err := observe()
	if err != nil {
		return Circumstances{}, err
	}
	if err := restoreDumpable(); err != nil {
		return Circumstances{}, err
	}

	// Prctlw, not Prctl: the latter reaches one thread only.
	if _, err := cap.Prctlw(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return Circumstances{}, fmt.Errorf("setting no_new_privs: %w", err)
	}
	emptied, err := emptyBoundingSet()
	if err != nil {
		return Circumstances{}, fmt.Errorf("emptying the bounding set: %w", err)
	}
	kept, err := keepRequired()
	if err != nil {
		return Circumstances{}, fmt.Errorf("giving up capabilities: %w", err)
	}

	want := Status{Permitted: kept, Effective: kept, NoNewPrivs: true}
	if !emptied {
		want.Bounding = found.Bounding
	}
	if err := checkThreads("/proc/self/task", want); err != nil {
		return Circumstances{}, fmt.Errorf("refusing to run with other privileges than intended: %w", err)
	}
	return found, nil
}

// restoreDumpable makes the process dumpable, which execve(2) of a file with
// file capabilities does not leave it (PR_SET_DUMPABLE(2const)). Without it
// /proc/self belongs to root, and each scrape that lists /proc/self/fd would
// itself ask for CAP_DAC_READ_SEARCH and be denied. It opens no door: a
// process of the same user that lacks one of our capabilities can still
// neither trace this one nor read its memory (cap_ptrace_access_check), and a
// core dump holds nothing that the user could not read already.
func restoreDumpable() error {
	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil {
		return fmt.Errorf("reading whether the process is dumpable: %w", err)
	}
	if dumpable == 1 {
		return nil
	}
	// It is a property of the memory, not of a thread: once is enough.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("making the process dumpable: %w", err)
	}
	return nil
}

// emptyBoundingSet drops all of the bounding set and says so, or does nothing
// without CAP_SETPCAP.
func emptyBoundingSet() (bool, error) {
	held := cap.GetProc()
	allowed, err := held.GetFlag(cap.Permitted, cap.SETPCAP)
	if err != nil || !allowed {
		return false, err
	}
	if raised, err := held.GetFlag(cap.Effective, cap.SETPCAP); err != nil {
		return false, err
	} else if !raised {
		if err := errors.Join(held.SetFlag(cap.Effective, true, cap.SETPCAP), held.SetProc()); err != nil {
			return false, err
		}
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
	return fmt.Sprintf("permitted %s, effective %s, inheritable %s, ambient %s, bounding %#x, no_new_privs %t",
		capabilityNames(s.Permitted), capabilityNames(s.Effective), capabilityNames(s.Inheritable),
		capabilityNames(s.Ambient), s.Bounding, s.NoNewPrivs)
}
