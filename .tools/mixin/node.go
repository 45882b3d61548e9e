package main

// node is the dashboard of what the workloads of one machine, or of a few, use and are denied, and of their exporters.
func (c config) node() *board {
	return c.board(nodeBoard, "node", "Which capabilities the workloads of a machine use and are denied, from capability_exporter. Choose one machine, or a few.").
		choose("instance", "Instance", `label_values(capability_exporter_build_info{<<fleet>>}, instance)`, nothing).
		choose("workload", "Workload", `label_values(capability_workload_checks_total{<<node>>}, workload)`, orNone).
		row("CAP_SYS_ADMIN").
		number(panel{`Programs that used it`,
			`How many programs (machine, workload and executable) were granted CAP_SYS_ADMIN on the host, by audited checks, and still have a series in the time range. The kernel's own look-ups, such as those for memory overcommit, are not among them.`,
			"none", `no exporter`, 12, 5, 0},
			`count(count by (<<cluster>>, job, instance, workload, process) (last_over_time(capability_workload_checks_total{capability="CAP_SYS_ADMIN", result="granted", scope="host", <<workload>>}[$__range]) > 0)) or 0 * count(capability_exporter_build_info{<<node>>})`,
			"green", "orange").
		number(panel{`Machines watched`,
			`Exporters that Prometheus could scrape just now, of those it knows.`,
			"none", `no target`, 12, 5, 0},
			`sum(up{<<node>>})`,
			"red", "green").
		graph(panel{`Who uses CAP_SYS_ADMIN`,
			`Audited checks of CAP_SYS_ADMIN that were granted on the host, per second: the busiest programs of the time range. This is what CapabilitySysAdminFirstUse and CapabilitySysAdminRate watch.`,
			"cps", `Nobody used CAP_SYS_ADMIN`, 12, 9, 10},
			query{topRate(10, "<<cluster>>, instance, workload, process", `capability_workload_checks_total{capability="CAP_SYS_ADMIN", result="granted", scope="host", <<workload>>}`), `{{process}} in {{workload}} on {{instance}} {{<<cluster>>}}`},
		).
		graph(panel{`What for: kernel functions that asked`,
			`The kernel functions that asked for CAP_SYS_ADMIN in audited checks, granted or denied, of all workloads: path_mount is a mount, for instance. The busiest of the time range.`,
			"cps", `Nobody asked for CAP_SYS_ADMIN`, 12, 9, 10},
			query{topRate(10, "call_site, result", `capability_call_site_checks_total{capability="CAP_SYS_ADMIN", audited="yes", <<node>>}`), `{{call_site}} {{result}}`},
		).
		table(panel{`All programs that used CAP_SYS_ADMIN`,
			`Programs with an audited, granted use on the host in the time range, single uses included, those with the most first. The number counts from the start of its series (the exporter's start, or the workload's).`,
			"none", `Nobody used CAP_SYS_ADMIN`, 24, 9, 50},
			`topk(50, sum by (<<cluster>>, instance, workload, process) (last_over_time(capability_workload_checks_total{capability="CAP_SYS_ADMIN", result="granted", scope="host", <<workload>>}[$__range])))`,
			"Uses").
		row("Denials").
		graph(panel{`Denied by capability`,
			`Audited checks that ended in EPERM, per second and capability, on the host and in user namespaces: the most denied of the time range.`,
			"cps", `Nothing was denied`, 12, 9, 10},
			query{topRate(10, "capability, scope", `capability_workload_checks_total{result="denied", <<workload>>}`), `{{capability}} ({{scope}})`},
		).
		table(panel{`Who was denied what`,
			`Programs that were denied a capability in the time range, those with the most denials first. The number counts from the start of its series.`,
			"none", `Nothing was denied`, 12, 9, 50},
			`topk(50, sum by (<<cluster>>, instance, workload, process, capability, scope) (last_over_time(capability_workload_checks_total{result="denied", <<workload>>}[$__range])))`,
			"Denials").
		row("All capabilities").
		graph(panel{`Most used capabilities`,
			`Audited checks that were granted, per second: the most used capabilities of the time range.`,
			"cps", `No capability was used`, 12, 9, 10},
			query{topRate(10, "capability", `capability_workload_checks_total{result="granted", <<workload>>}`), `{{capability}}`},
		).
		stacked(panel{`Used or only looked at`,
			`All checks of the machines by whether the kernel audits them. Those with audited=no (CAP_OPT_NOAUDIT) are the kernel asking itself, mostly about memory overcommit: no use of a capability.`,
			"cps", `No exporter`, 12, 9, 3},
			query{`sum by (audited) (rate(capability_checks_total{<<node>>}[$__rate_interval]))`, `audited={{audited}}`},
		).
		table(panel{`Call sites`,
			`Which kernel functions ask for which capability: the busiest in the time range, of all workloads.`,
			"cps", `No checks`, 24, 9, 50},
			`topk(50, sum by (capability, call_site, result, audited) (rate(capability_call_site_checks_total{<<node>>}[$__range])))`,
			"Checks per second").
		row("What is not told").
		graph(panel{`What went missing`,
			`All of these should be zero. Overflow: counted under process _other. Ring: log lines lost, counts right. Missed runs: not counted at all. Unclassified: in no workload series.`,
			"cps", `No exporter`, 8, 9, 4},
			query{`sum(rate(capability_exporter_overflow_checks_total{<<node>>}[$__rate_interval]))`, `overflow`},
			query{`sum(rate(capability_exporter_ring_lost_total{<<node>>}[$__rate_interval]))`, `ring lost`},
			query{`sum(rate(capability_exporter_missed_runs_total{<<node>>}[$__rate_interval]))`, `missed runs`},
			query{`sum(rate(capability_exporter_unclassified_checks_total{<<node>>}[$__rate_interval]))`, `unclassified`},
		).
		table(panel{`Whose programs have no series of their own`,
			`Workloads that have used up their share of the series: what their other programs ask for stands under process _other. Somebody may be hiding among names that he makes; the log has the true ones (overflow=true). The number counts from the start of the series.`,
			"none", `All programs have series of their own`, 16, 9, 50},
			`topk(50, sum by (<<cluster>>, instance, workload, capability, result, scope) (last_over_time(capability_workload_checks_total{process="_other", <<workload>>}[$__range])))`,
			"Checks").
		table(panel{`How checks are seen`,
			`The source in use, and the sources that were tried before it with the reason why not. Counts of different sources are not comparable: fexit does not see checks that the compiler inlined.`,
			"none", `No exporter`, 24, 6, 20},
			`topk(20, {__name__=~"capability_exporter_source_info|capability_exporter_source_refused_info", <<node>>})`,
			"")
}
