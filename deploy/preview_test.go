package deploy

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"html/template"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"capability_exporter/dashboards"
)

var preview = flag.String("preview", "", "draw the fleet's dashboard into this `file` (PNG)")

// TestPreview draws what the fleet's dashboard shows of a fleet that is made up,
// for README: what a real Prometheus answers, in the panels' places and units.
// It is not Grafana that draws it.
func TestPreview(t *testing.T) {
	if *preview == "" {
		t.Skip("only with -preview")
	}
	all, err := dashboards.All()
	if err != nil {
		t.Fatal(err)
	}
	d := all[slices.IndexFunc(all, func(d *dashboards.Dashboard) bool { return d.Name == "fleet" })]
	prometheus := serveFleet(t, likelyFleet(), func(name string) string { return program(t, name) })
	var drawn []drawnPanel
	height := 0
	for _, panel := range d.Panels {
		p := drawnPanel{Panel: panel}
		height = max(height, panel.GridPos.Y+panel.GridPos.H)
		for _, target := range panel.Targets {
			p.answer(t, prometheus, d.Substitute(target.Expr, seconds(rateSteps), seconds(rangeSteps), nil))
		}
		drawn = append(drawn, p)
	}
	page := filepath.Join(t.TempDir(), "page.html")
	file, err := os.Create(page)
	if err != nil {
		t.Fatal(err)
	}
	if err := previewPage.Execute(file, map[string]any{"Title": d.Title, "Panels": drawn}); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	picture, err := filepath.Abs(*preview)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, program(t, "chromium"), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--user-data-dir="+t.TempDir(),
		fmt.Sprint("--window-size=1600,", 90+30*height), "--screenshot="+picture, "file://"+page).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// drawnPanel is a panel with what it shows.
type drawnPanel struct {
	dashboards.Panel

	Columns []string
	Rows    []drawnRow
}

type drawnRow struct {
	Cells []string
	Share []float64 // of the highest value, where cells are coloured by it
	value float64
}

// answer asks for a panel's query and lays its series out as rows.
func (p *drawnPanel) answer(t *testing.T, prometheus *prometheusServer, expr string) {
	t.Helper()
	all, err := prometheus.samples(t.Context(), "query", url.Values{"query": {expr}, "time": {strconv.Itoa(end)}})
	if err != nil {
		t.Fatalf("%s: %v", p.Title, err)
	}
	columns := func(names ...string) []string {
		return slices.DeleteFunc(names, func(name string) bool {
			return !slices.ContainsFunc(all, func(s sample) bool { return s.labels[name] != "" })
		})
	}
	if len(columns("who")) > 0 {
		p.matrix(all)
		return
	}
	p.Columns = columns("state", "cluster", "namespace", "owner", "node", "process", "capability")
	for _, s := range all {
		row := drawnRow{value: s.value}
		for _, column := range p.Columns {
			row.Cells = append(row.Cells, s.labels[column])
		}
		if p.Value() != "" {
			row.Cells = append(row.Cells, inUnit(s.value, p.FieldConfig.Defaults.Unit))
		}
		p.Rows = append(p.Rows, row)
	}
	p.sort()
}

// matrix lays them out by who and by capability.
func (p *drawnPanel) matrix(all []sample) {
	byRow, columns, highest := map[string]map[string]float64{}, map[string]bool{}, 0.0
	for _, s := range all {
		who, capability := s.labels["who"], s.labels["capability"]
		if byRow[who] == nil {
			byRow[who] = map[string]float64{}
		}
		byRow[who][capability], columns[capability] = s.value, true
		highest = max(highest, s.value)
	}
	p.Columns = slices.Sorted(maps.Keys(columns))
	for who, cells := range byRow {
		row := drawnRow{Cells: []string{who}, Share: []float64{0}}
		for _, capability := range p.Columns {
			text := ""
			if value, has := cells[capability]; has {
				text = inUnit(value, "none")
				row.value += value
			}
			row.Cells, row.Share = append(row.Cells, text), append(row.Share, cells[capability]/highest)
		}
		p.Rows = append(p.Rows, row)
	}
	p.sort()
}

// sort puts those with the most first.
func (p *drawnPanel) sort() {
	slices.SortStableFunc(p.Rows, func(a, b drawnRow) int { return cmp.Compare(b.value, a.value) })
}

func inUnit(value float64, unit string) string {
	switch unit {
	case "dateTimeFromNow":
		return strings.TrimSuffix((time.Duration(end-value/1000)*time.Second).Round(time.Minute).String(), "0s") + " ago"
	case "percentunit":
		return strconv.FormatFloat(value*100, 'f', 0, 64) + " %"
	}
	return strconv.FormatFloat(value, 'f', 0, 64)
}

var previewPage = template.Must(template.New("").Parse(`<!DOCTYPE html><meta charset="utf-8"><style>
body { background: #111217; color: #ccccdc; font: 13px sans-serif; margin: 12px }
main { display: grid; grid-template-columns: repeat(24, 1fr); grid-auto-rows: 22px; gap: 8px }
section { background: #181b1f; border: 1px solid #2c3235; padding: 8px; overflow: hidden }
.row { background: none; border: none; font-size: 15px }
h2 { font-size: 13px; margin: 0 0 6px } b { font-size: 48px }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; padding: 3px 6px; border-bottom: 1px solid #2c3235; white-space: nowrap }
th { color: #6e9fff; font-weight: 500 } td:last-child, th:last-child { text-align: right } .matrix td { text-align: right } .matrix td:first-child { text-align: left }
</style><h1>{{.Title}}</h1><main>{{range .Panels}}<section class="{{.Type}}" style="grid-area: {{.Row}} / {{.Column}} / span {{.GridPos.H}} / span {{.GridPos.W}}"><h2>{{.Title}}</h2>
{{if eq .Type "stat"}}{{$panel := .}}{{range .Rows}}<b style="color: {{$panel.Color .}}">{{index .Cells 0}}</b>{{end}}
{{else if eq .Type "table"}}<table{{if .IsMatrix}} class="matrix"{{end}}><tr>{{if .IsMatrix}}<th>{{end}}{{range .Columns}}<th>{{.}}{{end}}{{if and .Value (not .IsMatrix)}}<th>{{.Value}}{{end}}</tr>
{{range .Rows}}<tr>{{$row := .}}{{range $n, $text := .Cells}}<td{{if $row.Share}} style="background: rgba(242, 73, 92, {{index $row.Share $n}})"{{end}}>{{$text}}{{end}}</tr>{{end}}</table>
{{end}}</section>{{end}}</main>`))

// Row and Column are where the grid has the panel: there they count from 1.
func (p drawnPanel) Row() int { return p.GridPos.Y + 1 }

// Column is that of its left side.
func (p drawnPanel) Column() int { return p.GridPos.X + 1 }

// Color is that of a number.
func (p drawnPanel) Color(row drawnRow) string {
	color := ""
	for _, step := range p.FieldConfig.Defaults.Thresholds.Steps {
		if step.Value == nil || row.value >= *step.Value {
			color = step.Color
		}
	}
	return color
}

// Value is what values are called; "" leaves them out.
func (p drawnPanel) Value() string {
	if p.Type != "table" {
		return "value"
	}
	names, _ := p.Transformations[0].Options["renameByName"].(map[string]any)
	name, _ := names["Value"].(string)
	return name
}

// IsMatrix tells whether its cells are coloured.
func (p drawnPanel) IsMatrix() bool { return len(p.Rows) > 0 && len(p.Rows[0].Share) > 0 }

// likelyFleet is one as it might be: two clusters, some units and Deployments.
func likelyFleet() fleet {
	f := &maker{}
	for _, node := range []labels{{"cluster": "east", "instance": "node-1"}, {"cluster": "east", "instance": "node-2"}, {"cluster": "west", "instance": "node-1"}} {
		node["job"] = "capability_exporter"
		f.gauge("up", 1, node, nil)
		f.gauge("capability_exporter_build_info", 1, node, nil)
	}
	for _, node := range []labels{{"cluster": "east", "node": "node-1"}, {"cluster": "east", "node": "node-2"}, {"cluster": "east", "node": "gpu-1"}, {"cluster": "west", "node": "node-1"}} {
		f.gauge(nodes, 1, node, nil)
	}
	for _, cluster := range []string{"east", "west"} {
		f.gauge(memories, end-40*24*3600, labels{"cluster": cluster}, nil)
	}
	for _, use := range []struct {
		ago                          float64
		cluster, namespace, owner, p string
		capability                   string
	}{
		{2, "east", "shop", "checkout", "mount", "CAP_SYS_ADMIN"}, {9, "west", "", "backup.service", "lvcreate", "CAP_SYS_ADMIN"},
		{31, "east", "monitoring", "node-agent", "ss", "CAP_SYS_PTRACE"}, {76, "east", "kube-system", "cilium", "modprobe", "CAP_SYS_MODULE"},
	} {
		f.gauge(firstUses, end-use.ago*3600-300, labels{"cluster": use.cluster, "owner": use.owner, "process": use.p, "capability": use.capability}.withNamespace(use.namespace), nil)
	}
	for _, o := range []struct {
		cluster, namespace, owner string
		granted                   map[string]float64
		denied, avoidable         map[string]float64
		held                      []string
	}{
		{"east", "", "containerd.service", map[string]float64{"CAP_SYS_ADMIN": 5210, "CAP_NET_ADMIN": 830, "CAP_CHOWN": 212, "CAP_MKNOD": 180}, nil, nil, []string{"all"}},
		{"east", "", "nginx.service", map[string]float64{"CAP_NET_BIND_SERVICE": 12, "CAP_SETUID": 8, "CAP_SETGID": 8}, nil, nil, []string{"CAP_NET_BIND_SERVICE", "CAP_SETUID", "CAP_SETGID", "CAP_DAC_OVERRIDE"}},
		{"east", "", "rsyslog.service", map[string]float64{"CAP_SYS_ADMIN": 340, "CAP_SYSLOG": 40}, nil, map[string]float64{"CAP_SYSLOG": 340}, []string{"all"}},
		{"west", "", "backup.service", map[string]float64{"CAP_SYS_ADMIN": 96, "CAP_DAC_READ_SEARCH": 48200, "CAP_FOWNER": 310}, nil, nil, []string{"all"}},
		{"east", "shop", "checkout", map[string]float64{"CAP_SYS_ADMIN": 2, "CAP_CHOWN": 31}, map[string]float64{"CAP_NET_RAW": 14}, nil, []string{"CAP_CHOWN", "CAP_NET_RAW", "CAP_SETUID", "CAP_SETGID", "CAP_MKNOD", "CAP_KILL"}},
		{"east", "shop", "api", map[string]float64{"CAP_NET_BIND_SERVICE": 3}, map[string]float64{"CAP_SYS_NICE": 122}, nil, []string{"CAP_NET_BIND_SERVICE", "CAP_CHOWN", "CAP_SETUID"}},
		{"east", "monitoring", "node-agent", map[string]float64{"CAP_SYS_ADMIN": 1440, "CAP_SYS_PTRACE": 720, "CAP_DAC_READ_SEARCH": 2210}, nil, map[string]float64{"CAP_PERFMON": 980}, []string{"CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH", "CAP_NET_ADMIN"}},
		{"east", "kube-system", "cilium", map[string]float64{"CAP_NET_ADMIN": 9120, "CAP_BPF": 3100, "CAP_SYS_ADMIN": 75, "CAP_SYS_MODULE": 1}, nil, map[string]float64{"CAP_BPF": 12}, []string{"CAP_NET_ADMIN", "CAP_BPF", "CAP_SYS_ADMIN", "CAP_SYS_MODULE", "CAP_NET_RAW"}},
	} {
		owner := labels{"cluster": o.cluster, "job": "capability_exporter", "owner": o.owner}.withNamespace(o.namespace)
		for outcome, counts := range map[string]map[string]float64{"granted": o.granted, "denied": o.denied, "avoidable": o.avoidable} {
			for capability, count := range counts {
				l := line{metric: checks, labels: owner.with(labels{"process": "p", "capability": capability, "outcome": outcome}), gauge: count, last: steps, only: []int{steps - 4}}
				if outcome != "denied" {
					l.labels["scope"] = "host"
				}
				f.fleet = append(f.fleet, l)
			}
		}
		for capability := range o.granted {
			f.gauge(usedLast, end-600, owner, labels{"capability": capability})
		}
		for _, capability := range o.held {
			f.gauge(heldNow, 1, owner, labels{"capability": capability})
		}
	}
	return f.fleet
}

func (l labels) withNamespace(namespace string) labels {
	if namespace == "" {
		return l
	}
	return l.with(labels{"namespace": namespace})
}
