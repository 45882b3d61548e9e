package web

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf"
)

// TestShownWhateverFloods: of each class all rows that fit its quota are shown, whichever of the others has thousands.
func TestShownWhateverFloods(t *testing.T) {
	kinds := map[class]func(workload, process string) row{
		adminUsed: func(w, p string) row {
			return row{asker: asker{Capability: uint8(cap.SYS_ADMIN), Workload: w, Process: p}, asked: asked{Granted: 1}}
		},
		denied: func(w, p string) row {
			return row{asker: asker{Capability: uint8(cap.CHOWN), Workload: w, Process: p}, asked: asked{Denied: 1}}
		},
		lsmRefused: func(w, p string) row {
			return row{asker: asker{Capability: uint8(cap.CHOWN), LSM: "selinux", Workload: w, Process: p}, asked: asked{Denied: 1}}
		},
		other: func(w, p string) row {
			return row{asker: asker{Capability: uint8(cap.CHOWN), Workload: w, Process: p}, asked: asked{Granted: 1}}
		},
	}
	attacks := map[string]func(row, int) row{
		"names": func(r row, i int) row {
			r.Workload, r.Process, r.owner = "/attacker", fmt.Sprint("flood-", i), 4711
			return r
		},
		"cgroups": func(r row, i int) row { // below one that was given to an ordinary user
			r.Workload, r.owner = fmt.Sprint("/attacker/", i), 4711
			return r
		},
	}
	for flooded, kind := range kinds {
		for name, attack := range attacks {
			t.Run(fmt.Sprint(name, " of class ", flooded), func(t *testing.T) {
				var rows []row
				for i := range 3000 {
					r := attack(kind("", ""), i)
					r.Granted, r.Denied = 100*r.Granted, 100*r.Denied // more often than all others
					rows = append(rows, r)
				}
				checkShownBeside(t, kinds, rows)
			})
		}
	}
}

// checkShownBeside checks that 20 rows of each kind, each of another workload,
// are shown beside those of an attacker.
func checkShownBeside(t *testing.T, kinds map[class]func(workload, process string) row, rows []row) {
	t.Helper()
	for c, kind := range kinds {
		for i := range 20 {
			r := kind(fmt.Sprint("/service-", i), fmt.Sprint("in-", c))
			r.owner = uint64(i)
			rows = append(rows, r)
		}
	}
	slices.SortFunc(rows, compareRows)
	c := choose(rows, &filter{})
	if len(c.Rows) != maxRows || c.More != len(rows)-maxRows || c.Found != len(rows) {
		t.Errorf("%d rows of %d, and %d more, want %d", len(c.Rows), c.Found, c.More, maxRows)
	}
	if !slices.IsSortedFunc(c.Rows, compareRows) {
		t.Error("not in order")
	}
	seen := map[string]int{}
	for _, r := range c.Rows {
		seen[r.Process]++
	}
	for c := range kinds {
		if got := seen[fmt.Sprint("in-", c)]; got != 20 {
			t.Errorf("%d of 20 rows of class %d are shown", got, c)
		}
	}
}

// A row is of the owner of its series.
func TestShownByOwner(t *testing.T) {
	w := used(cap.CHOWN, "a", 1)
	w.Owner = 4711
	r, now := &Recent{}, time.Now()
	r.add(now, &bpf.Snapshot{Workloads: []bpf.WorkloadCount{w}}, nil)
	if rows := r.view(now).Rows; len(rows) != 1 || rows[0].owner != 4711 {
		t.Errorf("rows %+v", rows)
	}
}

// In a user namespace anybody may be root.
func TestClass(t *testing.T) {
	admin := asker{Capability: uint8(cap.SYS_ADMIN)}
	inside := asker{Capability: uint8(cap.SYS_ADMIN), UserNS: true}
	for _, test := range []struct {
		row  row
		want class
	}{
		{row{asker: admin, asked: asked{Granted: 1}}, adminUsed},
		{row{asker: admin, asked: asked{Granted: 1, Denied: 1}}, adminUsed},
		{row{asker: admin, asked: asked{Denied: 1}}, denied},
		{row{asker: inside, asked: asked{Granted: 1}}, other},
		{row{asker: inside, asked: asked{Denied: 2, Harmless: 1}}, denied},
		{row{asker: inside, asked: asked{Denied: 2, Harmless: 2}}, other},
		{row{asker: inside, asked: asked{Denied: 1}}, denied},
		{row{asker: asker{Capability: uint8(cap.CHOWN)}, asked: asked{Granted: 1}}, other},
		{row{asker: asker{Capability: uint8(cap.SYS_ADMIN), LSM: "selinux"}, asked: asked{Denied: 1}}, lsmRefused},
	} {
		if got := test.row.class(); got != test.want {
			t.Errorf("%+v is of class %d, want %d", test.row, got, test.want)
		}
		for c := range classes {
			also := test.want == adminUsed && test.row.Denied > 0 && c == denied
			if got, want := test.row.is(c), c == test.want || also; got != want {
				t.Errorf("%+v is found as one of class %d: %t, want %t", test.row, c, got, want)
			}
		}
	}
}

// Denials that count come before those that harmed nobody, however many these
// are: by row, and as what somebody looks for.
func TestDenialsThatCountComeFirst(t *testing.T) {
	var workloads []bpf.WorkloadCount
	for n := range 300 {
		probed, replaced := refused(cap.FSETID, fmt.Sprint("probed-", n), 1000), refused(cap.DAC_READ_SEARCH, fmt.Sprint("replaced-", n), 1000)
		probed.Probe = true
		instead := used(cap.DAC_OVERRIDE, replaced.Process.Name, 1000)
		instead.Fallback, instead.First = true, uint8(cap.DAC_READ_SEARCH)
		workloads = append(workloads, probed, replaced, instead)
	}
	// Of these one each is not like the others.
	mixed, once, again := refused(cap.DAC_READ_SEARCH, "mixed", 3), used(cap.DAC_OVERRIDE, "mixed", 2), refused(cap.DAC_OVERRIDE, "mixed", 1)
	for _, w := range []*bpf.WorkloadCount{&once, &again} {
		w.Fallback, w.First = true, uint8(cap.DAC_READ_SEARCH)
	}
	workloads = append(workloads, mixed, once, again, refused(cap.CHOWN, "plain", 1))
	r, now := &Recent{}, time.Now()
	r.add(now, &bpf.Snapshot{Workloads: workloads}, nil)
	rows := r.view(now).Rows
	for name, f := range map[string]*filter{"all": {}, "denied": {class: denied, byClass: true}} {
		var first []string
		for _, row := range choose(rows, f).Rows[:3] {
			first = append(first, fmt.Sprintf("%s %d, %d harmless", row.Process, row.Denied, row.Harmless))
		}
		if want := []string{"mixed 1, 0 harmless", "mixed 3, 2 harmless", "plain 1, 0 harmless"}; !slices.Equal(first, want) {
			t.Errorf("%s: first are %q, want %q", name, first, want)
		}
	}
	if c := choose(rows, &filter{class: denied, byClass: true}); len(c.Rows) != 3 || c.Of[denied] != 3 {
		t.Errorf("%d rows of %d are among denials", len(c.Rows), c.Of[denied])
	}
}

// Two modules that refuse one process the same have a row each, in an order.
func TestRefusedByTwo(t *testing.T) {
	workloads := []bpf.WorkloadCount{used(cap.CHOWN, "a", 7)}
	by := func(lsm string) bpf.RefusalCount {
		return bpf.RefusalCount{LSM: lsm, Capability: workloads[0].Capability, Cgroup: workloads[0].Cgroup, Process: workloads[0].Process, Owner: 4711, Count: 2, Created: time.Unix(1000, 0)}
	}
	apparmor := by("apparmor")
	apparmor.Count = 4
	for range 20 { // a map's order is another each time
		r, now := &Recent{}, time.Now()
		r.add(now, &bpf.Snapshot{Workloads: workloads, Refusals: []bpf.RefusalCount{by("selinux"), apparmor, by("selinux")}}, nil)
		var got []string
		for _, row := range r.view(now).Rows {
			got = append(got, fmt.Sprintf("%s %d/%d of %d", row.LSM, row.Granted, row.Denied, row.owner))
		}
		if want := []string{"apparmor 0/4 of 4711", "selinux 0/4 of 4711", " 7/0 of 0"}; !slices.Equal(got, want) {
			t.Fatalf("rows %q, want %q", got, want)
		}
	}
}
