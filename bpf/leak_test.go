package bpf

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestLeaks opens and closes, and leaves neither a goroutine nor a file descriptor behind.
func TestLeaks(t *testing.T) {
	needsRoot(t)
	cycle := func() {
		tr, err := Open(Options{})
		if err != nil {
			t.Fatal(err)
		}
		snapshot(t, tr)
		if err := tr.Close(); err != nil {
			t.Fatal(err)
		}
	}
	cycle() // what is opened once and kept, such as the runtime's poller
	before := descriptors(t)
	ignore := goleak.IgnoreCurrent()
	for range 3 {
		cycle()
	}
	goleak.VerifyNone(t, ignore)
	if after := descriptors(t); after != before {
		t.Errorf("%d file descriptors, and %d before", after, before)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
