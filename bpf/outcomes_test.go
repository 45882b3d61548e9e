package bpf

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// TestOutcomes: a denial is told when it is known whether the kernel granted another capability in its place, and after a while in any case.
func TestOutcomes(t *testing.T) {
	const wait = time.Second
	// what happens: at which time one thread's check of a capability was announced, in place of which, and with what result.
	type event struct {
		at, after uint64
		cap       uint8
		result    string // denied, awaits: denied in whose place another may be asked for, granted, new: and granted, later: a while passes
	}
	for _, test := range []struct {
		name   string
		wait   time.Duration
		events []event
		want   []string // at once, then when a while has passed
	}{
		{"granted", wait, []event{{1, 0, 38, "awaits"}, {2, 1, 21, "granted"}}, []string{"38 harmless by 21", "later"}},
		{"granted to somebody new", wait, []event{{1, 0, 38, "awaits"}, {2, 1, 21, "new"}}, []string{"38 harmless by 21", "21 new", "later"}},
		{"denied", wait, []event{{1, 0, 38, "awaits"}, {2, 1, 21, "denied"}}, []string{"38 denied", "21 denied", "later"}},
		{"nothing followed", wait, []event{{1, 0, 38, "awaits"}, {2, 0, 12, "denied"}}, []string{"12 denied", "later", "38 denied"}},
		{"what followed was not in its place", wait, []event{{1, 0, 38, "awaits"}, {2, 0, 21, "new"}}, []string{"21 new", "later", "38 denied"}},
		{"of another denial", wait, []event{{1, 0, 38, "awaits"}, {3, 2, 21, "granted"}}, []string{"later", "38 denied"}},
		{"two in turn", wait, []event{{1, 0, 38, "awaits"}, {2, 0, 38, "awaits"}, {3, 2, 21, "granted"}}, []string{"38 harmless by 21", "later", "38 denied"}},
		{"too late", wait, []event{{1, 0, 38, "awaits"}, {0, 0, 0, "later"}, {2, 1, 21, "granted"}}, []string{"later", "38 denied", "later"}},
		{"the third granted", wait, []event{{1, 0, 38, "awaits"}, {2, 1, 21, "awaits"}, {3, 2, 19, "granted"}}, []string{"38 harmless by 19", "21 harmless by 19", "later"}},
		{"the third denied", wait, []event{{1, 0, 38, "awaits"}, {2, 1, 21, "awaits"}, {3, 2, 19, "denied"}}, []string{"38 denied", "21 denied", "19 denied", "later"}},
		{"no third", wait, []event{{1, 0, 38, "awaits"}, {2, 1, 21, "awaits"}}, []string{"later", "38 denied", "21 denied"}},
		{"the clock stands still", wait, []event{{1, 0, 38, "awaits"}, {1, 1, 21, "awaits"}, {1, 1, 19, "granted"}}, []string{"38 denied", "21 harmless by 19", "later"}},
		{"nobody waits", 0, []event{{1, 0, 38, "awaits"}, {2, 1, 21, "granted"}, {3, 0, 38, "awaits"}, {4, 3, 21, "denied"}}, []string{"38 denied", "38 denied", "21 denied", "later"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var told []string
			o := newOutcomes(test.wait, func(a Announcement) {
				outcome := "denied"
				switch {
				case a.Harmless:
					outcome = fmt.Sprint("harmless by ", a.Instead)
				case !a.Denied:
					outcome = "new"
				}
				told = append(told, fmt.Sprint(a.Capability, " ", outcome))
			})
			now := time.Now()
			later := func() {
				told = append(told, "later")
				o.tellOld(now.Add(wait - 1))
				if told[len(told)-1] != "later" {
					t.Error("told early")
				}
				if at := o.deadline(); !at.IsZero() && at.Sub(now) != wait+time.Millisecond {
					t.Errorf("looks again after %v", at.Sub(now))
				}
				now = now.Add(wait)
				o.tellOld(now)
			}
			for _, e := range test.events {
				if e.result == "later" {
					later()
					continue
				}
				a := Announcement{New: e.result == "new", Check: Check{Capability: e.cap, Denied: e.result == "denied" || e.result == "awaits"}}
				o.take(a, relation{of: denial{1, e.at}, after: denial{1, e.after}, awaits: e.result == "awaits"}, now)
				// Another thread's at the same time is another.
				o.take(Announcement{}, relation{of: denial{2, e.at}, after: denial{2, e.after + 1}}, now)
			}
			later()
			if !o.deadline().IsZero() {
				t.Error("some are kept for good")
			}
			if !slices.Equal(told, test.want) {
				t.Errorf("told %q, want %q", told, test.want)
			}
		})
	}
}

// TestOutcomesAreBounded: of too many the oldest is told, and at the end all are.
func TestOutcomesAreBounded(t *testing.T) {
	var told []uint32
	o := newOutcomes(time.Second, func(a Announcement) { told = append(told, a.TID) })
	const many = maxKept + 10
	for n := range uint32(many) {
		o.take(Announcement{Check: Check{Denied: true}, TID: n}, relation{of: denial{n, 1}, awaits: true}, time.Now())
	}
	if len(told) != many-maxKept {
		t.Errorf("%d of %d were told at once, want %d", len(told), many, many-maxKept)
	}
	o.tellAll()
	if len(told) != many || !slices.IsSorted(told) {
		t.Errorf("%d of %d were told, in order: %t", len(told), many, slices.IsSorted(told))
	}
}
