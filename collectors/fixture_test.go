package collectors

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf"
)

// fakeTracer answers with what it was given and counts how often it was asked.
type fakeTracer struct {
	info      bpf.Info
	snapshot  *bpf.Snapshot
	err       error
	snapshots int
}

func (f *fakeTracer) Info() bpf.Info { return f.info }

func (f *fakeTracer) Snapshot() (*bpf.Snapshot, error) {
	f.snapshots++
	if f.snapshot != nil {
		for i := range f.snapshot.Workloads { // what grew last did so just now
			if w := &f.snapshot.Workloads[i]; w.Grown.IsZero() {
				w.Grown = f.snapshot.Time
			}
		}
	}
	return f.snapshot, f.err
}

// fakeBounds has another number for each.
type fakeBounds struct{}

func (fakeBounds) LogLinesDropped() uint64         { return 1 }
func (fakeBounds) AnnouncementsOverBudget() uint64 { return 2 }
func (fakeBounds) AnnouncementsDropped() uint64    { return 3 }
func (fakeBounds) AnnouncementsNotShown() uint64   { return 4 }
func (fakeBounds) ConnectionsClosed() uint64       { return 5 }
func (fakeBounds) ScrapesRefused() uint64          { return 6 }
func (fakeBounds) FiltersRefused() uint64          { return 7 }
func (fakeBounds) AnswersGivenUp() uint64          { return 8 }

var attached = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// after returns the time some seconds after the program was attached.
func after(seconds float64) time.Time {
	return attached.Add(time.Duration(seconds * float64(time.Second)))
}

var (
	fexitInfo = bpf.Info{
		Source:  bpf.SourceFexit,
		Audit:   "opts",
		Cgroups: "v1",
		LSM:     "apparmor",
		Refused: []bpf.Refusal{
			{Source: bpf.SourceTracepoint, Reason: "absent"},
			{Source: bpf.SourceTracepoint, Reason: "absent"}, // tried twice
			{Source: bpf.SourceTracepoint, Reason: "verifier"},
		},
	}
	tracepointInfo = bpf.Info{Source: bpf.SourceTracepoint, Audit: "callsite", Cgroups: "v2", LSM: "none"}
)

func check(capability cap.Value, denied, userNS bool) bpf.Check {
	return bpf.Check{Capability: uint8(capability), Denied: denied, UserNS: userNS}
}

// digits is a container's identifier.
func digits(d string) string { return strings.Repeat(d, 64) }

// inPod is the cgroup of a container, and always of the same pod.
func inPod(d string) string {
	const pod = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod12fdc709_933e_41d0_917f_cd84de9afa94.slice"
	return pod + "/cri-containerd-" + digits(d) + ".scope"
}

// realistic is a snapshot with everything that can stand in one: slots with
// equal labels, names that try to pass for others, tables that were full,
// borrowed credentials, ended series and checks that could not be classed. It
// holds both identities that the metrics promise.
func realistic() *bpf.Snapshot {
	file := func(name string) bpf.Process { return bpf.Process{Name: name} }
	const future = 63
	sysAdmin := check(cap.SYS_ADMIN, false, false)
	sysAdminDenied := check(cap.SYS_ADMIN, true, false)
	netRaw := check(cap.NET_RAW, true, true)
	ptrace := check(cap.SYS_PTRACE, false, false)
	unnamed := check(future, true, false)
	chroot := check(cap.SYS_CHROOT, false, false)
	netAdmin := check(cap.NET_ADMIN, false, false)
	return &bpf.Snapshot{
		Time:     after(3600),
		Attached: attached,
		Sites: []bpf.SiteCount{
			// The same function out of two parts and two wrappers.
			{Check: sysAdmin, Audited: bpf.AuditedYes, Symbol: "path_mount", Count: 30, Created: after(20)},
			{Check: sysAdmin, Audited: bpf.AuditedYes, Symbol: "path_mount.part.0", Count: 4, Created: after(10)},
			{Check: sysAdmin, Audited: bpf.AuditedYes, Symbol: "__x64_sys_umount", Count: 5, Created: after(11)},
			{Check: sysAdmin, Audited: bpf.AuditedYes, Symbol: "__do_sys_umount.isra.0", Count: 6, Created: after(12)},
			{Check: sysAdmin, Audited: bpf.AuditedNo, Symbol: "mmap_region", Count: 123456, Created: after(0.5)},
			{Check: sysAdmin, Audited: bpf.AuditedUnknown, Symbol: "", Count: 2, Created: after(13)},
			{Check: sysAdminDenied, Audited: bpf.AuditedYes, Symbol: "bpf_token_capable", Count: 9, Created: after(14)},
			{Check: netRaw, Audited: bpf.AuditedYes, Symbol: "packet_create [af_packet]", Count: 7, Created: after(15)},
			{Check: ptrace, Audited: bpf.AuditedYes, Symbol: "__ptrace_may_access", Count: 7, Created: after(16)},
			{Check: ptrace, Audited: bpf.AuditedYes, Overflow: true, Count: 8, Created: attached},
			{Check: unnamed, Audited: bpf.AuditedYes, Symbol: "_other", Count: 1, Created: after(17)},
			{Check: check(cap.KILL, false, true), Audited: bpf.AuditedYes, Symbol: "never_hit", Count: 0, Created: after(18)},
			{Check: chroot, Audited: bpf.AuditedYes, Symbol: "__x64_sys_chroot", Count: 12, Created: after(18)},
			{Check: netAdmin, Audited: bpf.AuditedYes, Symbol: "rtnetlink_rcv_msg", Count: 15, Created: after(19)},
		},
		Workloads: []bpf.WorkloadCount{
			// A service that was started again: same path, other cgroup.
			{Check: sysAdmin, Cgroup: bpf.Cgroup{ID: 101, Path: "/system.slice/backup.service"}, Process: file("mount"), Count: 20, Created: after(20)},
			{Check: sysAdmin, Cgroup: bpf.Cgroup{ID: 202, Path: "/system.slice/backup.service"}, Process: file("mount"), Count: 2, Created: after(900)},
			{Check: sysAdmin, Cgroup: bpf.Cgroup{ID: 1, Path: "/"}, Process: bpf.Process{Kind: bpf.ProcessKernel}, Count: 3, Created: after(21)},
			{Check: sysAdmin, Cgroup: bpf.Cgroup{ID: 1, Path: "/"}, Process: file("[kernel]"), Count: 4, Created: after(22)},
			{Check: sysAdmin, Overflow: true, Count: 5, Created: attached},
			{Check: sysAdmin, Overflow: true, Count: 1, Created: attached},
			{Check: sysAdminDenied, Cgroup: bpf.Cgroup{ID: 303}, Process: bpf.Process{Kind: bpf.ProcessExiting}, Count: 2, Created: after(23)},
			{Check: sysAdminDenied, Cgroup: bpf.Cgroup{ID: 304, Path: "/pod/app", Truncated: true}, Process: file(""), Count: 7, Created: after(24)},
			{Check: netRaw, Cgroup: bpf.Cgroup{ID: 404, Path: "/user.slice/evil\n\x1b[2J\"} 1"}, Process: file("_other"), Count: 3, Created: after(25)},
			{Check: netRaw, Cgroup: bpf.Cgroup{ID: 405, Path: "/user.slice/caf\xe9"}, Process: file(`\xe9`), Count: 2, Created: after(26)},
			{Check: netRaw, Cgroup: bpf.Cgroup{ID: 406, Path: "/user.slice/café"}, Process: file("\u202egpj.exe"), Count: 2, Created: after(27)},
			{Check: ptrace, Cgroup: bpf.Cgroup{ID: 505, Path: "/system.slice/gdb.service"}, Process: file("gdb"), Count: 3, Created: after(28)},
			{Check: ptrace, Cgroup: bpf.Cgroup{ID: 505, Path: "/system.slice/gdb.service"}, Process: bpf.Process{Kind: bpf.ProcessOther}, Count: 4, Created: after(30)},
			{Check: unnamed, Cgroup: bpf.Cgroup{ID: 505, Path: "/system.slice/gdb.service"}, Process: file("memfd:\xff"), Count: 1, Created: after(29)},
			// Containers of a pod, one after the other, and what one had counted whose slot is no more.
			{Check: chroot, Cgroup: bpf.Cgroup{ID: 601, Path: inPod("4")}, Process: file("app"), Count: 5, Created: after(40)},
			{Check: chroot, Cgroup: bpf.Cgroup{ID: 602, Path: inPod("5")}, Process: file("app"), Count: 4, Created: after(50)},
			{Check: chroot, Cgroup: bpf.Cgroup{Path: inPod("3")}, Process: file("app"), Count: 3, Created: after(35)},
			// One of each kind.
			{Check: netAdmin, Cgroup: bpf.Cgroup{ID: 701, Path: `/system.slice/system-openvpn.slice/openvpn@to\x2doffice.service`}, Process: file("openvpn"), Count: 1, Created: after(41)},
			{Check: netAdmin, Cgroup: bpf.Cgroup{ID: 702, Path: "/user.slice/user-1000.slice/user@1000.service/app.slice/run-u7.service"}, Process: file("ip"), Count: 2, Created: after(42)},
			{Check: netAdmin, Cgroup: bpf.Cgroup{ID: 703, Path: "/user.slice/user-1000.slice/session-3.scope"}, Process: file("ip"), Count: 3, Created: after(43)},
			{Check: netAdmin, Cgroup: bpf.Cgroup{ID: 704, Path: "/system.slice/docker-" + digits("6") + ".scope"}, Process: file("ip"), Count: 4, Created: after(44)},
			{Check: netAdmin, Cgroup: bpf.Cgroup{ID: 705, Path: "/lxc.payload.w\\eb/init.scope"}, Process: file("ip"), Count: 5, Created: after(45)},
		},
		Borrowed: []bpf.CheckCount{{Check: sysAdmin, Count: 4}, {Check: sysAdmin, Count: 1}, {Check: ptrace, Count: 2}, {Check: check(cap.KILL, false, true), Count: 0}},
		Ended:    []bpf.CheckCount{{Check: sysAdmin, Count: 5}, {Check: ptrace, Count: 6}},
		Refusals: []bpf.RefusalCount{
			{LSM: "apparmor", Capability: uint8(cap.SYS_ADMIN), Cgroup: bpf.Cgroup{ID: 101, Path: "/system.slice/backup.service"}, Process: file("mount"), Count: 5, Created: after(30)},
			{LSM: "apparmor", Capability: uint8(cap.SYS_ADMIN), Cgroup: bpf.Cgroup{ID: 202, Path: "/system.slice/backup.service"}, Process: file("mount"), Count: 2, Created: after(901)},
			{LSM: "apparmor", Capability: uint8(cap.SYS_ADMIN), Cgroup: bpf.Cgroup{ID: 202, Path: "/system.slice/backup.service"}, Process: bpf.Process{Kind: bpf.ProcessOther}, Count: 1, Created: after(902)},
			{LSM: "apparmor", Capability: uint8(cap.SYS_PTRACE), Overflow: true, Count: 4, Created: attached},
		},
		EndedRefusals:     []bpf.EndedRefusals{{LSM: "apparmor", Capability: uint8(cap.SYS_PTRACE), Count: 2}, {LSM: "apparmor", Capability: uint8(cap.SYS_PTRACE), Count: 1}},
		MissedRefusalRuns: 16,

		RingRecords:  1001,
		RingLost:     12,
		RingWithheld: 13,
		Unwinds:      14,
		MissedRuns:   15,
		Series:       19,
		SeriesLimit:  4096,
	}
}

// random makes a snapshot of n checks that happened one after the other to a
// few callers, each counted in one site slot and, when audited, in one who
// slot, borrowed or ended. Some slots have equal labels.
func random(rng *rand.Rand, n int) *bpf.Snapshot {
	type site struct {
		bpf.Check
		audited bpf.Audited
		symbol  string
	}
	type who struct {
		bpf.Check
		cgroup uint64
		name   string
	}
	sites := make(map[site]uint64)
	whos := make(map[who]uint64)
	borrowed := make(map[bpf.Check]uint64)
	ended := make(map[bpf.Check]uint64)
	for range n {
		c := bpf.Check{Capability: uint8(rng.IntN(64)), Denied: rng.IntN(2) == 0, UserNS: rng.IntN(2) == 0}
		audited := bpf.Audited(rng.IntN(3))
		symbols := []string{"", "overflow", "f", "f.cold", "f [mod]", "g", "__se_sys_g", "sys_g"}
		sites[site{c, audited, symbols[rng.IntN(len(symbols))]}]++
		if audited != bpf.AuditedYes {
			continue
		}
		switch rng.IntN(4) {
		case 0:
			borrowed[c]++
		case 1:
			ended[c]++
		default:
			names := []string{"", "overflow", "a", "b\xff", `b\xff`}
			whos[who{c, rng.Uint64N(3), names[rng.IntN(len(names))]}]++
		}
	}

	s := &bpf.Snapshot{Attached: attached}
	for k, count := range sites {
		slot := bpf.SiteCount{Check: k.Check, Audited: k.audited, Symbol: k.symbol, Count: count, Created: after(rng.Float64())}
		if k.symbol == "overflow" {
			slot.Symbol, slot.Overflow = "", true
		}
		s.Sites = append(s.Sites, slot)
	}
	for k, count := range whos {
		slot := bpf.WorkloadCount{Check: k.Check, Count: count, Created: after(rng.Float64())}
		if k.name == "overflow" {
			slot.Overflow = true
		} else {
			slot.Process.Name = k.name
			slot.Cgroup = bpf.Cgroup{ID: k.cgroup, Path: fmt.Sprintf("/c%d", k.cgroup/2)} // 0 and 1 share a path
		}
		s.Workloads = append(s.Workloads, slot)
	}
	for c, count := range borrowed {
		s.Borrowed = append(s.Borrowed, bpf.CheckCount{Check: c, Count: count})
	}
	for c, count := range ended {
		s.Ended = append(s.Ended, bpf.CheckCount{Check: c, Count: count})
	}
	return s
}
