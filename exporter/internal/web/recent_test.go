package web

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf"
	"capability_exporter/exporter/internal/exportertest"
)

// used is a granted use of a capability by a process of that name.
func used(capability cap.Value, process string, count uint64) bpf.WorkloadCount {
	return bpf.WorkloadCount{
		Check:   bpf.Check{Capability: uint8(capability)},
		Cgroup:  bpf.Cgroup{ID: 1, Path: "/a"},
		Process: bpf.Process{Name: process},
		Count:   count,
		Created: time.Unix(1000, 0),
	}
}

// counted writes a view as "process granted/denied".
func counted(v recentView) []string {
	var all []string
	for _, row := range v.Rows {
		all = append(all, fmt.Sprintf("%s %d/%d", row.Process, row.Granted, row.Denied))
	}
	return all
}

func wantCounted(t *testing.T, r *Recent, want ...string) {
	t.Helper()
	if got := counted(r.view(time.Now())); !slices.Equal(got, want) {
		t.Errorf("rows %q, want %q", got, want)
	}
}

func TestRecentWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &exportertest.Tracer{}
		r := NewRecent(source)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { r.Run(ctx); close(done) }()

		source.Set(nil, used(cap.CHOWN, "a", 5))
		synctest.Wait() // the first snapshot may have been before that
		time.Sleep(recentInterval)
		synctest.Wait()
		wantCounted(t, r, "a 5/0")

		// Only what is new is added, and what has not changed stays.
		source.Set(nil, used(cap.CHOWN, "a", 8), used(cap.CHOWN, "b", 1))
		time.Sleep(recentInterval)
		synctest.Wait()
		wantCounted(t, r, "a 8/0", "b 1/0")

		// Five minutes later it is forgotten, but what comes then is told
		// apart from what was before.
		time.Sleep(recentWindow)
		synctest.Wait()
		wantCounted(t, r)
		source.Set(nil, used(cap.CHOWN, "a", 9), used(cap.CHOWN, "b", 1))
		time.Sleep(recentInterval)
		synctest.Wait()
		wantCounted(t, r, "a 1/0")

		taken := source.Taken()
		time.Sleep(recentWindow)
		synctest.Wait()
		if got, want := source.Taken()-taken, int(recentWindow/recentInterval); got != want {
			t.Errorf("%d snapshots in %v, want %d", got, recentWindow, want)
		}
		if len(r.steps) != 0 {
			t.Errorf("%d steps are kept of what is long gone", len(r.steps))
		}
		cancel()
		<-done
	})
}

func TestRecentSeriesStartsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &Recent{}
		add := func(w ...bpf.WorkloadCount) {
			time.Sleep(recentInterval)
			r.add(time.Now(), &bpf.Snapshot{Workloads: w}, nil)
		}
		add(used(cap.CHOWN, "a", 5))
		// A series that has ended and come back counts from 0, and may have
		// counted past the old number already.
		again := used(cap.CHOWN, "a", 7)
		again.Created = again.Created.Add(time.Hour)
		add(again)
		wantCounted(t, r, "a 12/0")
		// A series with less than before cannot be, but must not wrap around.
		again.Count = 2
		add(again)
		wantCounted(t, r, "a 14/0")
		// Gone, and back.
		add()
		add(again)
		wantCounted(t, r, "a 16/0")
	})
}

// A service that is restarted has a new cgroup of the same path: what the old
// one's slot had counted goes on under the same name.
func TestRecentServiceRestarts(t *testing.T) {
	r := &Recent{}
	now := time.Now()
	add := func(w ...bpf.WorkloadCount) {
		now = now.Add(recentInterval)
		r.add(now, &bpf.Snapshot{Workloads: w}, nil)
	}
	old := used(cap.CHOWN, "a", 5)
	add(old)
	renewed := used(cap.CHOWN, "a", 2)
	renewed.Cgroup.ID, renewed.Created = 2, old.Created.Add(time.Hour)
	add(old, renewed)
	carried := old
	carried.Cgroup.ID = 0
	add(carried, renewed)
	if got, want := counted(r.view(now)), []string{"a 7/0"}; !slices.Equal(got, want) {
		t.Errorf("rows %q, want %q", got, want)
	}
}

func TestRecentSumsEqualNames(t *testing.T) {
	r := &Recent{}
	denied := used(cap.CHOWN, "a", 3)
	denied.Denied = true
	denied.CallSites = []string{"chown_common", "__x64_sys_chown"}
	granted := used(cap.CHOWN, "a", 4)
	granted.CallSites = []string{"chown_common"}
	otherSlot := granted
	otherSlot.Cgroup.ID = 2 // another cgroup of the same name
	userns := used(cap.CHOWN, "a", 1)
	userns.UserNS = true
	r.add(time.Now(), &bpf.Snapshot{Workloads: []bpf.WorkloadCount{denied, granted, otherSlot, granted, userns}}, nil)

	wantCounted(t, r, "a 12/3", "a 1/0")
	if got, want := r.view(time.Now()).Rows[0].CallSites, []string{"chown_common", "sys_chown"}; !slices.Equal(got, want) {
		t.Errorf("call sites %q, want %q", got, want)
	}
}

func TestRecentOrder(t *testing.T) {
	r := &Recent{}
	denied := used(cap.CHOWN, "denied", 1)
	denied.Denied = true
	deniedAdmin := used(cap.SYS_ADMIN, "denied admin", 1)
	deniedAdmin.Denied = true
	overflow := used(cap.NET_RAW, "", 2)
	overflow.Overflow, overflow.Cgroup, overflow.Process = true, bpf.Cgroup{}, bpf.Process{}
	r.add(time.Now(), &bpf.Snapshot{Workloads: []bpf.WorkloadCount{
		overflow, used(cap.CHOWN, "often", 1000), denied, used(cap.SYS_ADMIN, "admin", 1), deniedAdmin,
	}}, nil)
	wantCounted(t, r, "denied admin 0/1", "denied 0/1", "admin 1/0", "often 1000/0", "_other 2/0")
}

func TestRecentAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &Recent{}
		r.add(time.Now(), &bpf.Snapshot{Workloads: []bpf.WorkloadCount{used(cap.CHOWN, "a", 1)}}, nil)
		time.Sleep(recentInterval)
		failure := errors.New("broken")
		r.add(time.Now(), nil, failure)
		v := r.view(time.Now())
		if !errors.Is(v.Err, failure) || v.Snapshot == nil {
			t.Errorf("view = %+v, want the failure beside the last snapshot", v)
		}
		wantCounted(t, r, "a 1/0")

		time.Sleep(recentInterval)
		r.add(time.Now(), &bpf.Snapshot{Workloads: []bpf.WorkloadCount{used(cap.CHOWN, "a", 4)}}, nil)
		if v := r.view(time.Now()); v.Err != nil {
			t.Errorf("the failure is still shown: %v", v.Err)
		}
		wantCounted(t, r, "a 4/0")
	})
}
