package web

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
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
		r := NewRecent(source, nil)
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

// The history says when it does not go on: where snapshots fail, or one does not
// come to an end.
func TestRecentGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &stalling{gone: make(chan struct{})}
		r := NewRecent(source, nil)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { r.Run(ctx); close(done) }()
		// want waits for some snapshots and looks just before the next.
		want := func(snapshots int, want string) {
			t.Helper()
			time.Sleep(time.Duration(snapshots) * recentInterval)
			synctest.Wait()
			if got := fmt.Sprint(r.GoesOn(time.Now())); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		}
		want(100, "<nil>")
		source.Set(errors.New("map is gone"))
		want(3, "<nil>")
		want(1, "no snapshot could be taken for 40s: map is gone")
		source.Set(nil)
		want(1, "<nil>")
		source.stalled.Store(true)
		want(3, "<nil>")
		want(1, "a snapshot takes more than 40s")
		close(source.gone)
		want(1, "<nil>")
		cancel()
		<-done
	})
}

// stalling comes to no end while it is stalled, until it is gone.
type stalling struct {
	exportertest.Tracer
	stalled atomic.Bool
	gone    chan struct{}
}

func (s *stalling) Snapshot() (*bpf.Snapshot, error) {
	if s.stalled.Load() {
		<-s.gone
	}
	return s.Tracer.Snapshot()
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

// A container that is started again in its pod has another cgroup: what the old
// one's slot had counted goes on under the same name.
func TestRecentServiceRestarts(t *testing.T) {
	r := &Recent{}
	now := time.Now()
	add := func(w ...bpf.WorkloadCount) {
		now = now.Add(recentInterval)
		r.add(now, &bpf.Snapshot{Workloads: w}, nil)
	}
	inPod := func(digit string) string {
		return "/kubepods/burstable/pod12fdc709-933e-41d0-917f-cd84de9afa94/" + strings.Repeat(digit, 64)
	}
	old := used(cap.CHOWN, "a", 5)
	old.Cgroup.Path = inPod("1")
	add(old)
	renewed := used(cap.CHOWN, "a", 2)
	renewed.Cgroup, renewed.Created = bpf.Cgroup{ID: 2, Path: inPod("2")}, old.Created.Add(time.Hour)
	add(old, renewed)
	carried := old
	carried.Cgroup.ID = 0
	add(carried, renewed)
	if got, want := counted(r.view(now)), []string{"a 7/0"}; !slices.Equal(got, want) {
		t.Errorf("rows %q, want %q", got, want)
	}
	if got := r.view(now).Rows[0].Workload; got != "pod/12fdc709-933e-41d0-917f-cd84de9afa94" {
		t.Errorf("it is called %q", got)
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
	row := r.view(time.Now()).Rows[0]
	if got, want := row.DeniedSites, []string{"chown_common", "sys_chown"}; !slices.Equal(got, want) {
		t.Errorf("denied in %q, want %q", got, want)
	}
	if got, want := row.GrantedSites, []string{"chown_common"}; !slices.Equal(got, want) {
		t.Errorf("granted in %q, want %q", got, want)
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
	wantCounted(t, r, "admin 1/0", "denied admin 0/1", "denied 0/1", "often 1000/0", "_other 2/0")
}

// Rows that are equal otherwise have an order, too: a page that reloads must
// not shuffle them.
func TestRecentOrderAmongEquals(t *testing.T) {
	in := func(capability cap.Value, cgroup, process string, userNS bool) bpf.WorkloadCount {
		w := used(capability, process, 1)
		w.Cgroup.Path, w.UserNS = cgroup, userNS
		return w
	}
	often := used(cap.KILL, "denied often", 2)
	often.Denied = true
	seldom := used(cap.CHOWN, "denied seldom", 1)
	seldom.Denied = true
	workloads := []bpf.WorkloadCount{
		often, seldom,
		in(cap.CHOWN, "/a", "p", false), in(cap.CHOWN, "/a", "p", true), in(cap.CHOWN, "/a", "q", false), in(cap.CHOWN, "/b", "a", false), in(cap.KILL, "/0", "0", false),
	}
	want := []string{"denied often /a false", "denied seldom /a false", "p /a false", "p /a true", "q /a false", "a /b false", "0 /0 false"}
	for range 20 { // a map's order is another each time
		r := &Recent{}
		r.add(time.Now(), &bpf.Snapshot{Workloads: workloads}, nil)
		var got []string
		for _, row := range r.view(time.Now()).Rows {
			got = append(got, fmt.Sprint(row.Process, " ", row.Workload, " ", row.UserNS))
		}
		if !slices.Equal(got, want) {
			t.Fatalf("rows %q, want %q", got, want)
		}
	}
}

// The window ends with the page, not with the last snapshot.
func TestRecentWindowMovesOn(t *testing.T) {
	r, now := &Recent{}, time.Now()
	r.add(now, &bpf.Snapshot{Workloads: []bpf.WorkloadCount{used(cap.CHOWN, "a", 1)}}, nil)
	for after, want := range map[time.Duration]int{5*time.Minute - 1: 1, 5 * time.Minute: 0} {
		if got := len(r.view(now.Add(after)).Rows); got != want {
			t.Errorf("%d rows after %v, want %d", got, after, want)
		}
	}
}

// Nothing but the history itself is kept: a snapshot has thousands of series.
func TestRecentKeepsNoSeries(t *testing.T) {
	r := &Recent{}
	r.add(time.Now(), &bpf.Snapshot{Workloads: []bpf.WorkloadCount{used(cap.CHOWN, "a", 1)}, Sites: make([]bpf.SiteCount, 1), Refusals: make([]bpf.RefusalCount, 1), Series: 1}, nil)
	if s := r.view(time.Now()).Snapshot; s.Workloads != nil || s.Sites != nil || s.Refusals != nil || s.Series != 1 {
		t.Errorf("kept %+v", s)
	}
}

func TestRecentCallSites(t *testing.T) {
	w := used(cap.CHOWN, "a", 1)
	w.CallSites = []string{"z\u202e", "chown_common.isra.0", "chown_common", "__x64_sys_chown"}
	r := &Recent{}
	r.add(time.Now(), &bpf.Snapshot{Workloads: []bpf.WorkloadCount{w}}, nil)
	if got, want := r.view(time.Now()).Rows[0].GrantedSites, []string{"chown_common", "sys_chown", `z\xe2\x80\xae`}; !slices.Equal(got, want) {
		t.Errorf("call sites %q, want %q", got, want)
	}
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

func heap() int64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

// What is kept of an interval is what was added in it, and names are kept once.
func TestRecentTakesLittleMemory(t *testing.T) {
	const number, each = 8192, 600 // 37.5 MiB for 65,536
	workloads := make([]bpf.WorkloadCount, number)
	for n := range workloads {
		workloads[n] = used(cap.CHOWN, fmt.Sprint("process", n), 0)
		workloads[n].CallSites = []string{"chown_common"}
	}
	before := heap()
	r, now := &Recent{}, time.Now()
	add := func(snapshot *bpf.Snapshot) {
		now = now.Add(recentInterval)
		r.add(now, snapshot, nil)
	}
	for range 2 * recentWindow / recentInterval {
		for n := range workloads {
			workloads[n].Count++
		}
		add(&bpf.Snapshot{Workloads: workloads})
	}
	got := heap() - before
	t.Logf("%d bytes for each series", got/number)
	if got > number*each {
		t.Errorf("%d bytes for each series, want %d", got/number, each)
	}
	if got := r.view(now).Rows; len(got) != number || got[0].Granted != uint64(recentWindow/recentInterval) {
		t.Errorf("%d rows, the first %+v", len(got), got[0])
	}

	// And when they have gone, so has that.
	for range recentWindow/recentInterval + 1 {
		add(&bpf.Snapshot{})
	}
	if used := len(r.numbered) - len(r.unused); len(r.askers) != 0 || used != 0 {
		t.Errorf("%d series and %d places are kept", len(r.askers), used)
	}
	runtime.KeepAlive(workloads)
}

// However much is added in one interval is told, and forgotten.
func TestRecentOfVeryMuch(t *testing.T) {
	r, now := &Recent{}, time.Now()
	add := func(count uint64) {
		r.add(now, &bpf.Snapshot{Workloads: []bpf.WorkloadCount{used(cap.CHOWN, "a", count)}}, nil)
	}
	for _, much := range []uint64{math.MaxUint32 + 1, 3<<33 + 1} {
		*r = Recent{}
		add(much)
		if got := r.view(now).Rows[0].Granted; got != much {
			t.Errorf("%d, want %d", got, much)
		}
		now = now.Add(recentWindow)
		if got := r.view(now).Rows; len(got) != 0 {
			t.Errorf("%+v", got)
		}
		add(much + 1)
		if got := r.view(now).Rows[0].Granted; got != 1 {
			t.Errorf("%d, want 1", got)
		}
		now = now.Add(recentWindow)
		if got := r.view(now).Rows; len(got) != 0 {
			t.Errorf("%+v", got)
		}
	}
}

// What it asked by way of is told of the window, as all else.
func TestRecentForgetsCallSites(t *testing.T) {
	r, now := &Recent{}, time.Now()
	add := func(count uint64, sites ...string) {
		w := used(cap.CHOWN, "a", count)
		w.CallSites = sites
		r.add(now, &bpf.Snapshot{Workloads: []bpf.WorkloadCount{w}}, nil)
	}
	add(1, "old")
	now = now.Add(recentWindow)
	add(1, "old")
	add(2, "new")
	if got, want := r.view(now).Rows[0].GrantedSites, []string{"new"}; !slices.Equal(got, want) {
		t.Errorf("call sites %q, want %q", got, want)
	}
}

// Of the denials those that did no harm are told apart: the kernel did not mind,
// or was content with another capability.
func TestRecentHarmless(t *testing.T) {
	slots := func(denied, probes, instead, other uint64) []bpf.WorkloadCount {
		w := refused(cap.DAC_READ_SEARCH, "a", denied)
		probe := refused(cap.DAC_READ_SEARCH, "a", probes)
		probe.Probe = true
		fallback := used(cap.DAC_OVERRIDE, "a", instead)
		fallback.Fallback, fallback.First = true, uint8(cap.DAC_READ_SEARCH)
		inVain := fallback
		inVain.Denied = true
		elsewhere := fallback
		elsewhere.Process.Name, elsewhere.Count = "b", other
		return []bpf.WorkloadCount{w, probe, fallback, inVain, elsewhere, used(cap.DAC_OVERRIDE, "a", 5)}
	}
	r, now := &Recent{}, time.Now()
	check := func(when string, want ...string) {
		t.Helper()
		now = now.Add(recentInterval)
		var got []string
		for _, row := range r.view(now).Rows {
			got = append(got, fmt.Sprint(row.Process, " ", row.Capability, " ", row.Granted, "/", row.Denied, "-", row.Harmless, " ", row.class()))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
	}
	r.add(now, &bpf.Snapshot{Workloads: slots(5, 1, 3, 2)}, nil)
	check("all at once", "a 1 8/3-0 1", "a 2 0/6-4 1", "b 1 2/0-0 3")
	r.add(now, &bpf.Snapshot{Workloads: slots(5, 1, 5, 2)}, nil)
	check("none counts", "a 1 10/5-0 1", "a 2 0/6-6 3", "b 1 2/0-0 3")
	r.add(now, &bpf.Snapshot{Workloads: slots(5, 1, 9, 2)}, nil)
	check("more than were denied", "a 1 14/9-0 1", "a 2 0/6-6 3", "b 1 2/0-0 3")
	now = now.Add(recentWindow)
	r.add(now, &bpf.Snapshot{Workloads: slots(6, 2, 9, 2)}, nil)
	check("in another window", "a 2 0/2-1 1")
	now = now.Add(recentWindow)
	for range 2 {
		r.add(now, &bpf.Snapshot{Workloads: slots(0, 0, 9, 2)[2:3]}, nil)
	}
	r.add(now, &bpf.Snapshot{Workloads: slots(7, 0, 9, 2)}, nil)
	check("what was granted before does not count for what is denied now", "a 1 5/9-0 1", "a 2 0/7-0 1", "b 1 2/0-0 3")
	for range 2 {
		r.add(now.Add(recentWindow), &bpf.Snapshot{}, nil)
	}
	if len(r.askers) != 0 {
		t.Errorf("%d are kept", len(r.askers))
	}
}

// Of three that will do, the last makes up for the two before it.
func TestRecentHarmlessOfThree(t *testing.T) {
	last := used(cap.SYS_PTRACE, "a", 2)
	last.Fallback, last.First, last.Last, last.Earlier = true, uint8(cap.SYS_ADMIN), true, uint8(cap.PERFMON)
	r, now := &Recent{}, time.Now()
	r.add(now, &bpf.Snapshot{}, nil)
	now = now.Add(recentInterval)
	r.add(now, &bpf.Snapshot{Workloads: []bpf.WorkloadCount{refused(cap.PERFMON, "a", 2), refused(cap.SYS_ADMIN, "a", 3), last}}, nil)
	harmless := map[uint8]uint64{}
	for _, row := range r.view(now).Rows {
		harmless[row.Capability] = row.Harmless
	}
	if want := (map[uint8]uint64{uint8(cap.PERFMON): 2, uint8(cap.SYS_ADMIN): 2, uint8(cap.SYS_PTRACE): 0}); !maps.Equal(harmless, want) {
		t.Errorf("did no harm: %v, want %v", harmless, want)
	}
}

// What was denied five minutes ago says nothing of what is granted now.
func TestRecentForgetsWhereItWasDenied(t *testing.T) {
	denied, granted := used(cap.SETGID, "nginx", 1), used(cap.SETGID, "nginx", 2)
	denied.Denied, denied.CallSites, granted.CallSites = true, []string{"sys_setgroups"}, []string{"__sys_setgid"}
	r, now := &Recent{}, time.Now()
	add := func() { r.add(now, &bpf.Snapshot{Workloads: []bpf.WorkloadCount{denied, granted}}, nil) }
	check := func(when string, now time.Time, want ...string) {
		t.Helper()
		row := r.view(now).Rows[0]
		if !slices.Equal(row.DeniedSites, want) || !slices.Equal(row.GrantedSites, granted.CallSites) {
			t.Errorf("%s: denied in %q, granted in %q", when, row.DeniedSites, row.GrantedSites)
		}
	}
	add()
	check("at first", now, "sys_setgroups")
	now = now.Add(recentWindow / 2)
	granted.Count++
	add()
	check("both in the window", now, "sys_setgroups")
	check("one has left it since", now.Add(recentWindow/2))
	now = now.Add(recentWindow / 2)
	add()
	check("one has left it", now)
}
