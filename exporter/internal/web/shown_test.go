package web

import (
	"fmt"
	"slices"
	"testing"

	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// TestShownWhateverFloods: of each class all rows that fit its quota are shown, whichever of the others has thousands.
func TestShownWhateverFloods(t *testing.T) {
	kinds := map[class]func(workload, process string) row{
		adminUsed: func(w, p string) row {
			return row{asker{Capability: uint8(cap.SYS_ADMIN), Workload: w, Process: p}, asked{Granted: 1}}
		},
		denied: func(w, p string) row {
			return row{asker{Capability: uint8(cap.CHOWN), Workload: w, Process: p}, asked{Denied: 1}}
		},
		other: func(w, p string) row {
			return row{asker{Capability: uint8(cap.CHOWN), Workload: w, Process: p}, asked{Granted: 1}}
		},
	}
	for flooded, flood := range kinds {
		var rows []row
		for i := range 3000 {
			rows = append(rows, flood("/attacker", fmt.Sprint("flood-", i)))
		}
		for c, kind := range kinds {
			for i := range 20 {
				rows = append(rows, kind(fmt.Sprint("/service-", i), fmt.Sprint("in-", c)))
			}
		}
		slices.SortFunc(rows, compareRows)
		some, more := shown(rows)
		if len(some) != maxRows || more != len(rows)-maxRows {
			t.Errorf("%d rows of %d, and %d more, want %d", len(some), len(rows), more, maxRows)
		}
		if !slices.IsSortedFunc(some, compareRows) {
			t.Error("not in order")
		}
		seen := map[string]int{}
		for _, r := range some {
			if r.Workload != "/attacker" {
				seen[r.Process]++
			}
		}
		for c := range kinds {
			if got := seen[fmt.Sprint("in-", c)]; got != 20 {
				t.Errorf("class %d flooded: %d of 20 rows of class %d are shown", flooded, got, c)
			}
		}
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
		{row{admin, asked{Granted: 1}}, adminUsed},
		{row{admin, asked{Granted: 1, Denied: 1}}, adminUsed},
		{row{admin, asked{Denied: 1}}, denied},
		{row{inside, asked{Granted: 1}}, other},
		{row{inside, asked{Denied: 1}}, denied},
		{row{asker{Capability: uint8(cap.CHOWN)}, asked{Granted: 1}}, other},
	} {
		if got := test.row.class(); got != test.want {
			t.Errorf("%+v is of class %d, want %d", test.row, got, test.want)
		}
	}
}
