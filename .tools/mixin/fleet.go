package main

// Who the recorded series are of: see owners.yml.
const ofOwner = "<<cluster>>, namespace, owner"

// checks are an owner's in the five minutes to each sample.
const checks = "owner:capability_checks:increase5m"

// fleet is the dashboard of all clusters' machines. But for what is one series a
// machine it asks for what the rules have recorded: the raw series of a thousand
// machines over some hours are more than a Prometheus reads for one panel.
func (c config) fleet() *board {
	return c.board(fleetBoard, "fleet", "What is new, who uses what, what is denied and what is not watched, over all machines, from capability_exporter and the recording rules that come with it.").
		row("Now").
		number(panel{`First uses that were told`,
			`Of the last week, of CAP_SYS_ADMIN, CAP_SYS_MODULE, CAP_SYS_RAWIO, CAP_SYS_BOOT and CAP_SYS_PTRACE, not counting those of a cluster's first day.`,
			"none", `No exporter`, 6, 5, 0},
			`count((`+c.firstUses(true)+`) > time() - 7 * 24 * 3600) or 0 * count(capability_exporter_build_info{<<fleet>>})`,
			"green", "orange").
		number(panel{`Workloads that used CAP_SYS_ADMIN`,
			`On the host, in the time range: units, and controllers of pods.`,
			"none", `No exporter`, 6, 5, 0},
			`count(count by (`+ofOwner+`) (last_over_time(`+checks+`{outcome="granted", capability="CAP_SYS_ADMIN", scope="host", <<fleet>>}[$__range]))) or 0 * count(capability_exporter_build_info{<<fleet>>})`,
			"green", "orange").
		number(panel{`Machines watched`,
			`Exporters that Prometheus could scrape just now.`,
			"none", `No target`, 6, 5, 0},
			`sum(up{<<fleet>>})`,
			"red", "green").
		number(panel{`Nodes without an exporter`,
			`Nodes of which kube-state-metrics knows, and no exporter could be scraped just now.`,
			"none", `kube-state-metrics is not scraped`, 6, 5, 0},
			`count(`+uncovered+`) or 0 * count(kube_node_info{<<cluster>>=~"$cluster"})`,
			"green", "red").
		row("New").
		table(panel{`First uses`,
			`The last week's, newest first, by owner: a unit, or what made a pod, in a cluster. "learned" are those of the first day, which page nobody; "told" are those that CapabilitySysAdminFirstUse and CapabilityFirstUse have told.`,
			"dateTimeFromNow", `None in a week, or the recording rules of rules.yml are missing`, 24, 10, 50},
			`topk(50, (label_replace(`+c.firstUses(true)+`, "state", "told", "", "") or label_replace(`+c.firstUses(false)+`, "state", "learned", "", "")) > time() - 7 * 24 * 3600) * 1000`,
			"First use").
		row("Who uses what").
		matrix(panel{`Capabilities by namespace or unit`,
			`Audited checks on the host that were granted in the time range, over all chosen clusters: by the namespace of pods, else the unit or what else a workload is called. Those with the most: 20 rows and 12 columns at most.`,
			"none", `Nobody used anything, or the recording rules of owners.yml are missing`, 24, 14, 0},
			used("who, capability")+` and on (who) topk(20, `+used("who")+`) and on (capability) topk(12, `+used("capability")+`)`,
			"who", "capability").
		table(panel{`Who uses CAP_SYS_ADMIN and could do without`,
			`The share of an owner's checks of CAP_SYS_ADMIN in the time range for which the kernel would have taken the narrower capability in this row, had it not been missing. At 100 % it needs no CAP_SYS_ADMIN once it has that.`,
			"percentunit", `Nobody: no check of CAP_SYS_ADMIN had a narrower capability that was missing`, 12, 10, 20},
			`topk(20, sum by (`+ofOwner+`, capability) (`+over(`outcome="avoidable"`)+`) / on (`+ofOwner+`) group_left () sum by (`+ofOwner+`) (`+over(`outcome="granted", capability="CAP_SYS_ADMIN"`)+`))`,
			"Share of its checks").
		table(panel{`The ten worst: most held, least used`,
			`How many capabilities an owner's processes hold on the host now and have not used in 30 days, or since there is a memory of that (CapabilityHeldUnused tells after 30). A full set counts as 41, and so does one that is nearly full; what container engines give by default counts as 14.`,
			"none", `Nobody holds more than he uses, or the exporters do not look (--held.interval=0)`, 12, 10, 10},
			`topk(10, (41 - (count by (`+ofOwner+`) (`+usedOnce+`) or 0 * `+holdsAll+`) and `+holdsAll+`) or (clamp_min(14 - (count by (`+ofOwner+`) (`+usedOnce+`) or 0 * `+holdsDefault+`), 0) and `+holdsDefault+`) or count by (`+ofOwner+`) (last_over_time(owner:capability_held_processes:sum{<<fleet>>}[10m]) unless on (`+ofOwner+`, capability) `+usedOnce+`))`,
			"Not used").
		row("Denials and coverage").
		table(panel{`Denials that count`,
			`Checks that were denied in the time range and that nothing made up for: without those for which another capability was granted, and those that the kernel did not mind. Those with the most first.`,
			"none", `Nothing was denied that counts`, 12, 10, 20},
			`topk(20, sum by (`+ofOwner+`, capability) (`+over(`outcome="denied"`)+`))`,
			"Denials").
		table(panel{`Nodes that nobody watches`,
			`Nodes of which kube-state-metrics knows, without an exporter that could be scraped just now: capability use there is not seen. An exporter's instance must be its node's name.`,
			"none", `None, or kube-state-metrics is not scraped`, 6, 10, 20},
			`topk(20, `+uncovered+`)`,
			"").
		table(panel{`Coverage by cluster`,
			`The share of a cluster's nodes with an exporter that could be scraped just now: those with the lowest.`,
			"percentunit", `kube-state-metrics is not scraped`, 6, 10, 20},
			`bottomk(20, 1 - (count by (<<cluster>>) (`+uncovered+`) or 0 * count by (<<cluster>>) (kube_node_info{<<cluster>>=~"$cluster"})) / count by (<<cluster>>) (max by (<<cluster>>, node) (kube_node_info{<<cluster>>=~"$cluster"})))`,
			"Watched")
}

// firstUses are those of which the memory of their cluster is old enough to tell, or not. Of the rules that remember them none goes
// by job.
func (c config) firstUses(old bool) string {
	const uses = `identity:capability_granted:first_seconds{<<cluster>>=~"$cluster"}`
	than := ">="
	if !old {
		than = "<"
	}
	return uses + ` and (` + uses + ` - on (<<cluster>>) group_left () cluster:capability_granted:since_seconds{<<cluster>>=~"$cluster"} ` + than + ` ` + c.Learn() + `)`
}

// uncovered are nodes without an exporter, as in CapabilityExporterMissing.
const uncovered = `max by (<<cluster>>, node) (kube_node_info{<<cluster>>=~"$cluster"}) unless on (<<cluster>>, node) label_replace(up{<<fleet>>} == 1, "node", "${1}", "instance", "(.*)")`

// holdsAll are owners of processes that hold all capabilities, or nearly all.
const holdsAll = `count by (` + ofOwner + `) (last_over_time(owner:capability_held_processes:sum{capability=~"all|most", <<fleet>>}[10m]))`

// holdsDefault are owners of processes that hold what container engines give by default.
const holdsDefault = `count by (` + ofOwner + `) (last_over_time(owner:capability_held_processes:sum{capability="default", <<fleet>>}[10m]))`

// usedOnce are capabilities that an owner is remembered to have used.
const usedOnce = `last_over_time(owner:capability_used:last_seconds{<<fleet>>}[15m])`

// over is how often in the time range, on the host where that is told.
func over(which string) string {
	return `sum_over_time(` + checks + `{` + which + `, scope=~"host|", <<fleet>>}[$__range])`
}

// used are checks that were granted, by some labels: who stands for a namespace or, where there is none, the owner.
func used(by string) string {
	return `sum by (` + by + `) (label_replace(label_replace(` + over(`outcome="granted"`) + `, "who", "${1}", "owner", "(.*)"), "who", "namespace ${1}", "namespace", "(.+)"))`
}
