package main

import "github.com/grafana/grafana-foundation-sdk/go/dashboard"

// dashboards are all that are made.
func (c config) dashboards() []builtDashboard {
	return []builtDashboard{{"capabilities", capabilities()}}
}

// capabilities is the dashboard of what machines' workloads use, are denied, and of the exporters.
func capabilities() *dashboard.DashboardBuilder {
	return newDashboard(dashboardUID, "Linux capabilities", "Which capabilities the machines' workloads use, are denied and hold, from capability_exporter.").
		WithVariable(choice("job", "Job", `label_values(capability_exporter_build_info, job)`)).
		WithVariable(choice("instance", "Machine", `label_values(capability_exporter_build_info{job=~"$job"}, instance)`)).
		WithVariable(choice("workload", "Workload", `label_values(capability_workload_checks_total{job=~"$job", instance=~"$instance"}, workload)`)).
		WithRow(dashboard.NewRowBuilder("CAP_SYS_ADMIN")).
		WithPanel(panel{`Programs that used it`,
			`How many programs (machine, workload and executable) were granted CAP_SYS_ADMIN on the host, by audited checks, and still have a series in the time range. The kernel's own look-ups, such as those for memory overcommit, are not among them.`,
			"none", `no exporter`, 12, 5}.number(
			`count(count by (job, instance, workload, process) (last_over_time(capability_workload_checks_total{capability="CAP_SYS_ADMIN", result="granted", scope="host", job=~"$job", instance=~"$instance", workload=~"$workload"}[$__range]) > 0)) or 0 * count(capability_exporter_build_info{job=~"$job", instance=~"$instance"})`,
			"green", "orange")).
		WithPanel(panel{`Machines watched`,
			`Exporters that Prometheus could scrape just now, of those it knows.`,
			"none", `no target`, 12, 5}.number(
			`sum(up{job=~"$job", instance=~"$instance"})`,
			"red", "green")).
		WithPanel(panel{`Who uses CAP_SYS_ADMIN`,
			`Audited checks of CAP_SYS_ADMIN that were granted on the host, per second: the ten busiest programs. This is what CapabilitySysAdminFirstUse and CapabilitySysAdminRate watch.`,
			"cps", `Nobody used CAP_SYS_ADMIN`, 12, 9}.graph(
			query{`topk(10, sum by (instance, workload, process) (rate(capability_workload_checks_total{capability="CAP_SYS_ADMIN", result="granted", scope="host", job=~"$job", instance=~"$instance", workload=~"$workload"}[$__rate_interval])))`, `{{process}} in {{workload}} on {{instance}}`},
		)).
		WithPanel(panel{`What for: kernel functions that asked`,
			`The kernel functions that asked for CAP_SYS_ADMIN in audited checks, granted or denied, of all workloads: path_mount is a mount, for instance. The ten busiest.`,
			"cps", `Nobody asked for CAP_SYS_ADMIN`, 12, 9}.graph(
			query{`topk(10, sum by (call_site, result) (rate(capability_call_site_checks_total{capability="CAP_SYS_ADMIN", audited="yes", job=~"$job", instance=~"$instance"}[$__rate_interval])))`, `{{call_site}} {{result}}`},
		)).
		WithPanel(panel{`All programs that used CAP_SYS_ADMIN`,
			`Every program with an audited, granted use on the host in the time range, single uses included. The number counts from the start of its series (the exporter's start, or the workload's).`,
			"none", `Nobody used CAP_SYS_ADMIN`, 24, 9}.table(
			`sort_desc(sum by (instance, workload, process) (last_over_time(capability_workload_checks_total{capability="CAP_SYS_ADMIN", result="granted", scope="host", job=~"$job", instance=~"$instance", workload=~"$workload"}[$__range])))`,
			"Uses")).
		WithPanel(panel{`First uses of CAP_SYS_ADMIN`,
			`The last week's, newest first, by owner: a unit, or what made a pod, in a cluster. "learned" are those of the first day, which pages nobody; "told" are those that CapabilitySysAdminFirstUse has told.`,
			"dateTimeFromNow", `None in a week, or the recording rules of rules.yml are missing`, 24, 9}.table(
			`sort_desc(topk(50, (label_replace(identity:capability_granted:first_seconds{capability="CAP_SYS_ADMIN"} and (identity:capability_granted:first_seconds - on (cluster) group_left () cluster:capability_granted:since_seconds >= 24 * 3600), "state", "told", "", "") or label_replace(identity:capability_granted:first_seconds{capability="CAP_SYS_ADMIN"} and (identity:capability_granted:first_seconds - on (cluster) group_left () cluster:capability_granted:since_seconds < 24 * 3600), "state", "learned", "", "")) > time() - 7 * 24 * 3600) * 1000)`,
			"First use")).
		WithRow(dashboard.NewRowBuilder("Denials")).
		WithPanel(panel{`Denied by capability`,
			`Audited checks that ended in EPERM, per second and capability, on the host and in user namespaces.`,
			"cps", `Nothing was denied`, 12, 9}.graph(
			query{`sum by (capability, scope) (rate(capability_workload_checks_total{result="denied", job=~"$job", instance=~"$instance", workload=~"$workload"}[$__rate_interval]))`, `{{capability}} ({{scope}})`},
		)).
		WithPanel(panel{`Who was denied what`,
			`Every program that was denied a capability in the time range. The number counts from the start of its series.`,
			"none", `Nothing was denied`, 12, 9}.table(
			`sort_desc(sum by (instance, workload, process, capability, scope) (last_over_time(capability_workload_checks_total{result="denied", job=~"$job", instance=~"$instance", workload=~"$workload"}[$__range])))`,
			"Denials")).
		WithRow(dashboard.NewRowBuilder("All capabilities")).
		WithPanel(panel{`Most used capabilities`,
			`Audited checks that were granted, per second: the ten most used capabilities.`,
			"cps", `No capability was used`, 12, 9}.graph(
			query{`topk(10, sum by (capability) (rate(capability_workload_checks_total{result="granted", job=~"$job", instance=~"$instance", workload=~"$workload"}[$__rate_interval])))`, `{{capability}}`},
		)).
		WithPanel(panel{`Used or only looked at`,
			`All checks of the machines by whether the kernel audits them. Those with audited=no (CAP_OPT_NOAUDIT) are the kernel asking itself, mostly about memory overcommit: no use of a capability.`,
			"cps", `No exporter`, 12, 9}.stacked(
			query{`sum by (audited) (rate(capability_checks_total{job=~"$job", instance=~"$instance"}[$__rate_interval]))`, `audited={{audited}}`},
		)).
		WithPanel(panel{`Call sites`,
			`Which kernel functions ask for which capability: the 50 busiest in the time range, of all workloads.`,
			"cps", `No checks`, 24, 9}.table(
			`topk(50, sum by (capability, call_site, result, audited) (rate(capability_call_site_checks_total{job=~"$job", instance=~"$instance"}[$__range])))`,
			"Checks per second")).
		WithRow(dashboard.NewRowBuilder("Exporter")).
		WithPanel(panel{`Scraped`,
			`1 where Prometheus could scrape the exporter, 0 where it could not: nobody is paged for that machine then.`,
			"none", `No target`, 8, 9}.graph(
			query{`up{job=~"$job", instance=~"$instance"}`, `{{instance}}`},
		)).
		WithPanel(panel{`Workload series, of the limit`,
			`Series of workloads in use as a share of --series.limit. At 100 % new workloads are counted under _other.`,
			"percentunit", `No exporter`, 8, 9}.graph(
			query{`capability_exporter_workload_series{job=~"$job", instance=~"$instance"} / capability_exporter_workload_series_limit{job=~"$job", instance=~"$instance"}`, `{{instance}}`},
		)).
		WithPanel(panel{`What went missing`,
			`All of these should be zero. Overflow: counted under workload _other. Ring: log lines lost, counts right. Missed runs: not counted at all. Unclassified: in no workload series.`,
			"cps", `No exporter`, 8, 9}.graph(
			query{`sum by (instance) (rate(capability_exporter_overflow_checks_total{job=~"$job", instance=~"$instance"}[$__rate_interval]))`, `overflow on {{instance}}`},
			query{`sum by (instance) (rate(capability_exporter_ring_lost_total{job=~"$job", instance=~"$instance"}[$__rate_interval]))`, `ring lost on {{instance}}`},
			query{`sum by (instance) (rate(capability_exporter_missed_runs_total{job=~"$job", instance=~"$instance"}[$__rate_interval]))`, `missed runs on {{instance}}`},
			query{`sum by (instance) (rate(capability_exporter_unclassified_checks_total{job=~"$job", instance=~"$instance"}[$__rate_interval]))`, `unclassified on {{instance}}`},
		)).
		WithPanel(panel{`Records and stack unwinds`,
			`Ring buffer records read, denials counted but not announced (rate limit), and checks whose stack had to be unwound. Many unwinds for long mean that another tracing tool moved the stack, and cost time.`,
			"cps", `No exporter`, 8, 9}.graph(
			query{`sum by (instance) (rate(capability_exporter_ring_records_total{job=~"$job", instance=~"$instance"}[$__rate_interval]))`, `records on {{instance}}`},
			query{`sum by (instance) (rate(capability_exporter_ring_withheld_total{job=~"$job", instance=~"$instance"}[$__rate_interval]))`, `withheld on {{instance}}`},
			query{`sum by (instance) (rate(capability_exporter_unwinds_total{job=~"$job", instance=~"$instance"}[$__rate_interval]))`, `unwinds on {{instance}}`},
		)).
		WithPanel(panel{`Audited checks outside of workload series`,
			`Made under credentials that are not the task's own (an opener's or a mounter's), or counted by workloads that are gone since.`,
			"none", `None`, 8, 9}.graph(
			query{`sum by (instance) (capability_exporter_borrowed_checks_total{job=~"$job", instance=~"$instance"}) or sum by (instance) (0 * capability_exporter_workload_series_limit{job=~"$job", instance=~"$instance"})`, `borrowed on {{instance}}`},
			query{`sum by (instance) (capability_exporter_ended_checks_total{job=~"$job", instance=~"$instance"}) or sum by (instance) (0 * capability_exporter_workload_series_limit{job=~"$job", instance=~"$instance"})`, `ended on {{instance}}`},
		)).
		WithPanel(panel{`Duration of a scrape`,
			`How long Prometheus waited for the exporter.`,
			"s", `No target`, 8, 9}.graph(
			query{`scrape_duration_seconds{job=~"$job", instance=~"$instance"}`, `{{instance}}`},
		)).
		WithPanel(panel{`CPU time`,
			`CPU time of the exporter itself, in cores. What the kernel side adds to each check is not in it.`,
			"percentunit", `No exporter`, 8, 9}.graph(
			query{`rate(process_cpu_seconds_total{job=~"$job", instance=~"$instance"}[$__rate_interval])`, `{{instance}}`},
		)).
		WithPanel(panel{`Memory`,
			`Resident memory of the exporter. The kernel's maps are not in it.`,
			"bytes", `No exporter`, 8, 9}.graph(
			query{`process_resident_memory_bytes{job=~"$job", instance=~"$instance"}`, `{{instance}}`},
		)).
		WithPanel(panel{`What the exporter itself holds`,
			`Exactly CAP_BPF and CAP_PERFMON on each machine.`,
			"none", `No exporter`, 8, 9}.table(
			`count by (capability) (capability_exporter_capabilities_info{job=~"$job", instance=~"$instance"})`,
			"Machines")).
		WithPanel(panel{`How checks are seen`,
			`The source in use on each machine, and the sources that were tried before it with the reason why not. Counts of different sources are not comparable: fexit does not see checks that the compiler inlined.`,
			"none", `No exporter`, 24, 7}.table(
			`{__name__=~"capability_exporter_source_info|capability_exporter_source_refused_info", job=~"$job", instance=~"$instance"}`,
			"")).
		WithRow(dashboard.NewRowBuilder("Who may be hiding, and what is not told")).
		WithPanel(panel{`Whose programs have no series of their own`,
			`Workloads that have used up their share of the series: what their other programs ask for stands under process _other. Somebody may be hiding among names that he makes; the log has the true ones (overflow=true). The number counts from the start of the series.`,
			"none", `All programs have series of their own`, 24, 9}.table(
			`sort_desc(sum by (instance, workload, capability, result, scope) (last_over_time(capability_workload_checks_total{process="_other", job=~"$job", instance=~"$instance", workload=~"$workload"}[$__range])))`,
			"Checks")).
		WithPanel(panel{`Series ended for want of room`,
			`Series that had counted nothing for an hour, and ended because more than half of the limit was in use. Raise --series.limit, or see who makes so many names.`,
			"cps", `No exporter`, 8, 9}.graph(
			query{`sum by (instance) (rate(capability_exporter_evicted_series_total{job=~"$job", instance=~"$instance"}[$__rate_interval]))`, `{{instance}}`},
		)).
		WithPanel(panel{`Not in the log`,
			`Announcements: too many had come before (budget), or the log was not read fast enough (queue). Lines of any kind: not read fast enough, or not writable. All checks are counted all the same.`,
			"cps", `No exporter`, 8, 9}.graph(
			query{`sum by (instance, reason) (rate(capability_exporter_announcements_dropped_total{job=~"$job", instance=~"$instance"}[$__rate_interval]))`, `announcements on {{instance}}, {{reason}}`},
			query{`sum by (instance) (rate(capability_exporter_log_lines_dropped_total{job=~"$job", instance=~"$instance"}[$__rate_interval]))`, `lines on {{instance}}`},
		)).
		WithPanel(panel{`HTTP clients refused`,
			`Clients that were hung up on: too many connections, too many scrapes at one time, or an answer that was not read. Prometheus may be among them.`,
			"cps", `No exporter`, 8, 9}.graph(
			query{`sum by (instance, reason) (rate(capability_exporter_http_refused_total{job=~"$job", instance=~"$instance"}[$__rate_interval]))`, `{{instance}}, {{reason}}`},
		))
}
