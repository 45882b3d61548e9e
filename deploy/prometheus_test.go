package deploy

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"capability_exporter/dashboards"
)

// speedup is by how much the rules' times are shortened for the test: 15m is 9s.
const speedup = 100

// newMounts makes unshare(1) ask for CAP_SYS_ADMIN: a mount namespace of its
// own, in which it does nothing.
var newMounts = []string{"--mount", "--propagation", "unchanged", "true"}

// TestPrometheus has a real Prometheus scrape the real exporter with the
// configuration and the rules that are shipped, and a real Alertmanager tell of
// it, while nobody runs programs under ever new names to hide what comes. A
// program that was never seen before uses CAP_SYS_ADMIN: a page must say so, and
// that somebody may be hiding must be told, and the queries of the dashboards must
// then find something. A Prometheus that starts again knows who is known.
func TestPrometheus(t *testing.T) {
	needsRoot(t)
	manager, told := startAlertmanager(t)
	prometheus := startPrometheus(t, manager)
	attack := startAttack(t)

	// What the dashboards show besides: a denial.
	denied := freshProgram(t, "denied")
	if err := run(t, container{UID: 65534, Args: append([]string{denied}, newMounts...)}); err == nil {
		t.Error("a mount namespace without any capability")
	}

	// The memory has begun, and there is no room left.
	guard := `capability_exporter_overflow_checks_total{job="capability_exporter"} > 0 and on () cluster:capability_granted:since_seconds`
	prometheus.process.eventually(t, func(ctx context.Context) error { return prometheus.hasData(ctx, guard, true) })

	firstUse := freshProgram(t, "firstuse")
	name := filepath.Base(firstUse)
	if out, err := exec.CommandContext(t.Context(), firstUse, newMounts...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	alert := fmt.Sprintf(`ALERTS{alertname="CapabilitySysAdminFirstUse", alertstate="firing", severity="critical", process=%q}`, name)
	prometheus.process.eventually(t, func(ctx context.Context) error { return prometheus.hasData(ctx, alert, false) })
	checkPage(t, prometheus, told, name, prometheus.exporter)
	prometheus.process.eventually(t, func(ctx context.Context) error {
		return prometheus.hasData(ctx, `ALERTS{alertname="CapabilityExporterOverflow", alertstate="firing", severity="critical", job="capability_exporter"}`, false)
	})
	select {
	case <-attack.ended:
		t.Errorf("the attack came to an end: %v\n%s", attack.err, attack.output)
	default:
	}
	other := fmt.Sprintf(`ALERTS{alertname="CapabilitySysAdminFirstUse", process=%q}`, filepath.Base(denied))
	if err := prometheus.hasData(t.Context(), other, false); err == nil {
		t.Error("a denial paged")
	}
	if err := prometheus.hasData(t.Context(), `ALERTS{alertname="CapabilitySysAdminUnnamed"}`, false); err == nil {
		t.Error("denials without a name paged")
	}

	t.Run("dashboards", func(t *testing.T) { checkDashboards(t, prometheus) })
	t.Run("restart", func(t *testing.T) { checkRestart(t, prometheus, name) })
}

// prometheusServer is a Prometheus that has begun to scrape the exporter.
type prometheusServer struct {
	process  *process
	api      string       // ends in a slash
	exporter string       // its address, which is its instance
	client   *http.Client // nil: the usual one
	run      func(t *testing.T, flags ...string) *process
}

// checkRestart has Prometheus start again, after longer than it looks back for a sample: nobody of whom it knew is new.
func checkRestart(t *testing.T, p *prometheusServer, process string) {
	t.Helper()
	before := p.firstUses(t)
	p.process.stop(t)
	time.Sleep(5 * time.Second) // eight minutes
	again := time.Now()
	p.process = p.run(t, "--query.lookback-delta="+shorten("5m"))
	seen := fmt.Sprintf(`identity:capability_granted:last_seconds{process=%q} > %d`, process, again.Unix())
	p.process.eventually(t, func(ctx context.Context) error { return p.hasData(ctx, seen, true) })
	after := p.firstUses(t)
	for who, first := range before {
		if after[who] != first {
			t.Errorf("%s was first seen at %s, and after a restart it is at %q", who, first, after[who])
		}
	}
	if !slices.ContainsFunc(slices.Collect(maps.Keys(before)), func(who string) bool { return strings.Contains(who, process) }) {
		t.Errorf("it knew %q, and not %s", slices.Sorted(maps.Keys(before)), process)
	}
}

// firstUses are when each owner's program used a capability for the first time, as remembered.
func (p *prometheusServer) firstUses(t *testing.T) map[string]string {
	t.Helper()
	var data struct {
		Result []struct {
			Metric map[string]string
			Value  [2]any
		} `json:"result"`
	}
	if err := p.ask(t.Context(), "query", url.Values{"query": {"identity:capability_granted:first_seconds"}}, &data); err != nil {
		t.Fatal(err)
	}
	uses := map[string]string{}
	for _, r := range data.Result {
		uses[fmt.Sprint(r.Metric)] = fmt.Sprint(r.Value[1])
	}
	return uses
}

// startAttack has nobody run a program under more names than a workload may have
// series, over and over again. Each time it is denied CAP_SYS_ADMIN.
func startAttack(t *testing.T) *process {
	t.Helper()
	const names = 3000 // of 4096, of which others may have a quarter, and anybody else their share
	unshare := freshProgram(t, "attack")
	dir := filepath.Dir(unshare)
	for n := range names {
		if err := os.Link(unshare, filepath.Join(dir, fmt.Sprint("attack-", n))); err != nil {
			t.Fatal(err)
		}
	}
	script := fmt.Sprintf(`while :; do for name in %s/attack-*; do "$name" --mount true; done; done 2>/dev/null`, dir)
	return start(t, container{UID: 65534, Args: []string{program(t, "sh"), "-c", script}}.command(t))
}

// checkDashboards asks Prometheus all that Grafana would, but for what there is
// nothing of here: no Kubernetes, and nothing wrong.
func checkDashboards(t *testing.T, prometheus *prometheusServer) {
	t.Helper()
	all, err := dashboards.All()
	if err != nil {
		t.Fatal(err)
	}
	empty := map[string]bool{}
	for _, panel := range []string{
		"fleet: Nodes without an exporter A", "fleet: Nodes that nobody watches A", "fleet: Coverage by cluster A", "fleet: Who uses CAP_SYS_ADMIN and could do without A",
		"workload: CAP_SYS_ADMIN where this would do A",
		"health: Those that are not A", "health: What is refused A", "health: Started again A", "health: What is not there at all A",
		"health: HTTP clients refused A", "health: Audited checks outside of workload series A", "health: Audited checks outside of workload series B",
		"health: Evaluations that failed A",
	} {
		empty[panel] = true
	}
	for _, d := range all {
		for _, query := range d.Queries() {
			name := d.Name + ": " + query.Where
			if empty[name] {
				continue
			}
			t.Run(name, func(t *testing.T) {
				expr := d.Substitute(query.Expr, "10s", "5m", nil)
				prometheus.process.eventually(t, func(ctx context.Context) error { return prometheus.hasData(ctx, expr, query.Instant) })
			})
		}
	}
}

func startPrometheus(t *testing.T, manager string) *prometheusServer {
	t.Helper()
	exporterAddress := freeAddress(t)
	exporter := start(t, exec.CommandContext(t.Context(), buildExporter(t), "--web.listen-address="+exporterAddress))
	exporter.scrape(t, exporterAddress)
	return prometheusOf(t, program(t, "prometheus"), map[string]string{"localhost:10041": exporterAddress, "localhost:9093": manager})
}

// prometheusOf starts the Prometheus at that path, which has a memory, with what is shipped but for these texts, and waits until it has
// scraped an exporter.
func prometheusOf(t *testing.T, binary string, but map[string]string, flags ...string) *prometheusServer {
	t.Helper()
	dir, address := t.TempDir(), freeAddress(t)
	config := replace(t, read(t, "prometheus/prometheus.yml"), map[string]string{"localhost:9090": address, "15s": "1s"})
	write(t, filepath.Join(dir, "prometheus.yml"), replace(t, config, but))
	for _, name := range []string{"rules.yml", "owners.yml"} {
		write(t, filepath.Join(dir, name), shorten(read(t, "prometheus/"+name)))
	}
	remember(t, filepath.Join(dir, "data"), "")

	p := &prometheusServer{api: "http://" + address + "/api/v1/", exporter: but["localhost:10041"]}
	p.run = func(t *testing.T, more ...string) *process {
		t.Helper()
		return start(t, exec.CommandContext(t.Context(), binary, append(slices.Concat(flags, more),
			"--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"),
			"--web.listen-address="+address, "--log.level=warn")...))
	}
	p.process = p.run(t)
	p.process.eventually(t, func(ctx context.Context) error {
		return p.hasData(ctx, `up{job="capability_exporter"} == 1`, true)
	})
	return p
}

// remember has a Prometheus' data say that what uses CAP_SYS_ADMIN has been learned for two days, in each cluster, which are
// given as labels.
func remember(t *testing.T, data string, clusters ...string) {
	t.Helper()
	var text strings.Builder
	text.WriteString("# TYPE cluster:capability_granted:since_seconds gauge\n")
	for _, cluster := range clusters {
		for at := time.Now().Add(-time.Minute); at.Before(time.Now()); at = at.Add(10 * time.Second) {
			fmt.Fprintf(&text, "cluster:capability_granted:since_seconds%s %d %d\n", cluster, at.Add(-48*time.Hour).Unix(), at.Unix())
		}
	}
	text.WriteString("# EOF\n")
	file := filepath.Join(t.TempDir(), "memory")
	write(t, file, text.String())
	if out, err := exec.CommandContext(t.Context(), program(t, "promtool"), "tsdb", "create-blocks-from", "openmetrics", file, data).CombinedOutput(); err != nil {
		t.Fatalf("promtool: %v\n%s", err, out)
	}
}

// replace replaces each of the texts, which must be there.
func replace(t *testing.T, text string, by map[string]string) string {
	t.Helper()
	for old, substitute := range by {
		if !strings.Contains(text, old) {
			t.Fatalf("no %q in what is shipped", old)
		}
		text = strings.ReplaceAll(text, old, substitute)
	}
	return text
}

var duration = regexp.MustCompile(`\b(\d+)([smhdw])\b`)

// shorten divides each duration in the text by speedup. Of the rules that is
// all that the test changes: what they compare, and with what, stays.
func shorten(text string) string {
	units := map[string]time.Duration{
		"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour, "w": 7 * 24 * time.Hour,
	}
	return duration.ReplaceAllStringFunc(text, func(d string) string {
		match := duration.FindStringSubmatch(d)
		count, err := strconv.Atoi(match[1])
		if err != nil {
			return d
		}
		return fmt.Sprintf("%dms", (time.Duration(count) * units[match[2]] / speedup).Milliseconds())
	})
}

// hasData returns nil if the expression gives at least one series, at this
// time or, if not instant, in the last five minutes.
func (p *prometheusServer) hasData(ctx context.Context, expr string, instant bool) error {
	now := time.Now()
	endpoint, values := "query", url.Values{"query": {expr}}
	if !instant {
		endpoint = "query_range"
		values.Set("start", now.Add(-5*time.Minute).Format(time.RFC3339))
		values.Set("end", now.Format(time.RFC3339))
		values.Set("step", "1s")
	}
	var data struct {
		Result []json.RawMessage `json:"result"`
	}
	if err := p.ask(ctx, endpoint, values, &data); err != nil {
		return err
	}
	if len(data.Result) == 0 {
		return fmt.Errorf("no data: %s", expr)
	}
	return nil
}

// ask calls Prometheus' HTTP API and decodes the answer's data.
func (p *prometheusServer) ask(ctx context.Context, endpoint string, values url.Values, data any) error {
	return p.call(ctx, http.MethodGet, endpoint+"?"+values.Encode(), data)
}

func (p *prometheusServer) call(ctx context.Context, method, endpoint string, data any) error {
	body, err := requestBy(ctx, cmp.Or(p.client, http.DefaultClient), method, p.api+endpoint)
	if err != nil {
		return err
	}
	answer := struct {
		Data     any      `json:"data"`
		Warnings []string `json:"warnings"`
	}{Data: data}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		return fmt.Errorf("decoding %s: %w", body, err)
	}
	if len(answer.Warnings) > 0 {
		return errors.New(strings.Join(answer.Warnings, ", "))
	}
	return nil
}

// freshProgram copies unshare(1) to a name that no process has had before.
func freshProgram(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(worldReadableDir(t), fmt.Sprintf("%s_%d", name, os.Getpid()))
	content := read(t, program(t, "unshare"))
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// run starts a container's process and waits for its end.
func run(t *testing.T, c container) error {
	t.Helper()
	return start(t, c.command(t)).wait(t)
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
