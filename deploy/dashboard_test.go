package deploy

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"capability_exporter/dashboards"
)

// TestDashboardValues holds each of the dashboard's queries against what its
// panel says that it shows. A query that asks for granted where it means denied
// finds data all the same, so data is not enough: in the fleet that is made up
// here no two series count alike, and whatever a query confuses gives another
// number. promtool evaluates the queries, and this file says, in Go and not in
// PromQL, what must come out.
func TestDashboardValues(t *testing.T) {
	t.Parallel()
	dashboard, err := dashboards.Capabilities()
	if err != nil {
		t.Fatal(err)
	}
	made := makeFleet()

	type sample struct {
		Labels string  `json:"labels"`
		Value  float64 `json:"value"`
	}
	type question struct {
		Expr    string   `json:"expr"`
		Time    string   `json:"eval_time"`
		Samples []sample `json:"exp_samples"`
	}
	var questions []question
	for _, choice := range []choice{
		{job: ".*", instance: ".*", workload: ".*"},
		{job: "capability_exporter", instance: ".*", workload: ".*"},
		{job: ".*", instance: "b", workload: "web.service"},
		{job: ".*", instance: ".*", workload: "idle.service"},
	} {
		want := made.chosen(choice).panels()
		names := map[string]bool{}
		for _, query := range dashboard.Queries() {
			expected, known := want[query.Where]
			if !known {
				t.Errorf("%s: say here what it must show", query.Where)
			}
			names[query.Where] = true
			expr := strings.NewReplacer("$job", choice.job, "$instance", choice.instance, "$workload", choice.workload).Replace(query.Expr)
			q := question{Expr: dashboard.Substitute(expr, seconds(rateSteps), seconds(rangeSteps)), Time: seconds(steps), Samples: []sample{}}
			for _, labels := range slices.Sorted(maps.Keys(expected)) {
				q.Samples = append(q.Samples, sample{labels, expected[labels]})
			}
			questions = append(questions, q)
		}
		for name := range want {
			if !names[name] {
				t.Errorf("the dashboard has no %s", name)
			}
		}
	}

	type input struct {
		Series string `json:"series"`
		Values string `json:"values"`
	}
	var inputs []input
	for _, s := range made {
		inputs = append(inputs, input{s.name(s.metric), s.values()})
	}
	// What is JSON is YAML.
	file, err := json.Marshal(map[string]any{"tests": []any{map[string]any{
		"interval": seconds(1), "input_series": inputs, "promql_expr_test": questions,
	}}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "dashboard.json")
	write(t, path, string(file))
	if out, err := exec.CommandContext(t.Context(), program(t, "promtool"), "test", "rules", path).CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

// Powers of two, so that no rate is rounded.
const (
	step       = 64 // seconds between two samples
	steps      = 60 // the number of the last sample, at which the queries are asked
	rateSteps  = 2  // $__rate_interval
	rangeSteps = 16 // $__range
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

// line is one made-up series.
type line struct {
	metric string
	labels labels
	gauge  float64 // its constant value, if it is no counter
	rate   float64 // what it counts in a second, at first
	last   int     // the number of its last sample
}

// at returns the value at the time of a sample.
func (l line) at(number int) float64 {
	if l.rate == 0 {
		return l.gauge
	}
	return l.rate * step * float64(min(number, fasterStep)+4*max(0, number-fasterStep))
}

// values returns the samples as promtool reads them.
func (l line) values() string {
	var samples []string
	for number := range steps + 1 {
		switch {
		case number <= l.last:
			samples = append(samples, strconv.FormatFloat(l.at(number), 'f', -1, 64))
		case number == l.last+1:
			samples = append(samples, "stale")
		default:
			samples = append(samples, "_")
		}
	}
	return strings.Join(samples, " ")
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

// makeFleet makes three exporters, two of them in one job, of which everything
// differs. More than ten programs used CAP_SYS_ADMIN, more than ten functions
// asked for it, more than ten capabilities were used and more than fifty call
// sites were busy.
func makeFleet() fleet {
	random := rand.New(rand.NewPCG(10041, 1))
	var f fleet
	counter := func(metric string, last int, each labels, more labels) {
		all := maps.Clone(each)
		maps.Copy(all, more)
		f = append(f, line{metric: metric, labels: all, rate: float64(1 + random.IntN(1<<20)), last: last})
	}
	gauge := func(metric string, value float64, each labels, more labels) {
		all := maps.Clone(each)
		maps.Copy(all, more)
		f = append(f, line{metric: metric, labels: all, gauge: value, last: steps})
	}
	results, scopes, audits := []string{"granted", "denied"}, []string{"host", "userns"}, []string{"yes", "no", "unknown"}
	capabilities := []string{"CAP_SYS_ADMIN", "CAP_NET_ADMIN"}
	for number := range 10 {
		capabilities = append(capabilities, fmt.Sprintf("CAP_%d", 50+number))
	}
	// Of each kind there are other programs as well, so that their number tells it.
	programsOnly := map[string]int{"granted host": 1, "denied host": 2, "granted userns": 3, "denied userns": 4}
	programs := [][2]string{{"web.service", "nginx"}, {"web.service", "mount"}, {"db.service", "mount"}, {"/", "[kernel]"}, {"web.service", "_other"}}

	for number, each := range []labels{
		{"job": "capability_exporter", "instance": "a"}, {"job": "capability_exporter", "instance": "b"}, {"job": "more", "instance": "c"},
	} {
		for _, result := range results {
			for _, scope := range scopes {
				for index, capability := range capabilities {
					kind := labels{"capability": capability, "result": result, "scope": scope}
					who := func(last int, workload, process string) {
						with := maps.Clone(kind)
						with["workload"], with["process"] = workload, process
						counter("capability_workload_checks_total", last, each, with)
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
						with := maps.Clone(kind)
						with["audited"] = audited
						counter("capability_checks_total", steps, each, with)
					}
					if number > 0 { // the first has no such checks
						counter("capability_exporter_borrowed_checks_total", steps, each, kind)
						counter("capability_exporter_ended_checks_total", steps, each, kind)
					}
				}
			}
			for _, capability := range capabilities[:2] {
				for _, audited := range audits {
					for site := range 6 {
						counter("capability_call_site_checks_total", steps, each, labels{
							"capability": capability, "result": result, "audited": audited, "call_site": fmt.Sprintf("function_%d", site),
						})
					}
				}
			}
		}
		for _, metric := range []string{
			"capability_exporter_overflow_checks_total", "capability_exporter_ring_lost_total", "capability_exporter_missed_runs_total",
			"capability_exporter_unclassified_checks_total", "capability_exporter_ring_records_total", "capability_exporter_ring_withheld_total",
			"capability_exporter_unwinds_total", "capability_exporter_evicted_series_total", "capability_exporter_log_lines_dropped_total",
			"process_cpu_seconds_total",
		} {
			counter(metric, steps, each, nil)
		}
		for _, reason := range []string{"budget", "queue"} {
			counter("capability_exporter_announcements_dropped_total", steps, each, labels{"reason": reason})
		}
		for _, reason := range []string{"connections", "scrapes", "unread"} {
			counter("capability_exporter_http_refused_total", steps, each, labels{"reason": reason})
		}
		gauge("up", float64(min(number, 1)), each, nil) // the first is down
		gauge("scrape_duration_seconds", 0.25+float64(number), each, nil)
		gauge("process_resident_memory_bytes", float64(1000+number), each, nil)
		gauge("capability_exporter_build_info", 1, each, nil)
		gauge("capability_exporter_workload_series", float64(3+number), each, nil)
		gauge("capability_exporter_workload_series_limit", float64(int(64)<<number), each, nil)
		gauge("capability_exporter_source_info", 1, each, labels{"source": "fexit", "audit": "opts", "cgroups": "v2"})
		gauge("capability_exporter_source_refused_info", 1, each, labels{"source": "tracepoint", "reason": "absent"})
		held := []string{"CAP_BPF", "CAP_PERFMON", "CAP_SYS_ADMIN"}
		for _, capability := range held[:2+number%2] { // the second holds one too many
			gauge("capability_exporter_capabilities_info", 1, each, labels{"capability": capability})
		}
		for _, alert := range []labels{
			{"alertname": "CapabilitySysAdminFirstUse", "alertstate": "firing", "severity": "critical"},
			{"alertname": "CapabilitySysAdminFirstUse", "alertstate": "pending", "severity": "critical"},
			{"alertname": "CapabilityDenied", "alertstate": "firing", "severity": "info"},
			{"alertname": "DiskFull", "alertstate": "firing", "severity": "critical"},
		} {
			gauge("ALERTS", 1, each, alert)
		}
	}
	// Of two clusters, one of which is new; and each has one that is long ago.
	for cluster, since := range map[string]float64{"west": -90_000, "east": -20_000} {
		memory := labels{"cluster": cluster}
		gauge("cluster:capability_granted:since_seconds", since, memory, nil)
		for number := range 60 {
			gauge(firstUses, float64(-number*1000)+since/1000, memory, labels{"owner": fmt.Sprint("owner-", number), "process": "p", "capability": "CAP_SYS_ADMIN"})
		}
		gauge(firstUses, -650_000, memory, labels{"owner": "old.service", "process": "p", "capability": "CAP_SYS_ADMIN"})
	}
	return f
}

// firstUses are of a cluster's owners, and no machine's.
const firstUses = "identity:capability_granted:first_seconds"

// choice is what is chosen at the dashboard's top; ".*" is All.
type choice struct{ job, instance, workload string }

// chosen returns what a reader asks for. Which workload does not matter for
// what has none, and the annotations are of all machines.
func (f fleet) chosen(c choice) fleet {
	var kept fleet
	for _, l := range f {
		if is(c.job, l.labels["job"]) && is(c.instance, l.labels["instance"]) && (l.labels["workload"] == "" || is(c.workload, l.labels["workload"])) ||
			l.metric == "ALERTS" || l.metric == firstUses {
			kept = append(kept, l)
		}
	}
	return kept
}

func is(chosen, value string) bool { return chosen == ".*" || chosen == value }

// vector is the answer to a query: the values by their labels.
type vector map[string]float64

// of returns the series of a metric that have all of these labels.
func (f fleet) of(metric string, with labels) fleet {
	var kept fleet
	for _, l := range f {
		matches := l.metric == metric
		for label, value := range with {
			matches = matches && l.labels[label] == value
		}
		if matches {
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
func (f fleet) rangeRate(by ...string) vector {
	return f.sum(rangeSteps, by, func(l line) float64 { return (l.at(steps) - l.at(steps-rangeSteps)) / (rangeSteps * step) })
}

// counted is what they had counted when they were last seen in the time range.
func (f fleet) counted(by ...string) vector {
	return f.sum(rangeSteps, by, func(l line) float64 { return l.at(min(l.last, steps)) })
}

// now is the value of those that there are.
func (f fleet) now(by ...string) vector {
	return f.sum(0, by, func(l line) float64 { return l.at(steps) })
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

// atLeast adds zeros under the labels that v lacks.
func (v vector) atLeast(zeros vector) vector {
	for name := range zeros {
		v[name] += 0
	}
	return v
}

// panels returns what each query must answer, by the panel's title and the
// query's letter.
func (f fleet) panels() map[string]vector {
	used := f.of("capability_workload_checks_total", labels{"capability": "CAP_SYS_ADMIN", "result": "granted", "scope": "host"})
	denied := f.of("capability_workload_checks_total", labels{"result": "denied"})
	granted := f.of("capability_workload_checks_total", labels{"result": "granted"})
	sites := f.of("capability_call_site_checks_total", nil)
	rate := func(metric string) vector { return f.of(metric, nil).rate("instance") }
	machines := f.of("capability_exporter_workload_series_limit", nil).now("instance")

	up := 0.0
	for _, l := range f.of("up", nil) {
		up += l.gauge
	}
	room := f.of("capability_exporter_workload_series", nil).now()
	for name, limit := range f.of("capability_exporter_workload_series_limit", nil).now() {
		room[name] /= limit
	}
	crowded := f.of("capability_workload_checks_total", labels{"process": "_other"})
	// plain are the series of a metric as they are, its name among their labels.
	plain := func(series fleet) vector {
		v := vector{}
		for _, l := range series {
			v[l.name(l.metric)] = l.gauge
		}
		return v
	}

	firstUse := vector{}
	for _, l := range f.of(firstUses, nil) {
		with := line{labels: maps.Clone(l.labels)}
		with.labels["state"] = "learned"
		if l.labels["cluster"] == "west" && l.gauge >= -90_000+24*3600 {
			with.labels["state"] = "told"
		}
		if l.gauge > steps*step-7*24*3600 {
			firstUse[with.name("")] = l.gauge * 1000
		}
	}

	return map[string]vector{
		"First uses of CAP_SYS_ADMIN A":                firstUse.top(50),
		"Programs that used it A":                      {"{}": float64(len(used.counted("job", "instance", "workload", "process")))},
		"Machines watched A":                           {"{}": up},
		"Who uses CAP_SYS_ADMIN A":                     used.rate("instance", "workload", "process").top(10),
		"What for: kernel functions that asked A":      sites.of("capability_call_site_checks_total", labels{"capability": "CAP_SYS_ADMIN", "audited": "yes"}).rate("call_site", "result").top(10),
		"All programs that used CAP_SYS_ADMIN A":       used.counted("instance", "workload", "process"),
		"Denied by capability A":                       denied.rate("capability", "scope"),
		"Who was denied what A":                        denied.counted("instance", "workload", "process", "capability", "scope"),
		"Most used capabilities A":                     granted.rate("capability").top(10),
		"Used or only looked at A":                     f.of("capability_checks_total", nil).rate("audited"),
		"Call sites A":                                 sites.rangeRate("capability", "call_site", "result", "audited").top(50),
		"Scraped A":                                    plain(f.of("up", nil)),
		"Workload series, of the limit A":              room,
		"What went missing A":                          rate("capability_exporter_overflow_checks_total"),
		"What went missing B":                          rate("capability_exporter_ring_lost_total"),
		"What went missing C":                          rate("capability_exporter_missed_runs_total"),
		"What went missing D":                          rate("capability_exporter_unclassified_checks_total"),
		"Records and stack unwinds A":                  rate("capability_exporter_ring_records_total"),
		"Records and stack unwinds B":                  rate("capability_exporter_ring_withheld_total"),
		"Records and stack unwinds C":                  rate("capability_exporter_unwinds_total"),
		"Audited checks outside of workload series A":  f.of("capability_exporter_borrowed_checks_total", nil).now("instance").atLeast(machines),
		"Audited checks outside of workload series B":  f.of("capability_exporter_ended_checks_total", nil).now("instance").atLeast(machines),
		"Duration of a scrape A":                       plain(f.of("scrape_duration_seconds", nil)),
		"CPU time A":                                   f.of("process_cpu_seconds_total", nil).rate(),
		"Memory A":                                     plain(f.of("process_resident_memory_bytes", nil)),
		"What the exporter itself holds A":             f.of("capability_exporter_capabilities_info", nil).now("capability"), // each is 1
		"How checks are seen A":                        plain(append(f.of("capability_exporter_source_info", nil), f.of("capability_exporter_source_refused_info", nil)...)),
		"Whose programs have no series of their own A": crowded.counted("instance", "workload", "capability", "result", "scope"),
		"Series ended for want of room A":              rate("capability_exporter_evicted_series_total"),
		"Not in the log A":                             f.of("capability_exporter_announcements_dropped_total", nil).rate("instance", "reason"),
		"Not in the log B":                             rate("capability_exporter_log_lines_dropped_total"),
		"HTTP clients refused A":                       f.of("capability_exporter_http_refused_total", nil).rate("instance", "reason"),
		"annotations":                                  plain(f.of("ALERTS", labels{"alertname": "CapabilitySysAdminFirstUse", "alertstate": "firing"})),
	}
}
