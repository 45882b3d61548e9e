package web

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/html"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf"
)

func TestParseFilter(t *testing.T) {
	for query, want := range map[string]filter{
		"":                                  {},
		"q=&class=&pause=":                  {},
		"utm_source=chat&pause=0":           {},
		"q=+nginx+":                         {text: "nginx"},
		"q=a&q=b":                           {text: "a"},
		"class=admin":                       {class: adminUsed, byClass: true},
		"class=denied&pause=1":              {class: denied, byClass: true, paused: true},
		"class=refused":                     {class: lsmRefused, byClass: true},
		"class=other&q=%2Fa%2Fb":            {class: other, byClass: true, text: "/a/b"},
		`q=copied\x0a`:                      {text: `copied\x0a`},
		"q=a%E2%80%AEb%00%FF":               {text: `a\xe2\x80\xaeb\x00\xff`},
		"q=" + strings.Repeat("x", maxText): {text: strings.Repeat("x", maxText)},
	} {
		if got, err := parseFilter(query); err != nil || got != want {
			t.Errorf("%.50s: %+v, %v, want %+v", query, got, err, want)
		}
	}
	for query, want := range map[string]string{
		"q=%zz":                               `does not end in a query such as ?q=nginx&class=denied&pause=1: invalid URL escape "%zz"`,
		"q=a;b":                               "does not end in a query",
		"class=root":                          `class "root" is none of admin, denied, refused and other: leave it out to see all`,
		"class=" + strings.Repeat("x", 1000):  `class "` + strings.Repeat("x", 40) + `" is none of`,
		"pause=yes":                           `pause "yes" is not 1: leave it out to have the page reload`,
		"q=" + strings.Repeat("x", maxText+1): "q has 257 bytes, of which 256 are allowed: look for a part of the name",
	} {
		got := do(landed(t, nil), http.MethodGet, "/?"+query)
		if got.Code != http.StatusBadRequest || !strings.Contains(got.Body.String(), want) || !strings.HasPrefix(got.Header().Get("Content-Type"), "text/plain") {
			t.Errorf("%.50s: answered %d %q, want 400 %q", query, got.Code, got.Body, want)
		}
	}
}

// Whatever an address says, the links on the page lead to the same filter.
func FuzzFilter(f *testing.F) {
	for _, seed := range []string{"q=nginx&class=denied&pause=1", "q=%00%ff%5Cx0a%E2%80%AE", "q=%22%3E%3Cscript%3E", "q=%zz", "class=%F0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, query string) {
		first, err := parseFilter(query)
		if err != nil {
			return
		}
		again, err := parseFilter(strings.TrimPrefix(first.address(), "?"))
		if err != nil || again != first {
			t.Errorf("%+v becomes %+v, %v", first, again, err)
		}
	})
}

func TestWhatAFilterFinds(t *testing.T) {
	d := &Denials{}
	denied := refused(cap.SETGID, "nginx", 1)
	denied.Cgroup.Path, denied.CallSites = "/system.slice/Web.service", []string{"sys_setgroups"}
	n := announced(denied, "worker\n")
	n.SyscallName, n.Path, n.Symbol = "setgroups", "/run/Ünix\n", "__seen_there"
	d.Announce(n)
	granted := used(cap.SETGID, "nginx", 1)
	granted.Cgroup, granted.CallSites = denied.Cgroup, []string{"__sys_setgid"}
	r := NewRecent(nil, d)
	r.add(time.Now(), &bpf.Snapshot{Workloads: []bpf.WorkloadCount{denied, granted}}, nil)
	rows := r.view(time.Now()).Rows
	for text, want := range map[string]int{
		"": 1, "nginx": 1, "NGINX": 1, "ngin": 1, "x": 1, "nginy": 0, "nginxx": 0, "cap_setgid": 1, "CAP_SETUID": 0,
		"web.service": 1, "Web.service": 1, "Web.service/": 0,
		"sys_setgroups": 1, "__sys_setgid": 1, "setgroups": 1, "worker": 1, `worker\x0a`: 1, `worker\x0b`: 0, "__seen_there": 1,
		"/run/ünix": 1, `ünix\x0a`: 1, `ünix\x0b`: 0, "/run/unix": 0, "@": 0, "`": 0,
	} {
		if got := choose(rows, &filter{text: text}).Found; got != want {
			t.Errorf("%q finds %d rows, want %d", text, got, want)
		}
	}
}

// floodedHandler has 3000 denials of one user's, and an nginx that was denied once.
func flooded(t *testing.T) http.Handler {
	t.Helper()
	var workloads []bpf.WorkloadCount
	for n := range 3000 {
		w := refused(cap.CHOWN, "evil", 100)
		w.Cgroup.Path = fmt.Sprint("/evil/", n)
		workloads = append(workloads, w)
	}
	return landed(t, nil, append(workloads, refused(cap.SETGID, "nginx", 1), used(cap.CHOWN, "nginx", 2), used(cap.SYS_ADMIN, "mount", 1))...)
}

// A filter finds what a flood has pushed off the page.
func TestFilterFindsWhatIsNotShown(t *testing.T) {
	handler := flooded(t)
	if strings.Contains(landingPage(handler), "CAP_SETGID") {
		t.Fatal("the flood leaves the row on the page; the test needs a larger one")
	}
	for query, want := range map[string]struct {
		rows, more int
		counts     string // of each class
	}{
		"?q=nginx":              {2, 0, "All 2, CAP_SYS_ADMIN on the host 0, Denied 1, Refused 0, Other 1"},
		"?q=nginx&class=denied": {1, 0, "All 2, CAP_SYS_ADMIN on the host 0, Denied 1, Refused 0, Other 1"},
		"?q=nginx&class=other":  {1, 0, "All 2, CAP_SYS_ADMIN on the host 0, Denied 1, Refused 0, Other 1"},
		"?q=nginx&class=admin":  {0, 0, "All 2, CAP_SYS_ADMIN on the host 0, Denied 1, Refused 0, Other 1"},
		"?q=evil":               {200, 2800, "All 3000, CAP_SYS_ADMIN on the host 0, Denied 3000, Refused 0, Other 0"},
		"?class=denied":         {200, 2801, "All 3003, CAP_SYS_ADMIN on the host 1, Denied 3001, Refused 0, Other 1"},
		"?class=admin":          {1, 0, "All 3003, CAP_SYS_ADMIN on the host 1, Denied 3001, Refused 0, Other 1"},
		"?q=nobody":             {0, 0, "All 0, CAP_SYS_ADMIN on the host 0, Denied 0, Refused 0, Other 0"},
	} {
		page := landingPageOf(handler, query)
		if got := strings.Count(page, `data-h="Process"`); got != want.rows {
			t.Errorf("%s: %d rows, want %d", query, got, want.rows)
		}
		if got := strings.Contains(page, "more rows are not shown"); got != (want.more > 0) || got && !strings.Contains(page, fmt.Sprintf(">%d more rows", want.more)) {
			t.Errorf("%s: not %d more", query, want.more)
		}
		if got := strings.Contains(page, "fits the filter"); got != (want.rows == 0) {
			t.Errorf("%s: says that nothing fits: %t", query, got)
		}
		if got := strings.Join(classesOf(t, page), ", "); got != want.counts {
			t.Errorf("%s: %s, want %s", query, got, want.counts)
		}
	}
}

// Who uses CAP_SYS_ADMIN and is denied it, too, is found either way.
func TestARowOfTwoClasses(t *testing.T) {
	handler := landed(t, nil, used(cap.SYS_ADMIN, "mount", 1), refused(cap.SYS_ADMIN, "mount", 1))
	for query, want := range map[string]int{"": 1, "?class=admin": 1, "?class=denied": 1, "?class=other": 0} {
		if got := strings.Count(landingPageOf(handler, query), `data-h="Process"`); got != want {
			t.Errorf("%s: %d rows, want %d", query, got, want)
		}
	}
}

func landingPageOf(handler http.Handler, query string) string {
	return do(handler, http.MethodGet, "/"+query).Body.String()
}

// elementsOf are those of a kind.
func elementsOf(t *testing.T, page, kind string) (all []*html.Node) {
	t.Helper()
	root, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	for node := range root.Descendants() {
		if node.Type == html.ElementNode && node.Data == kind {
			all = append(all, node)
		}
	}
	return all
}

func attribute(node *html.Node, name string) string {
	for _, a := range node.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

func textOf(node *html.Node) (text string) {
	for n := range node.Descendants() {
		if n.Type == html.TextNode {
			text += n.Data
		}
	}
	return text
}

// classesOf are what the links to each class say.
func classesOf(t *testing.T, page string) (all []string) {
	t.Helper()
	for _, nav := range elementsOf(t, page, "nav") {
		for a := range nav.Descendants() {
			if a.Data == "a" && attribute(nav, "aria-label") != "" {
				all = append(all, textOf(a))
			}
		}
	}
	return all
}

// The form and the links keep what they do not change.
func TestFilterControls(t *testing.T) {
	handler := flooded(t)
	for query, want := range map[string]struct {
		fields, links []string
		current       string
		refresh       bool
	}{
		"": {
			[]string{"q="},
			[]string{"?", "?class=admin", "?class=denied", "?class=refused", "?class=other", "Pause ?pause=1"}, "All", true,
		},
		"?q=%22a+b%22&class=denied": {
			[]string{`q="a b"`, "class=denied"},
			[]string{"?q=%22a+b%22", "?class=admin&q=%22a+b%22", "?class=denied&q=%22a+b%22", "?class=refused&q=%22a+b%22", "?class=other&q=%22a+b%22",
				"Clear filter ?", "Pause ?class=denied&pause=1&q=%22a+b%22", "Show all ?"}, "Denied", true,
		},
		"?q=evil&pause=1": {
			[]string{"q=evil", "pause=1"},
			[]string{"?pause=1&q=evil", "?class=admin&pause=1&q=evil", "?class=denied&pause=1&q=evil", "?class=refused&pause=1&q=evil", "?class=other&pause=1&q=evil",
				"Clear filter ?pause=1", "Resume ?q=evil"}, "All", false,
		},
		"?pause=1": {
			[]string{"q=", "pause=1"},
			[]string{"?pause=1", "?class=admin&pause=1", "?class=denied&pause=1", "?class=refused&pause=1", "?class=other&pause=1", "Resume ?"}, "All", false,
		},
	} {
		page := landingPageOf(handler, query)
		var fields, links []string
		current := ""
		for _, input := range elementsOf(t, page, "input") {
			fields = append(fields, attribute(input, "name")+"="+attribute(input, "value"))
		}
		for _, a := range elementsOf(t, page, "a") {
			address := attribute(a, "href")
			if !strings.HasPrefix(address, "?") {
				continue
			}
			switch text := textOf(a); {
			case strings.ContainsAny(text, "0123456789"):
				links = append(links, address)
			default:
				links = append(links, text+" "+address)
			}
			if attribute(a, "aria-current") == "true" {
				current, _, _ = strings.Cut(textOf(a), " ")
			}
		}
		if !slices.Equal(fields, want.fields) || !slices.Equal(links, want.links) || current != want.current {
			t.Errorf("%s: fields %q, links %q, current %q, want %+v", query, fields, links, current, want)
		}
		if got := strings.Contains(page, `http-equiv="refresh"`); got != want.refresh || got != strings.Contains(page, "reloads every") {
			t.Errorf("%s: reloads: %t, want %t", query, got, want.refresh)
		}
		if got := strings.Contains(page, "<span><strong>Paused</strong>, as of "); got == want.refresh {
			t.Errorf("%s: says that it is paused: %t", query, got)
		}
	}
}

// Text that is looked for stands on the page as text, whatever it is.
func TestHostileFilter(t *testing.T) {
	handler := landed(t, nil, hostileWorkloads()...)
	for name := range hostileNames {
		page := landingPageOf(handler, "?q="+url.QueryEscape(name))
		p := parse(t, page)
		if p.elements["h1"] != 1 || p.elements["table"] != 1 || p.elements["style"] != 1 || p.elements["script"]+p.elements["img"]+p.elements["b"] != 0 {
			t.Errorf("%q: elements %v", name, p.elements)
		}
		if got := strings.Count(page, `data-h="Process"`); got == 0 {
			t.Errorf("%q does not find itself", name)
		}
		for _, input := range elementsOf(t, page, "input") {
			if got, want := attribute(input, "value"), shownAs(name); got != want {
				t.Errorf("%q stands in the form as %q, want %q", name, got, want)
			}
		}
	}
}

// manySeries is a handler of a page with so many series, all of which count.
func manySeries(t *testing.T, number int) *landing {
	t.Helper()
	s := &bpf.Snapshot{SeriesLimit: number, Workloads: make([]bpf.WorkloadCount, number)}
	for n := range s.Workloads {
		s.Workloads[n] = bpf.WorkloadCount{
			Check:     bpf.Check{Capability: uint8(n % 41), Denied: n%3 == 0},
			Cgroup:    bpf.Cgroup{ID: uint64(n), Path: fmt.Sprintf("/batch/the-jobs-of-the-night-and-of-the-day-%d/the-step-%d.work", n, n)},
			Process:   bpf.Process{Name: "daemon"},
			CallSites: []string{"capable_wrt_inode_uidgid", "generic_permission"},
			Count:     1,
		}
	}
	history, state := &Recent{}, &State{}
	history.add(time.Now(), s, nil)
	state.Attach(bpf.Info{}, history)
	l, err := newLanding("/m", state)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Twenty viewers with a filter each, at 65,536 series: a page costs a look at the
// names, and what it takes itself. Rows are made and put in order once for all.
func TestFiltersAreCheap(t *testing.T) {
	now := time.Now()
	cost := func(number, viewers int) uint64 {
		l := manySeries(t, number)
		started := time.Now()
		if _, err := l.current(t.Context(), now, &filter{}); err != nil {
			t.Fatal(err)
		}
		whole, rows := time.Since(started), &l.last.Rows[0]
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		started = time.Now()
		var looking sync.WaitGroup
		for n := range viewers {
			looking.Go(func() { // each finds some tenth of all rows, and has a full page
				if page, err := l.current(t.Context(), now, &filter{text: fmt.Sprintf("%d.work", n%10)}); err != nil || bytes.Count(page, []byte("<bdi>daemon</bdi>")) != maxRows {
					t.Errorf("filter %d: %v\n%s", n, err, page)
				}
			})
		}
		looking.Wait()
		took := time.Since(started)
		runtime.ReadMemStats(&after)
		if &l.last.Rows[0] != rows {
			t.Error("the rows were made again")
		}
		each := (after.TotalAlloc - before.TotalAlloc) / uint64(viewers)
		t.Logf("%5d series: the page without a filter takes %v, %d through filters %v and %d bytes each", number, whole, viewers, took, each)
		if took/time.Duration(viewers) > whole { // a third of it, at 65,536
			t.Errorf("%d pages through filters take %v, and the one that makes the rows ready %v", viewers, took, whole)
		}
		return each
	}
	if few, many := cost(16384, 4), cost(65536, 20); many > few+few/4 {
		t.Errorf("a page through a filter takes %d bytes at 65,536 series, and %d at 16,384", many, few)
	}
}

// Who looks through filters all the time is refused, others are not, and the
// page without a filter is always to be had.
func TestFiltersHaveABudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := attachedState()
		handler := newTestHandler(t, state, prometheus.NewRegistry(), t.Output())
		look := func(client, path string) *httptest.ResponseRecorder {
			w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, path, http.NoBody)
			r.RemoteAddr = client + ":1234"
			handler.ServeHTTP(w, r)
			return w
		}
		looks := func(client string, times int) (answered int) {
			for n := range times {
				if look(client, fmt.Sprint("/?q=", n)).Code == http.StatusOK {
					answered++
				}
			}
			return answered
		}
		if got := looks("192.0.2.1", 1000); got != clientLooks {
			t.Errorf("%d looks of one client are answered, want %d", got, clientLooks)
		}
		if got := state.FiltersRefused(); got != 1000-clientLooks {
			t.Errorf("%d were counted as refused", got)
		}
		refused := look("192.0.2.1", "/?class=denied")
		if refused.Code != http.StatusServiceUnavailable || refused.Header().Get("Refresh") != "10" || refused.Header().Get("Retry-After") != "10" || !strings.Contains(refused.Body.String(), "try again") {
			t.Errorf("refused with %d %v %s", refused.Code, refused.Header(), refused.Body)
		}
		if got := look("192.0.2.1", "/?q=a&pause=1").Header().Get("Refresh"); got != "" {
			t.Errorf("a page that is paused reloads after %s", got)
		}
		for _, path := range []string{"/", "/?pause=1"} {
			if got := look("192.0.2.1", path).Code; got != http.StatusOK {
				t.Errorf("%s: %d", path, got)
			}
		}
		if got := looks("192.0.2.2", 1); got != 1 {
			t.Error("one client takes the looks of another")
		}
		total := 0
		for n := range 100 {
			total += looks(fmt.Sprint("198.51.100.", n), 2)
		}
		if want := totalLooks - clientLooks - 1; total != want {
			t.Errorf("%d looks of all others are answered, want %d", total, want)
		}
		time.Sleep(recentInterval)
		if got := looks("192.0.2.1", 100); got != int(recentInterval/clientLookEach) {
			t.Errorf("%d looks ten seconds later, want %d", got, recentInterval/clientLookEach)
		}
	})
}

// Pages that were made for one client and are not read are bounded.
func TestFilteredPagesThatAreNotReadAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := manySeries(t, 300)
		l.unread.most = 1 << 20
		page, err := l.current(t.Context(), time.Now(), &filter{text: "daemon"})
		if err != nil {
			t.Fatal(err)
		}
		fit := l.unread.most / len(page)
		w, listener := inMemory(t, l)
		defer w.Stop()
		for n := range fit + 3 {
			conn := listener.dial()
			t.Cleanup(func() { conn.Close() })
			send(t, conn, "GET /?q=daemon HTTP/1.1\r\nHost: x\r\n\r\n")
			synctest.Wait()
			if got, want := l.state.AnswersGivenUp(), max(0, n+1-fit); got != uint64(want) {
				t.Fatalf("%d answers given up of %d, want %d", got, n+1, want)
			}
		}
	})
}

// One page is made at a time, for those who still want it, and nobody who looks
// without a filter waits for that.
func TestFiltersHoldUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := manySeries(t, 300)
		l.filtering <- struct{}{} // as if one was being made
		ctx, goes := context.WithCancel(t.Context())
		answered := make(chan string, 2)
		look := func(ctx context.Context, who string) {
			w := httptest.NewRecorder()
			l.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/?q=daemon", http.NoBody))
			answered <- fmt.Sprint(who, " ", w.Body.Len() > 0)
		}
		go look(ctx, "goes")
		go look(t.Context(), "stays")
		synctest.Wait()
		if got := do(l, http.MethodGet, "/"); got.Code != http.StatusOK {
			t.Errorf("without a filter: %d", got.Code)
		}
		goes()
		if got := <-answered; got != "goes false" {
			t.Errorf("who has gone: %s", got)
		}
		select {
		case got := <-answered:
			t.Errorf("at the same time: %s", got)
		default:
		}
		<-l.filtering
		if got := <-answered; got != "stays true" {
			t.Errorf("afterwards: %s", got)
		}
	})
}

// Who has sent all that it had to send, and shut that side of its connection, is
// for net/http as one that has gone. The page that is ready anyway is sent.
func TestWhoHasSaidAllIsAnswered(t *testing.T) {
	ctx, shut := context.WithCancel(t.Context())
	shut()
	for _, query := range []string{"", "?pause=1"} {
		w := httptest.NewRecorder()
		landed(t, nil).ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/"+query, http.NoBody))
		if !strings.Contains(w.Body.String(), "</html>") {
			t.Errorf("%q: answered %d %q", query, w.Code, w.Body)
		}
	}
}
