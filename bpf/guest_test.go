package bpf

import (
	"os"
	"strings"
	"testing"
	"time"
)

// inGuest skips a test that does to the whole machine what is not for one that is in use.
func inGuest(t *testing.T) {
	t.Helper()
	if os.Getenv("CAPABILITY_EXPORTER_GUEST") == "" {
		t.Skip("it does something to the whole machine: only for the guests of vm/boot")
	}
}

// write writes to one of the kernel's files.
func write(t *testing.T, path, what string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(what), 0); err != nil {
		t.Fatal(err)
	}
}

// A life is what a counter has come to, and since when.
type life struct {
	count   uint64
	created time.Time
}

// lives is every counter of a snapshot that has a created timestamp: the earliest of its slots.
func lives(s *Snapshot) map[string]life {
	all := map[string]life{}
	add := func(count uint64, created time.Time, labels ...string) {
		k := strings.Join(labels, "\x00")
		l, ok := all[k]
		if !ok || created.Before(l.created) {
			l.created = created
		}
		l.count += count
		all[k] = l
	}
	for _, c := range s.Sites {
		add(c.Count, c.Created, "site", c.Check.String(), string('0'+rune(c.Audited)), c.Symbol)
	}
	for _, w := range s.Workloads {
		add(w.Count, w.Created, "workload", w.Check.String(), w.Cgroup.Path, string('0'+rune(w.Process.Kind)), w.Process.Name)
	}
	return all
}

// neverBack tells whether a later snapshot has less of anything than an earlier one, or another beginning.
func neverBack(t *testing.T, earlier, later *Snapshot) {
	t.Helper()
	now := lives(later)
	for k, was := range lives(earlier) {
		if is, ok := now[k]; !ok || is.count < was.count || !is.created.Equal(was.created) {
			t.Errorf("%q: %d since %s, then %d since %s", k, was.count, was.created, is.count, is.created)
		}
	}
	for name, n := range map[string][2]uint64{
		"missed runs": {earlier.MissedRuns, later.MissedRuns}, "unwinds": {earlier.Unwinds, later.Unwinds},
		"ring records": {earlier.RingRecords, later.RingRecords}, "lost": {earlier.RingLost, later.RingLost}, "withheld": {earlier.RingWithheld, later.RingWithheld},
	} {
		if n[1] < n[0] {
			t.Errorf("%d %s, then %d", n[0], name, n[1])
		}
	}
}
