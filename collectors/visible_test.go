package collectors

import (
	"testing"

	"capability_exporter/bpf"
)

func TestVisible(t *testing.T) {
	for _, test := range []struct{ name, label, want string }{
		{"plain", "/system.slice/nginx.service", "/system.slice/nginx.service"},
		{"other scripts", "größe-日本語-עברית-🦀", "größe-日本語-עברית-🦀"},
		{"space", "a b", "a b"},
		{"line breaks", "a\nb\r\u2028\u0085", `a\u000ab\u000d\u2028\u0085`},
		{"terminal escape", "\x1b[2J\x7f\u009b", `\u001b[2J\u007f\u009b`},
		{"bidi", "user\u202egnp.exe\u2066", `user\u202egnp.exe\u2066`},
		{"zero width", "a\u200bb\ufeff", `a\u200bb\ufeff`},
		{"tags", "a\U000e0041", `a\U000e0041`},
		{"spaces that pass for one", "a\u00a0b\u3000", `a\u00a0b\u3000`},
		{"fillers", "a\u3164b\u115f\ufe0f", `a\u3164b\u115f\ufe0f`},
		{"unassigned and private", "\u0378\ue000", `\u0378\ue000`},
		{"on both sides of four digits", "\uffff\U00010fff", `\uffff\U00010fff`},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := Visible(test.label); got != test.want {
				t.Errorf("Visible(%q) = %q, want %q", test.label, got, test.want)
			}
		})
	}
}

// An escape written out in a name must not look like one of ours.
func TestEscapeIsUnambiguous(t *testing.T) {
	real := Process(bpf.Process{Name: "a\nb"})
	spelled := Process(bpf.Process{Name: `a\x0ab`})
	if real == spelled {
		t.Errorf("a line break and its escape both show as %q", real)
	}
}

func TestVisibleWho(t *testing.T) {
	for _, test := range []struct {
		overflow          bool
		workload, process string
	}{{false, `/a\xe2\x80\xaeb`, `c\x0ad`}, {true, "_other", "_other"}} {
		workload, process := VisibleWho(bpf.Cgroup{Path: "/a\u202eb"}, bpf.Process{Name: "c\nd"}, test.overflow)
		if workload != test.workload || process != test.process {
			t.Errorf("%q and %q, want %q and %q", workload, process, test.workload, test.process)
		}
	}
}
