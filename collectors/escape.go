package collectors

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// escapeName writes a name that somebody else chose so that it is valid UTF-8,
// differs from what any other name is written as, and passes for none of the
// exporter's own ("_other", "[kernel]"): those start with a bracket or an
// underscore, and a name that does so gets a backslash before it.
//
// Nothing in it breaks a line, moves a cursor, turns the writing direction or is
// not seen: an alert's text, a terminal and a chat show what Prometheus holds.
// Quotes stay; whoever shows a name escapes those for the place where it is shown.
func escapeName(name string) string {
	escaped := Escape(name)
	if strings.HasPrefix(name, "[") || strings.HasPrefix(name, "_") {
		return `\` + escaped
	}
	return escaped
}

// Escape writes a backslash as \\, and as \xNN, in lower case, each byte that is
// not part of valid UTF-8, or is of a character that people do not see for what
// it is. Names that have none of these are returned as they are.
func Escape(name string) string {
	if utf8.ValidString(name) && strings.IndexFunc(name, func(r rune) bool { return r == '\\' || unseen(r) }) < 0 {
		return name
	}
	var b strings.Builder
	for len(name) > 0 {
		r, size := utf8.DecodeRuneInString(name)
		switch {
		case r == utf8.RuneError && size == 1, unseen(r): // U+FFFD itself has three bytes, and is seen
			for _, c := range []byte(name[:size]) {
				fmt.Fprintf(&b, `\x%02x`, c)
			}
		case r == '\\':
			b.WriteString(`\\`)
		default:
			b.WriteString(name[:size])
		}
		name = name[size:]
	}
	return b.String()
}

// escapePath writes a cgroup's path as Escape does. But where nothing in it is to
// be escaped except backslashes, and each of those begins one of systemd's own
// escapes that Escape would not write, it stays as it is: other exporters show
// it so, and it can be joined to theirs.
func escapePath(path string) string {
	rest := path
	for {
		before, after, found := strings.Cut(rest, `\`)
		if strings.IndexFunc(before, unseen) >= 0 || !utf8.ValidString(before) {
			return Escape(path)
		}
		if !found {
			return path
		}
		if len(after) < 3 || after[0] != 'x' || after[1] < '2' || after[1] > '7' || after[1:3] == "7f" || !isHexDigit(after[2]) {
			return Escape(path)
		}
		rest = after[3:]
	}
}

func isHexDigit(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' }
