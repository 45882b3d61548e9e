// Package confine takes from the process what it has no use for any more once
// it is attached and serves: system calls, by a seccomp filter, and files,
// connections and sockets, by Landlock. It knows which calls Go's runtime and a
// server make; it does not know what is served.
package confine

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// Files are those that may still be had, by the folders that they lie in.
type Files struct {
	Read []string // with all that is in them
	List []string // by their names alone
}

// Confine leaves the process, on all threads and for good, with those files,
// and with the system calls of serving what is attached and listening. What the
// kernel has nothing of is said to the logger, and gone without. It needs
// no_new_privs, and no capability.
func Confine(files Files, logger *slog.Logger) error {
	abi, err := confineFiles(files)
	if err != nil {
		return fmt.Errorf("confining itself by Landlock: %w", err)
	}
	machine, err := arch.GetInfo("")
	if err != nil || !seccomp.Supported() {
		logger.Warn("The kernel has no seccomp filters, or none for this architecture: any system call may be made", "landlock", abi, "err", err)
		return nil
	}
	if err := confineCalls(machine); err != nil {
		return fmt.Errorf("confining itself by a seccomp filter: %w", err)
	}
	logger.Info("Confined: what is refused from now on is in the kernel's log (audit: SECCOMP)", "landlock", abi)
	return nil
}

// confineFiles returns the version of Landlock, 0 where the kernel has none.
func confineFiles(files Files) (int, error) {
	abi, err := ll.LandlockGetABIVersion()
	if err != nil || abi <= 0 {
		return 0, nil //nolint:nilerr // it is not there, or switched off
	}
	// All that this library knows of, as far as the kernel knows it. Signals to
	// other processes are the filter's: this scope kept those between threads
	// away, too, until Linux 6.15.
	c := landlock.V11.BestEffort()
	c.Scoped = ll.ScopeAbstractUnixSocket
	return abi, c.Restrict(
		landlock.PathAccess(ll.AccessFSReadFile|ll.AccessFSReadDir, files.Read...).IgnoreIfMissing(),
		landlock.PathAccess(ll.AccessFSReadDir, files.List...).IgnoreIfMissing(),
	)
}

func confineCalls(machine *arch.Info) error {
	p, err := policy(machine, listed)
	if err != nil {
		return err
	}
	// All threads at once, and the kernel's log says what was refused.
	if err := seccomp.LoadFilter(seccomp.Filter{Flag: seccomp.FilterFlagTSync | seccomp.FilterFlagLog, Policy: p}); err != nil {
		return err
	}
	return checkThreads("/proc/self/task")
}

// checkThreads looks for a thread without a filter: where the kernel could not
// give it to one of them, the library does not say so.
func checkThreads(folder string) error {
	tasks, err := os.ReadDir(folder)
	if err != nil {
		return fmt.Errorf("cannot see the threads, is /proc mounted? %w", err)
	}
	for _, task := range tasks {
		status, err := os.ReadFile(filepath.Join(folder, task.Name(), "status"))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended since
		}
		if err != nil {
			return err
		}
		if !strings.Contains(string(status), "\nSeccomp:\t2\n") {
			return fmt.Errorf("thread %s has no filter", task.Name())
		}
	}
	return nil
}
