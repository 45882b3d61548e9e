package web

import (
	"strings"
	"testing"
	"unicode/utf8"

	"kernel.org/pub/linux/libs/security/libcap/cap"
)

func TestCut(t *testing.T) {
	for _, test := range []struct {
		whole string
		most  int
		want  string
	}{
		{"", 5, ""},
		{"abcde", 5, "abcde"},
		{"abcdef", 5, "a…def"},
		{"abcdefghij", 9, "abc…fghij"},
		{"שלוםשלום", 8, "שלוםשלום"},
		{"שלוםשלום!", 8, "של…שלום!"},
	} {
		got := cut(test.whole, test.most)
		if got != test.want || utf8.RuneCountInString(got) > test.most {
			t.Errorf("%q cut to %d is %q, want %q", test.whole, test.most, got, test.want)
		}
	}
}

// A name that is cut stands whole in its tooltip, and where the keyboard or a
// finger opens it; what is longer than any file's name is cut there, too.
func TestLandingCutsNames(t *testing.T) {
	scope := "/batch/" + strings.Repeat("job-of-the-night/", 9) + "step"
	worst := strings.Repeat(`\xff`, 255) // as the longest file name is shown
	for _, test := range []struct{ workload, process, whole, cut string }{
		{"/short", "nginx", "", ""},
		{scope, "nginx", scope, scope[:18] + "…" + scope[len(scope)-37:]},
		{"/short", strings.Repeat("\xff", 255), worst, worst[:12] + "…" + worst[len(worst)-23:]},
		{"/" + strings.Repeat("x", 2000) + "b", "nginx", "/" + strings.Repeat("x", 340) + "…" + strings.Repeat("x", 681) + "b", "/" + strings.Repeat("x", 17) + "…" + strings.Repeat("x", 36) + "b"},
	} {
		w := used(cap.CHOWN, test.process, 1)
		w.Cgroup.Path = test.workload
		page := landingPage(landed(t, nil, w))
		long := elementsOf(t, page, "summary")
		if test.whole == "" {
			if len(long) != 0 {
				t.Errorf("%d of short names can be opened", len(long))
			}
			continue
		}
		if len(long) != 1 || attribute(long[0], "title") != test.whole || textOf(long[0]) != test.cut+test.whole {
			t.Errorf("%.40s… %.40q…: %d can be opened, %q as a tooltip, in it %q, want %q and %q", test.workload, test.process, len(long), attribute(long[0], "title"), textOf(long[0]), test.cut, test.whole)
		}
	}
}
