package collectors

import (
	"fmt"
	"strings"
	"unicode"
)

// Visible returns text that is no name, such as an error's, so that people see
// all that is in it: what would show as nothing, break a line or turn the writing
// direction is written \uNNNN (\UNNNNNNNN above U+FFFF).
func Visible(label string) string {
	if strings.IndexFunc(label, unseen) < 0 {
		return label
	}
	var b strings.Builder
	for _, r := range label {
		switch {
		case !unseen(r):
			b.WriteRune(r)
		case r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	return b.String()
}

// unseen reports control and format characters, line separators, all spaces
// but the ordinary one, unassigned characters, and the fillers and variation
// selectors that Unicode counts as letters and marks although nothing of them
// is drawn.
func unseen(r rune) bool {
	return !unicode.IsPrint(r) ||
		unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}
