package bpf

import (
	"sync/atomic"
	"testing"
)

// TestSnapshotUnderLoad reads the counters while what is pending moves to them at every fourth check: no count is ever more than
// what was asked, or less than it has been, or behind by more than what was on the move.
func TestSnapshotUnderLoad(t *testing.T) {
	const every, snapshots = 4, 3000
	tr := openLive(t, Options{confirmEvery: every})
	count := func() uint64 {
		return siteCount(snapshot(t, tr), Check{Capability: 21}, AuditedYes, []string{"sys_sethostname"})
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
	last, behind := uint64(0), uint64(0)
	for range snapshots {
		least := answered.Load()
		n := count()
		most := asked.Load()
		if n < last || n > most || n+every < least {
			t.Errorf("%d checks in a snapshot, after %d in the one before and with %d to %d made", n, last, least, most)
		}
		if n < least {
			behind++
		}
		last = n
	}
	close(stop)
	<-stopped
	if n := count(); n != asked.Load() || n < snapshots {
		t.Errorf("%d checks in the end, want %d", n, asked.Load())
	}
	t.Logf("%d of %d snapshots were behind", behind, snapshots)
}
