package bpf

import (
	"slices"
	"testing"
	"time"
	"unsafe"

	"capability_exporter/bpf/internal/programs"
)

// TestAnnouncement reads records of the ring, each field of which has a value of its own.
func TestAnnouncement(t *testing.T) {
	k := &fakeKernel{cgroups: map[uint64]*programs.CgroupRecord{}}
	k.cgroup(5, "service")
	tr := &Tracer{cgroups: newCgroups(fakeCgroups{k}, pathName), clock: bootClock{wall: time.Unix(1000, 0), boot: 10 * time.Second}}
	r := programs.Announcement{
		Time: uint64(12 * time.Second), Cgroup: 5, Syscall: 170, Tgid: 1, Tid: 2, Uid: 3, Euid: 4, NsTgid: 5,
		Slot: programs.WhoFixed, What: 21 | programs.WhatDenied, Fresh: 1, Part: 2*(39+1) | 1, After: 7, Awaits: 1,
	}
	copy(r.Name[:], "asks")
	copy(r.Comm[:], "thread")
	copy(r.Path[:], "/given")
	want := Announcement{
		Time: time.Unix(1002, 0), New: true, Check: Check{Capability: 21, Denied: true}, Aside: Aside{Fallback: true, First: 39, Probe: true}, Cgroup: Cgroup{ID: 105, Path: "/service"},
		Process: Process{Name: "asks"}, Comm: "thread", TGID: 1, TID: 2, UID: 3, EUID: 4, NSTGID: 5,
		Syscall: 170, SyscallName: syscallName(170), Path: "/given",
	}
	wantRelation := relation{of: denial{2, uint64(12 * time.Second)}, after: denial{2, 7}, awaits: true}
	check := func(raw []byte) {
		t.Helper()
		if got, gotRelation, err := tr.announcement(raw, tr.cgroups); err != nil || got != want || gotRelation != wantRelation {
			t.Errorf("%+v, %+v, %v\nwant %+v, %+v", got, gotRelation, err, want, wantRelation)
		}
	}
	check(bytesOf(&r))
	r.Fresh, want.New = 0, false
	r.Awaits, wantRelation.awaits = 0, false
	r.Kind, want.Process = programs.KindKernel, Process{Kind: ProcessKernel}
	check(bytesOf(&r))
	r.Slot, want.Borrowed = programs.WhoFixed-1, true
	check(bytesOf(&r))
	r.Slot = programs.WhoBorrowed
	check(bytesOf(&r))
	r.Slot, want.Borrowed, want.Overflow = programs.WhoBorrowed-1, false, true
	check(bytesOf(&r))
	// Of a cgroup that has no record the announcement brings one.
	r.Told, r.Cgroup = 1, 6
	told := recordOf("leaf\x00top\x00", false)
	want.Cgroup = Cgroup{ID: 7, Path: "/top/leaf"}
	raw := slices.Concat(bytesOf(&r), bytesOf(told)[:unsafe.Offsetof(told.Names)+9])
	check(raw)
	if len(tr.cgroups.known) != 1 {
		t.Errorf("knows %v: nobody would take it away", tr.cgroups.known)
	}
	// So does one that stands under its workload's others, which may be of another cgroup.
	r.Slot = programs.WhoFixed
	check(slices.Concat(bytesOf(&r), bytesOf(told)[:unsafe.Offsetof(told.Names)+9]))
	for _, short := range []int{int(unsafe.Sizeof(r)) - 1, int(unsafe.Sizeof(r) + unsafe.Offsetof(told.Names) - 1)} {
		if _, _, err := tr.announcement(raw[:short], tr.cgroups); err == nil {
			t.Errorf("no error about a record of %d bytes", short)
		}
	}
}
