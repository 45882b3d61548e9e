// Package dashboards holds the Grafana dashboards, and reads them for the tests
// that check them and run their queries.
package dashboards

import (
	"embed"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

//go:embed *.json
var files embed.FS

// Dashboard is what the tests look at of Grafana's dashboard model.
type Dashboard struct {
	Name       string   `json:"-"` // of its file
	UID        string   `json:"uid"`
	Title      string   `json:"title"`
	Editable   bool     `json:"editable"`
	Panels     []Panel  `json:"panels"`
	Links      []Link   `json:"links"`
	Tags       []string `json:"tags"`
	Templating struct {
		List []Variable `json:"list"`
	} `json:"templating"`
	Annotations struct {
		List []Target `json:"list"`
	} `json:"annotations"`
}

// Panel is one panel, or the title of a row of panels.
type Panel struct {
	ID          int         `json:"id"`
	Type        string      `json:"type"` // "row" for a row's title
	Title       string      `json:"title"`
	Description string      `json:"description"`
	Datasource  *Datasource `json:"datasource"`
	GridPos     struct {
		H, W, X, Y int
	} `json:"gridPos"`
	FieldConfig struct {
		Defaults struct {
			Unit       string `json:"unit"`
			NoValue    string `json:"noValue"`
			Thresholds struct {
				Steps []Threshold `json:"steps"`
			} `json:"thresholds"`
		} `json:"defaults"`
		Overrides []struct {
			Matcher    Matcher    `json:"matcher"`
			Properties []Property `json:"properties"`
		} `json:"overrides"`
	} `json:"fieldConfig"`
	Transformations []struct {
		ID      string         `json:"id"`
		Options map[string]any `json:"options"`
	} `json:"transformations"`
	Options struct {
		SortBy []struct {
			Desc bool `json:"desc"`
		} `json:"sortBy"`
	} `json:"options"`
	Targets []Target `json:"targets"`
}

// Matcher is which columns or lines an override is for.
type Matcher struct {
	ID      string `json:"id"`
	Options any    `json:"options"`
}

// Property is what an override sets.
type Property struct {
	ID    string          `json:"id"`
	Value json.RawMessage `json:"value"`
}

// Link leads to other dashboards.
type Link struct {
	Type        string   `json:"type"`
	Tags        []string `json:"tags"`
	IncludeVars bool     `json:"includeVars"`
	KeepTime    bool     `json:"keepTime"`
}

var bounds = regexp.MustCompile(`\b(?:(\d+)|(\d+) rows and (\d+) columns) at most\.`)

// Most is how many rows, lines or cells the panel says that it shows at most; a
// number is one. It is 0 if it does not say.
func (p *Panel) Most() int {
	if p.Type == "stat" {
		return 1
	}
	match := bounds.FindStringSubmatch(p.Description)
	if match == nil {
		return 0
	}
	most := 1
	for _, digits := range match[1:] {
		if n, err := strconv.Atoi(digits); err == nil {
			most *= n
		}
	}
	return most
}

// Target is one query.
type Target struct {
	RefID      string      `json:"refId"`
	Expr       string      `json:"expr"`
	Datasource *Datasource `json:"datasource"`
	Instant    bool        `json:"instant"`
	Range      bool        `json:"range"`
	Format     string      `json:"format"`
	Legend     string      `json:"legendFormat"`
}

// Threshold is the color that a panel has from a value on; without one, below all others.
type Threshold struct {
	Color string   `json:"color"`
	Value *float64 `json:"value"`
}

// Datasource names a data source by its uid.
type Datasource struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

// Variable is a variable of the dashboard, chosen at its top.
type Variable struct {
	Name       string `json:"name"`
	Label      string `json:"label"`
	Type       string `json:"type"`       // "query" or "datasource"
	Definition string `json:"definition"` // of a query: label_values(SELECTOR, LABEL)
	AllValue   string `json:"allValue"`
	Multi      bool   `json:"multi"`
	IncludeAll bool   `json:"includeAll"`
	Refresh    int    `json:"refresh"` // 2: when the time range changes, too
	// Query is what Grafana runs, which says the same as Definition.
	Query      any         `json:"query"`
	Datasource *Datasource `json:"datasource"`
}

// All reads the dashboards.
func All() ([]*Dashboard, error) {
	entries, err := files.ReadDir(".")
	if err != nil {
		return nil, fmt.Errorf("listing the dashboards: %w", err)
	}
	var all []*Dashboard
	for _, entry := range entries {
		text, err := files.ReadFile(entry.Name())
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", entry.Name(), err)
		}
		d := &Dashboard{Name: strings.TrimSuffix(entry.Name(), ".json")}
		if err := json.Unmarshal(text, d); err != nil {
			return nil, fmt.Errorf("reading %s: %w", entry.Name(), err)
		}
		all = append(all, d)
	}
	return all, nil
}

// Query is an expression of the dashboard and where it stands.
type Query struct {
	Where   string // the panel's title and the query's letter
	Expr    string
	Instant bool // asked for at one time, not over a range
	Most    int  // series that the panel may show
}

// Queries returns all expressions, those of the annotations too, as they stand
// in the dashboard.
func (d *Dashboard) Queries() []Query {
	var queries []Query
	for _, panel := range d.Panels {
		for _, target := range panel.Targets {
			queries = append(queries, Query{Where: panel.Title + " " + target.RefID, Expr: target.Expr, Instant: target.Instant, Most: panel.Most()})
		}
	}
	for _, annotation := range d.Annotations.List {
		queries = append(queries, Query{Where: "annotations", Expr: annotation.Expr, Most: 50})
	}
	return queries
}

// Substitute does what Grafana does before it sends a query: it puts values in
// place of the variables. Those that are not chosen stand at All, and have all
// values where there is no All. What is chosen stands for itself in a regular
// expression between quotes. rateInterval and timeRange are PromQL durations.
func (d *Dashboard) Substitute(expr, rateInterval, timeRange string, chosen map[string]string) string {
	pairs := []string{"$__rate_interval", rateInterval, "$__range", timeRange}
	for _, variable := range d.Templating.List {
		value, ok := chosen[variable.Name]
		switch {
		case ok:
			value = strings.ReplaceAll(regexp.QuoteMeta(value), `\`, `\\`)
		case variable.IncludeAll:
			value = variable.AllValue
		default:
			value = ".+"
		}
		pairs = append(pairs, "$"+variable.Name, value)
	}
	return strings.NewReplacer(pairs...).Replace(expr)
}
