package web

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/common/version"

	"capability_exporter/bpf"
	"capability_exporter/collectors"
)

//go:embed landing.gohtml
var landingHTML string

//go:embed landing.css
var landingCSS string

// maxUnreadPages is how many bytes of pages that were made for one client alone
// may wait for those who asked.
const maxUnreadPages = 8 << 20

// landing is the page at /. exporter-toolkit's NewLandingPage renders once, at
// start, takes extra content as HTML that it does not escape, and has no room
// in the head for a refresh; this page is made out of names that strangers
// choose, anew when there is something new, however many look at it.
//
// What somebody looks for is found in what was made ready for all, a page at a
// time, and as often as looks allows.
type landing struct {
	page   *template.Template
	policy string // the page's Content-Security-Policy
	links  []landingLink
	state  *State
	looks  *looks
	unread unread

	mu   sync.Mutex // held while rows are made ready, and the page that is for all
	last *ready

	filtering chan struct{} // holds one while a page is made for one client
}

// ready is what is known at one time, and the page made of all of it.
type ready struct {
	recentView
	of      *attachment
	version uint32 // of its history
	at      time.Time

	running, paused []byte // the page without a filter, nil until somebody looks
}

type landingLink struct{ Path, Text, Note string }

// landingData is what landing.gohtml shows.
type landingData struct {
	Version  string
	CSS      template.CSS
	Links    []landingLink
	Refresh  int // seconds
	Minutes  int
	Attached bool
	Info     bpf.Info
	Now      time.Time
	Snapshot *bpf.Snapshot
	Err      error
	choice
	Filter landingFilter
}

// landingFilter is what somebody looks for, and the addresses that lead from
// there to something else.
type landingFilter struct {
	Text, Class          string
	MaxText              int
	Paused               bool
	Pause, Resume, Clear string // addresses
	Classes              []landingClass
}

type landingClass struct {
	Name, Address string
	Number        int
	Current       bool
}

func newLanding(telemetryPath string, s *State) (*landing, error) {
	page, err := template.New("landing").Funcs(template.FuncMap{
		"capability": collectors.Capability,
		"clock":      func(t time.Time) string { return t.UTC().Format("15:04:05 UTC") },
		"visible":    collectors.Visible,
		"name":       nameOf,
		"ago":        ago,
	}).Parse(landingHTML)
	if err != nil {
		return nil, fmt.Errorf("landing page: %w", err)
	}
	hash := sha256.Sum256([]byte(landingCSS))
	return &landing{
		page: page,
		// The one thing the page is made of besides HTML is its style sheet,
		// and the one place where its form leads to is the page itself.
		policy: "default-src 'none'; img-src data:; style-src 'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) +
			"'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
		links: []landingLink{
			{telemetryPath, "Metrics", "for Prometheus"},
			{HealthyPath, "Health", "answers while the process serves"},
			{ReadyPath, "Readiness", "answers once the checks are counted"},
		},
		state:  s,
		looks:  newLooks(),
		unread: unread{limits: &s.limits, most: maxUnreadPages},

		filtering: make(chan struct{}, 1),
	}, nil
}

func (l *landing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f, err := parseFilter(r.URL.RawQuery)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if !f.everything() && !l.looks.allows(time.Now(), from(r.RemoteAddr)) {
		l.state.limits.filters.Add(1)
		again := fmt.Sprint(int(recentInterval.Seconds()))
		w.Header().Set("Retry-After", again)
		if !f.paused {
			w.Header().Set("Refresh", again) // as the page does
		}
		http.Error(w, "The page is looked at through filters too often: try again in "+again+" seconds. Without a filter it is always to be had.",
			http.StatusServiceUnavailable)
		return
	}
	page, err := l.current(r.Context(), time.Now(), &f)
	if errors.Is(err, context.Canceled) {
		return // and so has the client
	}
	if err != nil {
		http.Error(w, "the page could not be made: "+err.Error(), http.StatusInternalServerError)
		return
	}
	if !f.everything() {
		sent := l.unread.add(len(page), func() { _ = http.NewResponseController(w).SetWriteDeadline(time.Now()) })
		defer sent()
	}
	setUnlessSet(w.Header(), "Content-Security-Policy", l.policy)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(page) //nolint:gosec // html/template has escaped what the address says; and an error is that the reader has gone
}

// current is the page as it was made last, or one with what is looked for, of
// the same rows.
func (l *landing) current(ctx context.Context, now time.Time, f *filter) ([]byte, error) {
	if f.everything() {
		l.mu.Lock()
		defer l.mu.Unlock()
		r := l.ready(now)
		page := &r.running
		if f.paused {
			page = &r.paused
		}
		if *page != nil {
			return *page, nil
		}
		var err error
		*page, err = l.render(r, f)
		return *page, err
	}
	l.mu.Lock()
	r := l.ready(now)
	l.mu.Unlock()
	select {
	case l.filtering <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-l.filtering }()
	return l.render(r, f)
}

// ready is what was made ready last, unless there is something new to show or,
// where no snapshot comes, what it shows is of the past. The caller holds mu.
func (l *landing) ready(now time.Time) *ready {
	attached := l.state.attached.Load()
	var number uint32
	if attached != nil {
		number = attached.recent.version()
	}
	if last := l.last; last == nil || last.of != attached || last.version != number || now.Sub(last.at) >= recentInterval {
		l.last = &ready{of: attached, version: number, at: now}
		if attached != nil {
			l.last.recentView = attached.recent.view(now)
		}
	}
	return l.last
}

// render makes a whole page or none.
func (l *landing) render(r *ready, f *filter) ([]byte, error) {
	data := landingData{
		Version: version.Version,
		CSS:     template.CSS(landingCSS), //nolint:gosec // part of the program, no input
		Links:   l.links,
		Refresh: int(recentInterval.Seconds()),
		Minutes: int(recentWindow.Minutes()),
	}
	if r.of != nil {
		data.Attached = true
		data.Info = r.of.info
		data.Now, data.Snapshot, data.Err = r.at, r.Snapshot, r.Err
		data.choice = choose(r.Rows, f)
	}
	data.Filter = landingFilterOf(f, &data.choice)
	var page bytes.Buffer
	if err := l.page.Execute(&page, data); err != nil {
		return nil, err
	}
	return page.Bytes(), nil
}

func landingFilterOf(f *filter, c *choice) landingFilter {
	to := func(change func(*filter)) string {
		other := *f
		change(&other)
		return other.address()
	}
	shown := landingFilter{
		Text: f.text, MaxText: maxText, Paused: f.paused,
		Pause:  to(func(f *filter) { f.paused = true }),
		Resume: to(func(f *filter) { f.paused = false }),
		Classes: []landingClass{{
			Name: "All", Number: c.Found, Current: !f.byClass,
			Address: to(func(f *filter) { f.byClass = false }),
		}},
	}
	if !f.everything() {
		shown.Clear = filter{paused: f.paused}.address()
	}
	for class := range classes {
		short, long := class.names()
		current := f.byClass && f.class == class
		if current {
			shown.Class = short
		}
		shown.Classes = append(shown.Classes, landingClass{
			Name: long, Number: c.Of[class], Current: current,
			Address: to(func(f *filter) { f.class, f.byClass = class, true }),
		})
	}
	return shown
}

// ago writes how long something was before now.
func ago(now, then time.Time) string {
	passed := max(0, now.Sub(then).Round(time.Second))
	if passed < 2*time.Minute {
		return fmt.Sprintf("%d s ago", int(passed.Seconds()))
	}
	return fmt.Sprintf("%d min ago", int(passed.Minutes()))
}
