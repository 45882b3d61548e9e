package web

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/version"
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
	"a\x00b\nc\x1b[2J":                        `a\x00b\x0ac\x1b[2J`,
	"user\u202egnp.exe":                       `user\xe2\x80\xaegnp.exe`,
	"\u2066\u200f\u200bempty":                 `\xe2\x81\xa6\xe2\x80\x8f\xe2\x80\x8bempty`,
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

// landed is the handler with a history of one snapshot, or of a failure to take
// one.
func landed(t *testing.T, failure error, workloads ...bpf.WorkloadCount) http.Handler {
	t.Helper()
	return landedSnapshot(t, bpf.Snapshot{Workloads: workloads, Series: 3, SeriesLimit: 4096}, failure)
}

func landedSnapshot(t *testing.T, snapshot bpf.Snapshot, failure error) http.Handler {
	t.Helper()
	history, state := &Recent{}, &State{}
	history.add(time.Now(), &snapshot, failure)
	state.Attach(bpf.Info{Source: bpf.SourceTracepoint}, history)
	return newTestHandler(t, state, prometheus.NewRegistry(), t.Output())
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
					if attribute(node, "class") == "cut" {
						continue // the whole name follows
					}
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
		"dt", "dd", "h2", "form", "label", "input", "button", "strong", "table", "colgroup", "col", "thead", "tbody", "tr", "th", "td",
		"span", "bdi", "code", "time", "details", "summary", "footer", "p"}
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
	checkHostile(t, inChromium(t, landed(t, nil, hostileWorkloads()...)))
}

// inChromium is what a browser makes of a handler's page, scripts included.
func inChromium(t *testing.T, handler http.Handler) (dom string) {
	t.Helper()
	browser, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("CI has no chromium: ", err)
		}
		t.Skip("needs chromium: ", err)
	}
	server := httptest.NewServer(handler)
	defer server.Close()
	profile := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--user-data-dir="+profile,
		"--dump-dom", server.URL+"/")
	command.Env = append(os.Environ(), "HOME="+profile)
	out, err := command.Output()
	if err != nil {
		t.Fatalf("chromium: %v", err)
	}
	return string(out)
}

// measure is a page with others in frames of some width, and what their layout
// is: whether something is wider than its column or the frame, how many rows
// there are, and how wide columns are. Where something is looked for, long names
// have been opened.
const measure = `<!DOCTYPE html><title>measure</title>
%s
<script>
const hidden = e => e.closest("thead") && getComputedStyle(e.closest("thead")).position == "absolute";
onload = () => {
  for (const f of document.querySelectorAll("iframe")) {
    const d = f.contentDocument, out = document.createElement("output");
    if (f.src.includes("q=")) d.querySelectorAll("details").forEach(e => e.open = true);
    const columns = [...d.querySelectorAll("th")].map(c => Math.round(c.getBoundingClientRect().width));
    const room = d.documentElement.clientWidth;
    const outside = e => [...e.getClientRects()].some(r => r.right > (e.closest("td") ?? d.documentElement).getBoundingClientRect().right + .5);
    const wide = [...d.querySelectorAll("body *")].filter(e => outside(e) && !hidden(e));
    out.textContent = d.documentElement.scrollWidth - room + " " + wide.length + " " + d.querySelectorAll("tbody tr").length + " " + columns;
    document.body.append(out);
  }
};
</script>`

// Whatever stands in them, columns hold their width, and nothing is wider than
// the window.
func TestLandingLayoutInChromium(t *testing.T) {
	d := &Denials{}
	var workloads []bpf.WorkloadCount
	for n, length := range []int{1, 20, 60, 255} {
		w := refused(cap.CHECKPOINT_RESTORE, strings.Repeat("W", length), 1)
		w.Cgroup.Path, w.UserNS = "/"+strings.Repeat("m", 16*length), n == 2
		w.CallSites = []string{strings.Repeat("m", min(length, 127)), strings.Repeat("n", min(length, 127))}
		a := announced(w, strings.Repeat("W", min(length, 15)))
		a.Path, a.Symbol, a.SyscallName = strings.Repeat("/W", length/2), w.CallSites[0], "open_by_handle_at"
		a.UID, a.EUID, a.TGID, a.NSTGID = math.MaxUint32, math.MaxUint32, 4194303, 4194302
		d.Announce(a)
		granted := w
		granted.Denied, granted.Count = false, 999_999_999_999
		workloads = append(workloads, w, granted)
	}
	pages := map[string]http.Handler{"/short": landed(t, nil, used(cap.KILL, "a", 1)), "/empty": landed(t, nil), "/failed": landed(t, errors.New("no "+strings.Repeat("room", 100)))}
	history, state := NewRecent(nil, d), &State{}
	refusals := []bpf.RefusalCount{{LSM: "apparmor", Capability: uint8(cap.CHECKPOINT_RESTORE), Cgroup: workloads[4].Cgroup, Process: workloads[4].Process, Count: math.MaxUint32}}
	history.add(time.Now(), &bpf.Snapshot{Workloads: workloads, Refusals: refusals, SeriesLimit: math.MaxInt32}, nil)
	state.Attach(bpf.Info{Source: bpf.SourceTracepoint, LSM: "selinux_unavailable,apparmor_unavailable"}, history)
	pages["/long"] = newTestHandler(t, state, prometheus.NewRegistry(), t.Output())

	addresses := []string{"/empty?pause=1", "/failed?pause=1", "/short?pause=1", "/long?pause=1", "/long?pause=1&class=denied&q=" + strings.Repeat("W", 20)}
	widths := []int{400, 1000, 1280}
	var frames strings.Builder
	for _, address := range addresses {
		for _, width := range widths {
			fmt.Fprintf(&frames, `<iframe width="%d" height="6000" frameborder="0" src="%s"></iframe>`, width, address)
		}
	}
	dom := inChromium(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			fmt.Fprintf(w, measure, &frames)
			return
		}
		if pages[r.URL.Path] == nil { // an icon
			http.NotFound(w, r)
			return
		}
		request := r.Clone(r.Context())
		request.URL.Path = "/"
		page := httptest.NewRecorder()
		pages[r.URL.Path].ServeHTTP(page, request)
		_, _ = page.Body.WriteTo(w) // without the headers, which let nobody put it in a frame
	}))
	measured := elementsOf(t, dom, "output")
	if len(measured) != len(addresses)*len(widths) {
		t.Fatalf("%d pages are measured:\n%s", len(measured), dom)
	}
	columns := map[int]string{}
	for n, address := range addresses {
		for m, width := range widths {
			var over, wide, rows int
			var of string
			text := textOf(measured[n*len(widths)+m])
			if _, err := fmt.Sscan(text, &over, &wide, &rows, &of); err != nil && rows > 0 {
				t.Fatalf("measured %q: %v", text, err)
			}
			if over > 0 || wide > 0 {
				t.Errorf("%s at %d pixels is %d wider than the window, %d elements are wider than they may be", address, width, over, wide)
			}
			if strings.HasPrefix(address, "/long") && rows < 3 {
				t.Errorf("%s has %d rows", address, rows)
			}
			if rows == 0 || width < 960 { // which has no columns
				continue
			}
			if columns[width] == "" {
				columns[width] = of
			}
			if of != columns[width] {
				t.Errorf("%s: columns of %s pixels at %d, others of %s", address, of, width, columns[width])
			}
		}
	}
	if len(columns) != 2 {
		t.Errorf("columns were measured at %d widths", len(columns))
	}
}

func TestLandingPolicyAllowsItsOwnStyle(t *testing.T) {
	got := do(landed(t, nil), http.MethodGet, "/")
	_, rest, _ := strings.Cut(got.Body.String(), "<style>")
	style, _, _ := strings.Cut(rest, "</style>")
	hash := sha256.Sum256([]byte(style))
	policy := got.Header().Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "img-src data:", "base-uri 'none'", "form-action 'self'", "style-src 'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) + "'", "frame-ancestors 'none'"} {
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

// at is a moment that reads otherwise in the local time zone, whichever that is.
func at(hour, minute int) time.Time {
	return time.Date(2024, 5, 6, hour, minute, 10, 0, time.UTC).In(time.FixedZone("far", 5*3600+1800))
}

func TestLandingSaysWhatItKnows(t *testing.T) {
	version.Version = "1.2.3"
	t.Cleanup(func() { version.Version = "" })
	handler := landedSnapshot(t, bpf.Snapshot{
		Time: at(8, 9), Attached: at(7, 8), Series: 3, SeriesLimit: 4096,
		RingRecords: 20, RingLost: 5, RingWithheld: 6, Unwinds: 30, MissedRuns: 7,
	}, nil)
	got := do(handler, http.MethodGet, "/")
	if got.Code != http.StatusOK || got.Header().Get("Content-Type") != "text/html; charset=utf-8" {
		t.Errorf("answered %d as %s", got.Code, got.Header().Get("Content-Type"))
	}
	page := got.Body.String()
	for _, want := range []string{
		"<h1>Capability exporter <small>1.2.3</small></h1>",
		`<a href="/m" title="for Prometheus">Metrics</a>`,
		`<a href="/-/healthy" title="answers while the process serves">Health</a>`,
		`<a href="/-/ready" title="answers once the checks are counted">Readiness</a>`,
		"<div><dt>Source</dt><dd>tracepoint</dd></div>",
		"<div><dt>Series in use</dt><dd>3 of 4096</dd></div>",
		`<div class="warn"><dt>Denials not announced</dt><dd>6</dd></div>`,
		`<div class="warn"><dt>Lost records</dt><dd>5</dd></div>`,
		`<div class="warn"><dt>Missed runs</dt><dd>7</dd></div>`,
		"<div><dt>Counting since</dt><dd>2024-05-06 07:08 UTC</dd></div>",
		"<h2>Asked for in the last 5 minutes</h2>",
		"Nobody asked for a capability in the last 5 minutes.",
		"As of 08:09:10 UTC.",
		"the page reloads every 10 seconds",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q:\n%s", want, page)
		}
	}
	if quiet := landingPage(landed(t, nil)); strings.Contains(quiet, `class="warn"`) {
		t.Errorf("the page warns of nothing:\n%s", quiet)
	}
}

// Before its first snapshot the page cannot know whether anybody asked.
func TestLandingBeforeTheFirstSnapshot(t *testing.T) {
	page := landingPage(newTestHandler(t, attachedState(), prometheus.NewRegistry(), t.Output()))
	if !strings.Contains(page, "The first snapshot of the counters is being taken.") || strings.Contains(page, "Nobody asked") {
		t.Errorf("the page is\n%s", page)
	}
}

func TestLandingRows(t *testing.T) {
	sites := func(w bpf.WorkloadCount, sites ...string) bpf.WorkloadCount { w.CallSites = sites; return w }
	denied := sites(used(cap.NET_RAW, "ping", 2), "packet_create [af_packet]")
	denied.Denied = true
	userns := used(cap.SYS_ADMIN, "unshare", 1)
	userns.UserNS = true
	minded, probed := refused(cap.FSETID, "cp", 1), refused(cap.FSETID, "cp", 2)
	probed.Probe = true
	probe := probed
	probe.Process.Name = "install"
	page := landingPage(landed(t, nil, minded, probed, probe, denied, sites(used(cap.NET_RAW, "ping", 3), "inet_create"), used(cap.SYS_ADMIN, "mount", 4), userns, sites(used(cap.CHOWN, "chown", 5), "chown_common")))
	_, body, _ := strings.Cut(page, "<tbody>")
	body, _, _ = strings.Cut(body, "</tbody>")
	const head = `<td data-h="Capability"><span class="cap">`
	const who = `<td data-h="Workload"><bdi>/a</bdi></td><td data-h="Process"><bdi>`
	const counts = `</td><td data-h="Granted" class="n">%d</td><td data-h="Denied" class="n">%d</td></tr>`
	want := `<tr class="admin">` + head + `CAP_SYS_ADMIN</span></td>` + who + `mount</bdi></td><td data-h="Call sites">` + fmt.Sprintf(counts, 4, 0) +
		`<tr class="denied">` + head + `CAP_NET_RAW</span></td>` + who + `ping</bdi></td><td data-h="Call sites">` +
		`<div class="no">denied: <span><code>packet_create</code> </span></div><div>granted: <span><code>inet_create</code> </span></div>` + fmt.Sprintf(counts, 3, 2) +
		`<tr class="last denied"><td colspan="6">No details: none of these denials was announced.</td></tr>` +
		`<tr class="denied">` + head + `CAP_FSETID</span></td>` + who + `cp</bdi></td><td data-h="Call sites">` +
		strings.Replace(fmt.Sprintf(counts, 0, 3), "3</td>", "3 <small>2 harmless</small></td>", 1) +
		`<tr class="last denied"><td colspan="6">No details: none of these denials was announced.</td></tr>` +
		`<tr class="admin">` + head + `CAP_SYS_ADMIN</span> <span class="tag">in a user namespace</span></td>` + who + `unshare</bdi></td><td data-h="Call sites">` + fmt.Sprintf(counts, 1, 0) +
		`<tr>` + head + `CAP_CHOWN</span></td>` + who + `chown</bdi></td><td data-h="Call sites"><span><code>chown_common</code> </span>` + fmt.Sprintf(counts, 5, 0) +
		`<tr>` + head + `CAP_FSETID</span></td>` + who + `install</bdi></td><td data-h="Call sites">` +
		strings.Replace(fmt.Sprintf(counts, 0, 2), "2</td>", "2 <small>2 harmless</small></td>", 1) +
		`<tr class="last"><td colspan="6">No details: none of these denials was announced.</td></tr>`
	if got := strings.ReplaceAll(body, "\n", ""); got != want {
		t.Errorf("the rows are\n%s\nwant\n%s", got, want)
	}
}

// What is told of the last denial.
func TestLandingTellsTheLastDenial(t *testing.T) {
	row := func(change func(*bpf.WorkloadCount, *bpf.Announcement)) string {
		d := &Denials{}
		w := refused(cap.SETGID, "nginx", 1)
		a := bpf.Announcement{
			Check: w.Check, Cgroup: w.Cgroup, Process: w.Process, Comm: "worker", Symbol: "__x64_sys_setgroups",
			UID: 33, EUID: 34, TGID: 812, TID: 813, NSTGID: 7, Syscall: 116, SyscallName: "setgroups", Path: "/run/x",
		}
		change(&w, &a)
		d.Announce(a)
		history, state := NewRecent(nil, d), &State{}
		history.add(time.Now(), &bpf.Snapshot{Workloads: []bpf.WorkloadCount{w}}, nil)
		state.Attach(bpf.Info{}, history)
		page := landingPage(newTestHandler(t, state, prometheus.NewRegistry(), t.Output()))
		_, details, _ := strings.Cut(page, `<tr class="last denied"><td colspan="6">`)
		details, _, _ = strings.Cut(details, "</td>")
		return details
	}
	for _, test := range []struct {
		change func(*bpf.WorkloadCount, *bpf.Announcement)
		want   string
	}{
		{
			func(*bpf.WorkloadCount, *bpf.Announcement) {},
			"system call <code>setgroups</code> denied in <code>sys_setgroups</code>, uid 33, euid 34, pid 812 (7 in its PID namespace), thread <bdi>worker</bdi>, path <bdi>/run/x</bdi>",
		},
		{
			func(_ *bpf.WorkloadCount, a *bpf.Announcement) {
				a.NSTGID, a.Syscall, a.SyscallName, a.Path, a.Comm = 812, -1, "", "", "a\n\u202eb"
			},
			`denied in <code>sys_setgroups</code>, uid 33, euid 34, pid 812, thread <bdi>a\x0a\xe2\x80\xaeb</bdi>`,
		},
		{
			func(_ *bpf.WorkloadCount, a *bpf.Announcement) { a.Probe, a.NSTGID, a.Path = true, 812, "" },
			"system call <code>setgroups</code> denied in <code>sys_setgroups</code>, which the kernel did not mind, uid 33, euid 34, pid 812, thread <bdi>worker</bdi>",
		},
		{
			func(_ *bpf.WorkloadCount, a *bpf.Announcement) {
				a.Harmless, a.Instead, a.NSTGID, a.Path = true, uint8(cap.SYS_ADMIN), 812, ""
			},
			"system call <code>setgroups</code> denied in <code>sys_setgroups</code>, and <code>CAP_SYS_ADMIN</code> granted in its place, uid 33, euid 34, pid 812, thread <bdi>worker</bdi>",
		},
		{
			func(_ *bpf.WorkloadCount, a *bpf.Announcement) { a.SyscallName, a.Path = "", "</td><script>\xff" },
			`system call <code>116</code> denied in <code>sys_setgroups</code>, uid 33, euid 34, pid 812 (7 in its PID namespace), thread <bdi>worker</bdi>, path <bdi>&lt;/td&gt;&lt;script&gt;\xff</bdi>`,
		},
		{
			func(w *bpf.WorkloadCount, a *bpf.Announcement) {
				w.Process, a.Overflow, a.NSTGID, a.Path = bpf.Process{Kind: bpf.ProcessOther}, true, 812, ""
			},
			"process <bdi>nginx</bdi>, system call <code>setgroups</code> denied in <code>sys_setgroups</code>, uid 33, euid 34, pid 812, thread <bdi>worker</bdi>",
		},
		{
			func(w *bpf.WorkloadCount, a *bpf.Announcement) {
				w.Overflow, a.Overflow, a.NSTGID, a.Path = true, true, 812, ""
			},
			"process <bdi>nginx</bdi> in <bdi>/a</bdi>, system call <code>setgroups</code> denied in <code>sys_setgroups</code>, uid 33, euid 34, pid 812, thread <bdi>worker</bdi>",
		},
	} {
		got := row(test.change)
		head, details, _ := strings.Cut(got, "</time>: ")
		if details != test.want {
			t.Errorf("told %s\nwant %s", details, test.want)
		}
		if !regexp.MustCompile(`^Last denial announced <time datetime="\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ" title="\d\d:\d\d:\d\d UTC">0 s ago$`).MatchString(head) {
			t.Errorf("told at %s", head)
		}
	}
}

// What another module refused stands in rows of its own, which say when and of what.
func TestLandingRefusals(t *testing.T) {
	d := &Denials{}
	of := func(process string) bpf.RefusalCount {
		return bpf.RefusalCount{LSM: "apparmor", Capability: uint8(cap.SYS_ADMIN), Cgroup: bpf.Cgroup{ID: 1, Path: "/a"}, Process: bpf.Process{Name: process}, Count: 3, Created: time.Unix(1000, 0)}
	}
	silent, others := of("silent"), of("")
	silent.Count, others.Count, others.Process = 2, 1, bpf.Process{Kind: bpf.ProcessOther}
	inside := bpf.Check{Capability: uint8(cap.SYS_ADMIN), Denied: true, UserNS: true} // which the counter does not tell apart
	d.Announce(bpf.Announcement{
		Check: inside, LSM: "apparmor", Cgroup: of("").Cgroup, Process: bpf.Process{Name: "mount"}, Comm: "worker",
		UID: 33, EUID: 34, TGID: 812, NSTGID: 812, SyscallName: "mount", Path: "/mnt",
	})
	d.Announce(bpf.Announcement{
		Check: inside, LSM: "apparmor", Cgroup: of("").Cgroup, Process: bpf.Process{Name: "crowded"}, Overflow: true, Comm: "c", TGID: 1, NSTGID: 1, Syscall: -1,
	})
	history, state := NewRecent(nil, d), &State{}
	history.add(time.Now(), &bpf.Snapshot{
		Workloads: []bpf.WorkloadCount{used(cap.SYS_ADMIN, "mount", 3), refused(cap.CHOWN, "cp", 1), used(cap.CHOWN, "often", 100)},
		Refusals:  []bpf.RefusalCount{others, of("mount"), silent},
	}, nil)
	state.Attach(bpf.Info{LSM: "apparmor"}, history)
	handler := newTestHandler(t, state, prometheus.NewRegistry(), t.Output())
	if page := landingPage(handler); !strings.Contains(page, "(other security modules: apparmor).") {
		t.Errorf("the page does not say which modules there are:\n%s", page)
	}
	rowOf := func(process string, count int, last string) string {
		return `<tr class="denied"><td data-h="Capability"><span class="cap">CAP_SYS_ADMIN</span> <span class="tag">refused by apparmor</span></td>` +
			`<td data-h="Workload"><bdi>/a</bdi></td><td data-h="Process"><bdi>` + process + `</bdi></td><td data-h="Call sites"></td>` +
			`<td data-h="Granted" class="n">–</td><td data-h="Denied" class="n">` + fmt.Sprint(count) + `</td></tr>` +
			`<tr class="last denied"><td colspan="6">` + last + `</td></tr>`
	}
	told := func(what string) string { return `Last refusal announced <time>0 s ago</time>:` + what }
	want := rowOf("mount", 3, told(` system call <code>mount</code> refused, uid 33, euid 34, pid 812, thread <bdi>worker</bdi>, path <bdi>/mnt</bdi>`)) +
		rowOf("silent", 2, "No details: none of these refusals was announced.") +
		rowOf("_other", 1, told(` process <bdi>crowded</bdi>, refused, uid 0, euid 0, pid 1, thread <bdi>c</bdi>`))
	for query, where := range map[string]string{"?class=refused": "^%s$", "?q=APPARMOR": "^%s$", "": ">mount<.*>cp<.*%s<tr><td.*>often<", "?class=denied": ">cp<"} {
		_, body, _ := strings.Cut(landingPageOf(handler, query), "<tbody>")
		body, _, _ = strings.Cut(body, "</tbody>")
		body = regexp.MustCompile(`<time [^>]*>`).ReplaceAllString(strings.ReplaceAll(body, "\n", ""), "<time>")
		if !strings.Contains(where, "%s") {
			if strings.Contains(body, "apparmor") || !strings.Contains(body, where) {
				t.Errorf("%s: rows\n%s", query, body)
			}
			continue
		}
		if !regexp.MustCompile(fmt.Sprintf(where, regexp.QuoteMeta(want))).MatchString(body) {
			t.Errorf("%s: the rows are\n%s\nwant\n%s", query, body, want)
		}
	}
}

func TestAgo(t *testing.T) {
	for passed, want := range map[time.Duration]string{
		-time.Hour: "0 s ago", 0: "0 s ago", 1499 * time.Millisecond: "1 s ago", 1500 * time.Millisecond: "2 s ago",
		119 * time.Second: "119 s ago", 2 * time.Minute: "2 min ago", 5*time.Minute - 1: "5 min ago",
	} {
		if got := ago(at(8, 9).Add(passed), at(8, 9)); got != want {
			t.Errorf("%v: %s, want %s", passed, got, want)
		}
	}
}

func TestLandingCutsRows(t *testing.T) {
	var workloads []bpf.WorkloadCount
	const shown = 200
	for n := range shown + 7 {
		workloads = append(workloads, used(cap.CHOWN, fmt.Sprint("p", n), 1))
	}
	admin := used(cap.SYS_ADMIN, "admin", 1)
	denied := used(cap.CHOWN, "denied", 1)
	denied.Denied = true
	page := landingPage(landed(t, nil, append(workloads, admin, denied)...))
	p := parse(t, page)
	if got := p.elements["tr"] - 2; got != shown { // the head, and the denial's details
		t.Errorf("%d rows, want %d", got, shown)
	}
	if !strings.Contains(page, ">9 more rows are not shown") {
		t.Error("the page does not say how many rows are missing")
	}
	if len(p.names) < 4 || p.names[1] != "admin" || p.names[3] != "denied" {
		t.Errorf("the first rows are %q", p.names[:4])
	}
}

func TestLandingShowsAllRowsThatFit(t *testing.T) {
	for more, want := range map[int]string{0: "", 1: ">1 more rows are not shown"} {
		var workloads []bpf.WorkloadCount
		for n := range 200 + more {
			workloads = append(workloads, used(cap.CHOWN, fmt.Sprint("p", n), 1))
		}
		page := landingPage(landed(t, nil, workloads...))
		if rows := strings.Count(page, "<tr"); rows != 201 || !strings.Contains(page, want) || want == "" && strings.Contains(page, "not shown") {
			t.Errorf("%d rows of %d, and not %q", rows-1, len(workloads), want)
		}
	}
}

func TestLandingShowsAFailure(t *testing.T) {
	page := landingPage(landed(t, errors.New("map <b>is</b> gone\u202e")))
	p := parse(t, page)
	if !strings.Contains(p.text, `map <b>is</b> gone\u202e`) || p.elements["b"] != 0 {
		t.Errorf("the failure is not on the page as text:\n%s", page)
	}
	for _, not := range []string{"Nobody asked", "is being taken"} {
		if strings.Contains(p.text, not) {
			t.Errorf("the page says %q, which it cannot know", not)
		}
	}
}

// Half a page would look like a whole one.
func TestLandingFailsAsAWhole(t *testing.T) {
	page := template.Must(template.New("").Parse("the first half{{.None}}"))
	got := do(&landing{page: page, state: &State{}}, http.MethodGet, "/")
	if got.Code != http.StatusInternalServerError || !strings.Contains(got.Body.String(), "could not be made") || strings.HasPrefix(got.Body.String(), "the first half") {
		t.Errorf("answered %d %s", got.Code, got.Body)
	}
}

// However many look at it, the page is made once for each snapshot, and again
// where none comes: what it shows is the last five minutes.
func TestThePageIsMadeOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		made := 0
		history, state := &Recent{}, &State{}
		l := &landing{state: state, page: template.Must(template.New("").Funcs(template.FuncMap{"made": func() int { made++; return made }}).Parse("page {{made}}"))}
		look := func(what string, want int) {
			t.Helper()
			var viewers sync.WaitGroup
			for range 20 {
				viewers.Go(func() {
					if got := do(l, http.MethodGet, "/").Body.String(); got != fmt.Sprint("page ", want) {
						t.Errorf("%s: %s, want %d", what, got, want)
					}
				})
			}
			viewers.Wait()
		}
		look("before", 1)
		state.Attach(bpf.Info{}, history)
		look("attached", 2)
		history.add(time.Now(), &bpf.Snapshot{}, nil)
		time.Sleep(recentInterval - 1)
		look("a snapshot", 3)
		time.Sleep(recentInterval - 1)
		look("the same", 3)
		time.Sleep(time.Nanosecond)
		look("no snapshot comes", 4)
		history.add(time.Now(), nil, errors.New("broken"))
		look("a failure", 5)
		state.Detach()
		look("detached", 6)
	})
}
