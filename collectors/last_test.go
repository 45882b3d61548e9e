package collectors

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf"
)

// lastOf takes in a snapshot, and is what is then exposed, by "capability result workload": seconds after the program was attached.
func lastOf(t *testing.T, w *workloads, s *bpf.Snapshot, held ...bpf.HeldCount) map[string]float64 {
	t.Helper()
	all := map[string]float64{}
	metrics := w.metrics(s, held).last
	for i := range metrics {
		var metric dto.Metric
		if err := metrics[i].Write(&metric); err != nil {
			t.Fatal(err)
		}
		name := ""
		for _, label := range metric.GetLabel() {
			name += label.GetValue() + " "
		}
		name = name[:len(name)-1]
		if _, twice := all[name]; twice {
			t.Errorf("%s is exposed twice", name)
		}
		all[name] = metric.GetGauge().GetValue() - float64(attached.Unix())
	}
	return all
}

func counted(path, process string, capability cap.Value, grown float64) bpf.WorkloadCount {
	return bpf.WorkloadCount{
		Check: check(capability, false, false), Cgroup: bpf.Cgroup{ID: 1, Path: path}, Process: bpf.Process{Name: process},
		Count: 1, Created: attached, Grown: after(grown),
	}
}

func TestLastChecks(t *testing.T) {
	const admin, chown = cap.SYS_ADMIN, cap.CHOWN
	a, b := "CAP_SYS_ADMIN granted /a", "CAP_SYS_ADMIN granted /b"
	of := func(change func(*bpf.WorkloadCount), w bpf.WorkloadCount) bpf.WorkloadCount { change(&w); return w }
	denied := of(func(w *bpf.WorkloadCount) { w.Denied = true }, counted("/a", "x", admin, 15))
	inUserNS := of(func(w *bpf.WorkloadCount) { w.UserNS = true }, counted("/a", "x", admin, 15))
	uncounted := of(func(w *bpf.WorkloadCount) { w.Count = 0 }, counted("/a", "x", admin, 15))
	// What is carried on of a slot that is no more is of a cgroup without a number.
	carried := of(func(w *bpf.WorkloadCount) { w.Cgroup.ID = 0 }, counted("/a", "x", admin, 5))
	other := bpf.WorkloadCount{Check: check(chown, false, false), Overflow: true, Count: 1, Created: attached, Grown: after(5)}

	for name, test := range map[string]struct {
		steps [][]bpf.WorkloadCount // one each ten seconds
		want  map[string]float64
	}{
		"one":                        {[][]bpf.WorkloadCount{{counted("/a", "x", admin, 5)}}, map[string]float64{a: 5}},
		"one more":                   {[][]bpf.WorkloadCount{{counted("/a", "x", admin, 5)}, {counted("/a", "x", admin, 15)}}, map[string]float64{a: 15}},
		"one of several processes":   {[][]bpf.WorkloadCount{{counted("/a", "x", admin, 9), counted("/a", "y", admin, 5)}}, map[string]float64{a: 9}},
		"other capability, workload": {[][]bpf.WorkloadCount{{counted("/a", "x", admin, 5), counted("/b", "x", admin, 6), counted("/a", "x", chown, 7)}}, map[string]float64{a: 5, b: 6, "CAP_CHOWN granted /a": 7}},
		"denied is another":          {[][]bpf.WorkloadCount{{counted("/a", "x", admin, 5), denied}}, map[string]float64{a: 5, "CAP_SYS_ADMIN denied /a": 15}},
		"user namespaces, too":       {[][]bpf.WorkloadCount{{counted("/a", "x", admin, 5), inUserNS}}, map[string]float64{a: 15}},
		"without a slot":             {[][]bpf.WorkloadCount{{counted("/a", "x", admin, 5)}, {carried}}, map[string]float64{a: 5}},
		"restarted":                  {[][]bpf.WorkloadCount{{counted("/a", "x", admin, 5)}, {carried, counted("/a", "x", admin, 15)}}, map[string]float64{a: 15}},
		"ended":                      {[][]bpf.WorkloadCount{{counted("/a", "x", admin, 5), counted("/a", "x", chown, 5)}, {counted("/a", "x", chown, 6)}, {counted("/a", "x", chown, 6)}}, map[string]float64{a: 5, "CAP_CHOWN granted /a": 6}},
		"workload ended":             {[][]bpf.WorkloadCount{{counted("/a", "x", admin, 5), counted("/b", "x", admin, 5)}, {counted("/b", "x", admin, 5)}}, map[string]float64{b: 5}},
		"workload ended, came back":  {[][]bpf.WorkloadCount{{counted("/a", "x", admin, 5), counted("/a", "x", chown, 5)}, {}, {counted("/a", "x", chown, 25)}}, map[string]float64{"CAP_CHOWN granted /a": 25}},
		"not counted":                {[][]bpf.WorkloadCount{{uncounted}}, map[string]float64{}},
		"no slot":                    {[][]bpf.WorkloadCount{{other}, {other}}, map[string]float64{"CAP_CHOWN granted _other": 5}},
		"so called itself":           {[][]bpf.WorkloadCount{{other}, {other, counted("/_other", "x", chown, 15)}}, map[string]float64{"CAP_CHOWN granted _other": 5, "CAP_CHOWN granted /_other": 15}},
		"set up": {[][]bpf.WorkloadCount{{
			counted(inPod("4"), "runc", admin, 5), counted(inPod("4"), "memfd:runc_cloned:/proc/self/exe", chown, 6), counted("/system.slice/docker-"+digits("6")+".scope", "crun", admin, 7),
			counted("/system.slice/web.service", "systemd", admin, 8), counted("/system.slice/web.service", "systemd-executor", chown, 9),
			counted("/system.slice/web.service", "web", cap.KILL, 10), counted(inPod("4"), "systemd", cap.KILL, 11),
		}}, map[string]float64{"CAP_KILL granted web.service": 10, "CAP_KILL granted pod/12fdc709-933e-41d0-917f-cd84de9afa94": 11}},
		"nothing that is set up": {[][]bpf.WorkloadCount{{
			counted("/init.scope", "systemd", admin, 5), counted("/system.slice/containerd.service", "runc", admin, 6), counted("/a", "runcible", admin, 7),
			counted("/user.slice/user-1000.slice/user@1000.service/app.slice/web.service", "systemd", admin, 8),
		}}, map[string]float64{"CAP_SYS_ADMIN granted init.scope": 5, "CAP_SYS_ADMIN granted containerd.service": 6, a: 7, "CAP_SYS_ADMIN granted user@1000.service/web.service": 8}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorkloads(nil)
			var got map[string]float64
			for i, slots := range test.steps {
				got = lastOf(t, w, &bpf.Snapshot{Time: after(float64(10 * (i + 1))), Attached: attached, Workloads: slots, SeriesLimit: 64})
			}
			if !maps.Equal(got, test.want) {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}

// TestLastChecksOfWhoHolds: a workload that has no series left but of what it holds used that when it did.
func TestLastChecksOfWhoHolds(t *testing.T) {
	w := newWorkloads(nil)
	lastOf(t, w, &bpf.Snapshot{Time: after(10), Workloads: []bpf.WorkloadCount{counted("/a", "x", cap.SYS_ADMIN, 5), counted("/b", "x", cap.SYS_ADMIN, 5)}, SeriesLimit: 64})
	got := lastOf(t, w, &bpf.Snapshot{Time: after(20), SeriesLimit: 64}, holds("/a", false, 1, 0))
	if want := map[string]float64{"CAP_SYS_ADMIN granted /a": 5}; !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestLatestChecksAreExposed: of more than there is room for, the latest.
func TestLatestChecksAreExposed(t *testing.T) {
	s := &bpf.Snapshot{Time: after(1e6), SeriesLimit: 2 * mostLastChecks}
	for i := range mostLastChecks + 10 {
		s.Workloads = append(s.Workloads, counted(fmt.Sprintf("/%d", i), "x", cap.CHOWN, float64(i)))
	}
	got := lastOf(t, newWorkloads(nil), s)
	if _, oldest := got["CAP_CHOWN granted /9"]; oldest || len(got) != mostLastChecks {
		t.Errorf("%d are exposed, the oldest among them: %t", len(got), oldest)
	}
}

// TestOfOneTimeTheSameAreExposed: where the last place goes to one of many of one time, each scrape gives it to the same.
func TestOfOneTimeTheSameAreExposed(t *testing.T) {
	s := &bpf.Snapshot{Time: after(1e6), SeriesLimit: 4 * mostLastChecks}
	for i := range mostLastChecks {
		path := fmt.Sprintf("/%d", i)
		denied := counted(path, "x", cap.KILL, 1)
		denied.Check.Denied = true
		s.Workloads = append(s.Workloads, counted(path, "x", cap.CHOWN, 1), counted(path, "x", cap.KILL, 1), denied)
	}
	w := newWorkloads(nil)
	first := lastOf(t, w, s)
	for range 3 {
		if again := lastOf(t, w, s); !maps.Equal(first, again) {
			t.Fatal("others are exposed the next time")
		}
	}
}

// TestLateSnapshot: of two snapshots at one time the older one may come last.
func TestLateSnapshot(t *testing.T) {
	w := newWorkloads(nil)
	at := func(seconds float64, slots ...bpf.WorkloadCount) map[string]float64 {
		return lastOf(t, w, &bpf.Snapshot{Time: after(seconds), Workloads: slots, SeriesLimit: 64})
	}
	at(10, counted("/a", "x", cap.CHOWN, 9))
	at(30, counted("/a", "x", cap.CHOWN, 29), counted("/b", "x", cap.CHOWN, 25), counted("/b", "x", cap.KILL, 24))
	at(20, counted("/a", "x", cap.CHOWN, 19))
	got := at(40, counted("/a", "x", cap.CHOWN, 29), counted("/b", "x", cap.CHOWN, 25))
	if want := (map[string]float64{"CAP_CHOWN granted /a": 29, "CAP_CHOWN granted /b": 25, "CAP_KILL granted /b": 24}); !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestLastChecksAreBounded: who has a series that stays goes through all capabilities in others, in many workloads. The latest are kept.
func TestLastChecksAreBounded(t *testing.T) {
	const limit, number = 64, 30
	w := newWorkloads(nil)
	var got map[string]float64
	for c := range 40 {
		s := &bpf.Snapshot{Time: after(float64(c)), SeriesLimit: limit}
		for i := range number {
			path := fmt.Sprintf("/%d", i)
			s.Workloads = append(s.Workloads, counted(path, "stays", 63, 0), counted(path, "goes", cap.Value(c), float64(c)))
		}
		got = lastOf(t, w, s)
		if len(got) > limit+2*number {
			t.Fatalf("%d checks are exposed", len(got))
		}
	}
	if len(got) < 3*number {
		t.Errorf("%d are exposed", len(got))
	}
	for i := range number {
		for _, c := range []uint8{38, 39, 63} {
			if _, ok := got[fmt.Sprintf("%s granted /%d", Capability(c), i)]; !ok {
				t.Errorf("%s of %d is forgotten: %v", Capability(c), i, slices.Sorted(maps.Keys(got)))
			}
		}
	}
	if got = lastOf(t, w, &bpf.Snapshot{Time: after(50), SeriesLimit: limit}); len(got) != 0 {
		t.Errorf("of nothing there is %v", got)
	}
	for word := range w.names.ofWorkloads {
		if word.last != nil {
			t.Fatalf("something is kept of %s", word.value)
		}
	}
}
