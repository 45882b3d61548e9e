package main

import (
	"fmt"
	"strings"
)

// health is the dashboard of the exporters. Of a thousand there are quantiles and the ten worst.
func (c config) health() *board {
	b := c.board(healthBoard, "exporter health", "Whether the exporters see all that they should, and what they cost.").
		choose("instance", "Instance", `label_values(capability_exporter_build_info{<<fleet>>}, instance)`, some).
		row("Exporters").
		number(panel{`Scraped`,
			`Exporters that Prometheus could scrape just now.`,
			"none", `No target`, 6, 5, 0},
			`sum(up{<<node>>})`,
			"red", "green").
		number(panel{`Not scraped`,
			`Exporters that Prometheus knows, and could not scrape just now.`,
			"none", `No target`, 6, 5, 0},
			`count(up{<<node>>} == 0) or 0 * count(up{<<node>>})`,
			"green", "red").
		table(panel{`Those that are not`,
			`Nobody is paged for these machines.`,
			"none", `All are scraped`, 12, 5, 20},
			`topk(20, max by (<<cluster>>, job, instance) (up{<<node>>} == 0))`,
			"").
		table(panel{`Versions`,
			`Exporters by version.`,
			"none", `No exporter`, 6, 7, 10},
			`topk(10, count by (version) (capability_exporter_build_info{<<node>>}))`,
			"Exporters").
		table(panel{`How checks are seen`,
			`Exporters by the source in use. Counts of different sources are not comparable: fexit does not see checks that the compiler inlined.`,
			"none", `No exporter`, 10, 7, 20},
			`topk(20, count by (source, audit, cgroups, lsm) (capability_exporter_source_info{<<node>>}))`,
			"Exporters").
		table(panel{`What is refused`,
			`Exporters by a source that could not be used, or, with no source in the row, by why what processes hold is not looked at.`,
			"none", `Nothing is refused`, 8, 7, 20},
			`topk(20, count by (source, reason) ({__name__=~"capability_exporter_(source|held)_refused_info", <<node>>}))`,
			"Exporters").
		table(panel{`What the exporters themselves hold`,
			`Exactly CAP_BPF and CAP_PERFMON on each machine.`,
			"none", `None holds anything (--privileges.keep=none)`, 8, 7, 10},
			`topk(10, count by (capability) (capability_exporter_capabilities_info{<<node>>}))`,
			"Exporters").
		table(panel{`Started again`,
			`Starts in the time range. What was asked for in between is not counted.`,
			"none", `None was`, 8, 7, 10},
			`topk(10, max by (<<cluster>>, instance) (changes(process_start_time_seconds{<<node>>}[$__range])) > 0)`,
			"Starts").
		table(panel{`What is not there at all`,
			`Nodes of which kube-state-metrics knows, without an exporter that could be scraped just now.`,
			"none", `None, or kube-state-metrics is not scraped`, 8, 7, 20},
			`topk(20, `+uncovered+`)`,
			"").
		row("Losses").
		graph(panel{`What went missing`,
			`Of all exporters together; all should be zero. Overflow: counted under process _other. Evicted: series ended for want of room. Ring, log: lines lost, counts right. Missed runs: not counted at all. Unclassified: in no workload series.`,
			"cps", `No exporter`, 12, 9, 6},
			losses(func(loss string) string { return `sum(rate(` + loss + `{<<node>>}[$__rate_interval]))` })...,
		).
		table(panel{`Where most went missing`,
			`The same, counted in the time range.`,
			"none", `Nothing is missing`, 12, 9, 10},
			`topk(10, (`+lossesByMachine()+`) > 0)`,
			"Lost").
		graph(panel{`Not in the log`,
			`Announcements: too many had come before (budget), or the log was not read fast enough (queue). All checks are counted all the same.`,
			"cps", `Nothing was dropped`, 12, 8, 5},
			query{`sum by (reason) (rate(capability_exporter_announcements_dropped_total{<<node>>}[$__rate_interval]))`, `{{reason}}`},
		).
		graph(panel{`HTTP clients refused`,
			`Clients that were hung up on: too many connections, too many scrapes at one time, or an answer that was not read. Prometheus may be among them.`,
			"cps", `Nobody was refused`, 12, 8, 5},
			query{`sum by (reason) (rate(capability_exporter_http_refused_total{<<node>>}[$__rate_interval]))`, `{{reason}}`},
		).
		graph(panel{`Announcements`,
			`Records that the exporters read from their ring buffers, and denials that were counted and not announced (rate limit).`,
			"cps", `No exporter`, 12, 8, 2},
			query{`sum(rate(capability_exporter_ring_records_total{<<node>>}[$__rate_interval]))`, `read`},
			query{`sum(rate(capability_exporter_ring_withheld_total{<<node>>}[$__rate_interval]))`, `withheld`},
		).
		graph(panel{`Audited checks outside of workload series`,
			`Made under credentials that are not the task's own (an opener's or a mounter's), or counted by workloads that are gone since.`,
			"cps", `None`, 12, 8, 2},
			query{`sum(rate(capability_exporter_borrowed_checks_total{<<node>>}[$__rate_interval]))`, `borrowed`},
			query{`sum(rate(capability_exporter_ended_checks_total{<<node>>}[$__rate_interval]))`, `ended`},
		).
		row("Room and cost")
	for _, what := range []struct{ title, description, unit, of, expr, over string }{
		{
			`Workload series, of the limit`, `Series of workloads in use as a share of --series.limit. With more than half of it, idle series end; at 100 % new workloads are counted under _other.`, "percentunit", "Share",
			`capability_exporter_workload_series{<<node>>} / capability_exporter_workload_series_limit{<<node>>}`,
			`max_over_time(capability_exporter_workload_series{<<node>>}[$__range]) / capability_exporter_workload_series_limit{<<node>>}`,
		}, {
			`Duration of a scrape`, `How long Prometheus waited for an exporter.`, "s", "Longest",
			`scrape_duration_seconds{<<node>>}`, `max_over_time(scrape_duration_seconds{<<node>>}[$__range])`,
		}, {
			`CPU time`, `CPU time of an exporter itself, in cores. What the kernel side adds to each check is not in it.`, "percentunit", "Mean",
			`rate(process_cpu_seconds_total{<<node>>}[$__rate_interval])`, `rate(process_cpu_seconds_total{<<node>>}[$__range])`,
		}, {
			`Memory`, `Resident memory of an exporter. The kernel's maps are not in it.`, "bytes", "Most",
			`process_resident_memory_bytes{<<node>>}`, `max_over_time(process_resident_memory_bytes{<<node>>}[$__range])`,
		}, {
			`Stack unwinds`, `Checks whose stack had to be unwound. Many for long mean that another tracing tool moved the stack, and cost time.`, "cps", "Mean",
			`rate(capability_exporter_unwinds_total{<<node>>}[$__rate_interval])`, `rate(capability_exporter_unwinds_total{<<node>>}[$__range])`,
		}, {
			`A look at what processes hold`, `How long an exporter's last look took.`, "s", "Longest",
			`capability_exporter_held_look_seconds{<<node>>}`, `max_over_time(capability_exporter_held_look_seconds{<<node>>}[$__range])`,
		},
	} {
		b.graph(panel{what.title, what.description, what.unit, `No exporter`, 12, 8, 4},
			query{`max(` + what.expr + `)`, `most`},
			query{`quantile(0.99, ` + what.expr + `)`, `99 % have less`},
			query{`quantile(0.9, ` + what.expr + `)`, `90 % have less`},
			query{`quantile(0.5, ` + what.expr + `)`, `half have less`},
		).table(panel{what.title + `: the ten with most`, what.description + ` In the time range.`, what.unit, `No exporter`, 12, 8, 10},
			`topk(10, max by (<<cluster>>, instance) (`+what.over+`))`, what.of)
	}
	return b.
		row("Rules").
		graph(panel{`Evaluation of the rules, of the interval`,
			`Where Prometheus scrapes itself. At 100 % evaluations are left out.`,
			"percentunit", `Prometheus does not scrape itself`, 8, 8, 10},
			query{`max by (rule_group) (prometheus_rule_group_last_duration_seconds{rule_group=~"` + groups + `"} / prometheus_rule_group_interval_seconds{rule_group=~"` + groups + `"})`, `{{rule_group}}`},
		).
		table(panel{`Evaluations that failed`,
			`In the time range. What these rules tell, nobody is told.`,
			"none", `None, or Prometheus does not scrape itself`, 8, 8, 10},
			`topk(10, sum by (rule_group) (increase(prometheus_rule_evaluation_failures_total{rule_group=~"`+groups+`"}[$__range])) > 0)`,
			"Failures").
		table(panel{`Memory of first uses`,
			`How old it is in each cluster. In the first day (-learn) nobody is paged.`,
			"s", `There is none: the recording rules of rules.yml are missing`, 8, 8, 20},
			`topk(20, time() - cluster:capability_granted:since_seconds{<<cluster>>=~"$cluster"})`,
			"Age")
}

// groups are the rules' that come with the exporter.
const groups = `.*;capability_(first_use|owners|use|exporter|rules)`

// losses are a line each of what may be lost.
func losses(expr func(metric string) string) []query {
	var queries []query
	for _, loss := range lost() {
		queries = append(queries, query{expr(loss.metric), loss.what})
	}
	return queries
}

func lossesByMachine() string {
	var each []string
	for _, loss := range lost() {
		each = append(each, fmt.Sprintf(`label_replace(sum by (<<cluster>>, instance) (increase(%s{<<node>>}[$__range])), "lost", %q, "", "")`, loss.metric, loss.what))
	}
	return strings.Join(each, " or ")
}

type loss struct{ what, metric string }

func lost() []loss {
	return []loss{
		{"overflow", "capability_exporter_overflow_checks_total"},
		{"evicted", "capability_exporter_evicted_series_total"},
		{"ring", "capability_exporter_ring_lost_total"},
		{"log", "capability_exporter_log_lines_dropped_total"},
		{"missed runs", "capability_exporter_missed_runs_total"},
		{"unclassified", "capability_exporter_unclassified_checks_total"},
	}
}
