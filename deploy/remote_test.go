package deploy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"capability_exporter/dashboards"
)

// TestRemoteWrite has a Prometheus send what it has recorded to another, which stands for a Mimir or a Thanos, as the example
// configuration says: the dashboard of the fleet shows the same there, and nothing else is there.
func TestRemoteWrite(t *testing.T) {
	page := newServedNodes(read(t, "../exporter/testdata/node.txt"))
	fleet, sent, comment := fleetBoard(t), sentNames(t), remoteWrite(t)
	eachPrometheus(t, func(t *testing.T, path func(name string) string) {
		exporter := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.URL.Path = "/1"
			page.ServeHTTP(w, r)
		}))
		defer exporter.Close()
		central := prometheusAlone(t, path("prometheus"), t.TempDir(), "--web.enable-remote-write-receiver")
		write := strings.ReplaceAll(strings.ReplaceAll(comment, "# ", ""), "https://mimir.example/api/v1/push", central.api+"write")
		prometheus := prometheusOf(t, path("prometheus"), map[string]string{
			"localhost:10041": strings.TrimPrefix(exporter.URL, "http://"), comment: write, "# labels: {cluster": "labels: {cluster",
		})
		central.process.eventually(t, func(ctx context.Context) error { return prometheus.sameThere(ctx, central, fleet) })
		there, err := central.evaluate(t.Context(), "query", url.Values{"query": {`count by (__name__) ({__name__!=""})`}})
		if err != nil {
			t.Fatal(err)
		}
		for name := range there {
			if !sent.MatchString(strings.TrimSuffix(name, "{}")) {
				t.Errorf("%s is there, and is not to be sent", name)
			}
		}
		if len(there) < 8 {
			t.Errorf("there is only %v", there)
		}
	})
}

// sameThere returns nil if a dashboard's queries have the same answers at another Prometheus, for a time of which it must have heard,
// and some have any: there are no nodes without an exporter, and there is no denial.
func (p *prometheusServer) sameThere(ctx context.Context, there *prometheusServer, d *dashboards.Dashboard) error {
	at := strconv.FormatInt(time.Now().Add(-10*time.Second).Unix(), 10) // twice as long as it waits before it sends what it has
	answered := 0
	for _, query := range d.Queries() {
		values := url.Values{"query": {d.Substitute(query.Expr, "10s", "1m", nil)}, "time": {at}}
		here, err := p.evaluate(ctx, "query", values)
		if err != nil {
			return fmt.Errorf("%s: %w", query.Where, err)
		}
		got, err := there.evaluate(ctx, "query", values)
		if err != nil {
			return fmt.Errorf("%s, there: %w", query.Where, err)
		}
		same := maps.Equal(here, got)
		if strings.HasPrefix(values.Get("query"), "topk") { // of those that are alike it is anybody's
			same = slices.Equal(slices.Sorted(maps.Values(here)), slices.Sorted(maps.Values(got)))
		}
		if !same {
			return fmt.Errorf("%s: here %v, and there %v: %s", query.Where, here, got, values.Get("query"))
		}
		if len(here) > 0 {
			answered++
		}
	}
	if answered < 5 {
		return fmt.Errorf("%d queries have answers", answered)
	}
	return nil
}

// TestCreatedTimestamps: a Prometheus that takes a counter's time of creation for a sample of 0 knows what was counted before the first
// scrape, and is told of a first use once, like any other.
func TestCreatedTimestamps(t *testing.T) {
	needsRoot(t)
	address := freeAddress(t)
	exporter := start(t, exec.CommandContext(t.Context(), buildExporter(t), "--web.listen-address="+address))
	exporter.scrape(t, address)
	prometheus := prometheusOf(t, newest(t, "prometheus"), map[string]string{"localhost:10041": address}, "--enable-feature=created-timestamp-zero-ingestion")
	prometheus.process.eventually(t, func(ctx context.Context) error {
		return prometheus.hasData(ctx, `cluster:capability_granted:since_seconds`, true)
	})

	program := freshProgram(t, "created")
	began := time.Now()
	if out, err := exec.CommandContext(t.Context(), program, newMounts...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	process := fmt.Sprintf("process=%q", filepath.Base(program))
	var first float64
	prometheus.process.eventually(t, func(ctx context.Context) error {
		samples, err := prometheus.rawSamples(ctx, `capability_workload_checks_total{capability="CAP_SYS_ADMIN", result="granted", `+process+`}[5m]`)
		if err != nil || len(samples) < 3 {
			return errors.Join(err, fmt.Errorf("%d samples", len(samples)))
		}
		if samples[0].value != 0 || samples[1].value < 1 {
			return fmt.Errorf("its samples begin with %v", samples[:2])
		}
		first = samples[0].at
		return nil
	})
	if created := time.UnixMilli(int64(first * 1000)); created.Before(began.Add(-time.Second)) || created.After(time.Now()) {
		t.Errorf("the sample of 0 is of %v, and the program began at %v", created, began)
	}
	alert := `ALERTS{alertname="CapabilitySysAdminFirstUse", alertstate="firing", ` + process + `}`
	prometheus.process.eventually(t, func(ctx context.Context) error { return prometheus.hasData(ctx, alert, true) })
	if alerts := prometheus.number(t, `count(last_over_time(`+alert+`[5m]))`); alerts != 1 {
		t.Errorf("%v alerts of a first use", alerts)
	}
}

type rawSample struct{ at, value float64 }

// rawSamples are those of the one series of a range.
func (p *prometheusServer) rawSamples(ctx context.Context, of string) ([]rawSample, error) {
	var data struct {
		Result []struct{ Values [][2]any }
	}
	if err := p.ask(ctx, "query", url.Values{"query": {of}}, &data); err != nil {
		return nil, err
	}
	if len(data.Result) != 1 {
		return nil, fmt.Errorf("%d series: %s", len(data.Result), of)
	}
	var all []rawSample
	for _, pair := range data.Result[0].Values {
		at, ok := pair[0].(float64)
		value, err := strconv.ParseFloat(fmt.Sprint(pair[1]), 64)
		if !ok || err != nil {
			return nil, fmt.Errorf("a sample: %v", pair)
		}
		all = append(all, rawSample{at, value})
	}
	return all, nil
}
