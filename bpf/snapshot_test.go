package bpf

import (
	"sync/atomic"
	"testing"
)

// TestSnapshotUnderLoad reads the counters while what is pending moves to them at every fourth check: no count is ever more than
// what was asked, or less than it has been, or behind by more than what was on the move and what is told to be missed.
func TestSnapshotUnderLoad(t *testing.T) {
	const every, snapshots = 4, 3000
	tr := openLive(t, Options{confirmEvery: every})
	count := func(s *Snapshot) uint64 {
		return siteCount(s, Check{Capability: 21}, AuditedYes, named(tr, []string{"sys_sethostname"}))
	}
	var asked, answered atomic.Uint64
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			asked.Add(1)
			if err := askSysAdmin(nil); err != nil {
				t.Error(err)
				return
			}
			answered.Add(1)
		}
	}()
	var last, behind uint64
	for range snapshots {
		least := answered.Load()
		n := count(snapshot(t, tr))
		most := asked.Load()
		if n < last || n > most {
			t.Errorf("%d checks in a snapshot, after %d in the one before and with %d to %d made", n, last, least, most)
		}
		if n < least {
			behind = max(behind, least-n)
		}
		last = n
	}
	close(stop)
	<-stopped
	s := checkIdentities(t, tr)
	missed := mayMiss(t, tr, s)
	if n := count(s); short(n, asked.Load(), missed) || n < snapshots {
		t.Errorf("%d checks in the end, and %d missed, want %d", n, missed, asked.Load())
	}
	// What is pending of the key in a bank goes to its counters at once, and the task may have been on each CPU in between.
	if most := every * uint64(tr.counters.banks); behind > most+missed {
		t.Errorf("a snapshot was %d checks behind, want %d at most, and %d were missed", behind, most, missed)
	}
	t.Logf("%d checks, %d missed; at most %d behind", count(s), missed, behind)
}

// TestMissedRuns: a miss is told once two looks in a row have it, and never taken back.
func TestMissedRuns(t *testing.T) {
	var m missedRuns
	for i, look := range []struct{ left, taken, want uint64 }{
		{0, 0, 0},
		{1, 0, 0},  // one that is in between
		{1, 1, 0},  // and was counted
		{3, 1, 0},  // two, of which one is missed
		{3, 2, 1},  //
		{9, 4, 1},  // four more in between,
		{9, 4, 5},  // and there still
		{9, 9, 5},  // it was told, and cannot be taken back
		{20, 9, 5}, // eleven, with those
		{20, 9, 11},
		{20, 25, 11}, // more have come and were counted since the first of two readings
		{20, 25, 11},
	} {
		if got := m.told(look.left, look.taken); got != look.want {
			t.Errorf("look %d, left %d, taken %d: %d missed, want %d", i, look.left, look.taken, got, look.want)
		}
	}
}
