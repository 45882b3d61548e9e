package deploy

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// containerRole is the variable that turns the test binary into the last steps
// of a container runtime; it holds the container as JSON.
const containerRole = "CAPABILITY_EXPORTER_TEST_CONTAINER"

func TestMain(m *testing.M) {
	if spec := os.Getenv(containerRole); spec != "" {
		err := enterContainer(spec)
		fmt.Fprintln(os.Stderr, err)
		os.Exit(125) // as docker run does where the runtime failed, not the program
	}
	os.Exit(m.Run())
}

// container is how a runtime starts a process, as far as it decides about the
// process' privileges.
type container struct {
	UID        int
	Bounding   []string // names such as CAP_BPF
	Held       []string // permitted and effective before execve(2)
	NoNewPrivs bool
	Calls      []string // the system calls that a seccomp filter lets pass; empty: there is none
	Args       []string // the program's path and its arguments
	InUserNS   bool     // in a user namespace of its own
}

// command returns the command that starts the container's process.
func (c container) command(t *testing.T) *exec.Cmd {
	t.Helper()
	spec, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), containerRole+"="+string(spec))
	if c.InUserNS {
		ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 65536}}
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true}
	}
	return cmd
}

// enterContainer takes the steps that runc takes before execve(2), in its
// order (finalizeNamespace in libcontainer/init_linux.go), and returns only if
// one fails. All are made by this thread alone: it is the one that execve(2)
// keeps.
func enterContainer(spec string) error {
	runtime.LockOSThread()
	var c container
	if err := json.Unmarshal([]byte(spec), &c); err != nil {
		return err
	}
	bounding, err := mask(c.Bounding)
	if err != nil {
		return err
	}
	held, err := mask(c.Held)
	if err != nil {
		return err
	}
	for value := range cap.MaxBits() {
		if bounding&(1<<value) != 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(value), 0, 0, 0); err != nil {
			return fmt.Errorf("dropping %v from the bounding set: %w", value, err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("keeping capabilities: %w", err)
	}
	if err := setIDs(uintptr(c.UID)); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("keeping capabilities no more: %w", err)
	}
	// Neither inheritable nor, with that, ambient: Kubernetes gives none.
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{
		{Effective: uint32(held), Permitted: uint32(held)},
		{Effective: uint32(held >> 32), Permitted: uint32(held >> 32)},
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("setting capabilities: %w", err)
	}
	if c.NoNewPrivs {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("setting no_new_privs: %w", err)
		}
	}
	if err := filterCalls(c.Calls); err != nil {
		return fmt.Errorf("filtering system calls: %w", err)
	}
	environment := slices.DeleteFunc(os.Environ(), func(s string) bool { return len(s) > len(containerRole) && s[:len(containerRole)] == containerRole })
	return fmt.Errorf("%s: %w", c.Args[0], unix.Exec(c.Args[0], c.Args, environment))
}

// filterCalls refuses this thread all calls but those named, as runc does where
// no_new_privs is set: last of all. Names of another architecture are passed over.
func filterCalls(names []string) error {
	if len(names) == 0 {
		return nil
	}
	machine, err := arch.GetInfo("")
	if err != nil {
		return err
	}
	group := seccomp.SyscallGroup{Action: seccomp.ActionAllow}
	for _, name := range names {
		for _, name := range []string{name, strings.TrimPrefix(name, "new")} { // newfstatat is fstatat in the library's table of arm64
			if _, known := machine.SyscallNames[name]; known {
				group.Names = append(group.Names, name)
				break
			}
		}
	}
	return seccomp.LoadFilter(seccomp.Filter{Policy: seccomp.Policy{DefaultAction: seccomp.ActionErrno, Syscalls: []seccomp.SyscallGroup{group}}})
}

// setIDs sets this thread's ids, where package syscall sets those of all threads.
func setIDs(id uintptr) error {
	_, _, groups := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0)
	_, _, gid := unix.RawSyscall(unix.SYS_SETRESGID, id, id, id)
	_, _, uid := unix.RawSyscall(unix.SYS_SETRESUID, id, id, id)
	for _, errno := range []unix.Errno{groups, gid, uid} {
		if errno != 0 {
			return fmt.Errorf("becoming uid %d: %w", id, errno)
		}
	}
	return nil
}

// mask turns names into a set as /proc/PID/status shows it.
func mask(names []string) (uint64, error) {
	var set uint64
	var errs []error
	for _, name := range names {
		value, err := cap.FromName(strings.ToLower(name))
		errs = append(errs, err)
		set |= 1 << value
	}
	return set, errors.Join(errs...)
}
