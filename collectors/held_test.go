package collectors

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf"
)

// fakeHoldings answers with what it was given.
type fakeHoldings struct{ held bpf.Held }

func (f fakeHoldings) Held() bpf.Held { return f.held }

// holds is a count of processes, the same for each of some capabilities.
func holds(path string, userns bool, all, n uint32, capabilities ...cap.Value) bpf.HeldCount {
	c := bpf.HeldCount{Cgroup: bpf.Cgroup{ID: 7, Path: path}, UserNS: userns, All: all}
	for _, capability := range capabilities {
		c.Each[capability] = n
	}
	return c
}

// allBut is a count of processes that hold the same, all without some.
func allBut(path string, n uint32, lacking ...cap.Value) bpf.HeldCount {
	c := holds(path, false, 0, 0)
	for capability := range cap.NamedCount {
		c.Each[capability] = n
	}
	for _, capability := range lacking {
		c.Each[capability] = 0
	}
	return c
}

// holding has something for each label.
func holding() bpf.Held {
	other := holds("", true, 0, 9, cap.NET_RAW)
	other.Cgroup, other.Overflow = bpf.Cgroup{}, true
	return bpf.Held{
		Time: after(60), Took: 12_500_000, Partial: 2,
		Counts: []bpf.HeldCount{
			holds("/", false, 1, 0),
			holds("/system.slice/ssh.service", false, 3, 0),
			allBut("/system.slice/systemd-udevd.service", 3, cap.SYS_TIME, cap.WAKE_ALARM),
			holds("/system.slice/systemd-timesyncd.service", false, 0, 1, cap.SYS_TIME),
			holds("/kubepods.slice/kubepods-pod0f0e0d0c_1111_2222_3333_444455556666.slice/cri-containerd-"+strings.Repeat("a", 64)+".scope", false, 0, 2, cap.CHOWN, cap.NET_RAW),
			holds("/kubepods.slice/kubepods-pod0f0e0d0c_1111_2222_3333_444455556666.slice/cri-containerd-"+strings.Repeat("b", 64)+".scope", false, 0, 4, cap.CHOWN, 63),
			holds("/user.slice/user-1000.slice/session-2.scope", true, 5, 0),
			other,
		},
	}
}

// TestHeldIsBounded: of more series than there may be the first have their names, and the rest is told without.
func TestHeldIsBounded(t *testing.T) {
	held := bpf.Held{Time: after(1)}
	for i := range maxHeldSeries {
		held.Counts = append(held.Counts, holds(fmt.Sprintf("/host/%d", i), false, 1, 0))
	}
	held.Counts = append(held.Counts, holds("/host/0", false, 1, 0), holds("/late/1", true, 0, 2, cap.CHOWN, cap.KILL), holds("/late/2", true, 0, 3, cap.CHOWN))
	collector := NewHoldings(fakeHoldings{held}, attached)
	if n := testutil.CollectAndCount(collector, "capability_held_processes"); n != maxHeldSeries+2 {
		t.Errorf("%d series, want %d", n, maxHeldSeries+2)
	}
	got := map[string]float64{}
	for _, family := range gather(t, collector) {
		if family.GetName() != "capability_held_processes" {
			continue
		}
		for _, metric := range family.GetMetric() {
			labels := metric.GetLabel()
			got[labels[0].GetValue()+" "+labels[1].GetValue()+" "+labels[2].GetValue()] = metric.GetGauge().GetValue()
		}
	}
	for series, want := range map[string]float64{"all host /host/0": 2, "all host /host/4095": 1, "CAP_CHOWN userns _other": 5, "CAP_KILL userns _other": 2} {
		if got[series] != want {
			t.Errorf("%s: %v, want %v", series, got[series], want)
		}
	}
}

// TestHeldOfEachLook: series are those of the last look, and of none while there is none.
func TestHeldOfEachLook(t *testing.T) {
	now := &fakeHoldings{}
	collector := NewHoldings(now, attached)
	for i, look := range []struct {
		held bpf.Held
		want string
	}{
		{bpf.Held{}, ""},
		{bpf.Held{Time: after(1), Counts: []bpf.HeldCount{holds("/a", false, 1, 0)}}, `{capability="all",scope="host",workload="/a"} 1`},
		{bpf.Held{Time: after(2), Counts: []bpf.HeldCount{holds("/b", true, 0, 2, cap.CHOWN)}}, `{capability="CAP_CHOWN",scope="userns",workload="/b"} 2`},
		{bpf.Held{Refused: "failed"}, ""},
		{bpf.Held{Time: after(3)}, ""},
	} {
		now.held = look.held
		var want string
		if look.want != "" {
			want = "# HELP capability_held_processes " + heldHelp + "\n# TYPE capability_held_processes gauge\ncapability_held_processes" + look.want + "\n"
		}
		if err := testutil.CollectAndCompare(collector, strings.NewReader(want), "capability_held_processes"); err != nil {
			t.Errorf("look %d: %v", i, err)
		}
		if n := testutil.CollectAndCount(collector, "capability_exporter_held_refused_info"); n != map[bool]int{true: 1}[look.held.Refused != ""] {
			t.Errorf("look %d: refused %d times", i, n)
		}
	}
}

// TestFoldIsLossless: from what stands there for each capability, or for a set, follows how many hold it.
func TestFoldIsLossless(t *testing.T) {
	engines := []cap.Value{
		cap.CHOWN, cap.DAC_OVERRIDE, cap.FOWNER, cap.FSETID, cap.KILL, cap.SETGID, cap.SETUID, cap.SETPCAP,
		cap.NET_BIND_SERVICE, cap.NET_RAW, cap.SYS_CHROOT, cap.MKNOD, cap.AUDIT_WRITE, cap.SETFCAP,
	}
	var half []cap.Value
	for capability := range cap.Value(cap.NamedCount/2 + 1) {
		half = append(half, cap.NamedCount-1-capability) // of which container engines give few
	}
	more := allBut("/a", 2, cap.KILL)
	more.Each[cap.CHOWN], more.Each[63] = 5, 1
	future := allBut("/a", 2, cap.KILL)
	future.Each[cap.NamedCount] = 2
	for name, test := range map[string]struct {
		counts []bpf.HeldCount
		series int
	}{
		"nearly all":                   {[]bpf.HeldCount{allBut("/a", 2, cap.KILL)}, 2},
		"more than half":               {[]bpf.HeldCount{holds("/a", false, 0, 1, half...)}, 1 + cap.NamedCount - len(half)},
		"half":                         {[]bpf.HeldCount{holds("/a", false, 0, 1, half[1:]...)}, len(half) - 1},
		"all, too":                     {[]bpf.HeldCount{holds("/a", false, 7, 0), allBut("/a", 2, cap.KILL)}, 3},
		"one by more, one of no name":  {[]bpf.HeldCount{more}, 4},
		"one that is newer":            {[]bpf.HeldCount{future}, 3},
		"a container's":                {[]bpf.HeldCount{holds("/a", false, 0, 1, engines...)}, 1},
		"a container's without two":    {[]bpf.HeldCount{holds("/a", false, 0, 1, engines[2:]...)}, 3},
		"a container's and one":        {[]bpf.HeldCount{holds("/a", false, 0, 1, append(engines, cap.SYS_ADMIN)...)}, 2},
		"half a container's":           {[]bpf.HeldCount{holds("/a", false, 0, 1, engines[7:]...)}, 7},
		"of two cgroups, of each some": {[]bpf.HeldCount{allBut("/a", 1, cap.KILL), holds("/a", false, 0, 1, cap.CHOWN, cap.KILL)}, 2},
		"of two that are not one":      {[]bpf.HeldCount{allBut("/a", 1, cap.KILL), allBut("/b", 1, cap.CHOWN)}, 4},
	} {
		t.Run(name, func(t *testing.T) {
			got := map[string]float64{}
			for _, family := range gather(t, NewHoldings(fakeHoldings{bpf.Held{Time: after(1), Counts: test.counts}}, attached)) {
				if family.GetName() != "capability_held_processes" {
					continue
				}
				for _, metric := range family.GetMetric() {
					labels := metric.GetLabel()
					got[labels[2].GetValue()+" "+labels[0].GetValue()] = metric.GetGauge().GetValue()
				}
			}
			if len(got) != test.series {
				t.Errorf("%d series, want %d: %v", len(got), test.series, got)
			}
			want := map[string]float64{}
			for _, count := range test.counts {
				if count.All > 0 {
					want[count.Cgroup.Path+" all"] += float64(count.All)
				}
				for capability, n := range count.Each {
					if n > 0 || capability < cap.NamedCount {
						want[count.Cgroup.Path+" "+Capability(uint8(capability))] += float64(n)
					}
				}
			}
			for series, n := range want {
				held, own := got[series]
				if workload, capability, _ := strings.Cut(series, " "); !own && capability != "all" {
					held = got[workload+" most"]
					if slices.ContainsFunc(engines, func(c cap.Value) bool { return Capability(uint8(c)) == capability }) {
						held += got[workload+" default"]
					}
				}
				if held != n {
					t.Errorf("%s: %v, want %v of %v", series, held, n, got)
				}
			}
		})
	}
}
