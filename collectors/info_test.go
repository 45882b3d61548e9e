package collectors

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf"
	"capability_exporter/collectors/workload"
)

// fakePods knows some, and writes down who was asked for.
type fakePods struct {
	known map[string]workload.PodName
	asked []string
}

func (f *fakePods) Names(uids map[string]bool) map[string]workload.PodName {
	f.asked = append(f.asked, strings.Join(slices.Sorted(maps.Keys(uids)), " "))
	found := map[string]workload.PodName{}
	for uid := range uids {
		if name, ok := f.known[uid]; ok {
			found[uid] = name
		}
	}
	return found
}

// told is what is exposed of workloads, "workload: container namespace/pod" each, in the order in which it comes.
func told(t *testing.T, w *workloads, at time.Time, slots ...bpf.WorkloadCount) []string {
	t.Helper()
	return toldOf(t, w, at, nil, slots...)
}

// toldOf is told where somebody holds something, too.
func toldOf(t *testing.T, w *workloads, at time.Time, held []bpf.HeldCount, slots ...bpf.WorkloadCount) []string {
	t.Helper()
	ch := make(chan prometheus.Metric, 3*len(slots)+len(held)+10)
	w.collect(&bpf.Snapshot{Time: at, Attached: attached, Workloads: slots}, held, ch)
	close(ch)
	var all []string
	for m := range ch {
		if _, ok := m.(*infoMetric); !ok {
			continue
		}
		var metric dto.Metric
		if err := m.Write(&metric); err != nil {
			t.Fatal(err)
		}
		labels := map[string]string{}
		for _, pair := range metric.GetLabel() {
			labels[pair.GetName()] = pair.GetValue()
		}
		if metric.GetGauge().GetValue() != 1 || len(labels) != 8 {
			t.Errorf("exposed %v", &metric)
		}
		container := labels["container_id"]
		all = append(all, fmt.Sprintf("%s: %s %s/%s", labels["workload"], container[:min(3, len(container))], labels["namespace"], labels["pod"]))
	}
	return all
}

func inCgroup(id uint64, path string) bpf.WorkloadCount {
	return bpf.WorkloadCount{Check: check(cap.CHOWN, false, false), Cgroup: bpf.Cgroup{ID: id, Path: path}, Process: bpf.Process{Name: "p"}, Count: 1, Created: attached}
}

const thePod = "pod/12fdc709-933e-41d0-917f-cd84de9afa94"

// Each workload that has a series stands there once, with the newest of its
// cgroups; one that has none any more does not.
func TestInfoIsOfTheNewestCgroup(t *testing.T) {
	w := newWorkloads(nil)
	idle := inCgroup(9, "/system.slice/idle.service")
	idle.Count = 0
	for _, test := range []struct {
		what  string
		slots []bpf.WorkloadCount
		want  []string
	}{
		{"one", []bpf.WorkloadCount{inCgroup(1, inPod("1"))}, []string{thePod + ": 111 /"}},
		{"a second container", []bpf.WorkloadCount{inCgroup(1, inPod("1")), inCgroup(2, inPod("2")), idle}, []string{thePod + ": 222 /"}},
		{"in another order, and other checks of them", []bpf.WorkloadCount{inCgroup(2, inPod("2")), inCgroup(1, inPod("1")), inCgroup(2, inPod("2"))}, []string{thePod + ": 222 /"}},
		{"the second is carried on", []bpf.WorkloadCount{inCgroup(0, inPod("2")), inCgroup(1, inPod("1"))}, []string{thePod + ": 111 /"}},
		{"all are", []bpf.WorkloadCount{inCgroup(0, inPod("1")), inCgroup(0, inPod("2"))}, []string{thePod + ": 222 /"}},
		{"none", nil, nil},
		{"others, by their cgroups' paths", []bpf.WorkloadCount{inCgroup(8, "/z"), inCgroup(7, "/system.slice/a.service"), inCgroup(6, "/a"), {Check: check(cap.CHOWN, false, false), Overflow: true, Count: 3}}, []string{"/a:  /", "a.service:  /", "/z:  /"}},
		{"again", []bpf.WorkloadCount{inCgroup(3, inPod("3")), inCgroup(8, "/z")}, []string{thePod + ": 333 /", "/z:  /"}},
	} {
		if got := told(t, w, attached, test.slots...); !slices.Equal(got, test.want) {
			t.Errorf("%s: told %q, want %q", test.what, got, test.want)
		}
	}
}

// A pod that holds something and has asked for nothing has a series, too, and a name to go with it. A unit's is its name.
func TestInfoOfWhoHolds(t *testing.T) {
	pods := &fakePods{known: map[string]workload.PodName{strings.TrimPrefix(thePod, "pod/"): {Namespace: "default", Pod: "web-0"}}}
	w := newWorkloads(pods)
	inNewest := holds(inPod("2"), false, 0, 1, cap.CHOWN) // its cgroup's number is 7
	nobody := holds("", false, 1, 0)
	nobody.Overflow = true
	held := []bpf.HeldCount{holds("/system.slice/ssh.service", false, 1, 0), inNewest, holds(inPod("2"), true, 0, 1, cap.KILL), nobody}
	if got, want := toldOf(t, w, attached, held), []string{thePod + ": 222 default/web-0"}; !slices.Equal(got, want) {
		t.Errorf("holding: told %q, want %q", got, want)
	}
	if got, want := toldOf(t, w, after(1), held[1:], inCgroup(6, inPod("1"))), []string{thePod + ": 222 default/web-0"}; !slices.Equal(got, want) {
		t.Errorf("holding, and asking in an older cgroup: told %q, want %q", got, want)
	}
	if got := toldOf(t, w, after(2), nil); len(got) != 0 {
		t.Errorf("neither: told %q", got)
	}
}

// Pods are looked up when they are first seen, all at one time; one that is not
// found a few times more, later and later.
func TestInfoNamesPods(t *testing.T) {
	const first, second = "12fdc709-933e-41d0-917f-cd84de9afa94", "712b37831be464ccc2fb1553ef89aa91"
	pods := &fakePods{known: map[string]workload.PodName{first: {Namespace: "default", Pod: "web-0"}}}
	w := newWorkloads(pods)
	one, static := inCgroup(1, inPod("1")), inCgroup(2, "/kubepods/burstable/pod"+second+"/"+digits("2"))
	rootless := inCgroup(3, "/user.slice/user-1.slice/user@1.service"+inPod("3"))
	named, nameless := thePod+": 111 default/web-0", "pod/"+second+": 222 /"
	elsewhere := "user@1.service/container/333333333333: 333 /"

	wantAsked := []string{first + " " + second}
	for n := range 2 { // what was found is not looked for again
		if got := told(t, w, after(float64(n)), one, static, rootless); !slices.Equal(got, []string{named, nameless, elsewhere}) {
			t.Fatalf("told %q", got)
		}
		if !slices.Equal(pods.asked, wantAsked) {
			t.Fatalf("asked for %q", pods.asked)
		}
	}
	for second := range 400 {
		told(t, w, after(float64(second)+2), one, static, rootless)
	}
	if want := slices.Concat(wantAsked, slices.Repeat([]string{second}, 4)); !slices.Equal(pods.asked, want) {
		t.Errorf("asked for %q", pods.asked)
	}
	// A new one, whose folder comes a little later.
	late := inCgroup(4, "/kubepods/pod00000000-0000-0000-0000-000000000001/"+digits("4"))
	pods.asked = nil
	told(t, w, after(500), one, static, late)
	pods.known["00000000-0000-0000-0000-000000000001"] = workload.PodName{Namespace: "ns", Pod: "late"}
	told(t, w, after(504), one, static, late)
	if got := told(t, w, after(505), one, late); len(got) != 2 || got[1] != "pod/00000000-0000-0000-0000-000000000001: 444 ns/late" || len(pods.asked) != 2 {
		t.Errorf("told %q after %d looks", got, len(pods.asked))
	}
	// A container that is started again does not lose the pod's name, nor does a pod that is not seen for a moment.
	told(t, w, after(506), static)
	delete(pods.known, first)
	if got := told(t, w, after(507), inCgroup(5, inPod("5"))); !slices.Equal(got, []string{thePod + ": 555 default/web-0"}) || len(pods.asked) != 2 {
		t.Errorf("told %q after %d looks", got, len(pods.asked))
	}
}

// However many scrapes there are, and new pods in each, the folder is looked at
// once in a second.
func TestInfoLooksOnceInASecond(t *testing.T) {
	pods := &fakePods{}
	w := newWorkloads(pods)
	var slots []bpf.WorkloadCount
	for n := range 100 {
		slots = append(slots, inCgroup(uint64(n), fmt.Sprintf("/kubepods/pod%032x", n)))
		told(t, w, after(float64(n)/100), slots...)
	}
	told(t, w, after(1), slots...)
	if len(pods.asked) != 2 || strings.Count(pods.asked[1], " ") != 98 {
		t.Errorf("%d looks: %q", len(pods.asked), pods.asked)
	}
}

func TestInfoOfTheDeadIsForgotten(t *testing.T) {
	w := newWorkloads(&fakePods{})
	for n := range 1000 {
		told(t, w, after(float64(n)), inCgroup(uint64(n), fmt.Sprintf("/kubepods/pod%032x/%064x", n, n)), inCgroup(1, "/stays"))
	}
	i := w.info
	if most := 2 * (2*keptScrapes + 2); len(i.workloads) > most || len(i.order) > most || len(i.common) > 20 {
		t.Errorf("%d workloads, %d in order and %d labels are kept", len(i.workloads), len(i.order), len(i.common))
	}
}

func TestEscapePath(t *testing.T) {
	for path, want := range map[string]string{
		"/":                           "/",
		`/a.slice/my\x2dbox.scope`:    `/a.slice/my\x2dbox.scope`,
		`/a\x20b`:                     `/a\x20b`,
		`/a\x7eb`:                     `/a\x7eb`,
		`/a\x5cb`:                     `/a\x5cb`,
		`/a\x7fb`:                     `/a\\x7fb`,
		`/a\x1fb`:                     `/a\\x1fb`,
		`/a\xc3\xa9`:                  `/a\\xc3\\xa9`, // as Escape would write "é" if it were not seen
		`/a\x2Db`:                     `/a\\x2Db`,
		`/a\x2`:                       `/a\\x2`,
		`/a\`:                         `/a\\`,
		`/a\b`:                        `/a\\b`,
		`/a\\x2d`:                     `/a\\\\x2d`,
		"/a\xff":                      `/a\xff`,
		`/a\x2d` + "\n":               `/a\\x2d\x0a`,
		"/a\u202e" + `\x2d`:           `/a\xe2\x80\xae\\x2d`,
		"/größe":                      "/größe",
		`/b\x2dc/system.slice/d\x40e`: `/b\x2dc/system.slice/d\x40e`,
	} {
		if got := escapePath(path); got != want {
			t.Errorf("%q is written %q, want %q", path, got, want)
		}
	}
}

// No two paths are written alike.
func FuzzEscapePath(f *testing.F) {
	for _, seed := range seeds {
		f.Add("/" + seed)
	}
	f.Add(`/a\x2db`)
	f.Fuzz(func(t *testing.T, path string) {
		written := escapePath(path)
		if written == path {
			if path != "" && strings.Contains(path, `\`) && Escape(strings.ReplaceAll(path, `\`, "")) != strings.ReplaceAll(path, `\`, "") {
				t.Errorf("%q is written as it is", path)
			}
			// No other is written so: it reads as another's escapes only if those escape what would not be escaped.
			if back, err := unescapeBytes(written); err == nil && back != path && Escape(back) == written {
				t.Errorf("%q and %q are both written %q", path, back, written)
			}
			return
		}
		if back, err := unescapeBytes(written); err != nil || back != path {
			t.Errorf("%q is written %q, which reads %q, %v", path, written, back, err)
		}
		checkValid(t, written)
	})
}
