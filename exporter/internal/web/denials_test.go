package web

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf"
)

// refused is a denied use of a capability by a process of that name.
func refused(capability cap.Value, process string, count uint64) bpf.WorkloadCount {
	w := used(capability, process, count)
	w.Denied = true
	return w
}

// announced is what the kernel side tells of it.
func announced(w bpf.WorkloadCount, comm string) bpf.Announcement {
	return bpf.Announcement{Check: w.Check, Cgroup: w.Cgroup, Process: w.Process, Comm: comm}
}

// TestLastDenial follows what a row says of its last denial.
func TestLastDenial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &Denials{}
		r := NewRecent(nil, d)
		w := refused(cap.SETGID, "nginx", 0)
		add := func(more uint64, failure error) {
			time.Sleep(recentInterval / 2)
			w.Count += more
			r.add(time.Now(), &bpf.Snapshot{Workloads: []bpf.WorkloadCount{w}}, failure)
			time.Sleep(recentInterval / 2)
		}
		check := func(when, want string, age time.Duration) {
			t.Helper()
			rows := r.view(time.Now()).Rows
			if len(rows) == 0 {
				if want != "no row" {
					t.Errorf("%s: no row", when)
				}
				return
			}
			got, since := "no details", time.Duration(0)
			if last := rows[0].Last; last != nil {
				got, since = last.Comm(), time.Since(last.Time)
			}
			if got != want || since != age {
				t.Errorf("%s: %s of %v, want %s of %v", when, got, since, want, age)
			}
		}
		d.Announce(announced(w, "first")) // before there is a series
		by := announced(w, "by another module")
		by.LSM = "selinux" // which was granted, and is in no row of denials but one of its own
		d.Announce(by)
		add(1, nil)
		check("the first", "first", recentInterval)
		add(1, nil)
		check("one that was not announced", "first", 2*recentInterval)
		d.Announce(announced(w, "third"))
		check("one that is in no snapshot yet", "first", 2*recentInterval)
		add(0, nil) // nor in this one
		check("the third", "third", recentInterval)

		granted := announced(w, "granted")
		granted.Denied = false
		borrowed := announced(w, "borrowed")
		borrowed.Borrowed = true
		other := announced(w, "other")
		other.UserNS = true
		for _, n := range []bpf.Announcement{granted, borrowed, other} {
			d.Announce(n)
		}
		add(1, nil)
		check("others", "third", 2*recentInterval)

		time.Sleep(recentWindow)
		add(0, nil)
		check("nothing in the window", "no row", 0)
		d.Announce(announced(w, "early"))
		add(0, nil) // as where it is counted after the snapshot was taken
		check("too early", "no row", 0)
		add(1, nil)
		check("with the next one", "early", 2*recentInterval)
		time.Sleep(recentWindow)
		add(1, nil)
		check("it was told long ago", "early", recentWindow+3*recentInterval)
		time.Sleep(recentWindow)
		add(0, nil)
		add(1, nil)
		check("there was none for a whole window", "no details", 0)

		d.Announce(announced(w, "failing"))
		add(1, errors.New("broken"))
		add(0, errors.New("broken"))
		if len(d.told) != 0 || d.NotShown() != 3 {
			t.Errorf("%d denials wait for a snapshot that does not come, %d are counted", len(d.told), d.NotShown())
		}
		r.add(time.Now(), &bpf.Snapshot{}, nil)
		time.Sleep(recentWindow)
		r.add(time.Now(), &bpf.Snapshot{}, nil)
		if len(r.askers) != 0 {
			t.Errorf("%d are kept of a series that has ended", len(r.askers))
		}
	})
}

// What harmed nobody is told only where nothing else is.
func TestLastDenialThatCounts(t *testing.T) {
	for said, want := range map[string]string{"probe": "probe", "probe real": "real", "real probe": "real", "real probe real2": "real2", "probe real | probe": "real", "probe | real": "real", "probe | probe2": "probe2",
		"replaced": "replaced", "real replaced": "real", "replaced real": "real", "real | replaced": "real", "replaced | real": "real", "probe replaced": "replaced"} {
		d := &Denials{}
		r := NewRecent(nil, d)
		w := refused(cap.CHOWN, "a", 0)
		for word := range strings.FieldsSeq(said + " |") {
			if word == "|" {
				w.Count++
				r.add(time.Now(), &bpf.Snapshot{Workloads: []bpf.WorkloadCount{w}}, nil)
				continue
			}
			n := announced(w, word)
			n.Probe, n.Harmless = strings.HasPrefix(word, "probe"), word == "replaced"
			d.Announce(n)
		}
		if got := r.view(time.Now()).Rows[0].Last; got.Comm() != want || got.Probe != strings.HasPrefix(want, "probe") {
			t.Errorf("%s: %+v is told, want %s", said, got, want)
		}
	}
}

// Who found no series is counted with others, and told by name.
func TestLastDenialOfTheOthers(t *testing.T) {
	others := func(path string) bpf.WorkloadCount {
		w := refused(cap.CHOWN, "", 1)
		w.Cgroup.Path, w.Process.Kind = path, bpf.ProcessOther
		return w
	}
	all := refused(cap.CHOWN, "", 1)
	all.Overflow, all.Cgroup, all.Process = true, bpf.Cgroup{}, bpf.Process{}
	for path, want := range map[string]string{
		"/given":       "/given",
		"/given/a/b":   "/given",
		"/given2":      "_other",
		"/elsewhere/a": "_other",
		"/":            "_other",
	} {
		d := &Denials{}
		r := NewRecent(nil, d)
		n := announced(refused(cap.CHOWN, "evil", 1), "x")
		n.Cgroup.Path, n.Overflow = path, true
		d.Announce(n)
		r.add(time.Now(), &bpf.Snapshot{Workloads: []bpf.WorkloadCount{others("/given"), all}}, nil)
		for _, row := range r.view(time.Now()).Rows {
			switch {
			case (row.Last != nil) != (row.Workload == want):
				t.Errorf("%s: the row of %s has %+v", path, row.Workload, row.Last)
			case row.Last != nil && (row.Last.Workload != path || row.Last.Process != "evil"):
				t.Errorf("%s is told as %s in %s", path, row.Last.Process, row.Last.Workload)
			}
		}
	}
}

// What waits for a snapshot is bounded, and so is what is kept from then on.
func TestDenialsTakeLittleMemory(t *testing.T) {
	d := &Denials{}
	for n := range maxTold + 1000 {
		d.Announce(announced(refused(cap.CHOWN, fmt.Sprint("p", n), 1), "x"))
	}
	d.Announce(announced(refused(cap.CHOWN, "p0", 1), "again"))
	if len(d.told) != maxTold || d.NotShown() != 1000 {
		t.Errorf("%d denials wait, want %d, and %d are counted as not shown", len(d.told), maxTold, d.NotShown())
	}
	for who, last := range d.told {
		if who.Process == "p0" && last.Comm() != "again" {
			t.Error("where as many wait as may, what is told of those is not the last")
		}
	}

	const number, each = 8192, 512 // 24 MiB for the 49,152 of 65,536 that can be denials
	d = &Denials{}
	r, now := NewRecent(nil, d), time.Now()
	s := &bpf.Snapshot{}
	for n := range number {
		s.Workloads = append(s.Workloads, refused(cap.CHOWN, fmt.Sprint("p", n), 1))
	}
	r.add(now, s, nil)
	before := heap()
	for n, w := range s.Workloads {
		a := announced(w, "fifteen letters")
		a.Path = fmt.Sprint(strings.Repeat("/long", 50), n) // 255 bytes at most
		d.Announce(a)
		if n%maxTold == maxTold-1 {
			r.add(now, s, nil)
		}
	}
	if got := heap() - before; got > number*each {
		t.Errorf("%d bytes for each denial, want %d", got/number, each)
	}
	for _, row := range r.view(now).Rows {
		if row.Last == nil {
			t.Fatal("a row has no details")
		}
	}
	runtime.KeepAlive(s)
}
