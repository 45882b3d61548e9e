package bpf

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"unsafe"

	"capability_exporter/bpf/internal/programs"
)

// decode reads a record of the kernel side. Both sides run on one machine, so its layout is T's.
func decode[T any](raw []byte) (*T, error) {
	v := new(T)
	if size := int(unsafe.Sizeof(*v)); len(raw) < size {
		return nil, fmt.Errorf("a record of %T has %d bytes, not %d", *v, len(raw), size)
	}
	copy(bytesOf(v), raw)
	return v, nil
}

func bytesOf[T any](v *T) []byte { return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v)) }

// decodeTold reads an announcement, and the cgroup's record that comes behind it if it says so: as much of it as there are names.
func decodeTold(raw []byte) (*programs.Announcement, *programs.CgroupRecord, error) {
	a, err := decode[programs.Announcement](raw)
	if err != nil || a.Told == 0 {
		return a, nil, err
	}
	r := new(programs.CgroupRecord)
	behind := raw[unsafe.Sizeof(*a):]
	if len(behind) < int(unsafe.Offsetof(r.Names)) {
		return nil, nil, fmt.Errorf("an announcement has %d bytes of a cgroup's record, fewer than one without names", len(behind))
	}
	copy(bytesOf(r), behind)
	return a, r, nil
}

// symbolKey is a kernel function's name as the kernel side's tables have it.
func symbolKey(name string) (key [programs.SymbolSize]byte) {
	copy(key[:], name)
	return key
}

func text(raw []byte) string { return string(untilNUL(raw)) }

func untilNUL(raw []byte) []byte {
	before, _, _ := bytes.Cut(raw, []byte{0})
	return before
}

// pathOf puts together what name_cgroup in programs/who.h took apart: names from the leaf up, each with its NUL.
func pathOf(r *programs.CgroupRecord) Cgroup {
	c := Cgroup{ID: r.Id, Path: "/", Truncated: r.Truncated != 0}
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
	case programs.KindOther:
		return Process{Kind: ProcessOther}
	}
	return Process{Kind: ProcessFile, Name: text(name)}
}

// checkOf reads a what without its class, see WHAT_ in abi.h.
func checkOf(what uint32) Check {
	return Check{
		Capability: uint8(what % programs.Capabilities),
		Denied:     what&programs.WhatDenied != 0,
		UserNS:     what&programs.WhatUserNS != 0,
	}
}

// asideOf reads a WHAT_PART of abi.h.
func asideOf(part uint32) Aside {
	a := Aside{Probe: part&1 != 0}
	if after := part >> 1 & 127; after != 0 {
		a.Fallback, a.First = true, uint8(after-1)
	}
	if before := part >> 8 & 127; before != 0 {
		a.Last, a.Earlier = true, uint8(before-1)
	}
	return a
}

// partOf is the part of a slot's key.
func partOf(r *programs.WhoRecord) uint32 {
	return uint32(r.Key.What/programs.WhatProbe) & programs.WhatPart
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

// givenPath reads a path, or an abstract socket's name, which stands behind a NUL.
func givenPath(raw []byte) string {
	if raw[0] == 0 && raw[1] != 0 {
		return "@" + text(raw[1:])
	}
	return text(raw)
}
