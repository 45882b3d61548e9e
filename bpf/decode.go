package bpf

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"capability_exporter/bpf/internal/programs"
)

// decode reads a record of the kernel side. Both sides run on one machine, so its layout is T's.
func decode[T any](raw []byte) (*T, error) {
	v := new(T)
	size := int(unsafe.Sizeof(*v))
	if len(raw) < size {
		return nil, fmt.Errorf("a record of %T has %d bytes, not %d", *v, len(raw), size)
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(v)), size), raw)
	return v, nil
}

// text reads up to the NUL.
func text(raw []byte) string {
	if i := bytes.IndexByte(raw, 0); i >= 0 {
		raw = raw[:i]
	}
	return string(raw)
}

// pathOf puts together what name_cgroup in programs/who.h took apart: names from the leaf up, each with its NUL.
func pathOf(r *programs.CgroupRecord, id uint64) Cgroup {
	c := Cgroup{ID: id, Path: "/", Truncated: r.Truncated != 0}
	n := min(int(r.Len), len(r.Names))
	if names := strings.Split(strings.TrimSuffix(string(r.Names[:n]), "\x00"), "\x00"); n > 0 {
		slices.Reverse(names)
		c.Path = "/" + strings.Join(names, "/")
	}
	return c
}

func processOf(kind uint8, name []byte) Process {
	switch kind {
	case programs.KindKernel:
		return Process{Kind: ProcessKernel}
	case programs.KindExiting:
		return Process{Kind: ProcessExiting}
	}
	return Process{Kind: ProcessFile, Name: text(name)}
}

// A bootClock turns the kernel side's times (CLOCK_BOOTTIME) into ours. It is read once, so that a created timestamp stays
// the same from one snapshot to the next, whatever is done to the wall clock.
type bootClock struct {
	boot int64
	wall time.Time
}

func readBootClock() (bootClock, error) {
	boot, err := bootTime()
	return bootClock{boot: boot, wall: time.Now()}, err
}

func bootTime() (int64, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0, fmt.Errorf("read CLOCK_BOOTTIME: %w", err)
	}
	return ts.Nano(), nil
}

func (c bootClock) time(boot uint64) time.Time {
	return c.wall.Add(time.Duration(int64(boot) - c.boot))
}

// checkOf reads a what without its class, see WHAT_ in abi.h.
func checkOf(what uint32) Check {
	return Check{
		Capability: uint8(what % programs.Capabilities),
		Denied:     what&programs.WhatDenied != 0,
		UserNS:     what&programs.WhatUserNS != 0,
	}
}

func auditedOf(what uint32) Audited {
	switch what >> programs.WhatClassShift & 3 {
	case programs.ClassNoAudit:
		return AuditedNo
	case programs.ClassAudited:
		return AuditedYes
	}
	return AuditedUnknown
}
