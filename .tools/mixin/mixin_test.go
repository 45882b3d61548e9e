package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// made returns all files that the arguments make, by path.
func made(t *testing.T, args ...string) map[string]string {
	t.Helper()
	dir := t.TempDir()
	if err := run(append(args, "-out", dir), io.Discard); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		files[filepath.ToSlash(name)] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestChosen: what a fleet chooses stands wherever it must, and nothing of what is chosen by default does.
func TestChosen(t *testing.T) {
	t.Parallel()
	files := made(t, "-job", "integrations/caps", "-cluster", "dc", "-runbooks", "https://wiki.example/caps", "-grafana", "https://grafana.example",
		"-namespace", "security", "-learn", "72h", "-forget", "960h", "-new", "30m", "-keep", "24h", "-unused", "1440h",
		"-rate", "0.2", "-starts", "5", "-full", "0.75", "-missed", "0.02")
	files["both"] = files["deploy/prometheus/rules.yml"] + files["deploy/prometheus/owners.yml"]
	for _, name := range []string{"both", "deploy/kubernetes/prometheusrule.yaml"} {
		rules := files[name]
		for _, match := range regexp.MustCompile(`\bjob="([^"]*)"`).FindAllStringSubmatch(rules, -1) {
			if match[1] != "integrations/caps" {
				t.Errorf("%s: %s", name, match[0])
			}
		}
		for _, left := range []string{"<<", ">>", "(cluster,", "(cluster)", "$labels.cluster", "cluster=%q", "= 24 * 3600", "35 * 24", "35 days", "30 days", "30 * 24", "- 15 * 60", "for: 6h", "RUNBOOK.md", ") > 1\n", "[1h]) > 3\n", "> 0.9\n", "> 0.0001\n"} {
			if strings.Contains(rules, left) {
				t.Errorf("%s still has %q", name, left)
			}
		}
		for _, want := range []string{
			"on (dc, job, instance, workload)", "$labels.dc", "dc=%q", ">= 3 * 24 * 3600", "time() - 40 * 24 * 3600", "in 40 days", "learns for 3 days", "time() - 30 * 60", "keep_firing_for: 1d",
			"runbook_url: 'https://wiki.example/caps#capabilitydenied'",
			"has not used in 60 days", "<= time() - 60 * 24 * 3600", ") > 0.2\n", "[1h]) > 5\n", "series_limit > 0.75\n", " > 0.02\n",
			"dashboard_url: 'https://grafana.example/d/capability-exporter-node?var-cluster={{ urlquery $labels.dc }}&var-instance={{ urlquery $labels.instance }}&var-workload={{ urlquery $labels.workload }}'",
		} {
			if !strings.Contains(rules, want) {
				t.Errorf("%s lacks %q", name, want)
			}
		}
	}
	for name, text := range files {
		if !strings.HasPrefix(name, "dashboards/") {
			continue
		}
		for _, left := range []string{"<<", ">>", "cluster=~", "(cluster", "by (cluster", "{{cluster}}", ", cluster)", "< 24 * 3600"} {
			if strings.Contains(text, left) {
				t.Errorf("%s still has %q", name, left)
			}
		}
		if !strings.Contains(text, `{dc=~\"$cluster\"`) {
			t.Errorf("%s does not go by the label of the clusters", name)
		}
	}
	for _, name := range []string{"deploy/kubernetes/prometheusrule.yaml", "deploy/kubernetes/dashboards.yaml"} {
		if !strings.Contains(files[name], "\n  namespace: security\n") {
			t.Errorf("%s is for another namespace", name)
		}
	}
}

// TestForms: the forms for Kubernetes hold what the plain ones do.
func TestForms(t *testing.T) {
	t.Parallel()
	files := made(t)
	type groups struct{ Groups []any }
	var rule struct {
		Kind string
		Spec groups
	}
	var rules, owners groups
	parse(t, files["deploy/kubernetes/prometheusrule.yaml"], &rule)
	parse(t, files["deploy/prometheus/rules.yml"], &rules)
	parse(t, files["deploy/prometheus/owners.yml"], &owners)
	if rule.Kind != "PrometheusRule" || len(rules.Groups) < 2 || len(owners.Groups) != 1 || !equal(t, rule.Spec, groups{append(rules.Groups, owners.Groups...)}) {
		t.Error("the PrometheusRule has other rules than rules.yml and owners.yml")
	}
	dashboards := 0
	for decoder := yaml.NewDecoder(strings.NewReader(files["deploy/kubernetes/dashboards.yaml"])); ; {
		var m struct {
			Kind     string
			Metadata struct{ Labels map[string]string }
			Data     map[string]string
		}
		if decoder.Decode(&m) != nil {
			break
		}
		if m.Kind != "ConfigMap" || m.Metadata.Labels["grafana_dashboard"] != "1" || len(m.Data) != 1 {
			t.Errorf("%+v is no ConfigMap that Grafana's sidecar looks for", m)
		}
		for name, text := range m.Data {
			dashboards++
			if text != files["dashboards/"+strings.TrimPrefix(name, "capability-exporter-")] {
				t.Errorf("%s is another dashboard than the file's", name)
			}
		}
	}
	if dashboards != 4 || dashboards != len(files)-4 {
		t.Errorf("%d dashboards in ConfigMaps, and %d files in all", dashboards, len(files))
	}
}

func parse(t *testing.T, text string, into any) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(text), into); err != nil {
		t.Fatal(err)
	}
}

func equal(t *testing.T, a, b any) bool {
	t.Helper()
	x, err := yaml.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := yaml.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Equal(x, y)
}

// TestRefused: what would make a file that Prometheus or Kubernetes does not take is not written.
func TestRefused(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"-job", `a"b`}, {"-job", ""}, {"-job", "a b"}, {"-cluster", "data-center"}, {"-cluster", ""}, {"-namespace", "Security"}, {"-runbooks", ""},
		{"-runbooks", "https://x/'"}, {"-grafana", "{{ x }}"}, {"-learn", "1s"}, {"-new", "90500ms"}, {"-unused", "1s"}, {"more"},
		{"-rate", "-1"}, {"-rate", "NaN"}, {"-rate", "Inf"}, {"-starts", "-1"}, {"-full", "90"}, {"-full", "NaN"}, {"-missed", "1"},
	} {
		dir := t.TempDir()
		if err := run(append([]string{"-out", filepath.Join(dir, "x")}, args...), io.Discard); err == nil {
			t.Errorf("%q is taken", args)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
			t.Errorf("%q: %v, %v", args, entries, err)
		}
	}
}
