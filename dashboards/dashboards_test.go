package dashboards

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The unit and what an empty panel shows are asked of each panel: an empty
// graph that says nothing leaves it open whether all is well or nothing works.
func TestPanels(t *testing.T) {
	t.Parallel()
	d := read(t)
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
			if panel.Type == "row" {
				return
			}
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
		})
	}
}

// checkLegend: two lines of one name are one line to who looks at them, and a
// label that the query has summed away is written as nothing.
func checkLegend(t *testing.T, panel Panel, target Target) {
	t.Helper()
	if panel.Type != "timeseries" {
		return
	}
	named := []string{"instance"} // what is not summed is told by its machine
	if match := regexp.MustCompile(`\bby \(([a-z_, ]+)\)`).FindStringSubmatch(target.Expr); match != nil {
		named = strings.Split(match[1], ", ")
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
	for _, panel := range read(t).Panels {
		for _, target := range panel.Targets {
			want := "none"
			switch expr := target.Expr; {
			case strings.Contains(expr, "first_seconds"):
				want = "dateTimeFromNow"
			case strings.Contains(expr, "rate(process_cpu_seconds_total"), strings.Contains(expr, "} / "):
				want = "percentunit" // of a core, of the limit
			case strings.Contains(expr, "rate("):
				want = "cps"
			case strings.Contains(expr, "_bytes"):
				want = "bytes"
			case strings.Contains(expr, "_seconds"):
				want = "s"
			}
			if got := panel.FieldConfig.Defaults.Unit; got != want {
				t.Errorf("%s: the unit is %q, and %s is in %q", panel.Title, got, target.Expr, want)
			}
		}
	}
}

// The two numbers at the top are read by their color: any use of CAP_SYS_ADMIN
// stands out, and so does a fleet of which nothing is watched.
func TestColors(t *testing.T) {
	t.Parallel()
	want := map[string][2]string{"Programs that used it": {"green", "orange"}, "Machines watched": {"red", "green"}}
	for _, panel := range read(t).Panels {
		if panel.Type != "stat" {
			continue
		}
		colors, known := want[panel.Title]
		delete(want, panel.Title)
		steps := panel.FieldConfig.Defaults.Thresholds.Steps
		if !known || len(steps) != 2 || steps[0].Color != colors[0] || steps[0].Value != nil ||
			steps[1].Color != colors[1] || steps[1].Value == nil || *steps[1].Value != 1 {
			t.Errorf("%s: %s below 1 and %s from there on are wanted, not %+v", panel.Title, colors[0], colors[1], steps)
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
	for _, panel := range read(t).Panels {
		for _, target := range panel.Targets {
			counts := strings.Contains(target.Expr, "_checks_total") || strings.Contains(target.Expr, "first_seconds")
			if panel.Type == "table" && counts && !strings.HasPrefix(target.Expr, "sort_desc(") && !strings.HasPrefix(target.Expr, "topk(") {
				t.Errorf("%s: %s", panel.Title, target.Expr)
			}
		}
	}
}

// A panel outside of the 24 columns, or on top of another, is one nobody sees.
func TestGrid(t *testing.T) {
	t.Parallel()
	taken := map[[2]int]string{}
	for _, panel := range read(t).Panels {
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
}

// Without the uid an import makes a second dashboard each time, and links to
// the first one break.
func TestIdentity(t *testing.T) {
	t.Parallel()
	d := read(t)
	if d.UID != "capability-exporter" || d.Title == "" {
		t.Errorf("uid %q, title %q", d.UID, d.Title)
	}
}

func TestVariables(t *testing.T) {
	t.Parallel()
	d := read(t)
	// Each follows those that are chosen before it. All is .*, not the list of
	// what there is: a list of all workloads of a fleet is too long for a query.
	want := map[string]string{
		"job":      `label_values(capability_exporter_build_info, job)`,
		"instance": `label_values(capability_exporter_build_info{job=~"$job"}, instance)`,
		"workload": `label_values(capability_workload_checks_total{job=~"$job", instance=~"$instance"}, workload)`,
	}
	for _, variable := range d.Templating.List {
		if variable.Name == "datasource" {
			if variable.Type != "datasource" || variable.Query != "prometheus" {
				t.Errorf("the data source is a %s of %v", variable.Type, variable.Query)
			}
			continue
		}
		definition, known := want[variable.Name]
		delete(want, variable.Name)
		if !known || variable.Type != "query" || variable.Definition != definition {
			t.Errorf("%s: %s %q, want %q", variable.Name, variable.Type, variable.Definition, definition)
		}
		if query, ok := variable.Query.(map[string]any); !ok || query["query"] != variable.Definition {
			t.Errorf("%s: its definition is %q, and it runs %v", variable.Name, variable.Definition, variable.Query)
		}
		if variable.AllValue != ".*" || !variable.IncludeAll || !variable.Multi || variable.Refresh != 2 {
			t.Errorf("%s: all %t (%q), several %t, read again %d", variable.Name, variable.IncludeAll, variable.AllValue, variable.Multi, variable.Refresh)
		}
	}
	if len(want) > 0 {
		t.Errorf("not there: %v", want)
	}
}

// A query that leaves out the machine's variable shows other machines' values
// under the chosen one's name.
func TestQueries(t *testing.T) {
	t.Parallel()
	d := read(t)
	for _, query := range d.Queries() {
		if query.Expr == "" {
			t.Errorf("%s: empty", query.Where)
		}
		if query.Where == "annotations" {
			continue // alerts of all machines
		}
		if strings.Contains(query.Expr, "identity:") {
			continue // recorded of a cluster, and of no machine
		}
		if selectors, chosen := strings.Count(query.Expr, "{"), strings.Count(query.Expr, `job=~"$job", instance=~"$instance"`); selectors != chosen {
			t.Errorf("%s: %d of %d selectors follow the variables: %s", query.Where, chosen, selectors, query.Expr)
		}
		if left := d.Substitute(query.Expr, "1m", "1h"); strings.Contains(left, "$") {
			t.Errorf("%s: variable left after substitution: %s", query.Where, left)
		}
	}
}

func checkDatasource(t *testing.T, d *Datasource) {
	t.Helper()
	if d == nil || d.Type != "prometheus" || d.UID != "${datasource}" {
		t.Errorf("data source is %+v, not the variable", d)
	}
}

func read(t *testing.T) *Dashboard {
	t.Helper()
	d, err := Capabilities()
	if err != nil {
		t.Fatal(err)
	}
	return d
}
