package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/table"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

// The dashboards, by the names of their files.
const (
	fleetBoard    = "fleet"
	workloadBoard = "workload"
	nodeBoard     = "node"
	healthBoard   = "health"
)

// uid is what alerts link to, and what a dashboard is called in Grafana's addresses.
func uid(board string) string { return "capability-exporter-" + board }

// tag is what the dashboards know each other by.
const tag = "capability_exporter"

// source is the data source that is chosen at a dashboard's top.
func source() common.DataSourceRef {
	return common.DataSourceRef{Type: new("prometheus"), Uid: new("${datasource}")}
}

// dashboards are all that are made.
func (c config) dashboards() []*board {
	return []*board{c.fleet(), c.workload(), c.node(), c.health()}
}

// A board is a dashboard that is made.
type board struct {
	name    string // of its file
	cluster string // the label that tells clusters apart
	*dashboard.DashboardBuilder
}

// json is the dashboard as Grafana imports it.
func (b *board) json() ([]byte, error) {
	built, err := b.Build()
	if err != nil {
		return nil, fmt.Errorf("building it: %w", err)
	}
	for n, p := range built.Panels { // an alert's or a reader's link names a panel by its number
		if p.Panel != nil {
			p.Panel.Id = new(uint32(n + 1))
		} else {
			p.RowPanel.Id = uint32(n + 1)
		}
	}
	text, err := json.MarshalIndent(built, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("writing it: %w", err)
	}
	// For people to read: what HTML would need is written as it is. No query has a backslash before such a code.
	plainly := strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&").Replace(string(text))
	return []byte(plainly + "\n"), nil
}

// board has what all have: the choice of a data source, a cluster and a job, the
// way to the others, the same time, the pages as marks on it.
func (c config) board(name, title, description string) *board {
	b := &board{name, c.Cluster, dashboard.NewDashboardBuilder("Capabilities: " + title)} //nolint:staticcheck // what takes its place makes what only newer versions of Grafana read
	b.Uid(uid(name)).
		Description(description).
		Tags([]string{tag, "security"}).
		Readonly().
		Tooltip(dashboard.DashboardCursorSyncCrosshair).
		Timezone(common.TimeZoneBrowser).
		Refresh("1m").
		Time("now-6h", "now").
		Link(dashboard.NewDashboardLinkBuilder("Capabilities").
			Type(dashboard.DashboardLinkTypeDashboards).
			Tags([]string{tag}).
			IncludeVars(true).
			KeepTime(true)).
		WithVariable(dashboard.NewDatasourceVariableBuilder("datasource").Label("Data source").Type("prometheus")).
		Annotation(dashboard.NewAnnotationQueryBuilder().
			Name("Alerts").
			Datasource(source()).
			IconColor("red").
			Expr(b.fill(`topk(50, ALERTS{alertname=~"Capability.*", alertstate="firing", severity="critical", <<cluster>>=~"$cluster"})`)).
			TitleFormat("{{alertname}}").
			TextFormat("{{process}} {{namespace}} {{owner}} {{workload}} {{instance}}").
			Step("1m"))
	return b.
		choose("cluster", "Cluster", `label_values(capability_exporter_build_info, <<cluster>>)`, orNone).
		choose("job", "Job", `label_values(capability_exporter_build_info{<<cluster>>=~"$cluster"}, job)`, some)
}

// fill puts in what <<words>> stand for: the variables as a selector has them.
func (b *board) fill(text string) string {
	fleet := b.cluster + `=~"$cluster", job=~"$job"`
	return strings.NewReplacer(
		"<<fleet>>", fleet,
		"<<node>>", fleet+`, instance=~"$instance"`,
		"<<workload>>", fleet+`, instance=~"$instance", workload=~"$workload"`,
		"<<owner>>", fleet+`, namespace=~"$namespace", owner=~"$owner"`,
		"<<cluster>>", b.cluster,
	).Replace(text)
}

// What All stands for.
const (
	some    = ".+"
	orNone  = ".*" // also what has no such label
	nothing = ""   // there is no All
)

// choose adds a variable of which several values can be chosen, or All.
func (b *board) choose(name, label, query, all string) *board {
	query = b.fill(query)
	v := dashboard.NewQueryVariableBuilder(name).
		Label(label).
		Datasource(source()).
		Definition(query).
		Query(dashboard.StringOrMap{Map: map[string]any{"qryType": 1, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"}}).
		Refresh(dashboard.VariableRefreshOnTimeRangeChanged).
		Sort(dashboard.VariableSortAlphabeticalAsc).
		Multi(true)
	if all != nothing {
		v.IncludeAll(true).
			AllValue(all).
			Current(dashboard.VariableOption{
				Selected: new(true),
				Text:     dashboard.StringOrArrayOfString{ArrayOfString: []string{"All"}},
				Value:    dashboard.StringOrArrayOfString{ArrayOfString: []string{"$__all"}},
			})
	}
	b.WithVariable(v)
	return b
}

// row begins a row of panels.
func (b *board) row(title string) *board {
	b.WithRow(dashboard.NewRowBuilder(title))
	return b
}

// A panel is what every panel has: what an empty one shows says what that means.
type panel struct {
	title, description, unit, empty string
	width, height                   uint32
	most                            int // rows, lines or names that it shows, which the description says
}

// A shaped builder is one of whatever kind of panel.
type shaped[B any] interface {
	Title(title string) B
	Description(description string) B
	Datasource(source common.DataSourceRef) B
	Unit(unit string) B
	NoValue(text string) B
	Span(width uint32) B
	Height(height uint32) B
}

func shape[B shaped[B]](p panel, builder B) B {
	if p.most > 0 {
		p.description += fmt.Sprintf(" %d at most.", p.most)
	}
	return builder.
		Title(p.title).
		Description(p.description).
		Datasource(source()).
		Unit(p.unit).
		NoValue(p.empty).
		Span(p.width).
		Height(p.height)
}

type query struct{ expr, legend string }

// top are the series of an expression with some labels that count most over the
// whole time range, those among them that ended within it. A topk alone would
// choose anew at each point, and show many more in all.
func top(most int, by, expr, over string) string {
	return fmt.Sprintf("%s and on (%s) topk(%d, %s)", expr, by, most, over)
}

// topRate is top of the sum of counters' rates.
func topRate(most int, by, counters string) string { //nolint:unparam // how many there are is said where a panel is
	sum := func(window string) string { return fmt.Sprintf("sum by (%s) (rate(%s[%s))", by, counters, window) }
	return top(most, by, sum("$__rate_interval]"), sum("$__range] @ end()"))
}

// graph shows how much over time.
func (b *board) graph(p panel, queries ...query) *board {
	return b.lines(p, common.StackingModeNone, 5, queries)
}

// stacked is a graph of parts of a whole.
func (b *board) stacked(p panel, queries ...query) *board {
	return b.lines(p, common.StackingModeNormal, 20, queries)
}

func (b *board) lines(p panel, stacking common.StackingMode, fill float64, queries []query) *board {
	graph := shape(p, timeseries.NewPanelBuilder()).
		Min(0).
		DrawStyle(common.GraphDrawStyleLine).
		FillOpacity(fill).
		LineWidth(1).
		ShowPoints(common.VisibilityModeAuto).
		Stacking(common.NewStackingConfigBuilder().Mode(stacking).Group("A")).
		Legend(common.NewVizLegendOptionsBuilder().
			DisplayMode(common.LegendDisplayModeTable).
			Placement(common.LegendPlacementBottom).
			ShowLegend(true).
			Calcs([]string{"mean", "max"}).
			SortBy("Max").
			SortDesc(true)).
		Tooltip(common.NewVizTooltipOptionsBuilder().
			Mode(common.TooltipDisplayModeMulti).
			Sort(common.SortOrderDescending))
	for n, q := range queries {
		graph.WithTarget(prometheus.NewDataqueryBuilder().
			Datasource(source()).
			RefId(string(rune('A' + n))).
			Expr(b.fill(q.expr)).
			LegendFormat(b.fill(q.legend)).
			Range())
	}
	b.WithPanel(graph)
	return b
}

// number shows one, in one color below 1 and in another from there on.
func (b *board) number(p panel, expr, below, from string) *board {
	b.WithPanel(shape(p, stat.NewPanelBuilder()).
		ColorMode(common.BigValueColorModeValue).
		GraphMode(common.BigValueGraphModeNone).
		Orientation(common.VizOrientationAuto).
		ReduceOptions(common.NewReduceDataOptionsBuilder().Calcs([]string{"lastNotNull"}).Values(false)).
		ColorScheme(dashboard.NewFieldColorBuilder().Mode(dashboard.FieldColorModeIdThresholds)).
		Thresholds(steps(below, from)).
		WithTarget(b.instant(expr)))
	return b
}

func steps(below, from string) *dashboard.ThresholdsConfigBuilder {
	return dashboard.NewThresholdsConfigBuilder().
		Mode(dashboard.ThresholdsModeAbsolute).
		Steps([]dashboard.Threshold{{Color: below}, {Color: from, Value: new(1.0)}})
}

// table lists series, those first that are chosen first. value is what the value is called; "" leaves it out.
func (b *board) table(p panel, expr, value string) *board {
	hidden, names := map[string]bool{"Time": true}, map[string]string{}
	if value == "" {
		hidden["Value"], value = true, "Value"
	} else {
		names["Value"] = value
	}
	b.WithPanel(linked(shape(p, table.NewPanelBuilder())).
		ShowHeader(true).
		CellHeight(common.TableCellHeightSm).
		SortBy([]cog.Builder[common.TableSortByFieldState]{common.NewTableSortByFieldStateBuilder().DisplayName(value).Desc(!strings.HasPrefix(expr, "bottomk("))}).
		WithTransformation(dashboard.DataTransformerConfig{
			Id:      "organize",
			Options: map[string]any{"excludeByName": hidden, "indexByName": map[string]int{}, "renameByName": names},
		}).
		WithTarget(b.instant(expr).Format(prometheus.PromQueryFormatTable)))
	return b
}

// matrix is a heat map of names: a table with a row for each value of one label
// and a column for each of another, and the darker the more.
func (b *board) matrix(p panel, expr, rows, columns string) *board {
	b.WithPanel(shape(p, table.NewPanelBuilder()).
		ShowHeader(true).
		CellHeight(common.TableCellHeightSm).
		Decimals(0).
		CellOptions(common.TableCellOptions{TableColoredBackgroundCellOptions: common.NewTableColoredBackgroundCellOptions()}).
		ColorScheme(dashboard.NewFieldColorBuilder().Mode("continuous-YlRd")).
		OverrideByName(rows+`\`+columns, []dashboard.DynamicConfigValue{ // the rows' names
			{Id: "custom.cellOptions", Value: map[string]any{"type": "auto"}},
		}).
		WithTransformation(dashboard.DataTransformerConfig{
			Id:      "groupingToMatrix",
			Options: map[string]any{"rowField": rows, "columnField": columns, "valueField": "Value", "emptyValue": "null"},
		}).
		WithTarget(b.instant(expr).Format(prometheus.PromQueryFormatTable)))
	return b
}

// linked leads from an owner to its dashboard, and from a machine to its own. What else is chosen stays.
func linked(t *table.PanelBuilder) *table.PanelBuilder {
	for _, link := range []struct{ column, board, variable string }{
		{"owner", workloadBoard, "owner"}, {"instance", nodeBoard, "instance"}, {"node", nodeBoard, "instance"},
	} {
		t.OverrideByName(link.column, []dashboard.DynamicConfigValue{{Id: "links", Value: []map[string]any{{
			"title": "Capabilities: " + link.board,
			"url":   "/d/" + uid(link.board) + "?${datasource:queryparam}&${cluster:queryparam}&${job:queryparam}&${__url_time_range}&var-" + link.variable + "=${__value.text}",
		}}}})
	}
	return t
}

func (b *board) instant(expr string) *prometheus.DataqueryBuilder {
	return prometheus.NewDataqueryBuilder().Datasource(source()).RefId("A").Expr(b.fill(expr)).Instant()
}
