package web

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
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

// landing is the page at /. exporter-toolkit's NewLandingPage renders once, at
// start, takes extra content as HTML that it does not escape, and has no room
// in the head for a refresh; this page is made out of names that strangers
// choose, anew when there is something new, however many look at it.
type landing struct {
	page   *template.Template
	policy string // the page's Content-Security-Policy
	links  []landingLink
	state  *State

	mu   sync.Mutex // held while the page is made, of which there is one at a time
	last rendered
}

// rendered is the page as it was made last.
type rendered struct {
	page    []byte
	of      *attachment
	version uint64 // of its history
	at      time.Time
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
	recentView
	More int // rows that are not shown
}

func newLanding(telemetryPath string, s *State) (*landing, error) {
	page, err := template.New("landing").Funcs(template.FuncMap{
		"capability": collectors.Capability,
		"clock":      func(t time.Time) string { return t.UTC().Format("15:04:05 UTC") },
		"visible":    collectors.Visible,
	}).Parse(landingHTML)
	if err != nil {
		return nil, fmt.Errorf("landing page: %w", err)
	}
	hash := sha256.Sum256([]byte(landingCSS))
	return &landing{
		page: page,
		// The one thing the page is made of besides HTML is its style sheet.
		policy: "default-src 'none'; img-src data:; style-src 'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) +
			"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
		links: []landingLink{
			{telemetryPath, "Metrics", "for Prometheus"},
			{HealthyPath, "Health", "answers while the process serves"},
			{ReadyPath, "Readiness", "answers once the checks are counted"},
		},
		state: s,
	}, nil
}

func (l *landing) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	page, err := l.current(time.Now())
	if err != nil {
		http.Error(w, "the page could not be made: "+err.Error(), http.StatusInternalServerError)
		return
	}
	setUnlessSet(w.Header(), "Content-Security-Policy", l.policy)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(page) // the reader has gone
}

// current is the page as it was made last, unless there is something new to
// show or, where no snapshot comes, what it shows is of the past.
func (l *landing) current(now time.Time) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	attached := l.state.attached.Load()
	var number uint64
	if attached != nil {
		number = attached.recent.version()
	}
	if last := l.last; last.page != nil && last.of == attached && last.version == number && now.Sub(last.at) < recentInterval {
		return last.page, nil
	}
	page, err := l.render(now, attached)
	if err != nil {
		return nil, err
	}
	l.last = rendered{page, attached, number, now}
	return page, nil
}

// render makes a whole page or none.
func (l *landing) render(now time.Time, attached *attachment) ([]byte, error) {
	data := landingData{
		Version: version.Version,
		CSS:     template.CSS(landingCSS), //nolint:gosec // part of the program, no input
		Links:   l.links,
		Refresh: int(recentInterval.Seconds()),
		Minutes: int(recentWindow.Minutes()),
	}
	if attached != nil {
		data.Attached = true
		data.Info = attached.info
		data.recentView = attached.recent.view(now)
		data.Rows, data.More = shown(data.Rows)
	}
	var page bytes.Buffer
	if err := l.page.Execute(&page, data); err != nil {
		return nil, err
	}
	return page.Bytes(), nil
}
