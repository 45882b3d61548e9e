package collectors

import (
	"fmt"
	"strconv"
	"strings"

	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf"
	"capability_exporter/collectors/workload"
)

// Label values of the exporter's own. No name of a workload, process or call
// site is ever written like one of them.
const (
	// Other stands for all that found the table full.
	Other = "_other"
	// Unknown stands where no name could be had.
	Unknown = "_unknown"

	kernelThread = "[kernel]"
	exitingTask  = "[exiting]"
)

// capabilityNames is read only. A scrape needs a name for each of its series,
// and libcap's own are in lower case and start with a map look-up.
//
//nolint:gochecknoglobals // a table that nothing writes
var capabilityNames = func() (names [1 << 8]string) {
	for number := range names {
		names[number] = fmt.Sprintf("CAP_%d", number)
		if number < cap.NamedCount {
			names[number] = strings.ToUpper(cap.Value(number).String())
		}
	}
	return names
}()

// Capability returns the name of a capability as capabilities(7) writes it,
// such as CAP_SYS_ADMIN, or CAP_63 where libcap has no name for the number.
func Capability(number uint8) string {
	return capabilityNames[number]
}

// Result returns granted or denied.
func Result(denied bool) string {
	if denied {
		return "denied"
	}
	return "granted"
}

// Scope returns host for a check asked of the initial user namespace, userns
// for one asked of another.
func Scope(userNS bool) string {
	if userNS {
		return "userns"
	}
	return "host"
}

// AuditedLabel returns yes, no or unknown.
func AuditedLabel(audited bpf.Audited) string {
	switch audited {
	case bpf.AuditedYes:
		return "yes"
	case bpf.AuditedNo:
		return "no"
	default:
		return "unknown"
	}
}

// Process returns the executable's file name, escaped as escapeName does;
// [kernel] for a kernel thread, [exiting] for a task that has no memory left,
// _other for all of a workload that found no series of their own.
// A file always has a name, so an empty one is one that could not be read: _unknown.
func Process(p bpf.Process) string {
	switch {
	case p.Kind == bpf.ProcessKernel:
		return kernelThread
	case p.Kind == bpf.ProcessExiting:
		return exitingTask
	case p.Kind == bpf.ProcessOther:
		return Other
	case p.Name == "":
		return Unknown
	default:
		return escapeName(p.Name)
	}
}

// Workload returns what people call the cgroup, see package workload, escaped as
// escapeName does; a unit stands there as systemd writes it. Where the path or
// its beginning is not known the cgroup's number takes its place, as in
// "[cgroup:4711]" or "[cgroup:4711]/app/worker".
func Workload(c bpf.Cgroup) string {
	if c.Path == "" || c.Truncated {
		return fmt.Sprintf("[cgroup:%d]%s", c.ID, Escape(c.Path))
	}
	return workloadName(workload.Parse(c.Path))
}

// workloadName writes a name. Those of units have backslashes of systemd's own
// and nothing else that Escape would write, and no other name is written like
// one of them: paths start with a slash, and machines have one in them.
func workloadName(w workload.Workload) string {
	switch w.Kind {
	case workload.KindPath, workload.KindMachine:
		return escapeName(w.Name)
	default:
		return w.Name
	}
}

// VisibleWho returns the workload and the process as the metrics name them.
func VisibleWho(cgroup bpf.Cgroup, process bpf.Process, overflow bool) (string, string) {
	if overflow {
		return Other, Other
	}
	return Workload(cgroup), Process(process)
}

// Syscall names the system call in which somebody asked: by its number where it
// has no name here, as a 32-bit program's, and not at all where there was none.
func Syscall(n bpf.Announcement) string {
	switch {
	case n.SyscallName != "":
		return n.SyscallName
	case n.Syscall < 0:
		return ""
	}
	return strconv.FormatInt(n.Syscall, 10)
}
