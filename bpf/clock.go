package bpf

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// A bootClock turns the kernel side's times into ours. What both count from is read once, so that a created timestamp stays the same
// from one snapshot to the next, whatever is done to the wall clock.
type bootClock struct {
	ahead time.Duration // of our CLOCK_BOOTTIME, which a time namespace may have moved, is the kernel's
	boot  time.Duration // the kernel's, at wall
	wall  time.Time
}

// startClock measures how far the two clocks are apart. kernel reads the kernel's.
func startClock(kernel func() (int64, error)) (c bootClock, err error) {
	narrowest := time.Duration(1<<63 - 1)
	for range 5 {
		before, err := bootTime()
		if err != nil {
			return c, err
		}
		there, err := kernel()
		if err != nil {
			return c, err
		}
		wall := time.Now()
		after, err := bootTime()
		if err != nil {
			return c, err
		}
		if after-before < narrowest {
			narrowest = after - before
			c = bootClock{ahead: time.Duration(there) - (before+after)/2, boot: time.Duration(there), wall: wall}
		}
	}
	return c, nil
}

// now is the kernel's CLOCK_BOOTTIME.
func (c bootClock) now() (time.Duration, error) {
	t, err := bootTime()
	return t + c.ahead, err
}

// time turns the kernel's CLOCK_BOOTTIME into a time of the day.
func (c bootClock) time(boot uint64) time.Time { return c.wall.Add(time.Duration(boot) - c.boot) }

func bootTime() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0, fmt.Errorf("read CLOCK_BOOTTIME: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}
