package deploy

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
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

var (
	fleetNodes = flag.Int("fleet", 0, "serve that many simulated `nodes` to a Prometheus, and print what they cost it")
	fleetTime  = flag.Duration("fleet.time", 7*time.Minute, "for how long")
)

// fleetInterval is how often each node is scraped, as the shipped configuration has it.
const fleetInterval = 15 * time.Second

// TestFleetCost has a real Prometheus, with the configuration and the rules that
// are shipped, scrape a fleet of nodes with 30 pods each, ask for what the
// dashboards ask, and prints what it took. What is written "reckoned" is that
// times the number of nodes, and not measured.
func TestFleetCost(t *testing.T) {
	if *fleetNodes == 0 {
		t.Skip("takes minutes and an idle machine: -fleet 500")
	}
	fleet := httptest.NewServer(newServedNodes(read(t, "../exporter/testdata/node.txt")))
	defer fleet.Close()
	prometheus := serveToPrometheus(t, strings.TrimPrefix(fleet.URL, "http://"), *fleetNodes)
	cost := fleetCost{groups: map[string]float64{}, page: len(regexp.MustCompile(`(?m)^[^#]`).FindAllString(read(t, "../exporter/testdata/node.txt"), -1))}
	for until := time.Now().Add(*fleetTime); time.Now().Before(until); time.Sleep(5 * time.Second) {
		cost.watch(t, prometheus)
	}
	cost.finish(t, prometheus)
	cost.print(t)
}

// servedNodes serves the page of a node under the path of each number, as another
// node's of the same kind: what is told by pods' and containers' identifiers is
// its own, and of its counters some go on counting.
type servedNodes struct {
	lines []servedLine
	began time.Time
}

type servedLine struct {
	series string
	value  float64
	rate   float64 // a second
	latest bool    // it is a time, of just now
}

func newServedNodes(page string) servedNodes {
	f := servedNodes{began: time.Now()}
	for line := range strings.Lines(page) {
		line = strings.TrimSuffix(line, "\n")
		at := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseFloat(line[at+1:], 64)
		if strings.HasPrefix(line, "#") || err != nil {
			f.lines = append(f.lines, servedLine{series: line, value: math.NaN()})
			continue
		}
		l := servedLine{series: line[:at], value: value}
		hash := fnv.New32a()
		_, _ = io.WriteString(hash, l.series)
		busy := value > 0 && hash.Sum32()%4 == 0
		switch {
		case strings.Contains(l.series, `audited="no"`):
			l.rate = value / 3600
		case strings.HasPrefix(l.series, "capability_workload_last_check"):
			l.latest = busy
		case strings.HasPrefix(l.series, "process_cpu_seconds_total"):
			l.rate = 0.001
		case strings.Contains(l.series, "_checks_total") && busy:
			l.rate = max(0.01, value/3600)
		}
		f.lines = append(f.lines, l)
	}
	return f
}

func (f servedNodes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	node, err := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	now := time.Now()
	var page strings.Builder
	for _, l := range f.lines {
		page.WriteString(l.series)
		if !math.IsNaN(l.value) {
			value := l.value + math.Floor(l.rate*now.Sub(f.began).Seconds())
			if l.latest {
				value = float64(now.Unix())
			}
			page.WriteString(" " + strconv.FormatFloat(value, 'g', -1, 64))
		}
		page.WriteByte('\n')
	}
	own := fmt.Sprintf("%04x", node) // as nodePods are numbered
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = strings.NewReplacer("-0000-4000-", "-"+own+"-4000-", "_0000_4000_", "_"+own+"_4000_", "c0de0000", "c0de"+own,
		`namespace="shop"`, fmt.Sprintf(`namespace="shop-%d"`, node/16)).WriteString(w, page.String()) // every fourth is of its cluster
}

// serveToPrometheus starts one that scrapes the nodes at an address, and itself.
func serveToPrometheus(t *testing.T, nodes string, number int) *prometheusServer {
	t.Helper()
	dir, address := t.TempDir(), freeAddress(t)
	type target struct {
		Targets []string          `json:"targets"`
		Labels  map[string]string `json:"labels"`
	}
	targets := make([]target, number)
	for n := range targets {
		targets[n] = target{[]string{nodes}, map[string]string{"__metrics_path__": fmt.Sprint("/", n), "instance": fmt.Sprint("node-", n), "cluster": fmt.Sprint("cluster-", n%4)}}
	}
	files, err := json.Marshal(targets)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "targets.json"), string(files))
	before, _, found := strings.Cut(read(t, "prometheus/prometheus.yml"), "    static_configs:\n      - targets: [\"localhost:10041\"]\n")
	if !found || !strings.Contains(before, "scrape_interval: "+fleetInterval.String()) {
		t.Fatal("the example configuration is another one")
	}
	write(t, filepath.Join(dir, "prometheus.yml"), before+"    file_sd_configs: [{files: [targets.json]}]\n"+
		"  - job_name: prometheus\n    static_configs: [{targets: [\""+address+"\"]}]\n")
	for _, name := range []string{"rules.yml", "owners.yml"} {
		write(t, filepath.Join(dir, name), read(t, "prometheus/"+name))
	}
	p := &prometheusServer{api: "http://" + address + "/api/v1/"}
	p.process = start(t, exec.CommandContext(t.Context(), program(t, "prometheus"),
		"--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+address, "--web.enable-admin-api", "--log.level=warn"))
	p.process.eventually(t, func(ctx context.Context) error {
		return p.hasData(ctx, `up{job="capability_exporter"} == 1`, true)
	})
	return p
}

// fleetCost is what was seen.
type fleetCost struct {
	page                  int                // lines of a node's page
	head, samples, memory float64            // the most series, samples a second, bytes
	cores                 float64            // of CPU time, on average, before the dashboards are asked for
	perNode, missing      float64            // samples of a scrape, as stored; nodes that could not be scraped
	groups                map[string]float64 // the longest evaluation of each group of rules, in seconds
	boards                map[string]boardCost
	chunkBytes            float64 // of a sample
	indexBytes            float64 // of a series
	blockSamples          float64
}

type boardCost struct {
	queries       int
	took, slowest time.Duration
	slowestPanel  string
}

func (c *fleetCost) watch(t *testing.T, p *prometheusServer) {
	t.Helper()
	most := func(into *float64, expr string) {
		*into = max(*into, p.number(t, expr))
	}
	most(&c.head, `prometheus_tsdb_head_series{job="prometheus"}`)
	most(&c.samples, `rate(prometheus_tsdb_head_samples_appended_total{job="prometheus"}[2m])`)
	most(&c.memory, `process_resident_memory_bytes{job="prometheus"}`)
	var data struct {
		Groups []struct {
			Name           string
			EvaluationTime float64
		}
	}
	if err := p.ask(t.Context(), "rules", url.Values{}, &data); err != nil {
		t.Fatal(err)
	}
	for _, group := range data.Groups {
		c.groups[group.Name] = max(c.groups[group.Name], group.EvaluationTime)
	}
}

// number is the one value of an expression, or 0.
func (p *prometheusServer) number(t *testing.T, expr string) float64 {
	t.Helper()
	all, err := p.samples(t.Context(), "query", url.Values{"query": {expr}})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		return 0
	}
	return all[0].value
}

func (c *fleetCost) finish(t *testing.T, p *prometheusServer) {
	t.Helper()
	c.perNode = p.number(t, `avg(scrape_samples_post_metric_relabeling{job="capability_exporter"})`)
	c.missing = float64(*fleetNodes) - p.number(t, `sum(up{job="capability_exporter"})`)
	c.cores = p.number(t, `rate(process_cpu_seconds_total{job="prometheus"}[5m])`)
	c.askDashboards(t, p)
	c.watch(t, p)
	var snapshot struct{ Name string }
	data := ""
	for _, arg := range p.process.cmd.Args {
		if dir, is := strings.CutPrefix(arg, "--storage.tsdb.path="); is {
			data = dir
		}
	}
	if err := p.call(t.Context(), http.MethodPost, "admin/tsdb/snapshot", &snapshot); err != nil {
		t.Fatal(err)
	}
	c.weigh(t, filepath.Join(data, "snapshots", snapshot.Name))
}

// weigh looks at what the samples so far take on disk, as a block.
func (c *fleetCost) weigh(t *testing.T, snapshot string) {
	t.Helper()
	var chunks, index, samples, series float64
	size := func(path string) float64 {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return float64(info.Size())
	}
	blocks, err := filepath.Glob(filepath.Join(snapshot, "*", "meta.json"))
	if err != nil || len(blocks) == 0 {
		t.Fatalf("no block in %s: %v", snapshot, err)
	}
	for _, meta := range blocks {
		var block struct {
			Stats struct{ NumSamples, NumSeries float64 }
		}
		if err := json.Unmarshal([]byte(read(t, meta)), &block); err != nil {
			t.Fatal(err)
		}
		samples, series = samples+block.Stats.NumSamples, series+block.Stats.NumSeries
		index += size(filepath.Join(filepath.Dir(meta), "index"))
		files, err := filepath.Glob(filepath.Join(filepath.Dir(meta), "chunks", "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			chunks += size(file)
		}
	}
	c.chunkBytes, c.indexBytes, c.blockSamples = chunks/samples, index/series, samples/series
}

// askDashboards asks for all that a reader sees who opens them, of the whole fleet.
func (c *fleetCost) askDashboards(t *testing.T, p *prometheusServer) {
	t.Helper()
	all, err := dashboards.All()
	if err != nil {
		t.Fatal(err)
	}
	c.boards = map[string]boardCost{}
	for _, d := range all {
		cost := c.boards[d.Name]
		for _, query := range d.Queries() {
			expr, now := d.Substitute(query.Expr, "1m", "5m", nil), time.Now()
			endpoint, values := "query", url.Values{"query": {expr}}
			if !query.Instant {
				endpoint = "query_range"
				values.Set("start", strconv.FormatInt(now.Add(-5*time.Minute).Unix(), 10))
				values.Set("end", strconv.FormatInt(now.Unix(), 10))
				values.Set("step", "15")
			}
			if _, err := p.samples(t.Context(), endpoint, values); err != nil {
				t.Errorf("%s: %s: %v", d.Name, query.Where, err)
			}
			took := time.Since(now)
			cost.queries, cost.took = cost.queries+1, cost.took+took
			if took > cost.slowest {
				cost.slowest, cost.slowestPanel = took, query.Where
			}
		}
		c.boards[d.Name] = cost
	}
}

// print writes the table of README.
func (c *fleetCost) print(t *testing.T) {
	t.Helper()
	nodes, perNode := float64(*fleetNodes), c.perNode+5 // and up, scrape_duration_seconds and the like
	if c.missing > 0 {
		t.Errorf("%v nodes could not be scraped", c.missing)
	}
	var table strings.Builder
	row := func(what, format string, at func(nodes float64) float64) {
		fmt.Fprintf(&table, "| %s |", what)
		for _, n := range []float64{nodes, 1000, 10000} {
			fmt.Fprintf(&table, " "+format+" |", at(n))
		}
		table.WriteByte('\n')
	}
	each := func(measured float64) func(float64) float64 {
		return func(n float64) float64 { return measured * n / nodes }
	}
	fmt.Fprintf(&table, "| | %.0f nodes, measured | 1,000, reckoned | 10,000, reckoned |\n|---|--:|--:|--:|\n", nodes)
	row("series of the head", "%.0f", each(c.head))
	row("samples a second, scraped each 15 s", "%.0f", each(c.samples))
	row("samples a second, each 60 s (reckoned)", "%.0f", each(perNode*nodes/60))
	row("GiB a day on disk, each 15 s (reckoned)", "%.1f", each(c.bytesOfSample(480)*c.samples*86400/(1<<30)))
	row("GiB of Prometheus' memory", "%.1f", each(c.memory/(1<<30)))
	row("cores that Prometheus takes, of scrapes and rules", "%.2f", each(c.cores))
	for _, group := range slices.Sorted(maps.Keys(c.groups)) {
		row("seconds of the rules "+group, "%.2f", each(c.groups[group]))
	}
	for _, board := range slices.SortedFunc(maps.Keys(c.boards), cmp.Compare[string]) {
		row("seconds of the slowest query of the dashboard "+board, "%.2f", each(c.boards[board].slowest.Seconds()))
	}
	fmt.Printf("A node's page: %d series, of which %.0f are kept; with those that Prometheus adds %.0f.\n", c.page, c.perNode, perNode)
	fmt.Printf("A sample: %.2f bytes of chunks, where a series has %.0f of them; a series: %.0f bytes of index in each block.\n", c.chunkBytes, c.blockSamples, c.indexBytes)
	fmt.Printf("In a block of two hours (480 samples) that is %.2f bytes a sample (reckoned).\n", c.bytesOfSample(480))
	for _, board := range slices.Sorted(maps.Keys(c.boards)) {
		b := c.boards[board]
		fmt.Printf("%s: %d queries in %.2f s, the slowest %s.\n", board, b.queries, b.took.Seconds(), b.slowestPanel)
	}
	fmt.Print(table.String())
}

// bytesOfSample is what one takes in a block in which each series has so many.
func (c *fleetCost) bytesOfSample(samples float64) float64 {
	return c.chunkBytes + c.indexBytes/samples
}
