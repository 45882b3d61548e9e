package web

import (
	"fmt"
	"net/url"
	"strings"

	"capability_exporter/collectors"
)

// maxText is how many bytes may be looked for, as they are shown: more than
// anybody types.
const maxText = 256

// filter is what somebody wants to see of the page, as its address says it:
// ?q=TEXT&class=CLASS&pause=1.
type filter struct {
	text    string // as names are shown; "": everything
	class   class
	byClass bool
	paused  bool
}

// names of the classes in an address, and on the page.
func (c class) names() (short, long string) {
	return [classes]string{"admin", "denied", "refused", "other"}[c],
		[classes]string{"CAP_SYS_ADMIN on the host", "Denied", "Refused", "Other"}[c]
}

// parseFilter reads the query of an address. Its errors say what is allowed.
func parseFilter(query string) (filter, error) {
	var f filter
	values, err := url.ParseQuery(query)
	if err != nil {
		return f, fmt.Errorf("the address does not end in a query such as ?q=nginx&class=denied&pause=1: %w", err)
	}
	f.text = shownAs(strings.TrimSpace(values.Get("q")))
	if len(f.text) > maxText {
		return f, fmt.Errorf("q has %d bytes, of which %d are allowed: look for a part of the name", len(f.text), maxText)
	}
	if name := values.Get("class"); name != "" {
		if f.class, f.byClass = classOf(name); !f.byClass {
			return f, fmt.Errorf("class %.40q is none of admin, denied, refused and other: leave it out to see all", name)
		}
	}
	switch pause := values.Get("pause"); pause {
	case "", "0":
	case "1":
		f.paused = true
	default:
		return f, fmt.Errorf("pause %.40q is not 1: leave it out to have the page reload", pause)
	}
	return f, nil
}

func classOf(name string) (class, bool) {
	for c := range classes {
		if short, _ := c.names(); short == name {
			return c, true
		}
	}
	return 0, false
}

// shownAs writes text that somebody looks for as it stands in the names that
// are shown. A backslash stays: whoever types one has copied it from there.
func shownAs(text string) string {
	parts := strings.Split(text, `\`)
	for i := range parts {
		parts[i] = collectors.Escape(parts[i])
	}
	return strings.Join(parts, `\`)
}

// everything tells whether all rows are wanted: that page is made once for all.
func (f *filter) everything() bool { return f.text == "" && !f.byClass }

// address is the end of the page's address that has this filter.
func (f filter) address() string {
	values := url.Values{}
	if f.text != "" {
		values.Set("q", f.text)
	}
	if f.byClass {
		short, _ := f.class.names()
		values.Set("class", short)
	}
	if f.paused {
		values.Set("pause", "1")
	}
	return "?" + values.Encode()
}

// finds tells whether the text stands in anything that a row shows in words,
// in small letters or capitals.
func (f *filter) finds(r *row) bool {
	if f.text == "" || contains(collectors.Capability(r.Capability), f.text) || contains(r.Workload, f.text) || contains(r.Process, f.text) ||
		contains(r.LSM, f.text) {
		return true
	}
	for _, sites := range [][]string{r.GrantedSites, r.DeniedSites} {
		for _, site := range sites {
			if contains(site, f.text) {
				return true
			}
		}
	}
	d := r.Last
	return d != nil && (contains(d.Syscall(), f.text) || contains(d.Comm(), f.text) || contains(d.Path(), f.text) ||
		contains(d.Site(), f.text) || contains(d.Process, f.text) || contains(d.Workload, f.text))
}

// contains is strings.Contains, letters being equal to their capitals. It makes
// no copies: with every look at the page it goes through the names of all
// series, and whoever chooses these may make them long.
func contains(s, text string) bool {
	first := text[0] | 0x20 // a letter's case; what is taken for another by it is looked at below
	for i := 0; i+len(text) <= len(s); i++ {
		if s[i]|0x20 == first && strings.EqualFold(s[i:i+len(text)], text) {
			return true
		}
	}
	return false
}
