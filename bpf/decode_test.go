package bpf

import (
	"strings"
	"testing"
	"unsafe"

	"capability_exporter/bpf/internal/programs"
)

func recordOf(names string, truncated bool) *programs.CgroupRecord {
	r := &programs.CgroupRecord{Id: 7, Len: uint32(len(names))}
	if truncated {
		r.Truncated = 1
	}
	copy(r.Names[:], names)
	return r
}

func TestCgroupPath(t *testing.T) {
	for names, want := range map[string]string{
		"":                                "/",
		"a\x00":                           "/a",
		"leaf\x00middle\x00top\x00":       "/top/middle/leaf",
		"\n\x00\xff\x00":                  "/\xff/\n",
		strings.Repeat("d\x00", 2048):     strings.Repeat("/d", 2048),
		strings.Repeat("x", 255) + "\x00": "/" + strings.Repeat("x", 255),
	} {
		if got := pathOf(recordOf(names, false)); got.Path != want || got.ID != 7 || got.Truncated {
			t.Errorf("%.20q: %+v", names, got)
		}
	}
	if got := pathOf(recordOf("leaf\x00", true)); !got.Truncated || got.Path != "/leaf" {
		t.Errorf("%+v", got)
	}
}

// TestWhat reads what a check was, bit by bit.
func TestWhat(t *testing.T) {
	for what, want := range map[uint32]Check{
		0: {}, 63: {Capability: 63}, 21 | programs.WhatDenied: {Capability: 21, Denied: true}, 21 | programs.WhatUserNS: {Capability: 21, UserNS: true},
		21 | programs.WhatDenied | programs.WhatUserNS | 3<<programs.WhatClassShift | 3<<programs.WhatKindShift: {Capability: 21, Denied: true, UserNS: true},
	} {
		if got := checkOf(what); got != want {
			t.Errorf("%#x: %+v, want %+v", what, got, want)
		}
	}
	for class, want := range map[uint32]Audited{
		programs.ClassUnknown: AuditedUnknown, programs.ClassNoAudit: AuditedNo, programs.ClassAudited: AuditedYes,
	} {
		if got := auditedOf(class<<programs.WhatClassShift | programs.WhatKind<<programs.WhatKindShift | 255); got != want {
			t.Errorf("class %d: %d, want %d", class, got, want)
		}
	}
	for kind, want := range map[uint8]Process{
		programs.KindFile: {Name: "name"}, programs.KindKernel: {Kind: ProcessKernel}, programs.KindExiting: {Kind: ProcessExiting},
	} {
		if got := processOf(kind, []byte("name\x00rest")); got != want {
			t.Errorf("kind %d: %+v, want %+v", kind, got, want)
		}
	}
	if got := text([]byte("whole")); got != "whole" {
		t.Errorf("%q of a text without a NUL", got)
	}
}

// FuzzDecode reads records of any content: the kernel side is trusted, but its memory is shared with whoever may write it.
func FuzzDecode(f *testing.F) {
	f.Add([]byte("leaf\x00top\x00"), uint32(9))
	f.Add([]byte{}, uint32(1<<31))
	f.Fuzz(func(t *testing.T, raw []byte, n uint32) {
		r := programs.CgroupRecord{Len: n}
		copy(r.Names[:], raw)
		if c := pathOf(&r); !strings.HasPrefix(c.Path, "/") {
			t.Errorf("%q is no path", c.Path)
		}
		for _, err := range []error{errOf(decode[programs.Announcement](raw)), errOf(decode[programs.Sample](raw))} {
			if err == nil && len(raw) < int(unsafe.Sizeof(programs.Sample{})) && len(raw) < int(unsafe.Sizeof(programs.Announcement{})) {
				t.Error("decoded a record that is too short")
			}
		}
		if name := processOf(uint8(n), raw).Name; strings.Contains(name, "\x00") {
			t.Errorf("%q holds a NUL", name)
		}
	})
}

func errOf[T any](_ T, err error) error { return err }

func TestGivenPath(t *testing.T) {
	for raw, want := range map[string]string{
		"/a/b\x00rest":  "/a/b",
		"\x00\x00rest":  "",
		"\x00name\x00x": "@name",
	} {
		if got := givenPath([]byte(raw)); got != want {
			t.Errorf("%q: %q, want %q", raw, got, want)
		}
	}
}
