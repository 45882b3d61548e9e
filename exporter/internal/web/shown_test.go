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
		{row{asker: inside, asked: asked{Denied: 1}}, denied},
		{row{asker: asker{Capability: uint8(cap.CHOWN)}, asked: asked{Granted: 1}}, other},
	} {
		if got := test.row.class(); got != test.want {
			t.Errorf("%+v is of class %d, want %d", test.row, got, test.want)
		}
	}
}
