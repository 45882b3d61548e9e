package bpf

import (
	"testing"
	"time"
)

// TestDefaults: what README says of series, their end, denials in the log and the looks at the stack is what is had without a word.
func TestDefaults(t *testing.T) {
	var o Options
	o.setDefaults()
	if o.SeriesLimit != 4096 || o.SiteLimit != 4096 || o.RingSize != 256<<10 {
		t.Errorf("%d series, %d call sites and a ring of %d bytes", o.SeriesLimit, o.SiteLimit, o.RingSize)
	}
	if o.Retention != 5*time.Minute || o.quarantine != time.Minute {
		t.Errorf("a series ends after %v, and its slot is free after %v more", o.Retention, o.quarantine)
	}
	if o.lessonTime != time.Second {
		t.Errorf("Open learns for %v at most", o.lessonTime)
	}
	if o.denialBurst != 5 || o.confirmEvery != 8192 {
		t.Errorf("%d denials of a key are announced in a minute, and one check of %d is unwound", o.denialBurst, o.confirmEvery)
	}
}
