package main

import (
	"bytes"
	_ "embed" // for rules.yml
	"fmt"
	"strings"
	"text/template"
)

// rulesTemplate is rules.yml with << >> for what a configuration says: {{ }}
// stands for what Prometheus puts into an alert's text.
//
//go:embed rules.yml
var rulesTemplate string

// rules are the rules as Prometheus reads them.
func (c config) rules() ([]byte, error) {
	t, err := template.New("rules.yml").Delims("<<", ">>").Option("missingkey=error").Funcs(template.FuncMap{
		"runbook":   func(alert string) string { return c.Runbooks + "#" + strings.ToLower(alert) }, // as a heading's anchor is made
		"dashboard": c.link,
	}).Parse(rulesTemplate)
	if err != nil {
		return nil, fmt.Errorf("reading the rules: %w", err)
	}
	var out bytes.Buffer
	out.WriteString(header("#") + "#\n")
	if err := t.Execute(&out, c); err != nil {
		return nil, fmt.Errorf("making the rules: %w", err)
	}
	return out.Bytes(), nil
}

// link is where an alert's dashboard is, with those of its labels chosen that are variables there.
func (c config) link(labels ...string) string {
	var choices []string
	for _, label := range labels {
		choices = append(choices, fmt.Sprintf("var-%s={{ urlquery $labels.%s }}", label, label))
	}
	link := c.Grafana + "/d/" + dashboardUID
	if len(choices) > 0 {
		link += "?" + strings.Join(choices, "&")
	}
	return link
}

// prometheusRule is the same for the Prometheus Operator.
func (c config) prometheusRule(rules []byte) []byte {
	return fmt.Appendf(nil, `%sapiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: capability-exporter
  namespace: %s
  labels:
    app.kubernetes.io/name: capability-exporter
spec:
%s`, header("#"), c.Namespace, indent("  ", strings.TrimPrefix(string(rules), header("#")+"#\n")))
}

// configMap holds a dashboard for the sidecar that Grafana's Helm chart has,
// which looks for this label.
func (c config) configMap(name string, dashboard []byte) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: ConfigMap
metadata:
  name: capability-exporter-dashboard-%s
  namespace: %s
  labels:
    app.kubernetes.io/name: capability-exporter
    grafana_dashboard: "1"
data:
  capability-exporter-%s.json: |
%s`, name, c.Namespace, name, indent("    ", string(dashboard)))
}

func indent(by, text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if line != "\n" {
			b.WriteString(by)
		}
		b.WriteString(line)
	}
	return b.String()
}
