package deploy

import (
	"bytes"
	"cmp"
	"context"
	"flag"
	"fmt"
	"html/template"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"maps"
	"math"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"capability_exporter/dashboards"
)

var preview = flag.String("preview", "", "draw the dashboard that this `file` (PNG) is called by")

// TestPreview draws what a dashboard shows of a fleet that is made up, for README: what a real Prometheus answers, in the panels'
// places and units. It is not Grafana that draws it.
func TestPreview(t *testing.T) {
	if *preview == "" {
		t.Skip("only with -preview")
	}
	all, err := dashboards.All()
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(all, func(d *dashboards.Dashboard) bool { return d.Name+".png" == filepath.Base(*preview) })
	if at < 0 {
		t.Fatalf("no dashboard is drawn into %s", *preview)
	}
	d, made, chosen := all[at], likelyFleet(), choice{}
	switch d.Name {
	case "node":
		made, chosen = append(made, likelyMachine()...), choice{"cluster": "east", "instance": "node-1"}
	case "health":
		made = append(append(made, likelyMachine()...), likelyTrouble()...)
	case "workload":
		chosen = choice{"cluster": "east", "namespace": "monitoring", "owner": "node-agent"}
		counted := func(l line) bool { return l.metric == checks && l.labels["owner"] == chosen["owner"] } // at one time, and here all the time
		made = append(append(slices.DeleteFunc(made, counted), likelyMachine()...), likelyOwner()...)
	}
	prometheus := serveFleet(t, made, func(name string) string { return program(t, name) })
	var drawn []drawnPanel
	height := 0
	for _, panel := range d.Panels {
		p := drawnPanel{Panel: panel}
		height = max(height, panel.GridPos.Y+panel.GridPos.H)
		for _, target := range panel.Targets {
			expr := d.Substitute(target.Expr, seconds(rateSteps), fmt.Sprint(rangeSeconds, "s"), chosen)
			if panel.Type == "timeseries" {
				p.graph(t, prometheus, expr, target.Legend)
			} else {
				p.answer(t, prometheus, expr)
			}
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
	shrink(t, picture)
}

// shrink writes a picture again with the 256 colors that it has most of, which is half of what the browser writes.
func shrink(t *testing.T, path string) {
	t.Helper()
	drawn, err := png.Decode(strings.NewReader(read(t, path)))
	if err != nil {
		t.Fatal(err)
	}
	count, area := map[color.Color]int{}, drawn.Bounds()
	for y := range area.Dy() {
		for x := range area.Dx() {
			count[drawn.At(x, y)]++
		}
	}
	most := slices.SortedFunc(maps.Keys(count), func(a, b color.Color) int { return cmp.Compare(count[b], count[a]) })
	few := image.NewPaletted(area, most[:min(256, len(most))])
	draw.Draw(few, area, drawn, image.Point{}, draw.Src)
	var small bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&small, few); err != nil {
		t.Fatal(err)
	}
	write(t, path, small.String())
}

// drawnPanel is a panel with what it shows.
type drawnPanel struct {
	dashboards.Panel

	Columns []string
	Rows    []drawnRow
	Lines   []drawnLine
	highest float64
}

// drawnLine is one of a graph.
type drawnLine struct {
	Name, Max, Color string
	values           []float64 // by the number of the step, NaN where there is none
}

// graph asks for a query over the range.
func (p *drawnPanel) graph(t *testing.T, prometheus *prometheusServer, expr, legend string) {
	t.Helper()
	var data struct {
		Result []struct {
			Metric labels
			Values [][2]any
		}
	}
	over := url.Values{"query": {expr}, "start": {strconv.Itoa(end - rangeSteps*step)}, "end": {strconv.Itoa(end)}, "step": {strconv.Itoa(step)}}
	if err := prometheus.ask(t.Context(), "query_range", over, &data); err != nil {
		t.Fatalf("%s: %v", p.Title, err)
	}
	for _, series := range data.Result {
		name := regexp.MustCompile(`\{\{(\w+)\}\}`).ReplaceAllStringFunc(legend, func(label string) string { return series.Metric[strings.Trim(label, "{}")] })
		l := drawnLine{Name: name, values: slices.Repeat([]float64{math.NaN()}, rangeSteps+1)}
		highest := 0.0
		for _, sample := range series.Values {
			at, isTime := sample[0].(float64)
			value, err := strconv.ParseFloat(fmt.Sprint(sample[1]), 64)
			if !isTime || err != nil {
				t.Fatalf("%s: a sample %v", p.Title, sample)
			}
			l.values[(int(at)-end)/step+rangeSteps] = value
			highest = max(highest, value)
		}
		l.Max, p.highest = inUnit(highest, p.FieldConfig.Defaults.Unit), max(p.highest, highest)
		l.Color = []string{"#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#fade2a", "#37872d", "#ffa6b0"}[len(p.Lines)%10]
		p.Lines = append(p.Lines, l)
	}
}

// Path draws a line as SVG does, of a graph that is 1000 wide and 100 high.
func (p drawnPanel) Path(l drawnLine) string {
	path, begin := "", "M"
	for number, value := range l.values {
		if math.IsNaN(value) {
			begin = "M"
			continue
		}
		path += fmt.Sprintf("%s%d %.1f", begin, number*1000/rangeSteps, 100-97*value/max(p.highest, 1e-9))
		begin = "L"
	}
	return path
}

// Highest is what the top of a graph means.
func (p drawnPanel) Highest() string { return inUnit(p.highest, p.FieldConfig.Defaults.Unit) }

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
	p.Columns = columns("state", "cluster", "job", "namespace", "owner", "node", "instance", "workload", "process", "capability", "call_site", "scope", "result",
		"audited", "source", "audit", "cgroups", "lsm", "reason", "version", "lost", "rule_group")
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
		return short(value*100) + " %"
	case "cps":
		return short(value) + "/s"
	case "bytes":
		return strconv.FormatFloat(value/(1<<20), 'f', 0, 64) + " MiB"
	case "s":
		if value < 60 {
			return short(value) + " s"
		}
		return strconv.FormatFloat(value/3600/24, 'f', 1, 64) + " days"
	}
	return short(value)
}

// short is a number with three digits, or without decimals.
func short(value float64) string {
	if value >= 100 {
		return strconv.FormatFloat(value, 'f', 0, 64)
	}
	return strconv.FormatFloat(value, 'g', 3, 64)
}

var previewPage = template.Must(template.New("").Parse(`<!DOCTYPE html><meta charset="utf-8"><style>
body { background: #111217; color: #ccccdc; font: 13px sans-serif; margin: 12px }
main { display: grid; grid-template-columns: repeat(24, 1fr); grid-auto-rows: 22px; gap: 8px }
section { background: #181b1f; border: 1px solid #2c3235; padding: 8px; overflow: hidden }
.row { background: none; border: none; font-size: 15px }
h2 { font-size: 13px; margin: 0 0 6px } b { font-size: 48px }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; padding: 3px 6px; border-bottom: 1px solid #2c3235; white-space: nowrap }
th { color: #6e9fff; font-weight: 500 } td:last-child, th:last-child { text-align: right } .matrix td { text-align: right } .matrix td:first-child { text-align: left }
svg { width: 100%; height: calc(100% - 40px - var(--names) * 17px); border-bottom: 1px solid #2c3235 } path { fill: none; stroke-width: 1.5; vector-effect: non-scaling-stroke }
.name { height: 17px; white-space: nowrap } .name span { float: right } .max, .none { color: #8e8e99 }
</style><h1>{{.Title}}</h1><main>{{range .Panels}}<section class="{{.Type}}" style="grid-area: {{.Row}} / {{.Column}} / span {{.GridPos.H}} / span {{.GridPos.W}}"><h2>{{.Title}}</h2>
{{if eq .Type "stat"}}{{$panel := .}}{{range .Rows}}<b style="color: {{$panel.Color .}}">{{index .Cells 0}}</b>{{end}}
{{else if eq .Type "table"}}<table{{if .IsMatrix}} class="matrix"{{end}}><tr>{{if .IsMatrix}}<th>{{end}}{{range .Columns}}<th>{{.}}{{end}}{{if and .Value (not .IsMatrix)}}<th>{{.Value}}{{end}}</tr>
{{range .Rows}}<tr>{{$row := .}}{{range $n, $text := .Cells}}<td{{if $row.Share}} style="background: rgba(242, 73, 92, {{index $row.Share $n}})"{{end}}>{{$text}}{{end}}</tr>{{end}}</table>
{{else if .Lines}}{{$panel := .}}<div class="max">{{.Highest}}</div><svg viewBox="0 0 1000 100" preserveAspectRatio="none" style="--names: {{len .Lines}}">
{{range .Lines}}<path d="{{$panel.Path .}}" stroke="{{.Color}}"/>{{end}}</svg>{{range .Lines}}<div class="name"><b style="font-size: 13px; color: {{.Color}}">━</b> {{.Name}}<span>{{.Max}}</span></div>{{end}}
{{end}}{{if and (ne .Type "row") (not .Rows) (not .Lines)}}<div class="none">{{.FieldConfig.Defaults.NoValue}}</div>{{end}}</section>{{end}}</main>`))

// Row and Column are where the grid has the panel: there they count from 1.
func (p drawnPanel) Row() int { return p.GridPos.Y + 1 }

// Column is that of its left side.
func (p drawnPanel) Column() int { return p.GridPos.X + 1 }

// Color is that of a number.
func (p drawnPanel) Color(row drawnRow) string {
	chosen := ""
	for _, step := range p.FieldConfig.Defaults.Thresholds.Steps {
		if step.Value == nil || row.value >= *step.Value {
			chosen = step.Color
		}
	}
	return chosen
}

// Value is what values are called; "" leaves them out.
func (p drawnPanel) Value() string {
	if p.Type != "table" || len(p.Transformations) == 0 {
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
		f.gauge("capability_exporter_build_info", 1, node, labels{"version": "0.2.0"})
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

// likelyMachine is what the exporters of that fleet serve, of one most.
func likelyMachine() fleet {
	f := &maker{}
	count := func(metric string, node labels, rate float64, more labels) {
		f.fleet = append(f.fleet, line{metric: metric, labels: node.with(more), rate: rate, gauge: 0, last: steps})
	}
	whole := func(rate float64) float64 { return math.Ceil(rate*step) / step } // of checks there are no parts
	for number, node := range []labels{{"cluster": "east", "instance": "node-1"}, {"cluster": "east", "instance": "node-2"}, {"cluster": "west", "instance": "node-1"}} {
		node["job"] = "capability_exporter"
		n := float64(number)
		for _, metric := range []string{"overflow_checks", "ring_lost", "missed_runs", "unclassified_checks", "evicted_series", "log_lines_dropped", "ring_withheld"} {
			count("capability_exporter_"+metric+"_total", node, 0, nil)
		}
		count("capability_exporter_ring_records_total", node, 0.05+0.01*n, nil)
		count("capability_exporter_unwinds_total", node, 0.02+0.01*n, nil)
		count("process_cpu_seconds_total", node, 0.0008+0.0004*n, nil)
		f.gauge("scrape_duration_seconds", 0.011+0.004*n, node, nil)
		f.gauge("process_resident_memory_bytes", 38e6+3e6*n, node, nil)
		f.gauge("process_start_time_seconds", 1000, node, nil)
		f.gauge("capability_exporter_held_look_seconds", 0.004+0.001*n, node, nil)
		f.gauge("capability_exporter_workload_series", 585-90*n, node, nil)
		f.gauge("capability_exporter_workload_series_limit", 4096, node, nil)
		f.gauge("capability_exporter_source_info", 1, node, labels{"source": "tracepoint", "audit": "callsite", "cgroups": "v2", "lsm": "none"})
		for _, capability := range []string{"CAP_BPF", "CAP_PERFMON"} {
			f.gauge("capability_exporter_capabilities_info", 1, node, labels{"capability": capability})
		}
		count("capability_checks_total", node, 410, labels{"audited": "no", "capability": "CAP_SYS_ADMIN", "result": "denied", "scope": "host"})
		count("capability_checks_total", node, 37, labels{"audited": "yes", "capability": "CAP_NET_ADMIN", "result": "granted", "scope": "host"})
		f.gauge(info, 1, node, labels{"kind": "pod", "workload": fmt.Sprint("pod/", number), "namespace": "monitoring", "pod": "node-agent-" + []string{"zx2bq", "8fk2d", "b4tmw"}[number]})
	}
	node := labels{"cluster": "east", "instance": "node-1", "job": "capability_exporter"}
	for _, who := range []struct {
		workload, process, capability, result string
		rate                                  float64
	}{
		{"containerd.service", "containerd", "CAP_SYS_ADMIN", "granted", 1.3}, {"containerd.service", "containerd-shim-runc-v2", "CAP_NET_ADMIN", "granted", 0.2},
		{"rsyslog.service", "rsyslogd", "CAP_SYS_ADMIN", "granted", 0.09}, {"pod/5f1c", "node-agent", "CAP_SYS_ADMIN", "granted", 0.4},
		{"pod/5f1c", "node-agent", "CAP_DAC_READ_SEARCH", "granted", 0.6}, {"pod/5f1c", "ss", "CAP_SYS_PTRACE", "granted", 0.2},
		{"pod/81aa", "cilium-agent", "CAP_NET_ADMIN", "granted", 2.5}, {"pod/81aa", "cilium-agent", "CAP_BPF", "granted", 0.85}, {"pod/81aa", "cilium-agent", "CAP_SYS_ADMIN", "granted", 0.02},
		{"pod/c07e", "mount", "CAP_SYS_ADMIN", "granted", 0.001}, {"pod/c07e", "checkout", "CAP_NET_RAW", "denied", 0.004}, {"pod/d1f0", "api", "CAP_SYS_NICE", "denied", 0.034},
		{"rsyslog.service", "rsyslogd", "CAP_SYSLOG", "denied", 0.09},
	} {
		count("capability_workload_checks_total", node, whole(who.rate), labels{"workload": who.workload, "process": who.process, "capability": who.capability, "result": who.result, "scope": "host"})
	}
	for _, site := range []struct {
		function, capability, result string
		rate                         float64
	}{
		{"path_mount", "CAP_SYS_ADMIN", "granted", 0.9}, {"sys_setuid", "CAP_SETUID", "granted", 0.05}, {"check_syslog_permissions", "CAP_SYS_ADMIN", "granted", 0.09}, {"check_syslog_permissions", "CAP_SYSLOG", "denied", 0.09},
		{"copy_namespaces", "CAP_SYS_ADMIN", "granted", 0.4}, {"__ptrace_may_access", "CAP_SYS_PTRACE", "granted", 0.2}, {"bpf_prog_load", "CAP_BPF", "granted", 0.85},
		{"sys_perf_event_open", "CAP_PERFMON", "denied", 0.27}, {"sys_perf_event_open", "CAP_SYS_ADMIN", "granted", 0.27}, {"generic_permission", "CAP_DAC_READ_SEARCH", "granted", 0.6},
	} {
		count("capability_call_site_checks_total", node, whole(site.rate), labels{"call_site": site.function, "capability": site.capability, "result": site.result, "audited": "yes"})
	}
	return f.fleet
}

// likelyTrouble are two exporters more, one that is down, and an older one on an older kernel, in a storm of names that has taken its
// room; and what the rules cost.
func likelyTrouble() fleet {
	f := &maker{}
	f.gauge("up", 0, labels{"cluster": "west", "job": "capability_exporter", "instance": "node-3"}, nil)
	node := labels{"cluster": "west", "job": "capability_exporter", "instance": "node-2"}
	add := func(l line) {
		l.labels, l.last = node.with(l.labels), steps
		f.fleet = append(f.fleet, l)
	}
	for metric, rate := range map[string]float64{
		"capability_exporter_overflow_checks_total": 0.21, "capability_exporter_evicted_series_total": 0.4, "capability_exporter_ring_lost_total": 0.03,
		"capability_exporter_missed_runs_total": 0, "capability_exporter_unclassified_checks_total": 0, "capability_exporter_log_lines_dropped_total": 0.05, "capability_exporter_ring_withheld_total": 0.7,
		"capability_exporter_ring_records_total": 0.9, "capability_exporter_borrowed_checks_total": 1.2, "capability_exporter_ended_checks_total": 0.5,
		"capability_exporter_unwinds_total": 0.3, "process_cpu_seconds_total": 0.004,
	} {
		add(line{metric: metric, rate: rate})
	}
	for reason, rate := range map[string]float64{"budget": 0.3, "queue": 0.02} {
		add(line{metric: "capability_exporter_announcements_dropped_total", labels: labels{"reason": reason}, rate: rate})
	}
	add(line{metric: "capability_exporter_http_refused_total", labels: labels{"reason": "connections"}, rate: 0.01})
	add(line{metric: "process_start_time_seconds", gauge: 1000, changes: 2})
	for metric, value := range map[string]float64{
		"up": 1, "scrape_duration_seconds": 0.047, "process_resident_memory_bytes": 61e6, "capability_exporter_held_look_seconds": 0.019,
		"capability_exporter_workload_series": 3840, "capability_exporter_workload_series_limit": 4096,
	} {
		f.gauge(metric, value, node, nil)
	}
	f.gauge("capability_exporter_build_info", 1, node, labels{"version": "0.1.0"})
	f.gauge("capability_exporter_source_info", 1, node, labels{"source": "fexit", "audit": "opts", "cgroups": "v1", "lsm": "apparmor"})
	f.gauge("capability_exporter_source_refused_info", 1, node, labels{"source": "tracepoint", "reason": "absent"})
	for _, capability := range []string{"CAP_BPF", "CAP_PERFMON"} {
		f.gauge("capability_exporter_capabilities_info", 1, node, labels{"capability": capability})
	}
	for group, took := range map[string]float64{"capability_first_use": 0.9, "capability_owners": 2.6, "capability_use": 0.3} {
		self := labels{"job": "prometheus", "instance": "localhost:9090", "rule_group": "/etc/prometheus/rules.yml;" + group}
		f.gauge(ruleTime, took, self, nil)
		f.gauge(ruleEvery, 60, self, nil)
	}
	return f.fleet
}

// likelyOwner is one of its owners, over time.
func likelyOwner() fleet {
	f := &maker{}
	owner := labels{"cluster": "east", "job": "capability_exporter", "namespace": "monitoring", "owner": "node-agent"}
	for number, use := range []struct {
		process, capability, outcome string
		count                        float64
	}{
		{"node-agent", "CAP_SYS_ADMIN", "granted", 144}, {"ss", "CAP_SYS_PTRACE", "granted", 72}, {"node-agent", "CAP_DAC_READ_SEARCH", "granted", 221},
		{"node-agent", "CAP_PERFMON", "denied", 98}, {"node-agent", "CAP_PERFMON", "avoidable", 98},
	} {
		for at := range steps + 1 { // more at some times, each at its own
			value := use.count * (1 + 0.4*math.Sin(float64(at*(number+2))/3))
			l := line{metric: checks, labels: owner.with(labels{"process": use.process, "capability": use.capability, "outcome": use.outcome}), gauge: math.Round(value), last: steps, only: []int{at}}
			if use.outcome != "denied" {
				l.labels["scope"] = "host"
			}
			f.fleet = append(f.fleet, l)
		}
	}
	for number, capability := range []string{"CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH", "CAP_NET_ADMIN"} {
		f.gauge(heldSince, float64(end-(47-5*number)*24*3600), owner, labels{"capability": capability})
	}
	return f.fleet
}
