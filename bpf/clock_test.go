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
	near := func(d time.Duration) bool { return d.Abs() < 50*time.Millisecond }
	here, err := bootTime()
	if err != nil {
		t.Fatal(err)
	}
	there, err := c.now()
	if err != nil || !near(there-here-ahead) || !near(c.ahead-ahead) {
		t.Errorf("%s here and %s there, %s ahead (%v), want %s", here, there, c.ahead, err, ahead)
	}
	if d := time.Since(c.time(uint64(there))); !near(d) {
		t.Errorf("now is %s ago", d)
	}
	if a, b := c.time(uint64(there)), c.time(uint64(there+time.Hour)); b.Sub(a) != time.Hour {
		t.Errorf("an hour is %s", b.Sub(a))
	}
}
