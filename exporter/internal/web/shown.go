package web

import (
	"cmp"
	"slices"

	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// maxRows is how many rows the page shows. More would be too many to read,
// and a page of thousands is slow to show every few seconds.
const maxRows = 200

// perWorkload is how many rows of a class one workload has before others have
// had theirs: names cost nothing, and one that makes thousands of them is not to
// push the rest off the page.
const perWorkload = 10

// class is how much a row matters, the most first.
type class int

const (
	// adminUsed is CAP_SYS_ADMIN granted over the host.
	adminUsed class = iota
	// denied is what did not work, or was tried in vain.
	denied
	// other is what was granted as it should be.
	other
	classes
)

func (r row) class() class {
	switch {
	case r.SysAdmin() && !r.UserNS && r.Granted > 0:
		return adminUsed
	case r.Denied > 0:
		return denied
	default:
		return other
	}
}

// quota is how many rows a class has at least, if it has so many: whatever
// somebody floods, the others stay on the page.
func (c class) quota() int { return [classes]int{80, 80, 40}[c] }

// shown chooses of sorted rows those that the page shows, and tells how many it
// leaves out.
func shown(rows []row) (some []row, more int) {
	if len(rows) <= maxRows {
		return rows, 0
	}
	var of [classes][]row
	for _, r := range rows {
		of[r.class()] = append(of[r.class()], r)
	}
	var take [classes]int
	left := maxRows
	for c := range classes {
		take[c] = min(len(of[c]), c.quota())
		left -= take[c]
	}
	for c := range classes { // what one leaves over goes to the first that has more
		n := min(left, len(of[c])-take[c])
		take[c] += n
		left -= n
	}
	for c := range classes {
		chosen := shared(of[c])[:take[c]]
		slices.SortFunc(chosen, compareRows)
		some = append(some, chosen...)
	}
	return some, len(rows) - len(some)
}

// shared puts the rows that a workload has beyond perWorkload behind those of
// all others.
func shared(rows []row) []row {
	had := map[string]int{}
	var first, later []row
	for _, r := range rows {
		had[r.Workload]++
		if had[r.Workload] <= perWorkload {
			first = append(first, r)
		} else {
			later = append(later, r)
		}
	}
	return append(first, later...)
}

// compareRows puts the class first, among equals CAP_SYS_ADMIN, then whoever
// asked most often.
func compareRows(a, b row) int {
	return cmp.Or(
		cmp.Compare(a.class(), b.class()),
		-compareBool(a.SysAdmin(), b.SysAdmin()),
		-cmp.Compare(a.Granted+a.Denied, b.Granted+b.Denied),
		cmp.Compare(a.Capability, b.Capability),
		cmp.Compare(a.Workload, b.Workload),
		cmp.Compare(a.Process, b.Process),
		compareBool(a.UserNS, b.UserNS),
	)
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	default:
		return 1
	}
}

// SysAdmin reports whether the row is about CAP_SYS_ADMIN.
func (a asker) SysAdmin() bool { return a.Capability == uint8(cap.SYS_ADMIN) }
