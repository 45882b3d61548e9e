package bpf

import (
	"iter"
	"time"

	"capability_exporter/bpf/internal/source"
)

// Check is what every counter is split by: one capability, whether it was
// granted, and of which kind of user namespace it was asked.
type Check struct {
	Capability uint8 // number as in linux/capability.h, 0 to 63
	Denied     bool  // cap_capable answered -EPERM
	UserNS     bool  // asked of another than the initial user namespace
}

// Audited says whether a check was made to use the capability or only to look.
type Audited uint8

const (
	// AuditedUnknown is a check whose class even an unwind could not tell.
	AuditedUnknown Audited = iota
	// AuditedNo is a check made with CAP_OPT_NOAUDIT.
	AuditedNo
	// AuditedYes is a check made without it.
	AuditedYes
)

// CheckCount is the number of checks of one kind.
type CheckCount struct {
	Check
	Count uint64
}

// SiteCount is the number of checks of one kind that one kernel function asked for.
type SiteCount struct {
	Check
	Audited Audited
	// Symbol is the kernel's own name of the function that called the
	// wrapper (capable, ns_capable, ...), for instance "path_mount" or
	// "packet_create [af_packet]". It is empty where no name can be had.
	Symbol string
	// Overflow is set for the slots that count what found the table of call sites full.
	Overflow bool
	Count    uint64
	Created  time.Time
}

// ProcessKind tells a process that has an executable from those that have none.
type ProcessKind uint8

const (
	// ProcessFile has an executable; Name is its file name.
	ProcessFile ProcessKind = iota
	// ProcessKernel is a kernel thread.
	ProcessKernel
	// ProcessExiting is a task that has already given up its memory.
	ProcessExiting
	// ProcessOther is all of a workload that found no slot of their own.
	ProcessOther
)

// Process is the executable behind a check.
type Process struct {
	Kind ProcessKind
	// Name is the executable's file name as the kernel holds it: up to 255
	// bytes of anything but NUL and slash, chosen by unprivileged users.
	Name string
}

// Cgroup is where the asking task stood.
type Cgroup struct {
	ID uint64 // kernfs node id; its serial number where there is no path
	// Path is absolute ("/" is the root) and raw: like a process name it may
	// hold any byte but NUL. It is empty where it could not be had.
	Path string
	// Truncated is set where Path has lost its first components, being too
	// long for the kernel side's buffer.
	Truncated bool
}

// Aside is what became of a check beside its result.
type Aside struct {
	// Fallback is set where the kernel only asked because First had been denied at the same place.
	Fallback bool
	First    uint8
	// Last is set where First had only been asked for because Earlier had been denied: of three that will do, this is the last.
	Last    bool
	Earlier uint8
	// Probe is set where it was denied, and the kernel went on all the same.
	Probe bool
}

// Firsts are the capabilities that were denied before the kernel asked for this one in their place.
func (a Aside) Firsts() iter.Seq[uint8] {
	return func(yield func(uint8) bool) {
		if a.Fallback && yield(a.First) && a.Last {
			yield(a.Earlier)
		}
	}
}

// WorkloadCount is the number of audited checks of one kind that one
// executable in one cgroup asked for.
type WorkloadCount struct {
	Check
	Aside
	Cgroup  Cgroup
	Process Process
	// Overflow is set for the slots that count what found no slot of its own,
	// nor one of its workload's; Cgroup and Process are zero there.
	Overflow bool
	// Owner is whose share of the slots it draws on: the cgroup itself, or the one in which a user made it. It is a number that no
	// other has, 0 for a root.
	Owner   uint64
	Count   uint64
	Created time.Time
	// Grown is when it was last seen to have counted more: by a snapshot, or by the tracer itself every ten seconds.
	Grown time.Time
	// CallSites names the first few kernel functions that asked, as SiteCount.Symbol does.
	CallSites []string
}

// Snapshot is everything the kernel side has counted, read at one time.
// Counters only grow from one snapshot to the next; slots with equal labels
// may stand in it more than once.
type Snapshot struct {
	Time      time.Time
	Attached  time.Time // when counting began
	Sites     []SiteCount
	Workloads []WorkloadCount
	Borrowed  []CheckCount // audited, under credentials that are not the task's own
	Ended     []CheckCount // what series of workloads that are gone had counted

	Refusals          []RefusalCount // of what was granted in Workloads or Borrowed
	EndedRefusals     []EndedRefusals
	MissedRefusalRuns uint64 // checks of which it is not known whether an LSM refused them, the kernel having skipped the program

	RingRecords  uint64 // announcements read from the ring buffer
	RingLost     uint64 // announcements that found it full
	RingWithheld uint64 // denials counted but not announced (rate limit)
	Unwinds      uint64 // checks whose stack had to be unwound
	MissedRuns   uint64 // checks that were not counted, the kernel having skipped the program, as of the snapshot before

	Series      int // workload slots in use
	SeriesLimit int
	Evicted     uint64 // series that ended for having been idle where slots were scarce
}

// Announcement is one record of the ring buffer: a key seen for the first
// time, or a denial.
type Announcement struct {
	Time time.Time
	New  bool // the first check of this key
	Check
	Aside
	// Harmless is set of a denial in whose place the kernel then granted another capability, Instead. That is known a moment later (see
	// Options.FallbackWait), and never where the kernel's word of it was lost.
	Harmless bool
	Instead  uint8
	LSM      string // which has refused what the capability module granted; "" for that module's own
	Cgroup   Cgroup
	Process  Process
	Overflow bool   // it found no slot of its own, and stands under _other
	Borrowed bool   // under credentials that are not the task's own
	Comm     string // the thread's own name, which it may choose
	TGID     uint32
	TID      uint32
	NSTGID   uint32 // TGID as the innermost PID namespace has it
	UID      uint32 // real user id, as the initial user namespace sees it
	EUID     uint32 // and the effective one
	Syscall  int64  // the machine's own system call number; -1 where the check was made outside of one
	// SyscallName is "" where the number is not known, or is one of a 32-bit program's.
	SyscallName string
	// Path is what the system call was given, raw and cut to 255 bytes, where it takes one: "@" begins the name of an abstract
	// socket. It was not resolved, and a program may have changed it since the kernel read it.
	Path   string
	Symbol string // as SiteCount.Symbol
}

// Source is a way to see the kernel's capability checks.
type Source string

const (
	// SourceTracepoint is tp_btf/cap_capable (Linux 6.14 and later).
	SourceTracepoint Source = source.Tracepoint
	// SourceFexit is fexit/cap_capable.
	SourceFexit Source = source.Fexit
)

// ErrMemlock is the cause of a Refusal with the reason "memlock".
var ErrMemlock = source.ErrMemlock

// Memory is about how much the kernel takes for what is counted in.
type Memory = source.Memory

// Refusal says why a source that was tried is not in use.
type Refusal struct {
	Source Source
	Reason string // absent, permission, verifier, memlock, memory or files
	Err    error
}

// Info is what a Tracer settled on when it was opened.
type Info struct {
	Source  Source
	Audit   string // "callsite" or "opts": how audited is told
	Cgroups string // which hierarchies have named a workload so far: "v2", "v1", "both" or "none"
	// LSM says which other security modules are active and may refuse what the kernel's own grants: "none", or "selinux" or "apparmor",
	// whose refusals are seen, or one of these with "_unavailable" behind it; several with a comma between.
	LSM     string
	Refused []Refusal
}
