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
// Control characters, quotes and marks that turn the writing direction are
// valid in a label value and stay; whoever shows a name escapes them for the
// place where it is shown.
func escapeName(name string) string {
	escaped := escapeBytes(name)
	if strings.HasPrefix(name, "[") || strings.HasPrefix(name, "_") {
		return `\` + escaped
	}
	return escaped
}

// escapeBytes writes a backslash as \\ and each byte that is not part of valid
// UTF-8 as \xNN, in lower case. Names that have neither are returned as they are.
func escapeBytes(name string) string {
	if utf8.ValidString(name) && !strings.Contains(name, `\`) {
		return name
	}
	var b strings.Builder
	for len(name) > 0 {
		r, size := utf8.DecodeRuneInString(name)
		switch {
		case r == utf8.RuneError && size == 1: // U+FFFD itself has three bytes
			fmt.Fprintf(&b, `\x%02x`, name[0])
		case r == '\\':
			b.WriteString(`\\`)
		default:
			b.WriteString(name[:size])
		}
		name = name[size:]
	}
	return b.String()
}
