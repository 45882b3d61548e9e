package dashboards

import (
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
			}
		})
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
	names := map[string]bool{}
	for _, variable := range d.Templating.List {
		names[variable.Name] = true
		if variable.Type == "query" && (variable.Definition == "" || variable.AllValue != ".*") {
			t.Errorf("%s: definition %q, all stands for %q", variable.Name, variable.Definition, variable.AllValue)
		}
	}
	for _, name := range []string{"datasource", "job", "instance", "workload"} {
		if !names[name] {
			t.Errorf("variable %s is missing", name)
		}
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
