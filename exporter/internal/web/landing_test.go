package web

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/html"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf"
)

// hostileNames are file names that any user can give to a program, and what
// the page must show for them.
var hostileNames = map[string]string{
	`<script>document.title="taken"</script>`: `<script>document.title="taken"</script>`,
	`<img src=x onerror="document.title=1">`:  `<img src=x onerror="document.title=1">`,
	`</bdi></td></tr></table><h1>hello</h1>`:  `</bdi></td></tr></table><h1>hello</h1>`,
	`</style><style>*{display:none}`:          `</style><style>*{display:none}`,
	`{{.Version}}`:                            `{{.Version}}`,
	`&lt;b&gt;`:                               `&lt;b&gt;`,
	"a\x00b\nc\x1b[2J":                        `a\u0000b\u000ac\u001b[2J`,
	"user\u202egnp.exe":                       `user\u202egnp.exe`,
	"\u2066\u200f\u200bempty":                 `\u2066\u200f\u200bempty`,
	"bad\xffutf8":                             `bad\xffutf8`,
	"[kernel]":                                `\[kernel]`,
	`" onmouseover="alert(1)`:                 `" onmouseover="alert(1)`,
	"שלום":                                    "שלום",
}

func hostileWorkloads() []bpf.WorkloadCount {
	var all []bpf.WorkloadCount
	for name := range hostileNames {
		w := used(cap.CHOWN, name, 1)
		w.Cgroup.Path = "/" + name
		w.CallSites = []string{"chown_common"}
		all = append(all, w)
	}
	return all
}

// landed is the page's handler with a history of one snapshot, or of a failure
// to take one.
func landed(t *testing.T, failure error, workloads ...bpf.WorkloadCount) http.Handler {
	t.Helper()
	history, state := &Recent{}, &State{}
	history.add(time.Now(), &bpf.Snapshot{Workloads: workloads, Series: 3, SeriesLimit: 4096}, failure)
	state.Attach(bpf.Info{Source: bpf.SourceTracepoint}, history)
	return newTestHandler(t, state)
}

func newTestHandler(t *testing.T, state *State) http.Handler {
	t.Helper()
	handler, err := NewHandler(Config{TelemetryPath: "/m"}, prometheus.NewRegistry(), state, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	return handler
}

func do(handler http.Handler, method, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest(method, path, http.NoBody))
	return w
}

func landingPage(handler http.Handler) string { return do(handler, http.MethodGet, "/").Body.String() }

// parsed is what a browser makes of a page.
type parsed struct {
	elements map[string]int
	text     string
	names    []string // the texts of the bdi elements
	title    string
}

func parse(t *testing.T, page string) parsed {
	t.Helper()
	root, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	p := parsed{elements: map[string]int{}}
	for node := range root.Descendants() {
		switch node.Type {
		case html.TextNode:
			p.text += node.Data
		case html.ElementNode:
			p.elements[node.Data]++
			for _, attribute := range node.Attr {
				if strings.HasPrefix(attribute.Key, "on") {
					t.Errorf("<%s> has the attribute %s", node.Data, attribute.Key)
				}
			}
			if child := node.FirstChild; child != nil && child.Type == html.TextNode {
				switch node.Data {
				case "bdi":
					p.names = append(p.names, child.Data)
				case "title":
					p.title = child.Data
				}
			}
		}
	}
	return p
}

// checkHostile checks that the names stand in a page as text, and that nothing
// else is in it.
func checkHostile(t *testing.T, page string) {
	t.Helper()
	p := parse(t, page)
	allowed := []string{"html", "head", "meta", "title", "link", "style", "body", "header", "h1", "small", "nav", "a", "main", "dl", "div",
		"dt", "dd", "h2", "table", "thead", "tbody", "tr", "th", "td", "span", "bdi", "code", "footer", "p"}
	for element := range maps.Keys(p.elements) {
		if !slices.Contains(allowed, element) {
			t.Errorf("the page has <%s>", element)
		}
	}
	if p.title != "Capability exporter" {
		t.Errorf("the title became %q", p.title)
	}
	if got, want := p.elements["tr"], len(hostileNames)+1; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	if p.elements["h1"] != 1 || p.elements["table"] != 1 || p.elements["style"] != 1 {
		t.Errorf("elements %v", p.elements)
	}
	var want []string
	for name, shown := range hostileNames {
		// The path of the cgroup begins with a slash, so nothing need be put before it.
		path := "/" + shown
		if name == "[kernel]" {
			path = "/[kernel]"
		}
		want = append(want, path, shown)
	}
	slices.Sort(want)
	slices.Sort(p.names)
	if !slices.Equal(p.names, want) {
		t.Errorf("names shown:\n%q\nwant\n%q", p.names, want)
	}
}

func TestLandingHostileNames(t *testing.T) {
	checkHostile(t, landingPage(landed(t, nil, hostileWorkloads()...)))
}

func TestLandingInChromium(t *testing.T) {
	browser, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("CI has no chromium: ", err)
		}
		t.Skip("needs chromium: ", err)
	}
	server := httptest.NewServer(landed(t, nil, hostileWorkloads()...))
	defer server.Close()
	profile := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--user-data-dir="+profile,
		"--dump-dom", server.URL+"/")
	command.Env = append(os.Environ(), "HOME="+profile)
	dom, err := command.Output()
	if err != nil {
		t.Fatalf("chromium: %v", err)
	}
	checkHostile(t, string(dom))
}

func TestLandingPolicyAllowsItsOwnStyle(t *testing.T) {
	got := do(landed(t, nil), http.MethodGet, "/")
	_, rest, _ := strings.Cut(got.Body.String(), "<style>")
	style, _, _ := strings.Cut(rest, "</style>")
	hash := sha256.Sum256([]byte(style))
	policy := got.Header().Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "style-src 'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) + "'", "frame-ancestors 'none'"} {
		if !strings.Contains(policy, want) {
			t.Errorf("policy %q, want %q in it", policy, want)
		}
	}
	if strings.Contains(policy, "script-src") || strings.Contains(policy, "unsafe") {
		t.Errorf("policy %q lets scripts in", policy)
	}
	if !strings.Contains(got.Body.String(), `http-equiv="refresh" content="10"`) {
		t.Error("the page does not refresh itself")
	}
}

func TestLandingSaysWhatItKnows(t *testing.T) {
	text := parse(t, landingPage(landed(t, nil))).text
	for _, want := range []string{"Nobody asked for a capability in the last 5 minutes", "Source", "tracepoint", "3 of 4096",
		"Denials not announced", "Lost records", "Missed runs", "Metrics"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q:\n%s", want, text)
		}
	}
}

func TestLandingCutsRows(t *testing.T) {
	var workloads []bpf.WorkloadCount
	for n := range maxRows + 7 {
		workloads = append(workloads, used(cap.CHOWN, fmt.Sprint("p", n), 1))
	}
	admin := used(cap.SYS_ADMIN, "admin", 1)
	denied := used(cap.CHOWN, "denied", 1)
	denied.Denied = true
	p := parse(t, landingPage(landed(t, nil, append(workloads, admin, denied)...)))
	if got := p.elements["tr"] - 1; got != maxRows {
		t.Errorf("%d rows, want %d", got, maxRows)
	}
	if !strings.Contains(p.text, "9 more rows are not shown") {
		t.Error("the page does not say how many rows are missing")
	}
	if len(p.names) < 4 || p.names[1] != "denied" || p.names[3] != "admin" {
		t.Errorf("the first rows are %q", p.names[:4])
	}
}

func TestLandingShowsAFailure(t *testing.T) {
	page := landingPage(landed(t, errors.New("map <b>is</b> gone\u202e")))
	p := parse(t, page)
	if !strings.Contains(p.text, `map <b>is</b> gone\u202e`) || p.elements["b"] != 0 {
		t.Errorf("the failure is not on the page as text:\n%s", page)
	}
	if strings.Contains(p.text, "Nobody asked") {
		t.Error("the page says that nobody asked, which it cannot know")
	}
}

func TestLandingKeepsTheOperatorsHeaders(t *testing.T) {
	l, err := newLanding("/metrics", &State{})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	w.Header().Set("Content-Security-Policy", "default-src 'self'")
	l.ServeHTTP(w, &http.Request{})
	if got := w.Header().Get("Content-Security-Policy"); got != "default-src 'self'" {
		t.Errorf("the policy became %q", got)
	}
}
