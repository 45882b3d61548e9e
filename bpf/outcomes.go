package bpf

import (
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// maxKept is how many denials are kept back at one time. For one more the oldest is told, as one of which nothing is known.
const maxKept = 1024

// A denial is one that was announced: by which thread's check, and when. No thread makes two at one time.
type denial struct {
	tid  uint32
	time uint64 // CLOCK_BOOTTIME
}

// A relation says how an announcement hangs together with others.
type relation struct {
	of     denial
	after  denial // in whose place the kernel asked; its time is 0 where there was none, or it was not announced
	awaits bool   // the kernel may ask for another capability in its place
}

// outcomes keeps denials back until it is known whether the kernel granted another capability in their place, which it does at once, if
// at all. Only the ring's reader uses it.
type outcomes struct {
	wait time.Duration
	tell func(Announcement)
	kept *simplelru.LRU[denial, *awaited]
}

// An awaited is a denial of which it is not known yet what followed.
type awaited struct {
	Announcement
	after denial
	until time.Time
}

func newOutcomes(wait time.Duration, tell func(Announcement)) *outcomes {
	kept, err := simplelru.NewLRU[denial, *awaited](maxKept, nil)
	if err != nil {
		panic(err) // for a size that is not positive
	}
	return &outcomes{wait: wait, tell: tell, kept: kept}
}

// take takes an announcement, and tells what is known by it.
func (o *outcomes) take(a Announcement, r relation, now time.Time) {
	unknown := func(*awaited) {}
	switch {
	case a.Denied && r.awaits && o.wait > 0:
		o.settle(r.of, unknown) // where the clock has stood still
		if o.kept.Len() == maxKept {
			o.tellOldest()
		}
		o.kept.Add(r.of, &awaited{a, r.after, now.Add(o.wait)})
		return
	case a.Denied:
		o.settle(r.after, unknown)
	case r.after.time != 0:
		o.settle(r.after, func(d *awaited) { d.Harmless, d.Instead = true, a.Capability })
		if !a.New {
			return // it was announced for that alone
		}
	}
	o.tell(a)
}

// settle tells of a denial, and first of those before it in whose place it was asked for.
func (o *outcomes) settle(of denial, outcome func(*awaited)) {
	d, ok := o.kept.Peek(of)
	if !ok {
		return
	}
	o.kept.Remove(of)
	o.settle(d.after, outcome)
	outcome(d)
	o.tell(d.Announcement)
}

// deadline is when tellOld has something to do: the zero time if never. It is the end of a millisecond, which the ring's reader waits by.
func (o *outcomes) deadline() time.Time {
	if _, oldest, ok := o.kept.GetOldest(); ok {
		return oldest.until.Add(time.Millisecond)
	}
	return time.Time{}
}

// tellOld tells those that have been kept for long enough.
func (o *outcomes) tellOld(now time.Time) {
	for {
		if _, oldest, ok := o.kept.GetOldest(); !ok || now.Before(oldest.until) {
			return
		}
		o.tellOldest()
	}
}

// tellAll tells all.
func (o *outcomes) tellAll() {
	for o.kept.Len() > 0 {
		o.tellOldest()
	}
}

func (o *outcomes) tellOldest() {
	_, oldest, _ := o.kept.RemoveOldest()
	o.tell(oldest.Announcement)
}
