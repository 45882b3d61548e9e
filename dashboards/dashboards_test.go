package dashboards

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The unit and what an empty panel shows are asked of each panel: an empty
// graph that says nothing leaves it open whether all is well or nothing works.
// So is how much it shows at most, to which TestDashboardValues holds it.
func TestPanels(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, d *Dashboard) {
		ids, titles := map[int]string{}, map[string]bool{}
		for _, panel := range d.Panels {
			t.Run(panel.Title, func(t *testing.T) {
				if other, twice := ids[panel.ID]; twice || panel.ID == 0 {
					t.Errorf("id %d is not its own; %q has it too", panel.ID, other)
				}
				ids[panel.ID] = panel.Title
				if titles[panel.Title] || panel.Title == "" {
					t.Error("the title is empty or stands twice")
				}
				titles[panel.Title] = true
				if panel.Type != "row" {
					checkPanel(t, panel)
				}
			})
		}
	})
}

func checkPanel(t *testing.T, panel Panel) {
	t.Helper()
	if len(panel.Description) < 10 {
		t.Errorf("description %q explains nothing", panel.Description)
	}
	if panel.FieldConfig.Defaults.Unit == "" {
		t.Error("no unit")
	}
	if panel.FieldConfig.Defaults.NoValue == "" {
		t.Error("no noValue: an empty state must say what it means")
	}
	if len(panel.Targets) == 0 {
		t.Error("no query")
	}
	readable := 50
	if isMatrix(panel) {
		readable = 240 // as columns stand beside each other
	}
	if most := panel.Most(); most == 0 || most > readable {
		t.Errorf("the description says that it shows %d at most: %q", most, panel.Description)
	}
	checkDatasource(t, panel.Datasource)
	refs := map[string]bool{}
	for _, target := range panel.Targets {
		checkDatasource(t, target.Datasource)
		if target.RefID == "" || refs[target.RefID] {
			t.Errorf("refId %q is empty or stands twice", target.RefID)
		}
		refs[target.RefID] = true
		if target.Instant == target.Range {
			t.Errorf("query %s is neither instant nor range, or both", target.RefID)
		}
		// A graph of one point is empty, a table over a range is one row for each point.
		if target.Range != (panel.Type == "timeseries") || (target.Format == "table") != (panel.Type == "table") {
			t.Errorf("query %s does not suit a %s: range %t, format %q", target.RefID, panel.Type, target.Range, target.Format)
		}
		checkLegend(t, panel, target)
	}
}

func isMatrix(panel Panel) bool {
	return len(panel.Transformations) > 0 && panel.Transformations[0].ID == "groupingToMatrix"
}

// checkLegend: two lines of one name are one line to who looks at them, and a
// label that the query has summed away is written as nothing.
func checkLegend(t *testing.T, panel Panel, target Target) {
	t.Helper()
	if panel.Type != "timeseries" {
		return
	}
	var named []string // by what a query's series differ: those of one that sums all up by nothing
	if match := regexp.MustCompile(`\bby \(([a-z_, ]+)\)`).FindStringSubmatch(target.Expr); match != nil {
		named = strings.Split(match[1], ", ")
	} else if !regexp.MustCompile(`^(sum|max|quantile)\(`).MatchString(target.Expr) {
		t.Errorf("what do the series of %s differ by?", target.Expr)
	}
	var legend []string
	for _, match := range regexp.MustCompile(`\{\{(\w+)\}\}`).FindAllStringSubmatch(target.Legend, -1) {
		legend = append(legend, match[1])
	}
	slices.Sort(named)
	slices.Sort(legend)
	if !slices.Equal(named, legend) {
		t.Errorf("the query's series differ by %q, and its legend names %q", named, legend)
	}
	for _, other := range panel.Targets {
		if other.RefID != target.RefID && other.Legend == target.Legend {
			t.Errorf("queries %s and %s have the same legend", target.RefID, other.RefID)
		}
	}
}

// A number without its unit, or with another's, is read as something else.
func TestUnits(t *testing.T) {
	t.Parallel()
	units := []struct{ expr, unit string }{ // the first that fits
		{`^(count|sum)\((count|up|\(|max by)`, "none"},
		{`\) \* 1000$`, "dateTimeFromNow"},
		{`^topk\(\d+, (sum by \([^)]*\) \()?time\(\) - `, "s"},
		{`^topk\(10, \(41 - |changes\(`, "none"},
		{`rate\(process_cpu_seconds_total|\} / |\] ?\) / |/ on \(|^bottomk\(20, 1 - `, "percentunit"}, // of a core, of a limit, of others
		{`\brate\(|\) / 300`, "cps"},
		{`_bytes`, "bytes"},
		{`_seconds\{`, "s"},
		{``, "none"},
	}
	each(t, func(t *testing.T, d *Dashboard) {
		for _, panel := range d.Panels {
			for _, target := range panel.Targets {
				for _, u := range units {
					if regexp.MustCompile(u.expr).MatchString(target.Expr) {
						if got := panel.FieldConfig.Defaults.Unit; got != u.unit {
							t.Errorf("%s: the unit is %q, and %s is in %q", panel.Title, got, target.Expr, u.unit)
						}
						break
					}
				}
			}
		}
	})
}

// Numbers are read by their color: any use of CAP_SYS_ADMIN stands out, and so
// does a fleet of which nothing is watched.
func TestColors(t *testing.T) {
	t.Parallel()
	want := map[string][2]string{
		"node: Programs that used it": {"green", "orange"}, "node: Machines watched": {"red", "green"},
		"fleet: First uses that were told": {"green", "orange"}, "fleet: Workloads that used CAP_SYS_ADMIN": {"green", "orange"},
		"fleet: Machines watched": {"red", "green"}, "fleet: Nodes without an exporter": {"green", "red"},
		"health: Scraped": {"red", "green"}, "health: Not scraped": {"green", "red"},
	}
	for _, d := range read(t) {
		for _, panel := range d.Panels {
			if panel.Type != "stat" {
				continue
			}
			name := d.Name + ": " + panel.Title
			colors, known := want[name]
			delete(want, name)
			steps := panel.FieldConfig.Defaults.Thresholds.Steps
			if !known || len(steps) != 2 || steps[0].Color != colors[0] || steps[0].Value != nil ||
				steps[1].Color != colors[1] || steps[1].Value == nil || *steps[1].Value != 1 {
				t.Errorf("%s: %s below 1 and %s from there on are wanted, not %+v", name, colors[0], colors[1], steps)
			}
		}
	}
	if len(want) > 0 {
		t.Errorf("not there: %v", want)
	}
}

// A table that is not sorted, or holds the least and not the most, hides what
// its reader looks for.
func TestTablesStartWithTheMost(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, d *Dashboard) {
		for _, panel := range d.Panels {
			if panel.Type != "table" || isMatrix(panel) {
				continue
			}
			first := "topk"
			if panel.Title == "Coverage by cluster" {
				first = "bottomk"
			}
			if want := fmt.Sprintf("%s(%d, ", first, panel.Most()); !strings.HasPrefix(panel.Targets[0].Expr, want) {
				t.Errorf("%s: %s, and not %s", panel.Title, panel.Targets[0].Expr, want)
			}
			if sort := panel.Options.SortBy; len(sort) != 1 || sort[0].Desc != (first == "topk") {
				t.Errorf("%s is sorted by %+v", panel.Title, sort)
			}
		}
	})
}

// A panel outside of the 24 columns, or on top of another, is one nobody sees.
func TestGrid(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, d *Dashboard) {
		taken := map[[2]int]string{}
		for _, panel := range d.Panels {
			pos := panel.GridPos
			if pos.W <= 0 || pos.H <= 0 || pos.X < 0 || pos.Y < 0 || pos.X+pos.W > 24 {
				t.Errorf("%s: does not fit into 24 columns: %+v", panel.Title, pos)
			}
			for x := pos.X; x < pos.X+pos.W; x++ {
				for y := pos.Y; y < pos.Y+pos.H; y++ {
					if other, ok := taken[[2]int{x, y}]; ok {
						t.Fatalf("%s lies on %s", panel.Title, other)
					}
					taken[[2]int{x, y}] = panel.Title
				}
			}
		}
	})
}

// Without the uid an import makes a second dashboard each time, and links to
// the first one break. A link that leads to no dashboard, or chooses what is no
// variable there, shows something else.
func TestLinks(t *testing.T) {
	t.Parallel()
	variables := map[string]map[string]bool{} // by the uid of their dashboard
	for _, d := range read(t) {
		if d.UID != "capability-exporter-"+d.Name || !strings.HasPrefix(d.Title, "Capabilities: ") {
			t.Errorf("%s: uid %q, title %q", d.Name, d.UID, d.Title)
		}
		variables[d.UID] = map[string]bool{}
		for _, v := range d.Templating.List {
			variables[d.UID][v.Name] = true
		}
	}
	if names := slices.Sorted(maps.Keys(variables)); len(names) != 4 {
		t.Errorf("the dashboards are %q", names)
	}
	each(t, func(t *testing.T, d *Dashboard) {
		if len(d.Links) != 1 || d.Links[0].Type != "dashboards" || !d.Links[0].IncludeVars || !d.Links[0].KeepTime ||
			len(d.Links[0].Tags) != 1 || !slices.Contains(d.Tags, d.Links[0].Tags[0]) {
			t.Errorf("it leads to the others by %+v, and is tagged %q", d.Links, d.Tags)
		}
		for _, panel := range d.Panels {
			for _, override := range panel.FieldConfig.Overrides {
				for _, property := range override.Properties {
					if property.ID != "links" {
						continue
					}
					text := string(property.Value)
					to := regexp.MustCompile(`"/d/([a-z-]+)\?([^"]*)"`).FindStringSubmatch(strings.ReplaceAll(text, `\u0026`, "&"))
					if to == nil || variables[to[1]] == nil {
						t.Fatalf("%s: where does this lead? %s", panel.Title, text)
					}
					for _, choice := range regexp.MustCompile(`var-(\w+)=|\$\{(\w+):queryparam\}`).FindAllStringSubmatch(to[2], -1) {
						if name := choice[1] + choice[2]; !variables[to[1]][name] {
							t.Errorf("%s: %s has no variable %q", panel.Title, to[1], name)
						}
					}
				}
			}
		}
	})
}

// Each variable follows those that are chosen before it. All is a pattern, not
// the list of what there is: a list of all workloads of a fleet is too long for
// a query. It takes in what has no label for its cluster or namespace.
func TestVariables(t *testing.T) {
	t.Parallel()
	const chosen = `cluster=~"$cluster", job=~"$job"`
	const owners = `label_values({__name__=~"owner:capability_(checks:increase5m|held_processes:sum)", ` + chosen
	type variable struct{ name, definition, all string }
	want := map[string][]variable{
		"node": {
			{"instance", `label_values(capability_exporter_build_info{` + chosen + `}, instance)`, ""},
			{"workload", `label_values(capability_workload_checks_total{` + chosen + `, instance=~"$instance"}, workload)`, ".*"},
		},
		"health": {{"instance", `label_values(capability_exporter_build_info{` + chosen + `}, instance)`, ".+"}},
		"workload": {
			{"namespace", owners + `}, namespace)`, ".*"},
			{"owner", owners + `, namespace=~"$namespace"}, owner)`, ""},
		},
	}
	each(t, func(t *testing.T, d *Dashboard) {
		all := append([]variable{
			{"cluster", `label_values(capability_exporter_build_info, cluster)`, ".*"},
			{"job", `label_values(capability_exporter_build_info{cluster=~"$cluster"}, job)`, ".+"},
		}, want[d.Name]...)
		list := d.Templating.List
		if len(list) != len(all)+1 || list[0].Name != "datasource" {
			t.Fatalf("the variables are %+v", list)
		}
		for n, v := range list[1:] {
			got := variable{v.Name, v.Definition, v.AllValue}
			if got != all[n] || v.Type != "query" || v.IncludeAll != (v.AllValue != "") || !v.Multi {
				t.Errorf("%+v, want %+v", v, all[n])
			}
			if query, ok := v.Query.(map[string]any); !ok || query["query"] != v.Definition {
				t.Errorf("%s: its definition is %q, and it runs %v", v.Name, v.Definition, v.Query)
			}
			if v.Datasource == nil || v.Datasource.UID != "${datasource}" {
				t.Errorf("%s is asked of %+v", v.Name, v.Datasource)
			}
		}
	})
}

// TestLint holds the rules of Grafana's dashboard-linter that the other tests do
// not: it itself takes modules that are under another license. That queries and
// variables are PromQL, TestDashboardValues shows.
func TestLint(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, d *Dashboard) {
		if d.Editable { // uneditable-dashboard
			t.Error("it can be edited: what is changed there is gone after the next import")
		}
		instance := false
		for _, v := range d.Templating.List {
			switch v.Name {
			case "datasource": // template-datasource-rule
				if v.Type != "datasource" || v.Query != "prometheus" || v.Label != "Data source" {
					t.Errorf("the data source is a %s of %v, called %q", v.Type, v.Query, v.Label)
				}
				continue
			case "job": // template-job-rule; TestVariables has what else it asks for
				if v.Label != "Job" {
					t.Errorf("the job is called %q", v.Label)
				}
			case "instance": // template-instance-rule
				instance = true
				// On the node's dashboard there is no All: it is of one machine, or a few.
				if v.Label != "Instance" || d.Name != "node" && v.AllValue != ".+" {
					t.Errorf("the instance is called %q, All is %q", v.Label, v.AllValue)
				}
			}
			if v.Refresh != 2 { // template-on-time-change-reload-rule
				t.Errorf("%s is read %d", v.Name, v.Refresh)
			}
		}
		// The fleet's is of all machines, and a workload's of all of its own.
		if want := d.Name == "node" || d.Name == "health"; instance != want {
			t.Errorf("an instance can be chosen: %t", instance)
		}
		for _, query := range d.Queries() {
			checkSelectors(t, query, instance)
		}
	})
}

var (
	selector = regexp.MustCompile(`([a-zA-Z_:][a-zA-Z0-9_:]*)?\{((?:[a-z_]+(?:=~?|!=)"(?:\$\{|[^"])*"(?:, )?)+)\}`)
	ofRange  = regexp.MustCompile(`(\w+)\((\w+)\{[^{}]*\}\[([^\]]*)\]( @ end\(\))?`)
)

func checkSelectors(t *testing.T, query Query, instance bool) {
	t.Helper()
	for _, match := range selector.FindAllStringSubmatch(query.Expr, -1) {
		metric, labels := match[1], match[2]
		want := `cluster=~"$cluster"`
		switch {
		case strings.HasPrefix(metric, "prometheus_rule_"): // of Prometheus itself, which may serve all clusters
			continue
		case metric == "ALERTS", metric == "kube_node_info", // of all jobs; of another
			strings.HasPrefix(metric, "identity:"), strings.HasPrefix(metric, "cluster:"): // recorded of all
		case !instance || strings.HasPrefix(metric, "owner:"):
			want += `, job=~"$job"` // target-job-rule
		default:
			want += `, job=~"$job", instance=~"$instance"` // target-instance-rule
		}
		if metric == "up" && strings.Contains(query.Expr, "kube_node_info") {
			want = `cluster=~"$cluster", job=~"$job"` // a node without an exporter has no instance that could be chosen
		}
		if !strings.Contains(labels, want) {
			t.Errorf("%s: %s{%s} does not follow the variables: %s", query.Where, metric, labels, want)
		}
	}
	// target-rate-interval-rule. Over the time range is what a table counts in it, and by what a graph's lines are chosen.
	for _, match := range ofRange.FindAllStringSubmatch(query.Expr, -1) {
		ofAll := match[3] == "$__range" && (query.Instant || match[4] != "")
		if (match[1] == "rate" || match[1] == "irate") && match[3] != "$__rate_interval" && !ofAll {
			t.Errorf("%s: %s", query.Where, match[0])
		}
	}
	// target-counter-agg-rule. What a counter has counted since its series began is told where single uses must be seen:
	// the first of a series is no increase.
	counted := map[string]bool{}
	for _, match := range ofRange.FindAllStringSubmatch(query.Expr, -1) {
		counted[match[2]] = match[1] == "rate" || match[1] == "increase" || match[1] == "last_over_time" && query.Instant
	}
	for _, match := range selector.FindAllStringSubmatch(query.Expr, -1) {
		if since := strings.HasPrefix(query.Where, "Why: "); strings.HasSuffix(match[1], "_total") && !counted[match[1]] && !since {
			t.Errorf("%s: %s is a counter, and is not counted: %s", query.Where, match[1], query.Expr)
		}
	}
}

func TestSubstitute(t *testing.T) {
	t.Parallel()
	group := regexp.MustCompile(`\$\{\d\}`) // of label_replace
	each(t, func(t *testing.T, d *Dashboard) {
		for _, query := range d.Queries() {
			if left := d.Substitute(query.Expr, "1m", "1h", nil); strings.Contains(group.ReplaceAllString(left, ""), "$") || left == "" {
				t.Errorf("%s: variable left after substitution: %s", query.Where, left)
			}
		}
	})
}

func checkDatasource(t *testing.T, d *Datasource) {
	t.Helper()
	if d == nil || d.Type != "prometheus" || d.UID != "${datasource}" {
		t.Errorf("data source is %+v, not the variable", d)
	}
}

// each runs a test of each dashboard.
func each(t *testing.T, f func(*testing.T, *Dashboard)) {
	t.Helper()
	for _, d := range read(t) {
		t.Run(d.Name, func(t *testing.T) { f(t, d) })
	}
}

func read(t *testing.T) []*Dashboard {
	t.Helper()
	all, err := All()
	if err != nil {
		t.Fatal(err)
	}
	return all
}
