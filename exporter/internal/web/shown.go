package web

import (
	"cmp"
	"slices"

	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// maxRows is how many rows the page shows. More would be too many to read,
// and a page of thousands is slow to show every few seconds.
const maxRows = 200

// perOwner is how many rows of a class one owner has before others have had
// theirs: names cost nothing, nor do cgroups for who was given one, and who makes
// thousands of them is not to push the rest off the page.
const perOwner = 10

// class is how much a row matters, the most first.
type class int

const (
	// adminUsed is CAP_SYS_ADMIN granted over the host.
	adminUsed class = iota
	// denied is what did not work, or was tried in vain. What was denied without
	// harm is not.
	denied
	// lsmRefused is what was granted, and what another security module refused.
	lsmRefused
	// other is all else.
	other
	classes
)

func (r *row) class() class {
	switch {
	case r.LSM != "":
		return lsmRefused
	case r.SysAdmin() && !r.UserNS && r.Granted > 0:
		return adminUsed
	case r.Counts():
		return denied
	default:
		return other
	}
}

// is tells whether somebody who looks for the class looks for the row. Who uses
// CAP_SYS_ADMIN may be denied it, too.
func (r *row) is(c class) bool {
	return r.class() == c || c == denied && r.class() == adminUsed && r.Counts()
}

// Counts tells whether anything was denied that the kernel did not do without.
func (r *row) Counts() bool { return r.Denied > r.Harmless }

// quota is how many rows a class has at least, if it has so many: whatever
// somebody floods, the others stay on the page.
func (c class) quota() int { return [classes]int{80, 60, 30, 30}[c] }

// choice is what is shown of many rows.
type choice struct {
	Rows  []row
	More  int          // rows that are left out
	Found int          // rows with the text that is looked for
	Of    [classes]int // and how many of them are of each class; one may be of two
}

// choose chooses of sorted rows those that the page shows. It takes time by the
// number of rows, and memory by the number of those that are shown.
func choose(rows []row, f *filter) choice {
	var c choice
	var first, later [classes][]row
	var number [classes]int
	total := 0
	had := map[owner]int{}
	for i := range rows {
		r := &rows[i]
		if !f.finds(r) {
			continue
		}
		c.Found++
		for k := range classes {
			if r.is(k) {
				c.Of[k]++
			}
		}
		if f.byClass && !r.is(f.class) {
			continue
		}
		total++
		k := r.class()
		number[k]++
		if len(first[k]) == maxRows {
			continue
		}
		who := owner{k, r.owner}
		had[who]++
		if had[who] <= perOwner {
			first[k] = append(first[k], *r)
		} else if len(later[k]) < maxRows {
			later[k] = append(later[k], *r)
		}
	}
	take := share(number)
	for k := range classes {
		chosen := append(first[k], later[k]...)[:take[k]]
		slices.SortFunc(chosen, compareRows)
		c.Rows = append(c.Rows, chosen...)
	}
	c.More = total - len(c.Rows)
	return c
}

// share says how many rows each class has on the page, of so many as there are.
func share(number [classes]int) (take [classes]int) {
	left := maxRows
	for k := range classes {
		take[k] = min(number[k], k.quota())
		left -= take[k]
	}
	for k := range classes { // what one leaves over goes to the first that has more
		n := min(left, number[k]-take[k])
		take[k] += n
		left -= n
	}
	return take
}

// owner is whose rows of one class are.
type owner struct {
	class  class
	number uint64
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
		cmp.Compare(a.LSM, b.LSM),
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
