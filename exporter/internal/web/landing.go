package web

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
	"time"

	"github.com/prometheus/common/version"

	"capability_exporter/bpf"
	"capability_exporter/collectors"
)

// maxRows is how many rows the page shows. More would be too many to read,
// and a page of thousands is slow to show every few seconds.
const maxRows = 200

//go:embed landing.gohtml
var landingHTML string

//go:embed landing.css
var landingCSS string

// landing is the page at /. exporter-toolkit's NewLandingPage renders once, at
// start, takes extra content as HTML that it does not escape, and has no room
// in the head for a refresh; this page is made anew for each request out of
// names that strangers choose.
type landing struct {
	page   *template.Template
	policy string // the page's Content-Security-Policy
	links  []landingLink
	state  *State
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
	data := landingData{
		Version: version.Version,
		CSS:     template.CSS(landingCSS), //nolint:gosec // part of the program, no input
		Links:   l.links,
		Refresh: int(recentInterval.Seconds()),
		Minutes: int(recentWindow.Minutes()),
	}
	if attached := l.state.attached.Load(); attached != nil {
		data.Attached = true
		data.Info = attached.info
		data.recentView = attached.recent.view(time.Now())
		if cut := len(data.Rows) - maxRows; cut > 0 {
			data.Rows, data.More = data.Rows[:maxRows], cut
		}
	}

	// Into a buffer first, so that a failure is an error and not half a page.
	var page bytes.Buffer
	if err := l.page.Execute(&page, data); err != nil {
		http.Error(w, "the page could not be made: "+err.Error(), http.StatusInternalServerError)
		return
	}
	setUnlessSet(w.Header(), "Content-Security-Policy", l.policy)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(page.Bytes()) // the reader has gone
}
