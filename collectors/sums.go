package collectors

import "time"

// sum is what the slots with the same labels have counted together.
type sum struct {
	count   uint64
	created time.Time // of the oldest of them
}

// sums maps labels, or what they are made from, to the sum of their slots.
// Several slots may have the same labels (two cgroups that had the same path
// one after the other), and a metric must not be exposed twice.
type sums[Labels comparable] map[Labels]sum

// add adds a slot. One that has counted nothing makes no series.
func (s sums[Labels]) add(labels Labels, count uint64, created time.Time) {
	if count == 0 {
		return
	}
	total, found := s[labels]
	if !found || created.Before(total.created) {
		total.created = created
	}
	total.count += count
	s[labels] = total
}
