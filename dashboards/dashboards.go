// Package dashboards holds the Grafana dashboard, and reads it for the tests
// that check it and run its queries.
package dashboards

import (
	_ "embed" // for capabilities.json
	"encoding/json"
	"fmt"
	"strings"
)

//go:embed capabilities.json
var capabilities []byte

// Dashboard is what the tests look at of Grafana's dashboard model.
type Dashboard struct {
	UID        string  `json:"uid"`
	Title      string  `json:"title"`
	Panels     []Panel `json:"panels"`
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
	} `json:"fieldConfig"`
	Targets []Target `json:"targets"`
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
	Type       string `json:"type"`       // "query" or "datasource"
	Definition string `json:"definition"` // of a query: label_values(SELECTOR, LABEL)
	AllValue   string `json:"allValue"`
	Multi      bool   `json:"multi"`
	IncludeAll bool   `json:"includeAll"`
	Refresh    int    `json:"refresh"` // 2: when the time range changes, too
	// Query is what Grafana runs, which says the same as Definition.
	Query any `json:"query"`
}

// Capabilities reads capabilities.json.
func Capabilities() (*Dashboard, error) {
	var d Dashboard
	if err := json.Unmarshal(capabilities, &d); err != nil {
		return nil, fmt.Errorf("reading capabilities.json: %w", err)
	}
	return &d, nil
}

// Query is an expression of the dashboard and where it stands.
type Query struct {
	Where   string // the panel's title and the query's letter
	Expr    string
	Instant bool // asked for at one time, not over a range
}

// Queries returns all expressions, those of the annotations too, as they stand
// in the dashboard.
func (d *Dashboard) Queries() []Query {
	var queries []Query
	for _, panel := range d.Panels {
		for _, target := range panel.Targets {
			queries = append(queries, Query{Where: panel.Title + " " + target.RefID, Expr: target.Expr, Instant: target.Instant})
		}
	}
	for _, annotation := range d.Annotations.List {
		queries = append(queries, Query{Where: "annotations", Expr: annotation.Expr})
	}
	return queries
}

// Substitute does what Grafana does before it sends a query: it puts values in
// place of the variables, each variable of the dashboard standing at All.
// rateInterval and timeRange are PromQL durations.
func (d *Dashboard) Substitute(expr, rateInterval, timeRange string) string {
	pairs := []string{"$__rate_interval", rateInterval, "$__range", timeRange}
	for _, variable := range d.Templating.List {
		pairs = append(pairs, "$"+variable.Name, variable.AllValue)
	}
	return strings.NewReplacer(pairs...).Replace(expr)
}
