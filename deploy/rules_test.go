package deploy

import (
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	promcollectors "github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"
	"go.yaml.in/yaml/v2"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf"
	"capability_exporter/collectors"
	"capability_exporter/dashboards"
)

// ruleGroup is a group of rules, all of it.
type ruleGroup struct {
	Name     string
	Interval string
	Rules    []rule
}

type rule struct {
	Record      string
	Alert       string
	Expr        string
	For         string
	Keep        string `yaml:"keep_firing_for"`
	Labels      map[string]string
	Annotations map[string]string
}

// allGroups returns the rules of both files.
func allGroups(t *testing.T) []ruleGroup {
	t.Helper()
	var groups []ruleGroup
	for _, name := range []string{"prometheus/rules.yml", "prometheus/owners.yml"} {
		var file struct{ Groups []ruleGroup }
		parse(t, name, &file)
		groups = append(groups, file.Groups...)
	}
	return groups
}

// alertTest is what promtool is told to expect of an alert.
type alertTest struct {
	EvalTime  string `yaml:"eval_time"`
	Alertname string
	ExpAlerts []struct {
		Labels      map[string]string `yaml:"exp_labels"`
		Annotations map[string]string `yaml:"exp_annotations"`
	} `yaml:"exp_alerts"`
}

// alertTests returns those of all the rules' unit tests.
func alertTests(t *testing.T) []alertTest {
	t.Helper()
	var all []alertTest
	for _, name := range []string{"prometheus/rules_test.yml", "prometheus/rules_fleet_test.yml", "prometheus/rules_first_use_test.yml", "prometheus/owners_held_test.yml"} {
		var file struct {
			RuleFiles          []string `yaml:"rule_files"`
			EvaluationInterval string   `yaml:"evaluation_interval"`
			Tests              []struct {
				Name           string
				Interval       string
				InputSeries    []map[string]string `yaml:"input_series"`
				AlertRuleTest  []alertTest         `yaml:"alert_rule_test"`
				PromQLExprTest []any               `yaml:"promql_expr_test"`
			}
		}
		parse(t, name, &file)
		for _, test := range file.Tests {
			all = append(all, test.AlertRuleTest...)
		}
	}
	return all
}

// TestAlerts: promtool's tests (`make check-rules`) can only fail for alerts
// that they name. Each alert must be seen to fire and not to fire, must say how
// bad it is and what to do, and of what workloads do only two things may page:
// new or hidden use of CAP_SYS_ADMIN, and what looks as if somebody made room to hide.
func TestAlerts(t *testing.T) {
	t.Parallel()
	fires, silent := map[string]bool{}, map[string]bool{}
	for _, test := range alertTests(t) {
		if len(test.ExpAlerts) > 0 {
			fires[test.Alertname] = true
		} else {
			silent[test.Alertname] = true
		}
	}
	sections := runbook(t)
	all, err := dashboards.All()
	if err != nil {
		t.Fatal(err)
	}
	variables := map[string][]dashboards.Variable{} // by the dashboard's address
	for _, d := range all {
		variables["/d/"+d.UID] = d.Templating.List
	}
	pages, severities := map[string]bool{}, map[string]string{}
	for _, group := range allGroups(t) {
		for _, rule := range group.Rules {
			if rule.Record != "" {
				continue
			}
			if !fires[rule.Alert] || !silent[rule.Alert] {
				t.Errorf("%s is tested to fire: %t, not to fire: %t", rule.Alert, fires[rule.Alert], silent[rule.Alert])
			}
			for _, key := range []string{"summary", "description", "runbook"} {
				if rule.Annotations[key] == "" {
					t.Errorf("%s has no %s", rule.Alert, key)
				}
			}
			if link := rule.Annotations["runbook_url"]; link != "RUNBOOK.md#"+strings.ToLower(rule.Alert) || sections[rule.Alert] == "" {
				t.Errorf("%s: runbook_url %q, and the section of that name: %q", rule.Alert, link, sections[rule.Alert])
			}
			delete(sections, rule.Alert)
			checkDashboardLink(t, rule.Alert, rule.Annotations["dashboard_url"], variables)
			severities[rule.Alert] = rule.Labels["severity"]
			switch rule.Labels["severity"] {
			case "critical":
				pages[rule.Alert] = true
			case "warning", "info":
			default:
				t.Errorf("%s: severity %q", rule.Alert, rule.Labels["severity"])
			}
		}
	}
	if len(sections) > 0 {
		t.Errorf("the runbook has sections of no alert: %q", slices.Sorted(maps.Keys(sections)))
	}
	want := []string{
		"CapabilityExporterAbsent", "CapabilityExporterEviction", "CapabilityExporterOverflow", "CapabilityRulesFailing",
		"CapabilitySysAdminFirstUse", "CapabilitySysAdminUnnamed",
	}
	if got := slices.Sorted(maps.Keys(pages)); !slices.Equal(got, want) {
		t.Errorf("paging: %q, want %q", got, want)
	}
	checkReadmeSeverities(t, severities)
}

// checkReadmeSeverities: README's table has each alert once, in the row of how bad it is.
func checkReadmeSeverities(t *testing.T, severities map[string]string) {
	t.Helper()
	rows := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(critical|warning|info)` \\|(.*)$").FindAllStringSubmatch(read(t, "../README.md"), -1) {
		for _, name := range regexp.MustCompile("`(Capability\\w+)`").FindAllStringSubmatch(row[2], -1) {
			if rows[name[1]] != "" {
				t.Errorf("README has %s twice", name[1])
			}
			rows[name[1]] = row[1]
		}
	}
	if !maps.Equal(rows, severities) {
		t.Errorf("README has the severities\n%v, and the rules\n%v", rows, severities)
	}
}

// checkDashboardLink: the dashboard that fits is the workload's if the alert is of an owner, the node's if it is of a workload there,
// the exporters' if it is of one of them.
func checkDashboardLink(t *testing.T, alert, link string, variables map[string][]dashboards.Variable) {
	t.Helper()
	address, choices, _ := strings.Cut(link, "?")
	fits := map[string]string{
		"": "/d/capability-exporter-health", "cluster": "/d/capability-exporter-fleet", "cluster instance": "/d/capability-exporter-health",
		"cluster namespace owner": "/d/capability-exporter-workload", "cluster instance workload": "/d/capability-exporter-node",
	}
	var chosen []string
	for _, choice := range regexp.MustCompile(`var-(\w+)=\{\{ urlquery \$labels\.(\w+) \}\}`).FindAllStringSubmatch(choices, -1) {
		chosen = append(chosen, choice[1])
		if choice[1] != choice[2] || !slices.ContainsFunc(variables[address], func(v dashboards.Variable) bool { return v.Name == choice[1] }) {
			t.Errorf("%s: the dashboard %s has no variable for %q", alert, address, choice[0])
		}
	}
	if address != fits[strings.Join(chosen, " ")] || variables[address] == nil {
		t.Errorf("%s: dashboard_url %q does not fit", alert, link)
	}
}

// TestBaseline: the uses of capabilities that the alerts name, and of no others, begin at 0.
func TestBaseline(t *testing.T) {
	t.Parallel()
	var file struct {
		Groups []ruleGroup
	}
	parse(t, "prometheus/rules.yml", &file)
	named := map[string]bool{}
	for _, group := range file.Groups {
		for _, rule := range group.Rules {
			for _, match := range regexp.MustCompile(`\bcapability=~?"([^"]*)"`).FindAllStringSubmatch(rule.Expr, -1) {
				is := regexp.MustCompile("^(?:" + match[1] + ")$")
				for value := range cap.NamedCount {
					if name := strings.ToUpper(cap.Value(value).String()); is.MatchString(name) {
						named[name] = true
					}
				}
			}
		}
	}
	zeros := map[string]bool{}
	for _, match := range regexp.MustCompile(`(?m)^capability_checks_total\{audited="yes",capability="(\w+)",result="granted",scope="host"\} 0$`).
		FindAllStringSubmatch(read(t, "../collectors/testdata/fresh.prom"), -1) {
		zeros[match[1]] = true
	}
	if len(named) == 0 || !maps.Equal(named, zeros) {
		t.Errorf("the alerts name %q, and %q begin at 0", slices.Sorted(maps.Keys(named)), slices.Sorted(maps.Keys(zeros)))
	}
}

// setUp has been counted of a pod's container alone, and nobody holds anything.
type setUp []bpf.WorkloadCount

func (setUp) Info() bpf.Info { return bpf.Info{} }
func (setUp) Held() bpf.Held { return bpf.Held{} }
func (s setUp) Snapshot() (*bpf.Snapshot, error) {
	return &bpf.Snapshot{Workloads: s, SeriesLimit: 100}, nil
}

// TestRuntimesAreTheSame: the rules of first uses and the exporter, which does not take it for a use of the container's, know the same
// programs to set up containers.
func TestRuntimesAreTheSame(t *testing.T) {
	t.Parallel()
	match := regexp.MustCompile(`process=~"(\(memfd:\)\?\(([a-z|]+)\)[^"]*)"`).FindStringSubmatch(read(t, "prometheus/rules.yml"))
	if match == nil {
		t.Fatal("the rules know no container runtime")
	}
	known := regexp.MustCompile("^(?:" + match[1] + ")$")
	names := []string{"sh", "runcible", "my-runc", "memfd:sh", "memfd:runc_clone"}
	for name := range strings.SplitSeq(match[2], "|") {
		names = append(names, name, "memfd:"+name, "memfd:"+name+"_cloned:/proc/self/exe", name+"_cloned:x")
	}
	for _, name := range names {
		registry := prometheus.NewRegistry()
		node := setUp{{Check: bpf.Check{Capability: uint8(cap.SYS_ADMIN)}, Cgroup: bpf.Cgroup{ID: 1, Path: containerOf(webUID, webContainer)}, Process: bpf.Process{Name: name}, Count: 1}}
		registry.MustRegister(collectors.New(node, node, nil))
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		own := slices.ContainsFunc(families, func(f *dto.MetricFamily) bool {
			return f.GetName() == "capability_workload_last_check_timestamp_seconds"
		})
		if own == known.MatchString(name) {
			t.Errorf("%s: the rules know it for a runtime: %t, and it makes checks of the container's own: %t", name, known.MatchString(name), own)
		}
	}
}

// exampleConfig is prometheus.yml, all of it.
type exampleConfig struct {
	Global map[string]string `yaml:"global"`
	Rules  []string          `yaml:"rule_files"`
	Alerts struct {
		Managers []struct {
			Static []struct {
				Targets []string `yaml:"targets"`
			} `yaml:"static_configs"`
		} `yaml:"alertmanagers"`
	} `yaml:"alerting"`
	Scrape []struct {
		Job  string `yaml:"job_name"`
		Keep []struct {
			Source []string `yaml:"source_labels"`
			Regex  string   `yaml:"regex"`
			Action string   `yaml:"action"`
		} `yaml:"metric_relabel_configs"`
		Static []struct {
			Targets []string `yaml:"targets"`
		} `yaml:"static_configs"`
		Kubernetes []struct {
			Role       string              `yaml:"role"`
			Namespaces map[string][]string `yaml:"namespaces"`
		} `yaml:"kubernetes_sd_configs"`
		Relabel []struct {
			Source []string `yaml:"source_labels"`
			Target string   `yaml:"target_label"`
			Regex  string   `yaml:"regex"`
			Action string   `yaml:"action"`
		} `yaml:"relabel_configs"`
	} `yaml:"scrape_configs"`
}

// TestExampleConfig: the rules find the job by its name, and the machine by the
// label instance.
func TestExampleConfig(t *testing.T) {
	t.Parallel()
	var config exampleConfig
	parse(t, "prometheus/prometheus.yml", &config)
	// The rules count in minutes, and rate() needs two samples in the least of their windows.
	for _, key := range []string{"scrape_interval", "evaluation_interval"} {
		interval, err := time.ParseDuration(config.Global[key])
		if err != nil || interval < 5*time.Second || interval > time.Minute {
			t.Errorf("%s is %q", key, config.Global[key])
		}
	}
	if !slices.Equal(config.Rules, []string{"rules.yml", "owners.yml"}) || len(config.Scrape) != 2 {
		t.Fatalf("%+v", config)
	}
	// Prometheus itself, of which an alert tells that rules fail.
	if own := config.Scrape[1]; len(own.Keep) != 0 || len(own.Static) != 1 || !slices.Equal(own.Static[0].Targets, []string{"localhost:9090"}) {
		t.Errorf("it scrapes itself by %+v", own)
	}
	job := config.Scrape[0]
	for _, match := range regexp.MustCompile(`\bjob="([^"]*)"`).FindAllStringSubmatch(read(t, "prometheus/rules.yml")+read(t, "prometheus/owners.yml"), -1) {
		if match[1] != job.Job {
			t.Errorf("the rules ask for job %q, and there is %q", match[1], job.Job)
		}
	}
	if len(job.Static) != 1 || !slices.Equal(job.Static[0].Targets, []string{"localhost:" + defaultPort(t)}) {
		t.Errorf("the targets are %+v", job.Static)
	}
}

// TestRulesAreSeldomEvaluated: what the exporters' own series tell, of which a
// fleet has hundreds of thousands, is asked for once a minute at most.
func TestRulesAreSeldomEvaluated(t *testing.T) {
	t.Parallel()
	raw, asking := regexp.MustCompile(`(^|[^:\w])capability_(checks|call_site|workload|held)_\w+`), 0
	for _, group := range allGroups(t) {
		for _, rule := range group.Rules {
			name := raw.FindString(rule.Expr)
			if name == "" {
				continue
			}
			asking++
			if interval, err := time.ParseDuration(group.Interval); err != nil || interval < time.Minute {
				t.Errorf("%s%s asks for %s, in group %s each %q", rule.Record, rule.Alert, strings.TrimSpace(name), group.Name, group.Interval)
			}
		}
	}
	if asking < 5 {
		t.Errorf("%d rules ask for the exporters' series", asking)
	}
}

// TestExampleConfigInKubernetes takes the comment's lines in the place of the
// static targets, as it says.
func TestExampleConfigInKubernetes(t *testing.T) {
	t.Parallel()
	text := read(t, "prometheus/prometheus.yml")
	before, after, found := strings.Cut(text, "    static_configs:\n")
	_, comment, commented := strings.Cut(after, "  #\n")
	if !found || !commented {
		t.Fatalf("what is there to replace in\n%s", text)
	}
	// Debian's promtool is built without what finds pods, and refuses this.
	path := filepath.Join(t.TempDir(), "prometheus.yml")
	write(t, path, before+strings.ReplaceAll(comment, "  # ", "    "))
	var config exampleConfig
	parse(t, path, &config)
	job := config.Scrape[0]
	objects, _ := readManifest(t)
	if len(job.Static) != 0 || len(job.Kubernetes) != 1 || job.Kubernetes[0].Role != "pod" ||
		!slices.Equal(job.Kubernetes[0].Namespaces["names"], []string{objects[0].Metadata.Name}) {
		t.Errorf("it looks for %+v", job.Kubernetes)
	}
	// Without this an alert names a pod's address, which is another one after each update.
	if len(job.Relabel) != 2 || !slices.Equal(job.Relabel[0].Source, []string{"__meta_kubernetes_pod_node_name"}) || job.Relabel[0].Target != "instance" {
		t.Fatalf("machines are named by %+v", job.Relabel)
	}
	// A pod that has ended and one that lives are two targets with the same labels.
	if ended := job.Relabel[1]; !slices.Equal(ended.Source, []string{"__meta_kubernetes_pod_phase"}) || ended.Regex != "Succeeded|Failed" || ended.Action != "drop" {
		t.Errorf("pods that have ended: %+v", ended)
	}
}

// TestExampleConfigKeeps what the rules and the dashboards that are shipped ask for, and nothing else.
func TestExampleConfigKeeps(t *testing.T) {
	t.Parallel()
	var config exampleConfig
	parse(t, "prometheus/prometheus.yml", &config)
	keep := config.Scrape[0].Keep
	if len(keep) != 1 || !slices.Equal(keep[0].Source, []string{"__name__"}) || keep[0].Action != "keep" {
		t.Fatalf("it keeps %+v", keep)
	}
	kept, err := regexp.Compile("^(?:" + keep[0].Regex + ")$") // as Prometheus does
	if err != nil {
		t.Fatal(err)
	}
	queries := allQueries(t)
	patterns := regexp.MustCompile(`__name__=~"([^"]*)"`).FindAllStringSubmatch(queries, -1)
	asked := 0
	for name := range exposed(t) {
		is := regexp.MustCompile(`\b`+name+`\b`).MatchString(queries) || slices.ContainsFunc(patterns, func(pattern []string) bool {
			return regexp.MustCompile("^(?:" + pattern[1] + ")$").MatchString(name)
		})
		if is {
			asked++
		}
		if kept.MatchString(name) != is {
			t.Errorf("%s is asked for: %t, kept: %t", name, is, kept.MatchString(name))
		}
	}
	if asked < 30 {
		t.Errorf("only %d metrics are asked for", asked)
	}
}

// TestExampleConfigSends what the fleet's dashboard asks for, to where there is nothing else.
func TestExampleConfigSends(t *testing.T) {
	t.Parallel()
	sent := sentNames(t)
	asked := 0
	for _, query := range fleetBoard(t).Queries() {
		for _, name := range regexp.MustCompile(`[a-zA-Z_:][a-zA-Z0-9_:]*\{`).FindAllString(query.Expr, -1) {
			if name != "kube_node_info{" {
				asked++
				if !sent.MatchString(strings.TrimSuffix(name, "{")) {
					t.Errorf("%s asks for %s, which is not sent", query.Where, name)
				}
			}
		}
	}
	if asked < 10 {
		t.Errorf("it asks for %d", asked)
	}
}

// fleetBoard is the dashboard of the fleet.
func fleetBoard(t *testing.T) *dashboards.Dashboard {
	t.Helper()
	all, err := dashboards.All()
	if err != nil {
		t.Fatal(err)
	}
	return all[slices.IndexFunc(all, func(d *dashboards.Dashboard) bool { return d.Name == "fleet" })]
}

// remoteWrite is the comment of the example configuration that sends what is recorded, as it stands there.
func remoteWrite(t *testing.T) string {
	t.Helper()
	comment := regexp.MustCompile(`(?m)^# *remote_write:\n(?:# .*\n)+`).FindString(read(t, "prometheus/prometheus.yml"))
	if comment == "" {
		t.Fatal("nothing is sent")
	}
	return comment
}

// sentNames are the metrics that it sends.
func sentNames(t *testing.T) *regexp.Regexp {
	t.Helper()
	match := regexp.MustCompile(`(?m)^# +regex: (.*)$`).FindStringSubmatch(remoteWrite(t))
	if match == nil {
		t.Fatal("what is sent is not chosen")
	}
	return regexp.MustCompile("^(?:" + match[1] + ")$")
}

// allQueries are those of the rules, of their texts, and of the dashboards.
func allQueries(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	for _, name := range []string{"prometheus/rules.yml", "prometheus/owners.yml"} {
		var file struct {
			Groups []ruleGroup
		}
		parse(t, name, &file)
		for _, group := range file.Groups {
			for _, rule := range group.Rules {
				text.WriteString(rule.Expr + "\n" + rule.Annotations["description"] + "\n")
			}
		}
	}
	all, err := dashboards.All()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range all {
		for _, query := range d.Queries() {
			text.WriteString(query.Expr + "\n")
		}
		for _, variable := range d.Templating.List {
			text.WriteString(variable.Definition + "\n")
		}
	}
	return text.String()
}

// exposed are the names of all metrics that the exporter may serve, as its own
// tests have them, and of those that it has of client_golang.
func exposed(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	pages, err := filepath.Glob("../*/testdata/*.prom")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range append(pages, "../exporter/testdata/metrics.txt") {
		for _, match := range regexp.MustCompile(`(?m)^# TYPE (\S+) `).FindAllStringSubmatch(read(t, page), -1) {
			names[match[1]] = true
		}
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(promcollectors.NewGoCollector(), promcollectors.NewProcessCollector(promcollectors.ProcessCollectorOpts{}))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		names[family.GetName()] = true
	}
	return names
}

// parse reads YAML, all of which must be known.
func parse(t *testing.T, path string, into any) {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(read(t, path)), into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}
