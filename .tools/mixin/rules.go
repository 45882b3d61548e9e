package main

import (
	_ "embed" // for the rules
	"fmt"
	"strings"
	"text/template"
)

// rulesTemplate is rules.yml with << >> for what a configuration says: {{ }}
// stands for what Prometheus puts into an alert's text.
//
//go:embed rules.yml
var rulesTemplate string

// ownersTemplate is owners.yml likewise. It takes parts from rules.yml.
//
//go:embed owners.yml
var ownersTemplate string

// rules are the rules as Prometheus reads them, those of a name.
func (c config) rules(name string) ([]byte, error) {
	t := template.New("").Delims("<<", ">>").Option("missingkey=error")
	t.Funcs(template.FuncMap{
		"runbook":   func(alert string) string { return c.Runbooks + "#" + strings.ToLower(alert) }, // as a heading's anchor is made
		"dashboard": c.link,
		"place":     func(labels string) (string, error) { return c.execute(t, "place", part{c, labels}) },
		"counter": func(column int, name, series, window string) (string, error) {
			expr, err := c.execute(t, name, counter{c, series, window})
			return shift(column, expr), err
		},
		"part": func(column int, name, of string) (string, error) {
			expr, err := c.execute(t, name, part{c, of})
			return shift(column, expr), err
		},
		"owned": func(column int, vector string) (string, error) {
			expr, err := c.execute(t, "owned", owned{owners{config: c, window: "20m"}, func() (string, error) { return c.execute(t, vector, c) }})
			return shift(column, expr), err
		},
		"owners": func(column int, operation, labels, vector, window string) (string, error) {
			expr, err := c.execute(t, "owners", owners{c, operation, labels, window, func(of string) (string, error) {
				return c.execute(t, vector, part{c, of})
			}})
			return shift(column, expr), err
		},
	})
	for name, text := range map[string]string{"rules.yml": rulesTemplate, "owners.yml": ownersTemplate} {
		if _, err := t.New(name).Parse(text); err != nil {
			return nil, fmt.Errorf("reading the rules: %w", err)
		}
	}
	rules, err := c.execute(t, name, c)
	if err != nil {
		return nil, fmt.Errorf("making the rules: %w", err)
	}
	return []byte(header + "#\n" + rules), nil
}

func (c config) execute(t *template.Template, name string, data any) (string, error) {
	var out strings.Builder
	if err := t.ExecuteTemplate(&out, name, data); err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	return out.String(), nil
}

// owners are an operation's results on series by who they are of, and some of their labels.
type owners struct {
	config
	Operation, Labels string
	window            string // in which a pod counts that has ended since, if not ""
	vector            func(of string) (string, error)
}

// Pods are those of all nodes.
func (o owners) Pods() string { return o.pods("") }

// Named are the same, each of them once: that a pod had no name is over once it has one.
func (o owners) Named() string {
	if o.window == "" {
		return o.pods("")
	}
	return "(" + o.pods(`, pod!=""`) + " or on (" + o.Cluster + ", job, instance, workload) " + o.pods(`, pod=""`) + ")"
}

func (o owners) pods(of string) string {
	pods := fmt.Sprintf(`capability_workload_info{job=%q, kind="pod"%s}`, o.Job, of)
	if o.window == "" {
		return pods
	}
	return "last_over_time(" + pods + "[" + o.window + "])"
}

// OfRuntimes and OfOthers are the expression of the series that programs which
// set up containers have, and of all others, as it stands from a column on.
func (o owners) OfRuntimes(column int) (string, error) { return o.of(column, "=~") }

func (o owners) OfOthers(column int) (string, error) { return o.of(column, "!~") }

func (o owners) of(column int, matches string) (string, error) {
	vector, err := o.vector("process" + matches + `"` + o.Runtimes() + `"`)
	return shift(column, vector), err
}

// owned is an expression of workloads that are to have their owner's labels, whose pods may have ended since.
type owned struct {
	owners
	vector func() (string, error)
}

// Vector is that expression, as it stands from a column on.
func (o owned) Vector(column int) (string, error) {
	vector, err := o.vector()
	return shift(column, vector), err
}

// part is what is chosen for an expression.
type part struct {
	config
	Of string // a matcher of the series, or the labels of one
}

// counter is the series of one, and how far back it is looked at.
type counter struct {
	config
	Of, Window string
}

// shift has all lines of a text but the first start at a column.
func shift(column int, text string) string {
	return strings.ReplaceAll(text, "\n", "\n"+strings.Repeat(" ", column))
}

// link is where an alert's dashboard is, with those of its labels chosen that are variables there.
func (c config) link(board string, labels ...string) string {
	var choices []string
	for _, label := range labels {
		variable := label
		if label == "cluster" {
			label = c.Cluster
		}
		choices = append(choices, fmt.Sprintf("var-%s={{ urlquery $labels.%s }}", variable, label))
	}
	link := c.Grafana + "/d/" + uid(board)
	if len(choices) > 0 {
		link += "?" + strings.Join(choices, "&")
	}
	return link
}

// prometheusRule is all rules for the Prometheus Operator.
func (c config) prometheusRule(rules, owners []byte) []byte {
	_, groups, _ := strings.Cut(string(owners), "\ngroups:\n")
	return fmt.Appendf(nil, `%sapiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: capability-exporter
  namespace: %s
  labels:
    app.kubernetes.io/name: capability-exporter
spec:
%s`, header, c.Namespace, indent("  ", strings.TrimPrefix(string(rules), header+"#\n")+"\n"+groups))
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
