package collectors

import (
	"fmt"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf"
)

func slotOf(path string, count uint64) bpf.WorkloadCount {
	return bpf.WorkloadCount{Check: check(cap.CHOWN, false, false), Cgroup: bpf.Cgroup{ID: 1, Path: path}, Process: bpf.Process{Name: "p"}, Count: count, Created: attached}
}

// exposed is what the workloads are exposed as, in the order in which they come.
func exposed(t *testing.T, w *workloads, slots ...bpf.WorkloadCount) []string {
	t.Helper()
	ch := make(chan prometheus.Metric, 3*len(slots)+10)
	w.collect(&bpf.Snapshot{Attached: attached, Workloads: slots}, nil, ch)
	close(ch)
	var all []string
	for m := range ch {
		if own, ok := m.(*sumMetric); ok {
			all = append(all, fmt.Sprint(own.of.labels[4].GetValue(), " ", own.value))
		}
	}
	return all
}

// What comes and goes between scrapes, in any order, is exposed as if each
// scrape were the first, in order.
func TestScrapesOneAfterTheOther(t *testing.T) {
	w := newWorkloads(nil)
	for _, test := range []struct {
		slots []bpf.WorkloadCount
		want  []string
	}{
		{[]bpf.WorkloadCount{slotOf("/b", 1), slotOf("/a", 2), slotOf("/b", 4)}, []string{"/a 2", "/b 5"}},
		{[]bpf.WorkloadCount{slotOf("/c", 1), slotOf("/b", 2)}, []string{"/b 2", "/c 1"}},
		{[]bpf.WorkloadCount{slotOf("/0", 1), slotOf("/a", 0), slotOf("/b", 2)}, []string{"/0 1", "/b 2"}},
		{nil, nil},
		{[]bpf.WorkloadCount{slotOf("/a", 3)}, []string{"/a 3"}},
	} {
		if got := exposed(t, w, test.slots...); !slices.Equal(got, test.want) {
			t.Errorf("exposed %q, want %q", got, test.want)
		}
	}
}

// Containers that come one after the other in a pod are one series, which only
// grows, and has begun with the first of them: also when the slot of one is no
// more, and what it had counted is carried on.
func TestContainersOfAPodAreOneSeries(t *testing.T) {
	w := newWorkloads(nil)
	in := func(id uint64, container string, count uint64, began float64) bpf.WorkloadCount {
		slot := slotOf(inPod(container), count)
		slot.Cgroup.ID, slot.Created = id, after(began)
		return slot
	}
	for _, test := range []struct {
		slots []bpf.WorkloadCount
		want  string
	}{
		{[]bpf.WorkloadCount{in(1, "1", 5, 1)}, "5"},
		{[]bpf.WorkloadCount{in(1, "1", 5, 1), in(2, "2", 1, 60)}, "6"},
		{[]bpf.WorkloadCount{in(2, "2", 3, 60), in(0, "1", 5, 1)}, "8"},
		{[]bpf.WorkloadCount{in(3, "3", 2, 120), in(2, "2", 3, 60), in(0, "1", 5, 1)}, "10"},
		{[]bpf.WorkloadCount{in(0, "2", 8, 1), in(3, "3", 4, 120)}, "12"},
	} {
		ch := make(chan prometheus.Metric, 10)
		w.collect(&bpf.Snapshot{Attached: attached, Workloads: test.slots}, nil, ch)
		close(ch)
		got := 0
		for m := range ch {
			own, ok := m.(*sumMetric)
			if !ok {
				continue
			}
			got++
			if value := fmt.Sprint(own.value); own.of.labels[4].GetValue() != thePod || value != test.want || !own.counter.GetCreatedTimestamp().AsTime().Equal(after(1)) {
				t.Errorf("%s has counted %s since %s, want %s", own.of.labels[4].GetValue(), value, own.counter.GetCreatedTimestamp().AsTime(), test.want)
			}
		}
		if got != 1 {
			t.Errorf("%d series of one pod", got)
		}
	}
}

func TestNamesOfTheDeadAreForgotten(t *testing.T) {
	w := newWorkloads(nil)
	for n := range 1000 {
		slots := make([]bpf.WorkloadCount, 10)
		for i := range slots {
			slots[i] = slotOf(fmt.Sprint("/", n, "/", i), 1)
		}
		slots[0] = slotOf(inPod(fmt.Sprintf("%x", n%16)), 1) // a workload that stays
		slots[0].Cgroup.ID = uint64(n)
		exposed(t, w, slots...)
	}
	names := w.names.workloads
	for what, kept := range map[string]int{
		"sets of labels": len(w.checks.sets), "sets in order": len(w.checks.order), "words": len(names.words), "names": len(names.written), "pairs": len(w.info.common),
	} {
		if most := 10 * (2*keptScrapes + 2); kept > most {
			t.Errorf("%d %s are kept of ten series that live", kept, what)
		}
	}
}

// A pod that was away for long, and has another container beside the one that it
// had, is exposed once.
func TestWordsComeBack(t *testing.T) {
	w := newWorkloads(nil)
	pod, others := slotOf(inPod("1"), 1), make([]bpf.WorkloadCount, 10)
	for i := range others {
		others[i] = slotOf(fmt.Sprint("/", i), 1)
	}
	exposed(t, w, slices.Concat(others, []bpf.WorkloadCount{pod})...)
	stays := w.names.workloads.words["/0"]
	for range 3 * keptScrapes {
		exposed(t, w, others...)
	}
	another := slotOf(inPod("2"), 2)
	for range 3 {
		if got := exposed(t, w, slices.Concat(others, []bpf.WorkloadCount{pod, another})...); len(got) != len(others)+1 || got[len(others)] != thePod+" 3" {
			t.Errorf("exposed %q", got)
		}
		w.names.workloads.written = map[bpf.Cgroup]*word{} // as when there have been many
	}
	if w.names.workloads.words["/0"] != stays {
		t.Error("a word that was in use all the time was made again")
	}
}
