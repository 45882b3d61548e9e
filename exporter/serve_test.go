package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"html"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf"
	"capability_exporter/exporter/internal/confine"
	"capability_exporter/exporter/internal/exportertest"
	"capability_exporter/exporter/internal/privilege"
	"capability_exporter/exporter/internal/sdnotify"
	"capability_exporter/exporter/internal/web"
)

// instance is the program, run inside the test's own process.
type instance struct {
	address string
	client  *http.Client
	cancel  context.CancelFunc
	ended   chan error
	log     *logReader
}

// logReader hands on the lines of a log, to its end.
type logReader struct {
	lines chan string
	all   strings.Builder // complete once lines is closed
}

func readLog(r io.Reader) *logReader {
	l := &logReader{lines: make(chan string, 1000)}
	go func() {
		defer close(l.lines)
		for s := bufio.NewScanner(r); s.Scan(); {
			l.all.WriteString(s.Text() + "\n")
			select {
			case l.lines <- s.Text():
			default: // nobody waits for a line any more
			}
		}
	}()
	return l
}

// whole returns all of a log, once it has ended.
func (l *logReader) whole() string {
	for range l.lines { // until it is closed
	}
	return l.all.String()
}

// waitFor returns the first match of the pattern's group, or fails when the
// log ends without.
func (l *logReader) waitFor(t *testing.T, pattern string) string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	for line := range l.lines {
		if match := re.FindStringSubmatch(line); match != nil {
			return match[len(match)-1]
		}
	}
	t.Fatalf("the log ended without %s:\n%s", pattern, l.all.String())
	return ""
}

const listening = `msg="Listening on" address=(\S+)`

// started are circumstances in which something may be missing.
type started struct{ missing error }

func (s started) Check() error                   { return s.missing }
func (s started) ExplainRefusal(err error) error { return fmt.Errorf("are held: %w", err) }

// fakeEnv starts with both capabilities and nothing else.
func fakeEnv(open func(bpf.Options) (tracer, error), stderr io.Writer, args ...string) env {
	return env{
		args:   append([]string{"--web.listen-address=127.0.0.1:0"}, args...),
		stdout: io.Discard,
		stderr: stderr,
		files:  func(_, most int) (int, error) { return most, nil },
		dropPrivileges: func(privilege.User) (circumstances, error) {
			return started{}, nil
		},
		openTracer: open,
		confine:    func(confine.Files, *slog.Logger) error { return nil },
		dropRest:   func() error { return errors.New("nobody wants to give up the rest") },
		held:       func() ([]cap.Value, error) { return bpf.RequiredCapabilities(), nil },
		manager:    sdnotify.Connect,
	}
}

// start runs the program until the test ends or stop is called.
func start(t *testing.T, open func(bpf.Options) (tracer, error), args ...string) *instance {
	t.Helper()
	return startLogging(t, open, func(w io.Writer) io.Writer { return w }, args...)
}

// startLogging is start with a standard error of its own before the test's.
func startLogging(t *testing.T, open func(bpf.Options) (tracer, error), through func(io.Writer) io.Writer, args ...string) *instance {
	t.Helper()
	reader, writer := io.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	i := &instance{
		client: newClient(),
		cancel: cancel,
		ended:  make(chan error, 1),
		log:    readLog(reader),
	}
	go func() {
		err := run(ctx, fakeEnv(open, through(writer), args...))
		writer.Close()
		i.ended <- err
	}()
	t.Cleanup(func() { _ = i.stop() }) // for the tests that do not look at it
	i.address = i.log.waitFor(t, listening)
	return i
}

// stop ends the program, waits for it and returns what run did.
func (i *instance) stop() error {
	i.cancel()
	i.client.CloseIdleConnections()
	err := <-i.ended
	i.ended <- err
	return err
}

// waitReady returns once the program says it is ready.
func (i *instance) waitReady(t *testing.T) {
	t.Helper()
	for i.get(t, web.ReadyPath).StatusCode != http.StatusOK {
		time.Sleep(time.Millisecond)
	}
}

type answer struct {
	*http.Response
	body string
}

func (i *instance) get(t *testing.T, path string) answer {
	return i.do(t, http.MethodGet, path, nil)
}

func (i *instance) do(t *testing.T, method, path string, header http.Header) answer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, "http://"+i.address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header = header
	response, err := i.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{response, string(body)}
}

func opens(fake tracer) func(bpf.Options) (tracer, error) {
	return func(bpf.Options) (tracer, error) { return fake, nil }
}

func TestNotReadyBeforeAttached(t *testing.T) {
	fake, attach := &exportertest.Tracer{}, make(chan struct{})
	i := start(t, func(o bpf.Options) (tracer, error) {
		if o.SeriesLimit != 100 || o.HeldInterval != 5*time.Second || o.Announce == nil || o.Logger == nil || o.Name == nil {
			t.Errorf("opened with %+v", o)
		} else if got := o.Name(bpf.Cgroup{Path: "/system.slice/nginx.service"}); got != "nginx.service" {
			t.Errorf("cgroups of one workload are those of one name: %q", got)
		}
		<-attach
		return fake, nil
	}, "--series.limit=100", "--held.interval=5s")

	for path, want := range map[string]int{web.ReadyPath: 503, "/metrics": 503, web.HealthyPath: 200, "/": 200} {
		if got := i.get(t, path).StatusCode; got != want {
			t.Errorf("%s before attach: %d, want %d", path, got, want)
		}
	}
	if page := i.get(t, "/").body; !strings.Contains(page, "not attached") {
		t.Errorf("the page does not say that it is starting:\n%s", page)
	}
	close(attach)
	i.waitReady(t)
	if got := i.get(t, "/metrics").StatusCode; got != http.StatusOK {
		t.Errorf("/metrics after attach: %d", got)
	}
	if err := i.stop(); err != nil {
		t.Errorf("stopped with %v", err)
	}
	if fake.Closed() != 1 {
		t.Errorf("the tracer was closed %d times", fake.Closed())
	}
}

// The page is that of the tracer that counts, and links to where the metrics are.
func TestPageShowsWhoAsked(t *testing.T) {
	i := start(t, opens(exportertest.NewTracer(bpf.Info{Source: bpf.SourceFexit}, goldenSnapshot())), "--web.telemetry-path=/m")
	i.waitReady(t)
	var page string
	for !strings.Contains(page, "<bdi>nginx.service</bdi>") {
		page = i.get(t, "/").body
	}
	for _, want := range []string{"fexit", "3 of 4096", `href="/m"`} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q:\n%s", want, page)
		}
	}
	for path, want := range map[string]int{"/m": 200, "/metrics": 404} {
		if got := i.get(t, path).StatusCode; got != want {
			t.Errorf("%s: %d, want %d", path, got, want)
		}
	}
}

// A name that somebody chose is written the same way as a label, in the log, and
// on the page, in whichever of its places.
func TestPageAndLogShowWhatTheLabelsHold(t *testing.T) {
	const chosen, shown = "a\x1b[2J\u202e\xff\\ \"b", `a\x1b[2J\xe2\x80\xae\xff\\ "b`
	slot := bpf.WorkloadCount{
		Check: bpf.Check{Capability: uint8(cap.CHOWN), Denied: true}, Cgroup: bpf.Cgroup{ID: 1, Path: "/" + chosen}, Process: bpf.Process{Name: chosen},
		Count: 1, Created: time.Unix(1000, 0),
	}
	i := start(t, func(o bpf.Options) (tracer, error) {
		o.Announce(bpf.Announcement{Check: slot.Check, Cgroup: slot.Cgroup, Process: slot.Process, Comm: chosen, Path: "/" + chosen, SyscallName: "chown", Symbol: "chown_common"})
		return exportertest.NewTracer(bpf.Info{Source: bpf.SourceFexit}, bpf.Snapshot{Workloads: []bpf.WorkloadCount{slot}, Series: 1, SeriesLimit: 4096}), nil
	})
	line := i.log.waitFor(t, `^(.*msg="Capability denied".*)$`)
	for key, want := range map[string]string{"workload": "/" + shown, "process": shown, "comm": shown, "path": "/" + shown} {
		if field := " " + key + "=" + strconv.Quote(want) + " "; !strings.Contains(line, field) {
			t.Errorf("the log has %s, want%s", line, field)
		}
	}
	i.waitReady(t)
	quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(shown)
	if page := i.get(t, "/metrics").body; !strings.Contains(page, `process="`+quoted+`"`) || !strings.Contains(page, `workload="/`+quoted+`"`) {
		t.Errorf("no label is %s:\n%s", quoted, page)
	}
	var names []string
	for len(names) == 0 {
		for _, match := range regexp.MustCompile(`<bdi>([^<]*)</bdi>`).FindAllStringSubmatch(i.get(t, "/").body, -1) {
			names = append(names, html.UnescapeString(match[1]))
		}
	}
	if want := []string{"/" + shown, shown, shown, "/" + shown}; !slices.Equal(names, want) {
		t.Errorf("the page has %q, want %q", names, want)
	}
}

func TestSnapshotFailureFailsTheScrape(t *testing.T) {
	fake := &exportertest.Tracer{}
	i := start(t, opens(fake))
	i.waitReady(t)
	fake.Set(errors.New("map is gone"))
	got := i.get(t, "/metrics")
	if got.StatusCode != http.StatusInternalServerError || !strings.Contains(got.body, "map is gone") {
		t.Errorf("answered %d %s", got.StatusCode, got.body)
	}
	i.log.waitFor(t, "level=ERROR .*(map is gone)")
}

func TestAnnouncementsAreLogged(t *testing.T) {
	i := start(t, func(o bpf.Options) (tracer, error) {
		o.Announce(bpf.Announcement{New: true, Check: bpf.Check{Capability: uint8(cap.SYS_ADMIN)}, Process: bpf.Process{Name: "mount"}})
		return &exportertest.Tracer{}, nil
	})
	i.log.waitFor(t, `level=WARN .* process=(mount)`)
}

// gate is a standard error that is not read any more once it is shut.
type gate struct {
	io.Writer
	shut   atomic.Bool
	opened chan struct{}
}

func (g *gate) Write(p []byte) (int, error) {
	if g.shut.Load() {
		<-g.opened
		return len(p), nil
	}
	return g.Writer.Write(p)
}

// More scrapes than may run at one time fail, and each wants to say so.
func TestALogThatIsNotReadHoldsUpNothing(t *testing.T) {
	fake, g := &exportertest.Tracer{}, &gate{opened: make(chan struct{})}
	defer close(g.opened)
	i := startLogging(t, opens(fake), func(w io.Writer) io.Writer { g.Writer = w; return g })
	i.waitReady(t)
	g.shut.Store(true)
	i.client.Timeout = 10 * time.Second
	fake.Set(errors.New("map is gone"))
	for range 12 {
		if got := i.get(t, "/metrics").StatusCode; got != http.StatusInternalServerError {
			t.Fatalf("answered %d", got)
		}
	}
	fake.Set(nil)
	if got := i.get(t, "/metrics").StatusCode; got != http.StatusOK {
		t.Errorf("answered %d", got)
	}
	began := time.Now()
	if err := i.stop(); err != nil {
		t.Errorf("stopped with %v", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("stopped after %v", took)
	}
}

func TestWhatIsNotInTheLogIsCounted(t *testing.T) {
	g := &gate{opened: make(chan struct{})}
	defer close(g.opened)
	denied := bpf.Announcement{Check: bpf.Check{Capability: uint8(cap.CHOWN), Denied: true}}
	announce := make(chan func(bpf.Announcement), 1)
	i := startLogging(t, func(o bpf.Options) (tracer, error) {
		announce <- o.Announce
		o.Announce(denied)
		return &exportertest.Tracer{}, nil
	}, func(w io.Writer) io.Writer { g.Writer = w; return g })
	i.waitReady(t)
	i.log.waitFor(t, `msg=("Capability denied")`)
	g.shut.Store(true)
	say := <-announce
	for n := range 5000 { // as many as the budget of all lets through, and more than wait for the page
		denied.Cgroup.Path = fmt.Sprint("/", n)
		say(denied)
	}
	page := i.get(t, "/metrics").body
	if strings.Contains(page, `reason="queue"`) {
		t.Error("nothing was dropped, and told to be")
	}
	for pattern, what := range map[string]string{
		`\ncapability_exporter_announcements_dropped_total\{reason="budget"\} [1-9]`: "withheld by the budget",
		`\ncapability_exporter_announcements_dropped_total\{reason="page"\} [1-9]`:   "not on the page",
		`\ncapability_exporter_log_lines_dropped_total 0\n`:                          "lines dropped",
	} {
		if !regexp.MustCompile(pattern).MatchString(page) {
			t.Errorf("%s: no %s", what, pattern)
		}
	}
	for n := range 100 { // and more bytes than the queue has room for
		long := fmt.Sprint(strings.Repeat("/long", 1<<14), n)
		say(bpf.Announcement{New: true, Check: bpf.Check{Capability: uint8(cap.SYS_ADMIN)}, Cgroup: bpf.Cgroup{Path: long}})
	}
	page = i.get(t, "/metrics").body
	for _, pattern := range []string{
		`\ncapability_exporter_announcements_dropped_total\{reason="queue"\} [1-9]`,
		`\ncapability_exporter_log_lines_dropped_total [1-9]`,
	} {
		if !regexp.MustCompile(pattern).MatchString(page) {
			t.Errorf("no %s", pattern)
		}
	}
}

// systemd is a service manager with a watchdog, which the environment names. What
// it is told is had by calling it; "" after a while in which it was told nothing.
func systemd(t *testing.T) func(time.Duration) string {
	t.Helper()
	manager := exportertest.ServiceManager(t, 100*time.Millisecond)
	return func(wait time.Duration) string {
		t.Helper()
		if err := manager.SetReadDeadline(time.Now().Add(wait)); err != nil {
			t.Fatal(err)
		}
		message := make([]byte, 1024)
		n, err := manager.Read(message)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		return string(message[:n])
	}
}

// systemd hears that the program is ready once it is, that it works for as long
// as it does, and that it stops.
func TestTheServiceManagerIsTold(t *testing.T) {
	hear := systemd(t)
	attach := make(chan struct{})
	i := start(t, func(bpf.Options) (tracer, error) {
		<-attach
		return exportertest.NewTracer(bpf.Info{Source: bpf.SourceFexit}, bpf.Snapshot{}), nil
	})
	if got := hear(200 * time.Millisecond); got != "" {
		t.Errorf("told %q before it has attached", got)
	}
	close(attach)
	// besides is the first that is not to feed the watchdog.
	besides := func() (got string) {
		for range 300 { // it comes soon, or not at all
			if got = hear(time.Minute); got != "WATCHDOG=1" {
				break
			}
		}
		return got
	}
	if got, want := besides(), "READY=1\nSTATUS=Counting capability checks via fexit"; got != want {
		t.Errorf("told %q, want %q", got, want)
	}
	if got := i.get(t, web.ReadyPath).StatusCode; got != http.StatusOK {
		t.Errorf("said to be ready, and answers %d", got)
	}
	for range 3 {
		if got := hear(time.Minute); got != "WATCHDOG=1" {
			t.Errorf("told %q", got)
		}
	}
	if err := i.stop(); err != nil {
		t.Errorf("stopped with %v", err)
	}
	if got := besides(); got != "STOPPING=1" {
		t.Errorf("told %q", got)
	}
}

func TestNoServiceManagerIsNoReasonToEnd(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "none"))
	i := start(t, opens(&exportertest.Tracer{}))
	i.log.waitFor(t, `level=WARN .*(NOTIFY_SOCKET=)`)
	i.waitReady(t)
	if err := i.stop(); err != nil {
		t.Errorf("stopped with %v", err)
	}
}

func TestStopsWithRequestsRunning(t *testing.T) {
	i := start(t, opens(&exportertest.Tracer{}))
	i.waitReady(t)
	// A request that never ends: its header is not complete.
	conn, err := net.Dial("tcp", i.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprint(conn, "GET / HTTP/1.1\r\n"); err != nil {
		t.Fatal(err)
	}
	if err := i.stop(); err != nil {
		t.Errorf("stopped with %v", err)
	}
}

func TestFailuresAreOneLine(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	attached := false
	open := func(bpf.Options) (tracer, error) { attached = true; return &exportertest.Tracer{}, nil }
	for _, test := range []struct{ arg, want string }{
		{"--web.listen-address=" + taken.Addr().String(), "address already in use"},
		{"--web.listen-address=nonsense", "missing port in address"},
		{"--web.listen-address=127.0.0.1:99999", "invalid port"},
		{"--web.systemd-socket", "no socket activation file descriptors"},
	} {
		err := run(t.Context(), fakeEnv(open, io.Discard, test.arg))
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want one line that says %q", test.arg, err, test.want)
		}
	}
	if attached {
		t.Error("attached although the port could not be opened")
	}
}

func TestOpenFailure(t *testing.T) {
	refused := func(bpf.Options) (tracer, error) { return nil, fmt.Errorf("loading: %w", unix.EPERM) }
	err := run(t.Context(), fakeEnv(refused, io.Discard))
	if !errors.Is(err, unix.EPERM) || err.Error() != "cannot attach to the kernel's capability checks: are held: loading: operation not permitted" {
		t.Errorf("run = %v, want the refusal explained", err)
	}
}

// opensNothing fails a program that goes on where it should have ended.
func opensNothing(t *testing.T) func(bpf.Options) (tracer, error) {
	return func(bpf.Options) (tracer, error) { t.Error("opened"); return nil, errors.New("opened") }
}

func TestMissingPrivilegesOpenNothing(t *testing.T) {
	e := fakeEnv(opensNothing(t), t.Output())
	e.dropPrivileges = func(privilege.User) (circumstances, error) {
		return started{missing: errors.New("missing CAP_BPF")}, nil
	}
	if err := run(t.Context(), e); err == nil || err.Error() != "missing CAP_BPF" {
		t.Errorf("run = %v", err)
	}
}

// The arguments are input: nothing of them may be read as long as there is more
// to be had by it than the two.
func TestPrivilegesGoFirst(t *testing.T) {
	var stdout strings.Builder
	for _, arg := range []string{"--help", "--version", "--no-such-flag", "@/does/not/exist", "--log.level=debug"} {
		e := fakeEnv(opensNothing(t), t.Output())
		e.args, e.stdout = []string{arg}, &stdout
		e.dropPrivileges = func(privilege.User) (circumstances, error) { return nil, errors.New("thread 5") }
		if err := run(t.Context(), e); err == nil || err.Error() != "thread 5" || stdout.Len() != 0 {
			t.Errorf("%s: %v, %q, want what dropping failed with and nothing else", arg, err, &stdout)
		}
	}
}

// Whom root becomes is looked for before all else, and what is read then must say the same.
func TestTheUserIsAsTheCommandLineSays(t *testing.T) {
	file := filepath.Join(t.TempDir(), "args")
	if err := os.WriteFile(file, []byte("--privileges.user=0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args []string
		to   privilege.User
		want string // empty: it goes on
	}{
		{nil, privilege.User{UID: 65534, GID: 65534}, ""},
		{[]string{"--privileges.user=7"}, privilege.User{UID: 7, GID: 7}, ""},
		{[]string{"--privileges.user", "7:8"}, privilege.User{UID: 7, GID: 8}, ""},
		{[]string{"--privileges.user=0"}, privilege.User{}, ""},
		{[]string{"--privileges.user=nobody"}, privilege.User{UID: 65534, GID: 65534}, `"nobody" is not a numeric UID`},
		{[]string{"@" + file}, privilege.User{UID: 65534, GID: 65534}, "--privileges.user=0: must stand once, and on the command line itself"},
		{[]string{"--privileges.user=7", "--privileges.user=0"}, privilege.User{UID: 7, GID: 7}, "--"},
		{[]string{"--web.config.file", "--privileges.user=0"}, privilege.User{}, "--"},
	} {
		e := fakeEnv(opensNothing(t), t.Output())
		e.args = test.args
		e.dropPrivileges = func(to privilege.User) (circumstances, error) {
			if to != test.to {
				t.Errorf("%q: becomes %v", test.args, &to)
			}
			return started{missing: errors.New("went on")}, nil
		}
		if test.want == "" {
			test.want = "went on"
		}
		if err := run(t.Context(), e); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: %v", test.args, err)
		}
	}
}

// To be told how to start it right, it need not be started right.
func TestHelpNeedsNoPrivileges(t *testing.T) {
	for arg, want := range map[string]string{"--help": "--series.limit", "--version": "version"} {
		var stdout strings.Builder
		e := fakeEnv(opensNothing(t), t.Output())
		e.args, e.stdout = []string{arg}, &stdout
		e.dropPrivileges = func(privilege.User) (circumstances, error) {
			return started{missing: errors.New("missing CAP_BPF")}, nil
		}
		if err := run(t.Context(), e); err != nil || !strings.Contains(stdout.String(), want) {
			t.Errorf("%s: %v\n%s", arg, err, &stdout)
		}
	}
}

// unclosable fails to detach.
type unclosable struct{ *exportertest.Tracer }

func (u unclosable) Close() error {
	return errors.Join(u.Tracer.Close(), errors.New("it stays attached"))
}

func TestFailureToDetachIsTold(t *testing.T) {
	i := start(t, opens(unclosable{&exportertest.Tracer{}}))
	i.waitReady(t)
	if err := i.stop(); err == nil || !strings.Contains(err.Error(), "it stays attached") {
		t.Errorf("stopped with %v", err)
	}
	i.log.waitFor(t, `level=INFO .*msg=(Stopping)`)
}

// slow takes its time for a snapshot, and must not be closed meanwhile.
type slow struct {
	exportertest.Tracer
	t                *testing.T
	entered, release chan struct{}
	reading          atomic.Bool
}

func (s *slow) Snapshot() (*bpf.Snapshot, error) {
	s.reading.Store(true)
	defer s.reading.Store(false)
	s.entered <- struct{}{}
	<-s.release
	return s.Tracer.Snapshot()
}

func (s *slow) Close() error {
	if s.reading.Load() {
		s.t.Error("closed while a snapshot was being taken")
	}
	return s.Tracer.Close()
}

func TestTheTracerEndsAfterItsReaders(t *testing.T) {
	tracer := &slow{t: t, entered: make(chan struct{}, 100), release: make(chan struct{})}
	i := start(t, opens(tracer))
	<-tracer.entered // for the page's history
	i.cancel()
	i.log.waitFor(t, `msg=(Stopping)`)
	time.AfterFunc(50*time.Millisecond, func() { close(tracer.release) })
	if err := i.stop(); err != nil {
		t.Errorf("stopped with %v", err)
	}
	if tracer.Closed() != 1 {
		t.Errorf("the tracer was closed %d times", tracer.Closed())
	}
}

// A listener that fails for good must not leave a program that counts and
// cannot be asked.
func TestFailureOfServingEndsTheProgram(t *testing.T) {
	fake := &exportertest.Tracer{}
	i := start(t, opens(fake))
	i.waitReady(t)
	breakListener(t, i.address)
	i.client.CloseIdleConnections()
	if err := <-i.ended; err == nil || !strings.HasPrefix(err.Error(), "serving stopped: ") || !errors.Is(err, unix.EINVAL) {
		t.Errorf("ended with %v", err)
	}
	i.ended <- nil
	if fake.Closed() != 1 {
		t.Errorf("the tracer was closed %d times", fake.Closed())
	}
}

// breakListener shuts down this process' socket that listens on an address.
func breakListener(t *testing.T, address string) {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		fd, err := strconv.Atoi(filepath.Base(link))
		if err != nil {
			t.Fatal(err)
		}
		if listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || listens == 0 {
			continue
		}
		name, err := unix.Getsockname(fd)
		if err != nil {
			t.Fatal(err)
		}
		if in4, ok := name.(*unix.SockaddrInet4); ok && fmt.Sprint(net.IP(in4.Addr[:]), ":", in4.Port) == address {
			if err := unix.Shutdown(fd, unix.SHUT_RDWR); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("nothing listens on %s", address)
}

func TestNothingIsLeftOpen(t *testing.T) {
	cycle := func() {
		i := start(t, opens(&exportertest.Tracer{}), "--web.listen-address=127.0.0.1:0") // two addresses
		i.waitReady(t)
		i.get(t, "/metrics")
		i.get(t, "/")
		if err := i.stop(); err != nil {
			t.Fatal(err)
		}
	}
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	cycle() // what is opened once and kept
	before := count()
	for range 5 {
		cycle()
	}
	if after := count(); after > before {
		t.Errorf("%d file descriptors, %d before", after, before)
	}
}

// TestTLSAndBasicAuth: who has the wrong password is refused, and the log says
// so, but not each time: a scraper tries again for ever.
func TestTLSAndBasicAuth(t *testing.T) {
	dir := t.TempDir()
	pool := writeCertificate(t, dir)
	// The hash is of "secret", at bcrypt's least cost.
	config := filepath.Join(dir, "web.yml")
	if err := os.WriteFile(config, []byte("tls_server_config: {cert_file: cert.pem, key_file: key.pem}\n"+
		"basic_auth_users: {alice: '"+bcryptSecret(t)+"'}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	hear := systemd(t)
	i := start(t, opens(&exportertest.Tracer{}), "--web.config.file="+config)
	// It asks itself over no TLS and without a password, and says nothing of that.
	for fed := 0; fed < 3; {
		switch hear(time.Minute) {
		case "WATCHDOG=1":
			fed++
		case "":
			t.Fatal("the watchdog is not fed")
		}
	}
	// Certificates are read by now, and TLS is on.
	i.log.waitFor(t, `msg="(TLS is enabled.)"`)
	i.client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true} // as Prometheus does
	ask := func(user, password string, want int) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+i.address+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		if user != "" {
			request.SetBasicAuth(user, password)
		}
		response, err := i.client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("%q with password %q: %d, want %d", user, password, response.StatusCode, want)
		}
	}
	ask("alice", "secret", http.StatusOK)
	ask("", "", http.StatusUnauthorized)
	for range 20 {
		ask("alice", "wrong", http.StatusUnauthorized)
	}
	ask("alice", "secret", http.StatusOK)
	if err := i.stop(); err != nil {
		t.Error(err)
	}
	log := i.log.whole()
	for pattern, want := range map[string]int{
		`level=WARN .*msg="A client is refused: it gives no password" client=127\.0\.0\.1:\d+\n`:              1,
		`level=WARN .*msg="A client is refused: wrong user or password" client=127\.0\.0\.1:\d+ user=alice\n`: 9,
		`A client is refused`: 10,
	} {
		if got := len(regexp.MustCompile(pattern).FindAllString(log, -1)); got != want {
			t.Errorf("%d lines of %s, want %d:\n%s", got, pattern, want, log)
		}
	}
}

// writeCertificate writes cert.pem and key.pem for 127.0.0.1 and returns a
// pool that trusts it.
func writeCertificate(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: der},
		"key.pem":  {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return pool
}

// newClient has connections of its own, so that they can be closed.
func newClient() *http.Client { return &http.Client{Transport: &http.Transport{}} }
