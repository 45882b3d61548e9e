package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"capability_exporter/exporter/internal/confine"
)

// helperRole names the variable that turns the test binary into one of the
// small programs below.
const helperRole = "CAPABILITY_EXPORTER_TEST_ROLE"

const (
	// helperTrace attaches to the process of its argument, as a debugger does.
	helperTrace = "trace"
	// helperSeccomp executes its arguments with bpf(2) refused by a filter.
	helperSeccomp = "seccomp"
	// helperAsk asks for CAP_SYS_ADMIN once.
	helperAsk = "ask"
	// helperFlood does so under as many names as it is told.
	helperFlood = "flood"
	// helperAsks asks as often a second as it is told, until it is killed.
	helperAsks = "asks"
	// helperConfined does in a domain of the guests' policy what helperAsk does: MODULE DOMAIN.
	helperConfined = "confined"
	// helperRefused confines itself as the exporter does, and makes calls that are refused, as many as it is told.
	helperRefused = "refused"
	// helperStay asks for CAP_SETGID and for CAP_SYS_NICE, once each, and waits until it is killed.
	helperStay = "stay"
)

// runHelper returns the exit code.
func runHelper(role string, args []string) int {
	var err error
	switch role {
	case helperTrace:
		runtime.LockOSThread()
		var pid int
		if pid, err = strconv.Atoi(args[0]); err == nil {
			if err = unix.PtraceAttach(pid); err == nil {
				return 0 // which lets it go
			}
		}
	case helperSeccomp:
		os.Unsetenv(helperRole)
		err = execWithoutBPF(args)
	case helperAsk:
		askSysAdmin()
		return 0
	case helperFlood:
		if err = flood(args[0]); err == nil {
			return 0
		}
	case helperAsks:
		err = askOnAndOn(args[0])
	case helperConfined:
		err = askConfined(args[0], args[1])
	case helperRefused:
		if err = beRefused(args[0]); err == nil {
			return 0
		}
	case helperStay:
		runtime.LockOSThread()
		_, _, _ = unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0)
		_, _, _ = unix.RawSyscall(unix.SYS_SETPRIORITY, unix.PRIO_PROCESS, 0, ^uintptr(0)) // to -1
		time.Sleep(time.Hour)
	default:
		err = fmt.Errorf("unknown role %q", role)
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// askSysAdmin asks for it, and then fails: no name has such a length.
func askSysAdmin() { _, _, _ = unix.RawSyscall(unix.SYS_SETHOSTNAME, 0, ^uintptr(0), 0) } //nolint:dogsled // it fails

// askConfined does not return unless it fails.
func askConfined(module, domain string) error {
	runtime.LockOSThread()
	file, content := "/proc/thread-self/attr/apparmor/exec", "exec "+domain
	if module == "selinux" {
		file, content = "/proc/thread-self/attr/exec", "everybody:everybody:"+domain
	}
	if err := os.WriteFile(file, []byte(content), 0); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return unix.Exec(self, []string{self}, []string{helperRole + "=" + helperAsk})
}

// askOnAndOn does not return unless it fails.
func askOnAndOn(rate string) error {
	perSecond, err := strconv.Atoi(rate)
	if err != nil {
		return err
	}
	for range time.Tick(10 * time.Millisecond) {
		for range perSecond / 100 {
			askSysAdmin()
		}
	}
	return nil
}

func beRefused(count string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	_, _ = os.ReadFile("/proc/self/status") // starts what Go waits with
	if err := confine.Confine(confine.Files{Read: []string{"/proc"}}, slog.New(slog.DiscardHandler)); err != nil {
		return err
	}
	for range n {
		if err := unix.Unshare(unix.CLONE_NEWUSER); !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("unshare: %w", err)
		}
	}
	return nil
}

// flood names its own executable anew each time it asks.
func flood(count string) error {
	runtime.LockOSThread()
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	name, err := os.Executable()
	if err != nil {
		return err
	}
	dir := filepath.Dir(name)
	for i := range n {
		next := filepath.Join(dir, fmt.Sprint("flood-", i))
		if err := os.Rename(name, next); err != nil {
			return err
		}
		name = next
		if err := giveUpCPU(); err != nil {
			return err
		}
		askSysAdmin()
	}
	return nil
}

// giveUpCPU has the calling thread be asked for its name again, as who keeps the CPU is not. On a slow machine a sleep may be over before
// it has begun.
func giveUpCPU() error {
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

// execWithoutBPF returns only if it fails.
func execWithoutBPF(args []string) error {
	runtime.LockOSThread() // the filter is this thread's, and so is the execve
	const (
		load  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		ret   = unix.BPF_RET | unix.BPF_K
	)
	filter := []unix.SockFilter{
		{Code: load, K: 0}, // seccomp_data.nr
		{Code: equal, K: unix.SYS_BPF, Jf: 1},
		{Code: ret, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: ret, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0); err != nil {
		return fmt.Errorf("installing the filter: %w", err)
	}
	return fmt.Errorf("%s: %w", args[0], unix.Exec(args[0], args, os.Environ()))
}
