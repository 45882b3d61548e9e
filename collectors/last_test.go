package collectors

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf"
)

// lastOf is what is exposed, by "capability result workload": seconds after the program was attached.
func lastOf(t *testing.T, l *lastChecks) map[string]float64 {
	t.Helper()
	all := map[string]float64{}
	metrics := l.metrics()
	for i := range metrics {
		var metric dto.Metric
		if err := metrics[i].Write(&metric); err != nil {
			t.Fatal(err)
		}
		name := ""
		for _, label := range metric.GetLabel() {
			name += label.GetValue() + " "
		}
		all[name[:len(name)-1]] = metric.GetGauge().GetValue() - float64(attached.Unix())
	}
	return all
}

func counted(path, process string, capability cap.Value, count uint64, created float64) bpf.WorkloadCount {
	return bpf.WorkloadCount{
		Check: check(capability, false, false), Cgroup: bpf.Cgroup{ID: 1, Path: path}, Process: bpf.Process{Name: process},
		Count: count, Created: after(created),
	}
}

func TestLastChecks(t *testing.T) {
	const admin, chown = cap.SYS_ADMIN, cap.CHOWN
	a, b := "CAP_SYS_ADMIN granted /a", "CAP_SYS_ADMIN granted /b"
	denied := counted("/a", "x", admin, 1, 1)
	denied.Denied = true
	inUserNS := counted("/a", "x", admin, 3, 1)
	inUserNS.UserNS = true
	other := bpf.WorkloadCount{Check: check(chown, false, false), Overflow: true, Count: 1, Created: attached}
	// What is carried on of a slot that is no more: the same series, of a cgroup without a number.
	carried := counted("/a", "x", admin, 5, 1)
	carried.Cgroup.ID = 0

	for name, test := range map[string]struct {
		steps [][]bpf.WorkloadCount // one each ten seconds
		want  map[string]float64
	}{
		"found at the start":         {[][]bpf.WorkloadCount{{counted("/a", "x", admin, 5, -60)}}, map[string]float64{a: 10}},
		"nothing more":               {[][]bpf.WorkloadCount{{counted("/a", "x", admin, 5, 1)}, {counted("/a", "x", admin, 5, 1)}, {counted("/a", "x", admin, 5, 1)}}, map[string]float64{a: 10}},
		"one more":                   {[][]bpf.WorkloadCount{{counted("/a", "x", admin, 5, 1)}, {counted("/a", "x", admin, 6, 1)}, {counted("/a", "x", admin, 6, 1)}}, map[string]float64{a: 20}},
		"another process":            {[][]bpf.WorkloadCount{{counted("/a", "x", admin, 5, 1)}, {counted("/a", "x", admin, 5, 1), counted("/a", "y", admin, 1, 15)}}, map[string]float64{a: 20}},
		"one of several processes":   {[][]bpf.WorkloadCount{{counted("/a", "x", admin, 5, 1), counted("/a", "y", admin, 5, 1)}, {counted("/a", "y", admin, 7, 1)}, {counted("/a", "y", admin, 7, 1)}}, map[string]float64{a: 20}},
		"other capability, workload": {[][]bpf.WorkloadCount{{counted("/a", "x", admin, 5, 1)}, {counted("/a", "x", admin, 5, 1), counted("/b", "x", admin, 1, 15), counted("/a", "x", chown, 1, 15)}}, map[string]float64{a: 10, b: 20, "CAP_CHOWN granted /a": 20}},
		"denied is another":          {[][]bpf.WorkloadCount{{counted("/a", "x", admin, 5, 1)}, {counted("/a", "x", admin, 5, 1), denied}}, map[string]float64{a: 10, "CAP_SYS_ADMIN denied /a": 20}},
		"user namespaces, too":       {[][]bpf.WorkloadCount{{counted("/a", "x", admin, 5, 1)}, {counted("/a", "x", admin, 5, 1), inUserNS}}, map[string]float64{a: 20}},
		"without a slot":             {[][]bpf.WorkloadCount{{counted("/a", "x", admin, 5, 1)}, {carried}}, map[string]float64{a: 10}},
		"restarted":                  {[][]bpf.WorkloadCount{{counted("/a", "x", admin, 5, 1)}, {carried, counted("/a", "x", admin, 1, 15)}}, map[string]float64{a: 20}},
		"ended, came back":           {[][]bpf.WorkloadCount{{counted("/a", "x", admin, 5, 1)}, {counted("/a", "x", admin, 5, 15)}}, map[string]float64{a: 20}},
		"ended":                      {[][]bpf.WorkloadCount{{counted("/a", "x", admin, 5, 1), counted("/a", "x", chown, 5, 1)}, {counted("/a", "x", chown, 6, 1)}, {counted("/a", "x", chown, 6, 1)}}, map[string]float64{a: 10, "CAP_CHOWN granted /a": 20}},
		"workload ended":             {[][]bpf.WorkloadCount{{counted("/a", "x", admin, 5, 1), counted("/b", "x", admin, 5, 1)}, {counted("/b", "x", admin, 5, 1)}}, map[string]float64{b: 10}},
		"workload ended, came back":  {[][]bpf.WorkloadCount{{counted("/a", "x", admin, 5, 1), counted("/a", "x", chown, 5, 1)}, {}, {counted("/a", "x", chown, 5, 25)}}, map[string]float64{"CAP_CHOWN granted /a": 30}},
		"not counted":                {[][]bpf.WorkloadCount{{counted("/a", "x", admin, 0, 1)}}, map[string]float64{}},
		"no slot":                    {[][]bpf.WorkloadCount{{other}, {other}}, map[string]float64{"CAP_CHOWN granted _other": 10}},
		"so called itself":           {[][]bpf.WorkloadCount{{other}, {other, counted("/_other", "x", chown, 1, 1)}}, map[string]float64{"CAP_CHOWN granted _other": 10, "CAP_CHOWN granted /_other": 20}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLastChecks()
			for i, slots := range test.steps {
				l.see(&bpf.Snapshot{Time: after(float64(10 * (i + 1))), Attached: attached, Workloads: slots, SeriesLimit: 64})
			}
			if got := lastOf(t, l); !maps.Equal(got, test.want) {
				t.Errorf("%v, want %v", got, test.want)
			}
			if l.known != len(test.want) {
				t.Errorf("%d are known, want %d", l.known, len(test.want))
			}
		})
	}
}

// TestLateSnapshot: of two snapshots at one time the older one may come last.
func TestLateSnapshot(t *testing.T) {
	l := newLastChecks()
	at := func(seconds float64, count uint64) {
		l.see(&bpf.Snapshot{Time: after(seconds), Workloads: []bpf.WorkloadCount{counted("/a", "x", cap.CHOWN, count, 1)}, SeriesLimit: 64})
	}
	at(10, 1)
	at(30, 3)
	at(20, 2)
	at(40, 3)
	if got := lastOf(t, l); !maps.Equal(got, map[string]float64{"CAP_CHOWN granted /a": 30}) {
		t.Errorf("%v", got)
	}
}

// TestLastChecksAreBounded: who has a series that stays goes through all capabilities in others, in many workloads. The latest are kept.
func TestLastChecksAreBounded(t *testing.T) {
	const limit, workloads = 64, 30
	l := newLastChecks()
	var last time.Time
	for c := range 40 {
		last = after(float64(c))
		s := &bpf.Snapshot{Time: last, SeriesLimit: limit}
		for w := range workloads {
			path := fmt.Sprintf("/%d", w)
			s.Workloads = append(s.Workloads, counted(path, "stays", 63, 1, 0), counted(path, "goes", cap.Value(c), 1, float64(c)))
		}
		l.see(s)
		if len(l.series) != 2*workloads || l.known > limit+2*workloads || len(l.cgroups) != workloads || len(l.workloads) != workloads {
			t.Fatalf("%d series, %d checks, %d cgroups, %d workloads", len(l.series), l.known, len(l.cgroups), len(l.workloads))
		}
	}
	got := lastOf(t, l)
	if len(got) != l.known || len(got) < 3*workloads {
		t.Errorf("%d are exposed of %d", len(got), l.known)
	}
	for w := range workloads {
		for _, c := range []uint8{38, 39, 63} {
			if _, ok := got[fmt.Sprintf("%s granted /%d", Capability(c), w)]; !ok {
				t.Errorf("%s of %d is forgotten: %v", Capability(c), w, slices.Sorted(maps.Keys(got)))
			}
		}
	}
	l.see(&bpf.Snapshot{Time: last, SeriesLimit: limit})
	if len(l.series)+l.known+len(l.cgroups)+len(l.workloads) != 0 {
		t.Error("something is kept of nothing")
	}
}
