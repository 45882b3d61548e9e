package bpf

import (
	"testing"
	"time"
)

// TestBootClock: the kernel's clock is ahead of ours or behind it, as in a time namespace. The first of the measurements takes longer than
// the others, and is not the one that counts.
func TestBootClock(t *testing.T) {
	for _, ahead := range []time.Duration{10_000 * time.Second, -10_000 * time.Second} {
		t.Run(ahead.String(), func(t *testing.T) { bootClockAhead(t, ahead) })
	}
}

func bootClockAhead(t *testing.T, ahead time.Duration) {
	calls := 0
	c, err := startClock(func() (int64, error) {
		now, err := bootTime()
		calls++
		if calls == 1 {
			time.Sleep(200 * time.Millisecond)
		}
		return int64(now + ahead), err
	})
	if err != nil {
		t.Fatal(err)
	}
	const near = 50 * time.Millisecond
	if d := c.ahead - ahead; d.Abs() >= near {
		t.Errorf("%s ahead, want %s", c.ahead, ahead)
	}
	var there time.Duration
	apart, ago := time.Hour, time.Hour
	for range 10 { // it may have to wait between two of these
		here, err := bootTime()
		if err != nil {
			t.Fatal(err)
		}
		if there, err = c.now(); err != nil {
			t.Fatal(err)
		}
		ago = min(ago, time.Since(c.time(uint64(there))).Abs())
		apart = min(apart, (there - here - ahead).Abs())
	}
	if apart >= near || ago >= near {
		t.Errorf("%s ahead, and %s more or less; now is %s ago", ahead, apart, ago)
	}
	if a, b := c.time(uint64(there)), c.time(uint64(there+time.Hour)); b.Sub(a) != time.Hour {
		t.Errorf("an hour is %s", b.Sub(a))
	}
}
