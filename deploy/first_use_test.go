package deploy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// TestFirstUseOfMany: what is new in many places at one time is told once. What
// a few places need is in prometheus/rules_first_use_test.yml.
func TestFirstUseOfMany(t *testing.T) {
	t.Parallel()
	const since = -90_000 // seconds: all has been learned
	inputs := []joinInput{{"cluster:capability_granted:since_seconds", fmt.Sprint(since)}}
	use := func(instance, workload, process string) {
		inputs = append(inputs, joinInput{fmt.Sprintf(
			`capability_workload_checks_total{job="capability_exporter", instance=%q, capability="CAP_SYS_ADMIN", result="granted", scope="host", workload=%q, process=%q}`,
			instance, workload, process), "_x3 1x10"})
	}
	for node := range 40 { // a program of a DaemonSet
		instance, uid := fmt.Sprint("node-", node), fmt.Sprintf("00000000-0000-0000-0000-%012d", node)
		use(instance, "pod/"+uid, "agent")
		const alphabet = "bcdfghjklmnpqrstvwxz2456789"
		inputs = append(inputs, joinInput{fmt.Sprintf(`capability_workload_info{job="capability_exporter", instance=%q, workload=%q, kind="pod", namespace="monitoring", pod="agent-x%c%c2z", pod_uid=%q}`,
			instance, "pod/"+uid, alphabet[node%27], alphabet[node/27], uid), "_x3 1x10"})
	}
	for step := range 200 { // a build tool that makes a cgroup for each step
		use("builder", fmt.Sprintf("/builds/%d/step", step), "ld")
	}
	for job := range 2000 { // promtool refuses to look at more than 10,000 samples, of which each makes several: see TestNewInManyCgroups
		use("batch", fmt.Sprint("/job-", job), "work")
	}
	told := func(labels string) map[string]any {
		return map[string]any{"labels": `ALERTS{alertname="CapabilitySysAdminFirstUse", alertstate="firing", severity="critical", capability="CAP_SYS_ADMIN", ` + labels + "}", "value": 1}
	}
	ask := map[string]any{
		"expr": `ALERTS{alertname="CapabilitySysAdminFirstUse"}`, "eval_time": "5m",
		"exp_samples": []any{
			told(`namespace="monitoring", owner="agent", process="agent"`), told(`owner="/builds*", process="ld"`), told(`owner="/job-*", process="work"`),
		},
	}
	rules, err := filepath.Abs("prometheus/rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	file, err := json.Marshal(map[string]any{
		"rule_files": []string{rules}, "evaluation_interval": "1m",
		"tests": []any{map[string]any{"interval": "1m", "input_series": inputs, "promql_expr_test": []any{ask}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "many.json")
	write(t, path, string(file))
	eachPrometheus(t, func(t *testing.T, of func(name string) string) {
		if out, err := exec.CommandContext(t.Context(), of("promtool"), "test", "rules", path).CombinedOutput(); err != nil {
			t.Errorf("promtool: %v\n%.3000s", err, out)
		}
	})
}

// TestNewInManyCgroups: what somebody does in 12,050 new cgroups within a minute, of which an exporter shows a quarter at each scrape, is
// told once.
func TestNewInManyCgroups(t *testing.T) {
	const cgroups, scrapes = 12_050, 4
	page := func(from, to int) string {
		var page strings.Builder
		page.WriteString("# TYPE capability_workload_checks_total counter\n")
		for job := from; job < to; job++ {
			fmt.Fprintf(&page, "capability_workload_checks_total{capability=\"CAP_SYS_ADMIN\",process=\"step\",result=\"granted\",scope=\"host\",workload=\"/jobs/%d\"} 1\n", job)
		}
		return page.String()
	}
	pages := []string{page(0, 0)}
	for n := range scrapes {
		pages = append(pages, page(n*cgroups/scrapes, (n+1)*cgroups/scrapes))
	}
	pages = append(pages, page(0, 0))
	eachPrometheus(t, func(t *testing.T, path func(name string) string) {
		var scraped atomic.Int64
		exporter := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
			_, _ = io.WriteString(w, pages[min(int(scraped.Add(1)), len(pages))-1])
		}))
		defer exporter.Close()
		prometheus := prometheusOf(t, path("prometheus"), map[string]string{"localhost:10041": strings.TrimPrefix(exporter.URL, "http://")})
		told := `count(last_over_time(ALERTS{alertname="CapabilitySysAdminFirstUse", alertstate="firing", owner="/jobs*", process="step"}[5m]))`
		prometheus.process.eventually(t, func(ctx context.Context) error { return prometheus.hasData(ctx, told, true) })
		seen := `count(last_over_time(capability_workload_checks_total{process="step"}[5m]))`
		prometheus.process.eventually(t, func(ctx context.Context) error {
			return prometheus.hasData(ctx, fmt.Sprintf("%s == %d", seen, cgroups), true)
		})
		if alerts := prometheus.number(t, `count(last_over_time(ALERTS{alertname=~"Capability.*", process="step"}[5m]))`); alerts != 1 {
			t.Errorf("%v alerts of what is new in %d cgroups", alerts, cgroups)
		}
	})
}
