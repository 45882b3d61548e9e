package main

// workload is the dashboard of one owner, a unit or what made a pod, over all its machines.
func (c config) workload() *board {
	const values = `label_values({__name__=~"owner:capability_(checks:increase5m|held_processes:sum)", <<fleet>>`
	since := `last_over_time(owner:capability_held:first_seconds{<<owner>>}[10m])`
	used := `last_over_time(owner:capability_used:last_seconds{<<owner>>}[15m])`
	which := func(outcome string) string { return checks + `{outcome="` + outcome + `", <<owner>>}` }
	count := func(by, outcome string) string {
		return `sum by (` + by + `) (sum_over_time(` + which(outcome) + `[$__range]))`
	}
	rate := func(outcome string) string {
		return top(10, "capability", `sum by (capability) (`+which(outcome)+`) / 300`, `sum by (capability) (sum_over_time(`+which(outcome)+`[$__range] @ end()))`)
	}
	return c.board(workloadBoard, "workload", "What one workload uses, holds and is denied, over all its machines, from capability_exporter and the recording rules that come with it. An owner is a unit, or what made a pod.").
		choose("namespace", "Namespace", values+`}, namespace)`, orNone).
		choose("owner", "Owner", values+`, namespace=~"$namespace"}, owner)`, nothing).
		row("Used").
		graph(panel{`What it uses`,
			`Audited checks that were granted, per second and capability, in five minutes each: the most used of the time range.`,
			"cps", `It used no capability`, 12, 9, 10},
			query{rate("granted"), `{{capability}}`},
		).
		table(panel{`Who used what`,
			`Audited checks that were granted in the time range, those with the most first.`,
			"none", `It used no capability`, 12, 9, 50},
			`topk(50, `+count(ofOwner+`, process, capability, scope`, "granted")+`)`,
			"Uses").
		row("Held").
		table(panel{`Held and not used`,
			`For how long it has held, on the host, what it has not used in the last 30 days or since that is remembered. "all" is the full set, "most" nearly that, "default" what container engines give, of which the table beside this one has what is used. What it needed at its start is not seen if it has not been started since then.`,
			"s", `It uses all that it holds, holds nothing, or the exporters do not look (--held.interval=0)`, 12, 9, 50},
			`topk(50, time() - (`+since+` unless `+used+`))`,
			"Held for").
		table(panel{`Used last`,
			`When it last used what it has used in the last 30 days, the latest first.`,
			"dateTimeFromNow", `It used no capability in 30 days`, 12, 9, 50},
			`topk(50, `+used+`) * 1000`,
			"Last use").
		row("Denied").
		graph(panel{`Denials that count`,
			`Checks that were denied and that nothing made up for, per second and capability, in five minutes each: the most denied of the time range.`,
			"cps", `Nothing was denied that counts`, 12, 9, 10},
			query{rate("denied"), `{{capability}}`},
		).
		table(panel{`Who was denied what`,
			`Denials of the time range that count, those with the most first.`,
			"none", `Nothing was denied that counts`, 12, 9, 50},
			`topk(50, `+count(ofOwner+`, process, capability`, "denied")+`)`,
			"Denials").
		table(panel{`CAP_SYS_ADMIN where this would do`,
			`Checks of CAP_SYS_ADMIN in the time range that were only made because this narrower capability was missing. Give it that.`,
			"none", `No check of CAP_SYS_ADMIN had a narrower capability that was missing`, 24, 7, 50},
			`topk(50, `+count(ofOwner+`, process, capability`, "avoidable")+`)`,
			"Checks").
		row("Where, and why").
		table(panel{`Where it runs`,
			`Machines on which it had any series in the time range, with the number of its pods or units.`,
			"none", `On none; or it is not told, of many that are one owner (a container, a login session) and where pods' names are not known (--kubernetes.pods-dir)`, 8, 10, 50},
			`topk(50, count by (<<cluster>>, instance) (`+c.itsInfo("[$__range]")+`) or max by (<<cluster>>, instance) (`+c.ofKind("capability_held_processes", "[$__range]")+` ^ 0))`,
			"Workloads").
		table(panel{`Why: kernel functions that asked on its machines`,
			`Of the capabilities that it used, or was denied, in the time range: which functions of the kernel asked for them there, by any workload, since the exporters' start. path_mount is a mount. The log has each first use with its own.`,
			"none", `No checks`, 16, 10, 20},
			`topk(20, sum by (capability, call_site, result) (capability_call_site_checks_total{audited="yes", <<fleet>>} and on (<<cluster>>, job, instance) (`+c.itsInfo("[10m]")+`) and on (capability) last_over_time(`+checks+`{<<owner>>}[$__range])))`,
			"Checks")
}

// itsInfo are the workloads of the owner that is chosen: its pods, by their names' beginnings, or what is called as it is, or of its kind.
func (c config) itsInfo(window string) string {
	const made = `(-[0-9]+)?(-[bcdfghjklmnpqrstvwxz2456789]{6,10})?(-[bcdfghjklmnpqrstvwxz2456789]{5})?`
	return `last_over_time(capability_workload_info{kind="pod", namespace=~"$namespace", pod=~"($owner)` + made + `", <<fleet>>}` + window + `)` +
		` or ` + c.ofKind(`capability_workload_info`, window)
}

// ofKind are series of what is no pod, of the owner that is chosen.
func (c config) ofKind(series, window string) string {
	owners := func(series string) string {
		return `group by (<<cluster>>, job, owner) (last_over_time(` + series + `{<<owner>>}[$__range]))`
	}
	return `(last_over_time(` + series + `{workload=~"$owner", <<fleet>>}` + window + `)` +
		` or label_replace(last_over_time(` + series + `{workload=~"` + c.Alike() + `", workload!~"$owner", <<fleet>>}` + window + `), "owner", "` + c.Kind() + `", "workload", "` + c.Alike() + `")` +
		` and on (<<cluster>>, job, owner) (` + owners(checks) + ` or ` + owners("owner:capability_held_processes:sum") + `))`
}
