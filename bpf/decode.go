package bpf

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
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

// path puts together what name_cgroup in who.h took apart: names from the leaf up, each with its NUL.
func (r *cgroupRecord) path(id uint64) Cgroup {
	c := Cgroup{ID: id, Path: "/", Truncated: r.Truncated != 0}
	n := min(int(r.Len), len(r.Names))
	if names := strings.Split(strings.TrimSuffix(string(r.Names[:n]), "\x00"), "\x00"); n > 0 {
		slices.Reverse(names)
		c.Path = "/" + strings.Join(names, "/")
	}
	return c
}

// pending reads how many checks an entry of a cache has for its slots. Only audited ones have a who slot.
func (c *cached) pending() (n uint64, site, who uint32, audited bool) {
	site = uint32(c.Counted>>pendingBits) % (1 << slotBits)
	who = uint32(c.Counted >> (pendingBits + slotBits)) // plus one
	return c.Counted % (1 << pendingBits), site, who - 1, who != 0
}

func (r *whoRecord) cgroup() cgroupKey {
	return cgroupKey{Id: r.Cgroup, Hierarchy: r.Key.What >> whatHierarchyShift & whatHierarchy}
}

func (r *whoRecord) kind() uint8 { return uint8(r.Key.What >> whatKindShift & whatKind) }

func processOf(kind uint8, name []byte) Process {
	switch kind {
	case kindKernel:
		return Process{Kind: ProcessKernel}
	case kindExiting:
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
