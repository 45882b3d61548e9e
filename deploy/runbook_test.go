package deploy

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// runbook returns its sections by the alerts' names.
func runbook(t *testing.T) map[string]string {
	t.Helper()
	text := read(t, "prometheus/RUNBOOK.md")
	headings := regexp.MustCompile(`(?m)^## (\w+)$`).FindAllStringSubmatchIndex(text, -1)
	sections := map[string]string{}
	for n, h := range headings {
		end := len(text)
		if n+1 < len(headings) {
			end = headings[n+1][0]
		}
		sections[text[h[2]:h[3]]] = text[h[1]:end]
	}
	return sections
}

// TestRunbookSilences has amtool add the silence that ends each section, with the labels that the rules' unit tests expect of its
// alert: a real Alertmanager is then silent on that, on no other alert, and on none that differs in a label that was filled in.
func TestRunbookSilences(t *testing.T) {
	t.Parallel()
	expected, can := map[string][]map[string]string{}, map[string]map[string]bool{} // by the alert's name
	for _, test := range alertTests(t) {
		for _, fires := range test.ExpAlerts {
			expected[test.Alertname] = append(expected[test.Alertname], fires.Labels)
		}
	}
	exprs := map[string]string{} // by the rule's name
	for _, group := range allGroups(t) {
		for _, rule := range group.Rules {
			exprs[rule.Record+rule.Alert] = rule.Expr
		}
	}
	for alert, all := range expected {
		can[alert] = map[string]bool{"cluster": true} // the targets', if they have it
		for _, name := range grouped(exprs, exprs[alert], 3) {
			can[alert][name] = true
		}
		for _, labels := range all {
			for name := range labels {
				can[alert][name] = true
			}
		}
	}
	sections := runbook(t)
	ends := regexp.MustCompile("\\s`(amtool silence add alertname=(\\w+)((?: \\w+=\"[A-Z_]+\")+) --duration [0-9]+h --comment \"WHY\")`\n*$")
	eachPrometheus(t, func(t *testing.T, path func(string) string) {
		address := runAlertmanager(t, path("alertmanager"), "prometheus/alertmanager.yml")
		for _, alert := range slices.Sorted(maps.Keys(sections)) {
			end := ends.FindStringSubmatch(sections[alert])
			if end == nil || end[2] != alert {
				t.Errorf("the section %s does not end in how to silence it", alert)
				continue
			}
			for _, match := range regexp.MustCompile(`(\w+)="(\w+)"`).FindAllStringSubmatch(end[3], -1) {
				if !can[alert][match[1]] || !strings.EqualFold(match[2], match[1]) {
					t.Errorf("%s: %s is to be filled in, and it can have %q", alert, match[0], slices.Sorted(maps.Keys(can[alert])))
				}
			}
			for _, labels := range expected[alert] {
				checkSilence(t, path("amtool"), address, end[1], alert, labels)
			}
		}
	})
}

// grouped returns the labels by which an expression is grouped at its outermost, or what it goes by: a recorded one, or another's.
func grouped(exprs map[string]string, expr string, depth int) []string {
	if by := regexp.MustCompile(`^\s*(?:sum|count|max|min) by \(([\w, ]+)\)`).FindStringSubmatch(expr); by != nil {
		return strings.Split(by[1], ", ")
	}
	var all []string
	for _, name := range regexp.MustCompile(`\w+:\w+:\w+`).FindAllString(expr, -1) {
		if depth > 0 {
			all = append(all, grouped(exprs, exprs[name], depth-1)...)
		}
	}
	return all
}

// checkSilence adds a silence for an alert with these labels: what the alert has is filled in, and what it lacks left out.
func checkSilence(t *testing.T, amtool, address, line, alert string, labels map[string]string) {
	t.Helper()
	silenced := maps.Clone(labels)
	silenced["alertname"] = alert
	other := maps.Clone(silenced)
	other["alertname"] = "CapabilityOther"
	told := []map[string]string{other}
	line = regexp.MustCompile(` (\w+)="[A-Z_]+"`).ReplaceAllStringFunc(line, func(matcher string) string {
		name, _, _ := strings.Cut(strings.TrimSpace(matcher), "=")
		if labels[name] == "" {
			return ""
		}
		another := maps.Clone(silenced)
		another[name] = "another"
		told = append(told, another)
		return " " + name + `="` + labels[name] + `"`
	})
	for _, alert := range append(told, silenced) {
		if isSilenced(t, address, alert) {
			t.Fatalf("%v is silenced before `%s`", alert, line)
		}
	}
	silence := exec.CommandContext(t.Context(), "bash", "-c", `PATH=$0:$PATH; `+line+` --alertmanager.url=http://$1`, filepath.Dir(amtool), address)
	var trouble bytes.Buffer
	silence.Stderr = &trouble
	id, err := silence.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, trouble.Bytes())
	}
	if !isSilenced(t, address, silenced) {
		t.Errorf("`%s` does not silence %v", line, silenced)
	}
	for _, alert := range told {
		if isSilenced(t, address, alert) {
			t.Errorf("`%s` silences %v", line, alert)
		}
	}
	words := strings.Fields(string(id)) // the newest warns before it, of spaces in a name
	request(t, http.MethodDelete, "http://"+address+"/api/v2/silence/"+words[len(words)-1], nil, nil)
}

// isSilenced tells Alertmanager of an alert, and whether it is silent on it.
func isSilenced(t *testing.T, address string, alert map[string]string) bool {
	t.Helper()
	fire(t, address, alert)
	return len(statusOf(t, address, alert).SilencedBy) > 0
}

// TestRunbookQueries: Prometheus can read each, and the exporter has the metrics.
func TestRunbookQueries(t *testing.T) {
	t.Parallel()
	metrics := exposed(t)
	var rules strings.Builder
	rules.WriteString("groups:\n- name: runbook\n  rules:\n")
	queries := 0
	for _, code := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(read(t, "prometheus/RUNBOOK.md"), -1) {
		if !regexp.MustCompile(`^[a-z_]+( by \([a-z_, ]+\) )?[({]`).MatchString(code[1]) {
			continue
		}
		queries++
		fmt.Fprintf(&rules, "  - {record: query_%d, expr: '%s'}\n", queries, code[1])
		for _, name := range regexp.MustCompile(`\bcapability_\w+`).FindAllString(code[1], -1) {
			if !metrics[name] {
				t.Errorf("%s asks for %s", code[0], name)
			}
		}
	}
	if queries < 10 {
		t.Errorf("only %d queries are found", queries)
	}
	path := filepath.Join(t.TempDir(), "rules.yml")
	write(t, path, rules.String())
	if out, err := exec.CommandContext(t.Context(), program(t, "promtool"), "check", "rules", path).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s\nof\n%s", err, out, rules.String())
	}
}
