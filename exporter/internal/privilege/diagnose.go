package privilege

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf"
)

// initialUserNamespace is what /proc/self/ns/user reads in the namespace the
// kernel starts with: its inode number is fixed (PROC_USER_INIT_INO).
const initialUserNamespace = "user:[4026531837]"

// howToGive ends each message about a missing capability.
const howToGive = `Give it CAP_BPF and CAP_PERFMON, and nothing else:
  systemd:     AmbientCapabilities=CAP_BPF CAP_PERFMON
               CapabilityBoundingSet=CAP_BPF CAP_PERFMON
  Kubernetes:  securityContext: {runAsUser: 0, capabilities: {drop: [ALL], add: [BPF, PERFMON, SETUID, SETGID]}}
               (another user than 0 gets none of the capabilities that are added;
               the last two are for leaving user 0, and are given up with it)
  a file:      setcap cap_bpf,cap_perfmon=ep /path/to/capability_exporter`

// howToLeave ends the message of who cannot leave root.
const howToLeave = `Without a capability uid 0 can still write root's files, so that the exporter gives it up. Either
  add CAP_SETUID and CAP_SETGID, which it then gives up, too
               (Kubernetes: capabilities: {drop: [ALL], add: [BPF, PERFMON, SETUID, SETGID]}; docker run: --cap-add SETUID --cap-add SETGID),
  or start it as another user, with CAP_BPF and CAP_PERFMON (systemd: DynamicUser=yes, AmbientCapabilities=CAP_BPF CAP_PERFMON),
  or let it stay root: --privileges.user=0`

// Circumstances is how the process was started, as far as it decides which
// capabilities it has.
type Circumstances struct {
	Status // before anything was given up

	userNamespace string // as /proc/self/ns/user reads; empty where the kernel has no user namespaces
	fileCaps      uint64 // the permitted set of the executable's file capabilities
	noSUID        bool   // the executable lies on a mount with the nosuid option
}

// observe looks at the process itself and at its executable.
// Nothing that it reads needs a capability.
func observe() (Circumstances, error) {
	status, err := ReadStatus("/proc/self/status")
	if err != nil {
		return Circumstances{}, fmt.Errorf("cannot see the own privileges, is /proc mounted? %w", err)
	}
	c := Circumstances{Status: status}

	c.userNamespace, err = os.Readlink("/proc/self/ns/user")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return Circumstances{}, fmt.Errorf("cannot see the own user namespace: %w", err)
	}

	// The rest only makes a message better: where it cannot be read it is
	// left out.
	const executable = "/proc/self/exe"
	if file, err := cap.GetFile(executable); err == nil {
		for value := range cap.MaxBits() {
			if has, err := file.GetFlag(cap.Permitted, value); err == nil && has {
				c.fileCaps |= 1 << value
			}
		}
	}
	var mount unix.Statfs_t
	if err := unix.Statfs(executable, &mount); err == nil {
		// statfs(2) calls it ST_NOSUID, with the value of MS_NOSUID.
		c.noSUID = mount.Flags&unix.MS_NOSUID != 0
	}
	return c, nil
}

// inInitialNamespace tells whether it is in the user namespace that the kernel
// starts with, where there may be no other.
func (c Circumstances) inInitialNamespace() bool {
	return c.userNamespace == "" || c.userNamespace == initialUserNamespace
}

// Check returns nil if the process can use all it requires, or else an error
// that names what is missing, why, and how to give it. It is several lines
// long.
func (c Circumstances) Check() error {
	required := requiredMask()
	missing := required &^ c.Permitted
	inInitial := c.inInitialNamespace()
	if missing == 0 && inInitial {
		return nil
	}

	var reasons []string
	if !inInitial {
		if held := c.Permitted & required; held != 0 {
			reasons = append(reasons, fmt.Sprintf(
				"%s held only in a user namespace (%s), and the kernel asks for them in the initial one: start it outside of unshare(1), rootless containers and the like.",
				capabilityNames(held), c.userNamespace))
		} else {
			reasons = append(reasons, fmt.Sprintf(
				"The process is in a user namespace (%s), where capabilities would be of no use: the kernel asks for them in the initial one.", c.userNamespace))
		}
		missing = required
	}
	if lost := c.fileCaps & required &^ c.Permitted; lost != 0 {
		if c.NoNewPrivs {
			reasons = append(reasons, fmt.Sprintf(
				"The executable has %s as file capabilities, but no_new_privs cancels them: start it without (systemd: NoNewPrivileges=no; Kubernetes: allowPrivilegeEscalation: true), or give the capabilities another way.",
				capabilityNames(lost)))
		}
		if c.noSUID {
			reasons = append(reasons, fmt.Sprintf(
				"The executable has %s as file capabilities, but lies on a file system mounted nosuid, which cancels them.", capabilityNames(lost)))
		}
	}
	if lacks := required &^ c.Bounding; lacks != 0 {
		reasons = append(reasons, fmt.Sprintf(
			"The bounding set lacks %s, so that the process cannot be given them: see CapabilityBoundingSet= of the unit, or what the container adds.", capabilityNames(lacks)))
	}
	if len(reasons) == 0 {
		if c.Permitted == 0 {
			reasons = append(reasons, "The process was started with no capability at all.")
		} else {
			reasons = append(reasons, fmt.Sprintf("The process was started with %s.", capabilityNames(c.Permitted)))
		}
	}
	return fmt.Errorf("missing %s\n%s\n%s", capabilityNames(missing), strings.Join(reasons, "\n"), howToGive)
}

// ExplainRefusal puts before an error of bpf.Open who refused, where the
// process held all it needs and was refused all the same. Errors that tell it
// themselves are returned as they are.
func (c Circumstances) ExplainRefusal(err error) error {
	if errors.Is(err, bpf.ErrMemlock) || !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	return fmt.Errorf("%s\n%w", refusedBy(probeBPF(), c.Seccomp), err)
}

// probeBPF makes a bpf(2) call that is wrong in a way the kernel sees before
// it asks any security module: a size above a page is E2BIG
// (bpf_check_uarg_tail_zero). Any other answer comes from something that
// stands before the system call.
func probeBPF() unix.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, 0, 1<<30)
	return errno
}

// refusedBy says who refused bpf(2), given the answer of probeBPF and the
// process' seccomp mode.
func refusedBy(probe unix.Errno, seccomp int) string {
	switch {
	case probe == unix.E2BIG:
		return "CAP_BPF and CAP_PERFMON are held and the system call bpf(2) itself is open, so a security module (LSM) or kernel lockdown refused it" + securityModules("/sys/kernel/security") +
			"; before Linux 5.11 an RLIMIT_MEMLOCK of nearly nothing does, too (systemd: LimitMEMLOCK=infinity)"
	case seccomp == 2:
		return fmt.Sprintf("CAP_BPF and CAP_PERFMON are held, but a seccomp filter refuses the system call bpf(2) (%v): allow it (systemd: SystemCallFilter=bpf; containers: a seccomp profile that allows bpf)", probe)
	case probe == unix.ENOSYS:
		return "the kernel has no system call bpf(2): it needs CONFIG_BPF_SYSCALL"
	default:
		return fmt.Sprintf("CAP_BPF and CAP_PERFMON are held, but the system call bpf(2) is refused (%v) before any security module is asked", probe)
	}
}

// securityModules lists in parentheses which could have refused, as far as
// securityfs is there and says so.
func securityModules(securityfs string) string {
	var found []string
	for _, name := range []string{"lsm", "lockdown"} {
		if content, err := os.ReadFile(filepath.Join(securityfs, name)); err == nil {
			found = append(found, fmt.Sprintf("%s: %s", name, strings.TrimSpace(string(content))))
		}
	}
	if found == nil {
		return ""
	}
	return " (" + strings.Join(found, ", ") + ")"
}

func requiredMask() uint64 { return maskOf(bpf.RequiredCapabilities()) }

func maskOf(values []cap.Value) uint64 {
	var mask uint64
	for _, value := range values {
		mask |= 1 << value
	}
	return mask
}

// capabilityNames names the members of a set for people: "CAP_BPF and
// CAP_PERFMON", or "none".
func capabilityNames(mask uint64) string {
	if mask == 0 {
		return "none"
	}
	var names []string
	for ; mask != 0; mask &= mask - 1 {
		names = append(names, strings.ToUpper(cap.Value(bits.TrailingZeros64(mask)).String()))
	}
	if len(names) == 1 {
		return names[0]
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}
