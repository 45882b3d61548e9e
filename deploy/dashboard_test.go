package deploy

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net/url"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"capability_exporter/dashboards"
)

// TestDashboardValues holds each of the dashboards' queries against what its
// panel says that it shows. A query that asks for granted where it means denied
// finds data all the same, so data is not enough: in the fleet that is made up
// here, of three machines in two clusters, two of them of one name, no two
// series count alike, and whatever a query confuses gives another number. A real
// Prometheus that has the fleet's last hour evaluates the queries, Debian's and the
// newest, and this file says, in Go and not in PromQL, what must come out.
func TestDashboardValues(t *testing.T) {
	t.Parallel()
	all, err := dashboards.All()
	if err != nil {
		t.Fatal(err)
	}
	eachPrometheus(t, func(t *testing.T, path func(name string) string) {
		t.Parallel()
		checkValues(t, path, all)
	})
}

// checkValues asks the Prometheus at this path.
func checkValues(t *testing.T, path func(name string) string, all []*dashboards.Dashboard) {
	t.Helper()
	made := makeFleet()
	prometheus := serveFleet(t, made, path)
	choices := map[string][]choice{
		"fleet":    {{}, {"job": "capability_exporter"}, {"cluster": "west"}},
		"workload": {{}, {"owner": "unit-3th.service"}, {"namespace": "namespace-1", "owner": "owner-1"}, {"cluster": "west", "owner": "unit-3th.service"}, {"owner": "idle.service"}, {"owner": terminals}, {"owner": agents}},
		"node":     {{}, {"job": "capability_exporter"}, {"instance": "a"}, {"cluster": "east", "instance": "a", "workload": "web.service"}, {"workload": "idle.service"}},
		"health":   {{}, {"cluster": "east"}, {"cluster": "west", "instance": "a"}},
	}
	for _, d := range all {
		for _, c := range choices[d.Name] {
			t.Run(fmt.Sprint(d.Name, maps.Collect(maps.All(c))), func(t *testing.T) {
				want := made.chosen(c).panels(d.Name, c)
				for _, query := range d.Queries() {
					expected, known := want[query.Where]
					if !known {
						t.Errorf("%s: say here what it must show", query.Where)
					}
					delete(want, query.Where)
					prometheus.check(t, query, d.Substitute(query.Expr, seconds(rateSteps), fmt.Sprint(rangeSeconds, "s"), c), expected)
				}
				for name := range want {
					t.Errorf("the dashboard has no %s", name)
				}
			})
		}
	}
	checkVariables(t, prometheus, all)
}

// check asks for a query as its panel does. A graph is asked for its end, which
// must be as expected, and for all of its lines.
func (p *prometheusServer) check(t *testing.T, query dashboards.Query, expr string, expected shown) {
	t.Helper()
	got, err := p.evaluate(t.Context(), "query", url.Values{"query": {expr}, "time": {strconv.Itoa(end)}})
	if err != nil {
		t.Errorf("%s: %v", query.Where, err)
		return
	}
	if expected.some > 0 && len(expected.rows) > expected.some { // topk chooses among equals
		if len(got) != expected.some {
			t.Errorf("%s: %d rows, want %d\n%s", query.Where, len(got), expected.some, expr)
		}
		maps.DeleteFunc(expected.rows, func(row string, _ float64) bool { _, there := got[row]; return !there })
	}
	for _, row := range slices.Sorted(maps.Keys(mergedKeys(got, expected.rows))) {
		value, there := got[row]
		want, wanted := expected.rows[row]
		if there != wanted || math.Abs(value-want) > 1e-9*math.Abs(want) {
			t.Errorf("%s: %s is %v (there: %t), want %v (%t)\n%s", query.Where, row, value, there, want, wanted, expr)
			break
		}
	}
	if !query.Instant {
		over := url.Values{"query": {expr}, "start": {strconv.Itoa(end - rangeSteps*step)}, "end": {strconv.Itoa(end)}, "step": {strconv.Itoa(step)}}
		if got, err = p.evaluate(t.Context(), "query_range", over); err != nil {
			t.Errorf("%s: %v", query.Where, err)
			return
		}
		if expected.lines != nil && !maps.Equal(mergedKeys(got, nil), mergedKeys(expected.lines, nil)) {
			t.Errorf("%s: it has the lines %q, want %q\n%s", query.Where, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(expected.lines)), expr)
		}
	}
	if len(got) > query.Most {
		t.Errorf("%s: %d series, and %d at most are promised: %s", query.Where, len(got), query.Most, expr)
	}
}

func mergedKeys(a, b vector) map[string]bool {
	keys := map[string]bool{}
	for _, v := range []vector{a, b} {
		for key := range v {
			keys[key] = true
		}
	}
	return keys
}

// A sample is a series as Prometheus answers, with its value: over a range the last.
type sample struct {
	labels labels
	value  float64
}

func (p *prometheusServer) samples(ctx context.Context, endpoint string, values url.Values) ([]sample, error) {
	var data struct {
		Result []struct {
			Metric labels
			Value  [2]any
			Values [][2]any
		}
	}
	if err := p.ask(ctx, endpoint, values, &data); err != nil {
		return nil, err
	}
	var all []sample
	for _, series := range data.Result {
		if len(series.Values) > 0 {
			series.Value = series.Values[len(series.Values)-1]
		}
		value, err := strconv.ParseFloat(fmt.Sprint(series.Value[1]), 64)
		if err != nil {
			return nil, fmt.Errorf("a sample: %w", err)
		}
		all = append(all, sample{series.Metric, value})
	}
	return all, nil
}

// evaluate returns the values by their labels. Over a range they are the last.
func (p *prometheusServer) evaluate(ctx context.Context, endpoint string, values url.Values) (vector, error) {
	all, err := p.samples(ctx, endpoint, values)
	if err != nil {
		return nil, err
	}
	v := vector{}
	for _, s := range all {
		name := s.labels["__name__"]
		delete(s.labels, "__name__")
		v[line{labels: s.labels}.name(name)] = s.value
	}
	return v, nil
}

// checkVariables: what can be chosen is what there is, of what was chosen before it.
func checkVariables(t *testing.T, prometheus *prometheusServer, all []*dashboards.Dashboard) {
	t.Helper()
	labelValues := regexp.MustCompile(`^label_values\((.*), (\w+)\)$`)
	want := map[string][]string{
		"cluster": {"east", "west"}, "job": {"more"}, "instance": {"a"}, "namespace": {"namespace-0", "namespace-1"}, "owner": {"owner-0", "owner-2", "owner-4", "owner-6", "owner-8"},
		"workload": {"/", "db.service", "ended.service", "gone.service", "other.service", "web.service"},
	}
	for _, d := range all {
		for _, variable := range d.Templating.List {
			if variable.Type != "query" {
				continue
			}
			match := labelValues.FindStringSubmatch(variable.Definition)
			if match == nil {
				t.Fatalf("%s, variable %s: what is %s?", d.Name, variable.Name, variable.Definition)
			}
			chosen := d.Substitute(match[1], "", "", choice{"cluster": "west", "job": "more", "instance": "a", "namespace": "namespace-0"})
			values := url.Values{"match[]": {chosen}, "start": {strconv.Itoa(end - steps*step)}, "end": {strconv.Itoa(end)}}
			var got []string
			if err := prometheus.ask(t.Context(), "label/"+match[2]+"/values", values, &got); err != nil || !slices.Equal(got, want[variable.Name]) {
				t.Errorf("%s, variable %s: %q, %v; want %q", d.Name, variable.Name, got, err, want[variable.Name])
			}
		}
	}
}

// serveFleet runs a Prometheus that has the series, and scrapes nothing.
func serveFleet(t *testing.T, made fleet, path func(name string) string) *prometheusServer {
	t.Helper()
	dir := t.TempDir()
	var text strings.Builder
	for _, l := range made {
		name := strings.ReplaceAll(l.name(l.metric), ", ", ",") // OpenMetrics has no spaces there
		for number := range steps + 1 {
			if l.has(number) {
				fmt.Fprintf(&text, "%s %s %d\n", name, strconv.FormatFloat(l.at(number), 'f', -1, 64), end-(steps-number)*step)
			}
		}
	}
	text.WriteString("# EOF\n")
	write(t, filepath.Join(dir, "fleet"), text.String())
	if out, err := exec.CommandContext(t.Context(), path("promtool"), "tsdb", "create-blocks-from", "openmetrics", filepath.Join(dir, "fleet"), filepath.Join(dir, "data")).CombinedOutput(); err != nil {
		t.Fatalf("promtool: %v\n%s", err, out)
	}
	return prometheusAlone(t, path("prometheus"), dir)
}

// prometheusAlone starts a Prometheus that scrapes nobody, with what there is in the folder data of a folder.
func prometheusAlone(t *testing.T, binary, dir string, flags ...string) *prometheusServer {
	t.Helper()
	address := freeAddress(t)
	write(t, filepath.Join(dir, "prometheus.yml"), "")
	p := &prometheusServer{api: "http://" + address + "/api/v1/"}
	p.process = start(t, exec.CommandContext(t.Context(), binary, append(flags, "--config.file="+filepath.Join(dir, "prometheus.yml"),
		"--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+address, "--log.level=warn")...))
	p.process.eventually(t, func(ctx context.Context) error {
		_, err := p.evaluate(ctx, "query", url.Values{"query": {"vector(1)"}})
		return err
	})
	return p
}

// Powers of two, so that no rate is rounded.
const (
	end   = 26_562_500 * step // when the queries are asked
	step  = 64                // seconds between two samples
	steps = 60                // the number of the last sample, at that time

	rateSteps  = 2  // $__rate_interval
	rangeSteps = 16 // in $__range
	// rangeSeconds is $__range: a second more than that, for the newest Prometheus does not take the sample at which a range begins.
	rangeSeconds = rangeSteps*step + 1
	// From fasterStep on, within the range, a counter is four times as fast: a
	// rate over the range is another one than over the interval.
	fasterStep = steps - 8
	// endedStep is the last sample of what ended within the range, goneStep of
	// what was gone before it.
	endedStep = steps - 10
	goneStep  = steps - 30
)

func seconds(steps int) string { return fmt.Sprintf("%ds", steps*step) }

// labels are a series' labels, its name not among them.
type labels map[string]string

// with returns them and more.
func (l labels) with(more labels) labels {
	all := maps.Clone(l)
	maps.Copy(all, more)
	return all
}

// line is one made-up series.
type line struct {
	metric  string
	labels  labels
	gauge   float64 // its constant value, if it is no counter
	rate    float64 // what it counts in a second, at first
	changes int     // how often the gauge changes, of late
	last    int     // the number of its last sample
	only    []int   // the numbers of its samples, if it has not all of them
}

// has tells whether there is a sample of a number. What nobody asks for is left out.
func (l line) has(number int) bool {
	return number >= goneStep-1 && number <= l.last && (l.only == nil || slices.Contains(l.only, number))
}

// at returns the value at the time of a sample.
func (l line) at(number int) float64 {
	if l.rate == 0 {
		return l.gauge + float64(min(l.changes, max(0, number-fasterStep)))
	}
	return l.rate * step * float64(min(number, fasterStep)+4*max(0, number-fasterStep))
}

// name returns the series as PromQL writes it, under a metric's name or, as
// what a function returns, under none. keep are the labels that are kept; all
// if there are none.
func (l line) name(metric string, keep ...string) string {
	var pairs []string
	for _, label := range slices.Sorted(maps.Keys(l.labels)) {
		if len(keep) == 0 || slices.Contains(keep, label) {
			pairs = append(pairs, fmt.Sprintf("%s=%q", label, l.labels[label]))
		}
	}
	return metric + "{" + strings.Join(pairs, ", ") + "}"
}

// fleet is what Prometheus knows.
type fleet []line

// recorded are the names of what the rules make, and of others' series.
const (
	firstUses   = "identity:capability_granted:first_seconds"
	memories    = "cluster:capability_granted:since_seconds"
	checks      = "owner:capability_checks:increase5m"
	heldNow     = "owner:capability_held_processes:sum"
	heldSince   = "owner:capability_held:first_seconds"
	usedLast    = "owner:capability_used:last_seconds"
	nodes       = "kube_node_info"
	ruleTime    = "prometheus_rule_group_last_duration_seconds"
	ruleEvery   = "prometheus_rule_group_interval_seconds"
	ruleFailure = "prometheus_rule_evaluation_failures_total"
)

// makeFleet makes three exporters, two of them in one job and cluster, of which
// everything differs. More than ten programs used CAP_SYS_ADMIN, more than ten
// functions asked for it, more than ten capabilities were used and more than
// fifty call sites were busy.
func makeFleet() fleet {
	f := &maker{random: rand.New(rand.NewPCG(10041, 1))}
	for number, each := range []labels{
		{"cluster": "east", "job": "capability_exporter", "instance": "a"},
		{"cluster": "east", "job": "capability_exporter", "instance": "b"},
		{"cluster": "west", "job": "more", "instance": "a"},
	} {
		f.workloads(number, each)
		f.exporter(number, each)
		f.pods(number, each)
	}
	f.memory()
	for number, each := range []labels{{"cluster": "east", "job": "capability_exporter"}, {"cluster": "west", "job": "more"}} {
		f.owners(number, each)
		f.holders(number, each)
		each["job"] = "kube-state-metrics"
		for node := range 30 {
			f.gauge(nodes, 1, each, labels{"node": fmt.Sprintf("node-%d", node+10*number), "kernel_version": "7.1"})
		}
		f.gauge(nodes, 1, each, labels{"node": "a", "kernel_version": "7.1"})
	}
	for number, group := range []string{"capability_use", "capability_first_use", "node"} {
		self := labels{"job": "prometheus", "instance": "localhost:9090", "rule_group": "/etc/rules.yml;" + group}
		f.gauge(ruleTime, float64(1+number), self, nil)
		f.gauge(ruleEvery, 64, self, nil)
		f.counter(ruleFailure, steps, self, nil)
	}
	return f.fleet
}

type maker struct {
	fleet
	random *rand.Rand
}

func (f *maker) counter(metric string, last int, each, more labels) {
	f.fleet = append(f.fleet, line{metric: metric, labels: each.with(more), rate: float64(1 + f.random.IntN(1<<20)), last: last})
}

func (f *maker) gauge(metric string, value float64, each, more labels) {
	f.fleet = append(f.fleet, line{metric: metric, labels: each.with(more), gauge: value, last: steps})
}

// workloads are what was counted on a machine.
func (f *maker) workloads(number int, each labels) {
	audits := []string{"yes", "no", "unknown"}
	capabilities := []string{"CAP_SYS_ADMIN", "CAP_NET_ADMIN"}
	for number := range 10 {
		capabilities = append(capabilities, fmt.Sprintf("CAP_%d", 50+number))
	}
	// Of each kind there are other programs as well, so that their number tells it.
	programsOnly := map[string]int{"granted host": 1, "denied host": 2, "granted userns": 3, "denied userns": 4}
	programs := [][2]string{{"web.service", "nginx"}, {"web.service", "mount"}, {"db.service", "mount"}, {"/", "[kernel]"}, {"web.service", "_other"}}
	for _, result := range []string{"granted", "denied"} {
		for _, scope := range []string{"host", "userns"} {
			for index, capability := range capabilities {
				kind := labels{"capability": capability, "result": result, "scope": scope}
				who := func(last int, workload, process string) {
					f.counter("capability_workload_checks_total", last, each, kind.with(labels{"workload": workload, "process": process}))
				}
				for _, program := range programs {
					who(steps, program[0], program[1])
				}
				if index < 2 {
					who(endedStep, "ended.service", "ended")
					who(goneStep, "gone.service", "gone")
				}
				if index == 0 {
					for other := range programsOnly[result+" "+scope] {
						who(steps, "other.service", fmt.Sprintf("other_%d", other))
					}
				}
				for _, audited := range audits {
					f.counter("capability_checks_total", steps, each, kind.with(labels{"audited": audited}))
				}
				f.counter("capability_exporter_borrowed_checks_total", steps, each, kind)
				f.counter("capability_exporter_ended_checks_total", steps, each, kind)
			}
		}
		for _, capability := range capabilities[:2+number/2] { // a third on the last
			for _, audited := range audits {
				for site := range 6 {
					f.counter("capability_call_site_checks_total", steps, each, labels{
						"capability": capability, "result": result, "audited": audited, "call_site": fmt.Sprintf("function_%d", site),
					})
				}
			}
		}
	}
}

// exporter is what one says of itself, and Prometheus of it.
func (f *maker) exporter(number int, each labels) {
	for _, metric := range []string{
		"capability_exporter_overflow_checks_total", "capability_exporter_ring_lost_total", "capability_exporter_missed_runs_total",
		"capability_exporter_unclassified_checks_total", "capability_exporter_unwinds_total", "capability_exporter_evicted_series_total",
		"capability_exporter_log_lines_dropped_total", "capability_exporter_ring_records_total", "capability_exporter_ring_withheld_total", "process_cpu_seconds_total",
	} {
		f.counter(metric, steps, each, nil)
	}
	for _, reason := range []string{"budget", "queue"} {
		f.counter("capability_exporter_announcements_dropped_total", steps, each, labels{"reason": reason})
	}
	for _, reason := range []string{"connections", "scrapes", "unread"} {
		f.counter("capability_exporter_http_refused_total", steps, each, labels{"reason": reason})
	}
	f.gauge("up", float64(min(number, 1)), each, nil) // the first is down
	f.gauge("scrape_duration_seconds", 0.25+float64(number), each, nil)
	f.gauge("process_resident_memory_bytes", float64(1000+number*number), each, nil)
	f.gauge("process_start_time_seconds", 1000, each, nil)
	f.fleet[len(f.fleet)-1].changes = number
	f.gauge("capability_exporter_held_look_seconds", 0.5+float64(number), each, nil)
	f.gauge("capability_exporter_build_info", 1, each, labels{"version": fmt.Sprint("1.", number/2)})
	f.gauge("capability_exporter_workload_series", float64(3+number), each, nil)
	f.gauge("capability_exporter_workload_series_limit", float64(int(64)<<number), each, nil)
	f.gauge("capability_exporter_source_info", 1, each, labels{"source": []string{"fexit", "fexit", "tracepoint"}[number], "audit": "opts", "cgroups": "v2", "lsm": "none"})
	f.gauge("capability_exporter_source_refused_info", 1, each, labels{"source": "tracepoint", "reason": "absent"})
	f.gauge("capability_exporter_held_refused_info", 1, each, labels{"reason": "off"})
	for _, capability := range []string{"CAP_BPF", "CAP_PERFMON", "CAP_SYS_ADMIN"}[:2+number%2] { // the second holds one too many
		f.gauge("capability_exporter_capabilities_info", 1, each, labels{"capability": capability})
	}
	for _, alert := range []labels{
		{"alertname": "CapabilitySysAdminFirstUse", "alertstate": "firing", "severity": "critical"},
		{"alertname": "CapabilitySysAdminFirstUse", "alertstate": "pending", "severity": "critical"},
		{"alertname": "CapabilityDenied", "alertstate": "firing", "severity": "info"},
		{"alertname": "DiskFull", "alertstate": "firing", "severity": "critical"},
	} {
		f.gauge("ALERTS", 1, each, alert)
	}
}

const info = "capability_workload_info"

// The instances of a template are one owner.
const (
	terminals = "getty@*.service"
	agents    = "agent@*.service" // has asked for nothing
)

// pods are where owners run: a unit on all machines, a Deployment on one of each
// cluster, and one whose name begins like that on the other. The unit has ended on the last.
func (f *maker) pods(number int, each labels) {
	f.gauge(info, 1, each, labels{"kind": "unit", "workload": "unit-3th.service"})
	if number == 2 {
		f.fleet[len(f.fleet)-1].last = endedStep
	}
	for n := range number + 1 {
		f.gauge(info, 1, each, labels{"kind": "unit", "workload": fmt.Sprintf("getty@tty%d.service", n)})
	}
	f.gauge(info, 1, each, labels{"kind": "unit", "workload": terminals}) // as the exporter calls those that are of a connection
	f.gauge("capability_held_processes", 1, each, labels{"capability": "most", "scope": "host", "workload": "agent@a.service"})
	pod := "owner-1-6d4cf56db6-"
	if number == 1 {
		pod = "owner-1-more-6d4cf56db6-"
	}
	for _, end := range []string{"zx2bq", "zx2bx"} {
		f.gauge(info, 1, each, labels{"kind": "pod", "workload": "pod/" + end, "namespace": "namespace-1", "pod": pod + end})
	}
	f.gauge("capability_held_processes", 2, each, labels{"capability": "most", "scope": "host", "workload": "idle.service"})
	f.gauge(info, 1, each, labels{"kind": "pod", "workload": "pod/other", "namespace": "namespace-0", "pod": "owner-1-0"}) // a StatefulSet
}

// memory is of two clusters, one of which is new; and each has a use that is long ago.
func (f *maker) memory() {
	for cluster, since := range map[string]float64{"west": end - 90_000, "east": end - 20_000} {
		each := labels{"cluster": cluster}
		f.gauge(memories, since, each, nil)
		for number := range 60 {
			f.gauge(firstUses, float64(end-number*1000)+(end-since)/1000, each, labels{"owner": fmt.Sprint("owner-", number), "process": "p", "capability": "CAP_SYS_ADMIN"})
		}
		f.gauge(firstUses, end-650_000, each, labels{"owner": "old.service", "process": "p", "capability": "CAP_SYS_ADMIN"})
	}
}

// owners are what the rules have recorded of a cluster's.
func (f *maker) owners(number int, each labels) {
	capability := func(n int) string {
		return append([]string{"CAP_SYS_ADMIN", "CAP_SYS_PTRACE"}, fmt.Sprint("CAP_", n))[min(n, 2)]
	}
	for n := range 40 {
		owner := labels{"owner": fmt.Sprintf("unit-%dth.service", n)}
		switch {
		case n == 29:
			owner = labels{"owner": terminals}
		case n >= 30:
			owner = labels{"owner": fmt.Sprint("owner-", n-30), "namespace": fmt.Sprint("namespace-", n%2)}
		}
		for c := range 14 {
			for _, kind := range []labels{
				{"outcome": "granted", "scope": "host"}, {"outcome": "granted", "scope": "userns"}, {"outcome": "denied"}, {"outcome": "avoidable", "scope": "host"},
			} {
				if kind["outcome"] == "avoidable" && c < 2 { // of itself there is none
					continue
				}
				l := line{metric: checks, labels: each.with(owner).with(kind).with(labels{"process": "p", "capability": capability(c)}), gauge: float64(1 + f.random.IntN(1<<20)), last: steps}
				l.only = [][]int{{endedStep, steps - 2}, {endedStep}, {steps - 2}, {goneStep}}[(n+c+number)%4]
				f.fleet = append(f.fleet, l)
			}
		}
	}
}

// holders hold one more each than the one before, and use one. One holds all and uses three, and one uses none.
func (f *maker) holders(number int, each labels) {
	hold := func(last int, owner labels, capability string) {
		for metric, value := range map[string]float64{heldNow: 1, heldSince: float64(end - 1000 - f.random.IntN(1<<20))} {
			f.gauge(metric, value, each, owner.with(labels{"capability": capability}))
			f.fleet[len(f.fleet)-1].last = last
		}
	}
	use := func(owner labels, capability string) {
		f.gauge(usedLast, float64(end-f.random.IntN(1<<20)), each, owner.with(labels{"capability": capability}))
	}
	for n := range 13 {
		owner := labels{"owner": fmt.Sprintf("unit-%dth.service", n)}
		for c := range 2*n + number + 2 {
			hold(steps, owner, fmt.Sprint("CAP_", c))
		}
		use(owner, "CAP_0")
		hold(endedStep, owner, "CAP_60") // given up
	}
	hold(steps, labels{"owner": agents}, "CAP_0")
	root := labels{"owner": "owner-1", "namespace": "namespace-1"}
	hold(steps, root, "all")
	for c := range 3 + number {
		use(root, fmt.Sprint("CAP_", c))
	}
	if number == 1 {
		hold(steps, labels{"owner": "usual", "namespace": "namespace-1"}, "default")
		use(labels{"owner": "usual", "namespace": "namespace-1"}, "CAP_0")
	}
	if number == 0 {
		hold(steps, labels{"owner": "root.service"}, "all")
		hold(endedStep, labels{"owner": "ended.service"}, "all")
	}
}

// choice is what is chosen at a dashboard's top, where not All.
type choice map[string]string

func (c choice) is(variable, value string) bool {
	chosen, is := c[variable]
	return !is || chosen == value
}

// chosen returns what a reader asks for. Which workload or owner does not matter
// for what has none, nor the job for what is of all of them.
func (f fleet) chosen(c choice) fleet {
	ofAll := map[string][]string{
		"ALERTS": {"cluster"}, firstUses: {"cluster"}, memories: {"cluster"}, nodes: {"cluster"}, ruleTime: {}, ruleEvery: {}, ruleFailure: {},
		info: {"cluster", "job"}, checks: {"cluster", "job", "namespace", "owner"},
		heldNow: {"cluster", "job", "namespace", "owner"}, heldSince: {"cluster", "job", "namespace", "owner"}, usedLast: {"cluster", "job", "namespace", "owner"},
	}
	var kept fleet
	for _, l := range f {
		variables, recorded := ofAll[l.metric]
		if !recorded {
			variables = []string{"cluster", "job", "instance"}
			if _, has := l.labels["workload"]; has {
				variables = append(variables, "workload")
			}
		}
		if !slices.ContainsFunc(variables, func(v string) bool { return !c.is(v, l.labels[v]) }) {
			kept = append(kept, l)
		}
	}
	return kept
}

// vector is the answer to a query: the values by their labels.
type vector map[string]float64

// shown is what a panel must show. The lines of a graph are asked for if they are told: by the value by which they are chosen.
// Of rows that are all alike it shows some.
type shown struct {
	rows, lines vector
	some        int
}

// of returns the series of a metric that have all of these labels.
func (f fleet) of(metric string, with labels) fleet {
	return f.where(func(l line) bool {
		if l.metric != metric {
			return false
		}
		for label, value := range with {
			if l.labels[label] != value {
				return false
			}
		}
		return true
	})
}

func (f fleet) where(is func(line) bool) fleet {
	var kept fleet
	for _, l := range f {
		if is(l) {
			kept = append(kept, l)
		}
	}
	return kept
}

// rate is what the series count in a second just now, by some of their labels.
func (f fleet) rate(by ...string) vector {
	return f.sum(rateSteps, by, func(l line) float64 { return 4 * l.rate })
}

// rangeRate is what they counted in a second over the dashboard's time range.
// Of one that ended in it Prometheus thinks that it went on for half a step.
func (f fleet) rangeRate(by ...string) vector {
	return f.sum(rangeSteps, by, func(l line) float64 {
		last := min(l.last, steps)
		counted, seen, all := l.at(last)-l.at(steps-rangeSteps), float64(last-(steps-rangeSteps))*step, float64(rangeSeconds)
		if last < steps {
			all = seen + 1 + step/2
		}
		return counted * all / seen / rangeSeconds
	})
}

// most is a graph of the rates of the ten that had the highest over the time range.
func (f fleet) most(by ...string) shown {
	lines := f.rangeRate(by...).top(10)
	rows := f.rate(by...)
	maps.DeleteFunc(rows, func(name string, _ float64) bool { _, is := lines[name]; return !is })
	return shown{rows: rows, lines: lines}
}

// counted is what they had counted when they were last seen in the time range.
func (f fleet) counted(by ...string) vector {
	return f.sum(rangeSteps, by, func(l line) float64 { return l.at(min(l.last, steps)) })
}

// increase is what they counted in the time range.
func (f fleet) increase(by ...string) vector {
	return f.rangeRate(by...).times(rangeSeconds)
}

// now is the value of those that there are.
func (f fleet) now(by ...string) vector {
	return f.sum(0, by, func(l line) float64 { return l.at(steps) })
}

// all is what the samples in the time range sum up to.
func (f fleet) all(by ...string) vector {
	v := vector{}
	for _, l := range f {
		for _, number := range l.only {
			if number >= steps-rangeSteps {
				v[l.name("", by...)] += l.gauge
			}
		}
	}
	return v
}

// sum adds up the values of the series that were there some steps ago or later.
// Without labels to sum by it takes each series under all that it has.
func (f fleet) sum(ago int, by []string, value func(line) float64) vector {
	v := vector{}
	for _, l := range f {
		if l.last >= steps-ago {
			v[l.name("", by...)] += value(l)
		}
	}
	return v
}

// top returns the highest values.
func (v vector) top(count int) vector {
	byValue := slices.SortedFunc(maps.Keys(v), func(a, b string) int { return cmp.Compare(v[b], v[a]) })
	top := vector{}
	for _, name := range byValue[:min(count, len(byValue))] {
		top[name] = v[name]
	}
	return top
}

func (v vector) times(factor float64) vector {
	product := vector{}
	for name, value := range v {
		product[name] = value * factor
	}
	return product
}

// one is a number without a label; none where there is nothing of which it could be.
func one(value float64, of fleet) vector {
	if len(of) == 0 {
		return vector{}
	}
	return vector{"{}": value}
}

// plain are the series of a metric as they are, its name among their labels.
func (f fleet) plain() vector {
	v := vector{}
	for _, l := range f {
		v[l.name(l.metric)] = l.gauge
	}
	return v
}

// panels returns what each query of a dashboard must answer, by the panel's title and the query's letter.
func (f fleet) panels(dashboard string, c choice) map[string]shown {
	want := map[string]func() map[string]shown{
		"fleet": f.fleetPanels, "node": f.nodePanels, "health": f.healthPanels,
		"workload": func() map[string]shown { return f.workloadPanels(c) },
	}[dashboard]()
	want["annotations"] = shown{rows: f.of("ALERTS", labels{"alertname": "CapabilitySysAdminFirstUse", "alertstate": "firing"}).plain()}
	return want
}

func (f fleet) nodePanels() map[string]shown {
	used := f.of("capability_workload_checks_total", labels{"capability": "CAP_SYS_ADMIN", "result": "granted", "scope": "host"})
	denied := f.of("capability_workload_checks_total", labels{"result": "denied"})
	granted := f.of("capability_workload_checks_total", labels{"result": "granted"})
	sites := f.of("capability_call_site_checks_total", nil)
	exporters := f.of("capability_exporter_build_info", nil)
	lost := func(metric string) shown { return shown{rows: f.of(metric, nil).rate(nobody)} }
	return map[string]shown{
		"Programs that used it A":                      {rows: one(float64(len(used.counted("cluster", "job", "instance", "workload", "process"))), exporters)},
		"Machines watched A":                           {rows: f.of("up", nil).now(nobody)},
		"Who uses CAP_SYS_ADMIN A":                     used.most("cluster", "instance", "workload", "process"),
		"What for: kernel functions that asked A":      sites.of("capability_call_site_checks_total", labels{"capability": "CAP_SYS_ADMIN", "audited": "yes"}).most("call_site", "result"),
		"All programs that used CAP_SYS_ADMIN A":       {rows: used.counted("cluster", "instance", "workload", "process").top(50)},
		"Denied by capability A":                       denied.most("capability", "scope"),
		"Who was denied what A":                        {rows: denied.counted("cluster", "instance", "workload", "process", "capability", "scope").top(50)},
		"Most used capabilities A":                     granted.most("capability"),
		"Used or only looked at A":                     {rows: f.of("capability_checks_total", nil).rate("audited")},
		"Call sites A":                                 {rows: sites.rangeRate("capability", "call_site", "result", "audited").top(50)},
		"What went missing A":                          lost("capability_exporter_overflow_checks_total"),
		"What went missing B":                          lost("capability_exporter_ring_lost_total"),
		"What went missing C":                          lost("capability_exporter_missed_runs_total"),
		"What went missing D":                          lost("capability_exporter_unclassified_checks_total"),
		"How checks are seen A":                        {rows: append(f.of("capability_exporter_source_info", nil), f.of("capability_exporter_source_refused_info", nil)...).plain()},
		"Whose programs have no series of their own A": {rows: f.of("capability_workload_checks_total", labels{"process": "_other"}).counted("cluster", "instance", "workload", "capability", "result", "scope").top(50)},
	}
}

// nobody is no series' label: by it all are one.
const nobody = "nobody"

// uncovered are the nodes of which no exporter is up.
func (f fleet) uncovered() fleet {
	return f.of(nodes, nil).where(func(node line) bool {
		return len(f.of("up", labels{"cluster": node.labels["cluster"], "instance": node.labels["node"]}).where(func(l line) bool { return l.gauge == 1 })) == 0
	})
}

func (f fleet) fleetPanels() map[string]shown {
	exporters, known := f.of("capability_exporter_build_info", nil), f.of(nodes, nil)
	told := 0.0
	firstUse := vector{}
	for _, l := range f.of(firstUses, nil) {
		state := "learned"
		if l.labels["cluster"] == "west" && l.gauge >= end-90_000+24*3600 {
			state = "told"
		}
		if l.gauge > end-7*24*3600 {
			firstUse[line{labels: l.labels.with(labels{"state": state})}.name("")] = l.gauge * 1000
			told += map[string]float64{"told": 1}[state]
		}
	}
	granted := f.of(checks, labels{"outcome": "granted", "scope": "host"})
	admin := granted.of(checks, labels{"capability": "CAP_SYS_ADMIN"})
	// Who stands for a namespace, or the owner where there is none.
	var named fleet
	for _, l := range granted {
		l.labels = l.labels.with(labels{"who": l.labels["owner"]})
		if namespace := l.labels["namespace"]; namespace != "" {
			l.labels["who"] = "namespace " + namespace
		}
		named = append(named, l)
	}
	rows, columns, cells := named.all("who").top(20), named.all("capability").top(12), named.all("who", "capability")
	for _, l := range named {
		_, row := rows[l.name("", "who")]
		_, column := columns[l.name("", "capability")]
		if !row || !column {
			delete(cells, l.name("", "who", "capability"))
		}
	}
	owner := []string{"cluster", "namespace", "owner"}
	avoidable := vector{}
	checked, avoided := admin.all(owner...), f.of(checks, labels{"outcome": "avoidable"}).all("cluster", "namespace", "owner", "capability")
	for _, l := range f.of(checks, labels{"outcome": "avoidable"}) {
		name := l.name("", "cluster", "namespace", "owner", "capability")
		of, used := checked[l.name("", owner...)]
		if value, was := avoided[name]; was && used {
			avoidable[name] = value / of
		}
	}
	unused, usedOnce := vector{}, f.of(usedLast, nil)
	for _, l := range f.of(heldNow, nil) {
		who := labels{"cluster": l.labels["cluster"], "owner": l.labels["owner"]}
		switch used := usedOnce.of(usedLast, who); {
		case l.last < steps:
		case l.labels["capability"] == "all":
			unused[l.name("", owner...)] = float64(41 - len(used))
		case l.labels["capability"] == "default":
			unused[l.name("", owner...)] = float64(14 - len(used))
		case len(used.of(usedLast, labels{"capability": l.labels["capability"]})) == 0:
			unused[l.name("", owner...)]++
		}
	}
	uncovered := f.uncovered()
	watched := vector{}
	for name, all := range known.now("cluster") {
		watched[name] = 1 - uncovered.now("cluster")[name]/all
	}
	return map[string]shown{
		"First uses that were told A":                   {rows: one(told, exporters)},
		"Workloads that used CAP_SYS_ADMIN A":           {rows: one(float64(len(admin.all(owner...))), exporters)},
		"Machines watched A":                            {rows: f.of("up", nil).now(nobody)},
		"Nodes without an exporter A":                   {rows: one(float64(len(uncovered)), known)},
		"First uses A":                                  {rows: firstUse.top(50)},
		"Capabilities by namespace or unit A":           {rows: cells},
		"Who uses CAP_SYS_ADMIN and could do without A": {rows: avoidable.top(20)},
		"The ten worst: most held, least used A":        {rows: unused.top(10)},
		"Denials that count A":                          {rows: f.of(checks, labels{"outcome": "denied"}).all("cluster", "namespace", "owner", "capability").top(20)},
		"Nodes that nobody watches A":                   {rows: uncovered.now("cluster", "node"), some: 20},
		"Coverage by cluster A":                         {rows: watched},
	}
}

func (f fleet) workloadPanels(c choice) map[string]shown {
	of := func(outcome string) fleet { return f.of(checks, labels{"outcome": outcome}) }
	graph := func(outcome string) shown {
		lines := of(outcome).all("capability").top(10)
		rows := of(outcome).where(func(l line) bool { return slices.Contains(l.only, steps-2) }).now("capability").times(1.0 / 300)
		maps.DeleteFunc(rows, func(name string, _ float64) bool { _, is := lines[name]; return !is })
		return shown{rows: rows, lines: lines}
	}
	held := vector{}
	for _, l := range f.of(heldSince, nil) {
		if l.last == steps && len(f.of(usedLast, l.labels)) == 0 {
			held[l.name("")] = end - l.gauge
		}
	}
	// Which workloads are the owner's is told by their names.
	mine := f.of(info, nil).where(func(l line) bool {
		if l.labels["kind"] != "pod" {
			return c.is("owner", ownerOf(l))
		}
		return c.is("namespace", l.labels["namespace"]) && (c["owner"] == "" || strings.HasPrefix(l.labels["pod"], c["owner"]+"-6d") || l.labels["pod"] == c["owner"]+"-0")
	})
	where := vector{}
	for _, l := range mine {
		where[l.name("", "cluster", "instance")]++
	}
	for _, l := range f.of("capability_held_processes", nil) { // of a unit that has asked for nothing, all that there is
		if c.is("owner", ownerOf(l)) {
			at := l.name("", "cluster", "instance")
			where[at] = max(where[at], 1)
		}
	}
	capabilities := f.of(checks, nil).all("capability")
	asked := f.of("capability_call_site_checks_total", labels{"audited": "yes"}).where(func(l line) bool {
		at := labels{"cluster": l.labels["cluster"], "instance": l.labels["instance"]}
		here := mine.of(info, at).where(func(l line) bool { return l.last == steps })
		_, used := capabilities[l.name("", "capability")]
		return len(here) > 0 && used
	})
	who := []string{"cluster", "namespace", "owner", "process", "capability"}
	return map[string]shown{
		"What it uses A":                      graph("granted"),
		"Who used what A":                     {rows: of("granted").all(append(who, "scope")...).top(50)},
		"Held and not used A":                 {rows: held.top(50)},
		"Used last A":                         {rows: f.of(usedLast, nil).now().top(50).times(1000)},
		"Denials that count A":                graph("denied"),
		"Who was denied what A":               {rows: of("denied").all(who...).top(50)},
		"CAP_SYS_ADMIN where this would do A": {rows: of("avoidable").all(who...).top(50)},
		"Where it runs A":                     {rows: where.top(50)},
		"Why: kernel functions that asked on its machines A": {rows: asked.now("capability", "call_site", "result").top(20)},
	}
}

// ownerOf is that of what is no pod.
func ownerOf(l line) string {
	name, _, is := strings.Cut(l.labels["workload"], "@")
	if is {
		return name + "@*.service"
	}
	return l.labels["workload"]
}

func (f fleet) healthPanels() map[string]shown {
	want := map[string]shown{}
	count := func(metric string, by ...string) shown {
		return shown{rows: f.of(metric, nil).where(func(l line) bool { return l.gauge == 1 }).now(by...)}
	}
	up := f.of("up", nil)
	down := up.where(func(l line) bool { return l.gauge == 0 })
	refused := count("capability_exporter_source_refused_info", "source", "reason").rows
	maps.Copy(refused, count("capability_exporter_held_refused_info", "source", "reason").rows)
	starts := vector{}
	for _, l := range f.of("process_start_time_seconds", nil) {
		if l.changes > 0 {
			starts[l.name("", "cluster", "instance")] = float64(l.changes)
		}
	}
	want["Scraped A"] = shown{rows: up.now(nobody)}
	want["Not scraped A"] = shown{rows: one(float64(len(down)), up)}
	want["Those that are not A"] = shown{rows: down.now("cluster", "job", "instance")}
	want["Versions A"] = count("capability_exporter_build_info", "version")
	want["How checks are seen A"] = count("capability_exporter_source_info", "source", "audit", "cgroups", "lsm")
	want["What is refused A"] = shown{rows: refused}
	want["What the exporters themselves hold A"] = count("capability_exporter_capabilities_info", "capability")
	want["Started again A"] = shown{rows: starts}
	want["What is not there at all A"] = shown{rows: f.uncovered().now("cluster", "node"), some: 20}
	lost := vector{}
	for n, metric := range []string{
		"capability_exporter_overflow_checks_total", "capability_exporter_evicted_series_total", "capability_exporter_ring_lost_total",
		"capability_exporter_log_lines_dropped_total", "capability_exporter_missed_runs_total", "capability_exporter_unclassified_checks_total",
	} {
		want["What went missing "+string(rune('A'+n))] = shown{rows: f.of(metric, nil).rate(nobody)}
		var named fleet
		for _, l := range f.of(metric, nil) {
			l.labels = l.labels.with(labels{"lost": []string{"overflow", "evicted", "ring", "log", "missed runs", "unclassified"}[n]})
			named = append(named, l)
		}
		maps.Copy(lost, named.increase("cluster", "instance", "lost"))
	}
	for panel, metric := range map[string]string{
		"Announcements A": "capability_exporter_ring_records_total", "Announcements B": "capability_exporter_ring_withheld_total",
		"Audited checks outside of workload series A": "capability_exporter_borrowed_checks_total",
		"Audited checks outside of workload series B": "capability_exporter_ended_checks_total",
	} {
		want[panel] = shown{rows: f.of(metric, nil).rate(nobody)}
	}
	want["Where most went missing A"] = shown{rows: lost.top(10)}
	want["Not in the log A"] = shown{rows: f.of("capability_exporter_announcements_dropped_total", nil).rate("reason")}
	want["HTTP clients refused A"] = shown{rows: f.of("capability_exporter_http_refused_total", nil).rate("reason")}

	room := f.of("capability_exporter_workload_series", nil).now("cluster", "instance")
	for name, limit := range f.of("capability_exporter_workload_series_limit", nil).now("cluster", "instance") {
		room[name] /= limit
	}
	gauge := func(metric string) vector { return f.of(metric, nil).now("cluster", "instance") }
	for title, of := range map[string]struct{ now, over vector }{
		"Workload series, of the limit": {room, room},
		"Duration of a scrape":          {gauge("scrape_duration_seconds"), gauge("scrape_duration_seconds")},
		"CPU time":                      {f.of("process_cpu_seconds_total", nil).rate("cluster", "instance"), f.of("process_cpu_seconds_total", nil).rangeRate("cluster", "instance")},
		"Memory":                        {gauge("process_resident_memory_bytes"), gauge("process_resident_memory_bytes")},
		"Stack unwinds":                 {f.of("capability_exporter_unwinds_total", nil).rate("cluster", "instance"), f.of("capability_exporter_unwinds_total", nil).rangeRate("cluster", "instance")},
		"A look at what processes hold": {gauge("capability_exporter_held_look_seconds"), gauge("capability_exporter_held_look_seconds")},
	} {
		for n, q := range []float64{1, 0.99, 0.9, 0.5} {
			want[title+" "+string(rune('A'+n))] = shown{rows: of.now.quantile(q)}
		}
		want[title+": the ten with most A"] = shown{rows: of.over}
	}
	ours := func(l line) bool { return strings.Contains(l.labels["rule_group"], ";capability_") }
	want["Evaluation of the rules, of the interval A"] = shown{rows: f.of(ruleTime, nil).where(ours).now("rule_group").times(1.0 / 64)}
	want["Evaluations that failed A"] = shown{rows: f.of(ruleFailure, nil).where(ours).increase("rule_group")}
	memory := vector{}
	for name, since := range f.of(memories, nil).now() {
		memory[name] = end - since
	}
	want["Memory of first uses A"] = shown{rows: memory}
	return want
}

// quantile is the value below which that share of all is, as Prometheus reckons it.
func (v vector) quantile(q float64) vector {
	values := slices.Sorted(maps.Values(v))
	if len(values) == 0 {
		return vector{}
	}
	rank := q * float64(len(values)-1)
	low := int(rank)
	high := min(low+1, len(values)-1)
	return vector{"{}": values[low] + (values[high]-values[low])*(rank-float64(low))}
}
