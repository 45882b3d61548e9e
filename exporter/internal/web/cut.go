package web

import "unicode/utf8"

// maxWhole is how many characters of a name are shown at all: more than a file's
// name can have, each of its 255 bytes being escaped. A path of a cgroup can be
// longer, and the metrics have it whole.
const maxWhole = 1024

// name is a name as the page shows it: cut where it is long, and whole for those
// who ask for that.
type name struct {
	Whole string
	Cut   string // empty where that is short
}

func nameOf(s string, most int) name {
	n := name{Whole: cut(s, maxWhole)}
	if short := cut(s, most); short != s {
		n.Cut = short
	}
	return n
}

// cut takes out the middle of what has more characters than that. What a path
// ends in says most.
func cut(s string, most int) string {
	if len(s) <= most || utf8.RuneCountInString(s) <= most {
		return s
	}
	all := []rune(s)
	head := most / 3
	return string(all[:head]) + "…" + string(all[len(all)-(most-1-head):])
}
