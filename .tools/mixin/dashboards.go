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

// dashboardUID is what alerts link to, and what a dashboard is called in Grafana's addresses.
const dashboardUID = "capability-exporter"

// source is the data source that is chosen at a dashboard's top.
func source() common.DataSourceRef {
	return common.DataSourceRef{Type: cog.ToPtr("prometheus"), Uid: cog.ToPtr("${datasource}")}
}

// A builtDashboard is one with the name of its file.
type builtDashboard struct {
	name    string
	builder *dashboard.DashboardBuilder
}

// json is the dashboard as Grafana imports it.
func (d builtDashboard) json() ([]byte, error) {
	built, err := d.builder.Build()
	if err != nil {
		return nil, fmt.Errorf("building it: %w", err)
	}
	for n, p := range built.Panels { // an alert's or a reader's link names a panel by its number
		if p.Panel != nil {
			p.Panel.Id = cog.ToPtr(uint32(n + 1))
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

// newDashboard has what all have: the choice of a data source, the same time, the pages as marks on it.
func newDashboard(uid, title, description string) *dashboard.DashboardBuilder {
	return dashboard.NewDashboardBuilder(title).
		Uid(uid).
		Description(description).
		Tags([]string{"capability_exporter", "security"}).
		Editable().
		Tooltip(dashboard.DashboardCursorSyncCrosshair).
		Timezone(common.TimeZoneBrowser).
		Refresh("1m").
		Time("now-6h", "now").
		WithVariable(dashboard.NewDatasourceVariableBuilder("datasource").Label("Data source").Type("prometheus")).
		Annotation(dashboard.NewAnnotationQueryBuilder().
			Name("Alerts").
			Datasource(source()).
			IconColor("red").
			Expr(`ALERTS{alertname=~"Capability.*", alertstate="firing", severity="critical"}`).
			TitleFormat("{{alertname}}").
			TextFormat("{{process}} {{namespace}} {{owner}} {{workload}} {{instance}}").
			Step("1m"))
}

// choice is a variable of which several values can be chosen, or All.
func choice(name, label, query string) *dashboard.QueryVariableBuilder {
	return dashboard.NewQueryVariableBuilder(name).
		Label(label).
		Datasource(source()).
		Definition(query).
		Query(dashboard.StringOrMap{Map: map[string]any{"qryType": 1, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"}}).
		Refresh(dashboard.VariableRefreshOnTimeRangeChanged).
		Sort(dashboard.VariableSortAlphabeticalAsc).
		Multi(true).
		IncludeAll(true).
		AllValue(".*").
		Current(dashboard.VariableOption{
			Selected: cog.ToPtr(true),
			Text:     dashboard.StringOrArrayOfString{ArrayOfString: []string{"All"}},
			Value:    dashboard.StringOrArrayOfString{ArrayOfString: []string{"$__all"}},
		})
}

// A panel is what every panel has: what an empty one shows says what that means.
type panel struct {
	title, description, unit, empty string
	width, height                   uint32
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

// graph shows how much over time.
func (p panel) graph(queries ...query) *timeseries.PanelBuilder {
	return p.lines(common.StackingModeNone, 5, queries)
}

// stacked is a graph of parts of a whole.
func (p panel) stacked(queries ...query) *timeseries.PanelBuilder {
	return p.lines(common.StackingModeNormal, 20, queries)
}

func (p panel) lines(stacking common.StackingMode, fill float64, queries []query) *timeseries.PanelBuilder {
	b := shape(p, timeseries.NewPanelBuilder()).
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
		b.WithTarget(prometheus.NewDataqueryBuilder().
			Datasource(source()).
			RefId(string(rune('A' + n))).
			Expr(q.expr).
			LegendFormat(q.legend).
			Range())
	}
	return b
}

// number shows one, in one color below 1 and in another from there on.
func (p panel) number(expr, below, from string) *stat.PanelBuilder {
	return shape(p, stat.NewPanelBuilder()).
		ColorMode(common.BigValueColorModeValue).
		GraphMode(common.BigValueGraphModeNone).
		Orientation(common.VizOrientationAuto).
		ReduceOptions(common.NewReduceDataOptionsBuilder().Calcs([]string{"lastNotNull"}).Values(false)).
		ColorScheme(dashboard.NewFieldColorBuilder().Mode(dashboard.FieldColorModeIdThresholds)).
		Thresholds(dashboard.NewThresholdsConfigBuilder().
			Mode(dashboard.ThresholdsModeAbsolute).
			Steps([]dashboard.Threshold{{Color: below}, {Color: from, Value: cog.ToPtr(1.0)}})).
		WithTarget(instant(expr))
}

// table lists series, those with the highest value first. value is what the value is called; "" leaves it out.
func (p panel) table(expr, value string) *table.PanelBuilder {
	hidden, names := map[string]bool{"Time": true}, map[string]string{}
	if value == "" {
		hidden["Value"], value = true, "Value"
	} else {
		names["Value"] = value
	}
	return shape(p, table.NewPanelBuilder()).
		ShowHeader(true).
		CellHeight(common.TableCellHeightSm).
		SortBy([]cog.Builder[common.TableSortByFieldState]{common.NewTableSortByFieldStateBuilder().DisplayName(value).Desc(true)}).
		WithTransformation(dashboard.DataTransformerConfig{
			Id:      "organize",
			Options: map[string]any{"excludeByName": hidden, "indexByName": map[string]int{}, "renameByName": names},
		}).
		WithTarget(instant(expr).Format(prometheus.PromQueryFormatTable))
}

func instant(expr string) *prometheus.DataqueryBuilder {
	return prometheus.NewDataqueryBuilder().Datasource(source()).RefId("A").Expr(expr).Instant()
}
