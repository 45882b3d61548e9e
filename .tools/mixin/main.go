// Command mixin makes the alert rules, the dashboards and their forms for
// Kubernetes from one place: rules.yml and owners.yml beside it, and the Go
// files of the dashboards. What is committed is made with the defaults.
//
//	go -C .tools run ./mixin -out /tmp/mixin -job integrations/capability -runbooks https://wiki.example/capabilities
//
// It knows what the exporter's metrics are called, and nothing else of it.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) { // the help has been printed
		fmt.Fprintln(os.Stderr, "mixin:", err)
		os.Exit(1)
	}
}

// config is what the fleets that use the rules and dashboards differ in.
type config struct {
	Job       string // of the exporters' targets
	Cluster   string // the label that tells clusters apart
	Runbooks  string // where RUNBOOK.md can be read
	Grafana   string // where the dashboards are
	Namespace string // of what Kubernetes is given

	learn, forget, fresh, keep, unused time.Duration

	// What is told of is more than that.
	Rate   float64 // of granted checks of CAP_SYS_ADMIN, in a second
	Starts uint    // of an exporter, in an hour
	Full   float64 // of the room for workload series
	Missed float64 // of all checks
}

// Learn is how long the memory of a cluster learns before it tells, in seconds.
func (c config) Learn() string { return seconds(c.learn) }

// Forget is after how long an identity that is not seen is new again.
func (c config) Forget() string { return seconds(c.forget) }

// Remembered and Learned are the two in words.
func (c config) Remembered() string { return words(c.forget) }

func (c config) Learned() string { return words(c.learn) }

// New is how long an identity is new.
func (c config) New() string { return seconds(c.fresh) }

// Unused is for how long what is held must not have been used to be told of, and Idle the same in words.
func (c config) Unused() string { return seconds(c.unused) }

func (c config) Idle() string { return words(c.unused) }

// Keep is how long a first use goes on firing.
func (c config) Keep() string { return promDuration(c.keep) }

// Runtimes are the names of programs that set up containers, also those that
// run from a copy of themselves in memory.
func (c config) Runtimes() string { return `(memfd:)?(runc|crun|youki|conmon)(_cloned:.*)?` }

// Alike are workloads of which there are many of one kind: paths, for all but their beginning; machines with a number at the end; units of a
// template, for what comes behind the @; swap space, for its disk; units with a number at the end. Of each one group or two match.
func (c config) Alike() string {
	return `(/[^/0-9]*)[/0-9].*|(machine/.*[^0-9])[0-9]+|([^/@]+@)[^/]+([.][a-z]+)|(dev-)[^/]+([.]swap)|([^/@]*[^/@0-9])[0-9]+([.][a-z]+)`
}

// Kind is the name that they share, as label_replace writes it: with a star for the rest.
func (c config) Kind() string { return `${1}${2}${3}${5}${7}*${4}${6}${8}` }

// seconds writes a duration as people read it, and PromQL multiplies.
func seconds(d time.Duration) string {
	const day, hour, minute = 24 * time.Hour, time.Hour, time.Minute
	switch {
	case d%day == 0 && d > day:
		return fmt.Sprintf("%d * 24 * 3600", d/day)
	case d%hour == 0:
		return fmt.Sprintf("%d * 3600", d/hour)
	case d%minute == 0:
		return fmt.Sprintf("%d * 60", d/minute)
	}
	return fmt.Sprintf("%d", d/time.Second)
}

func words(d time.Duration) string {
	switch days := d / (24 * time.Hour); {
	case d%(24*time.Hour) != 0:
		return promDuration(d)
	case days == 1:
		return "a day"
	default:
		return fmt.Sprintf("%d days", days)
	}
}

// promDuration writes a duration as Prometheus reads it: in the largest unit that fits.
func promDuration(d time.Duration) string {
	for _, unit := range []struct {
		name string
		is   time.Duration
	}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}} {
		if d%unit.is == 0 {
			return fmt.Sprintf("%d%s", d/unit.is, unit.name)
		}
	}
	return fmt.Sprintf("%ds", d/time.Second)
}

var (
	label   = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)
	plain   = regexp.MustCompile(`^[a-zA-Z0-9_./:-]+$`) // stands in PromQL, YAML and Go templates as it is
	dnsName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
)

// check tells what of a configuration cannot be, before it stands in a file.
func (c config) check() error {
	switch {
	case !plain.MatchString(c.Job):
		return fmt.Errorf("-job %q: letters, digits and _ . / : - only", c.Job)
	case !label.MatchString(c.Cluster):
		return fmt.Errorf("-cluster %q is no label's name", c.Cluster)
	case !dnsName.MatchString(c.Namespace):
		return fmt.Errorf("-namespace %q is no namespace's name", c.Namespace)
	case c.Runbooks == "" || strings.ContainsAny(c.Runbooks, "'\"{}<> \n"):
		return fmt.Errorf("-runbooks %q is no address", c.Runbooks)
	case strings.ContainsAny(c.Grafana, "'\"{}<> \n"):
		return fmt.Errorf("-grafana %q is no address", c.Grafana)
	}
	for name, d := range map[string]time.Duration{"learn": c.learn, "forget": c.forget, "new": c.fresh, "keep": c.keep, "unused": c.unused} {
		if d < time.Minute || d%time.Second != 0 {
			return fmt.Errorf("-%s %v: whole seconds, and a minute at least", name, d)
		}
	}
	if !(c.Rate >= 0) || math.IsInf(c.Rate, 1) { // NaN is neither more nor less
		return fmt.Errorf("-rate %v: 0 or more checks a second", c.Rate)
	}
	for name, share := range map[string]float64{"full": c.Full, "missed": c.Missed} {
		if !(share >= 0 && share < 1) {
			return fmt.Errorf("-%s %v: a share, from 0 to less than 1", name, share)
		}
	}
	return nil
}

func run(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("mixin", flag.ContinueOnError)
	flags.SetOutput(out)
	var c config
	flags.StringVar(&c.Job, "job", "capability_exporter", "the scrape `job` of the exporters")
	flags.StringVar(&c.Cluster, "cluster", "cluster", "the `label` that tells clusters apart, if there are several; of another, alertmanager.yml must have the name in group_by and equal")
	flags.StringVar(&c.Runbooks, "runbooks", "RUNBOOK.md", "the `address` at which deploy/prometheus/RUNBOOK.md can be read, for runbook_url")
	flags.StringVar(&c.Grafana, "grafana", "", "the `address` of Grafana, for the links to the dashboards")
	flags.StringVar(&c.Namespace, "namespace", "capability-exporter", "the `namespace` of the PrometheusRule and the ConfigMaps")
	flags.DurationVar(&c.learn, "learn", 24*time.Hour, "how long first uses in a new cluster are learned and page nobody")
	flags.DurationVar(&c.forget, "forget", 35*24*time.Hour, "after how long an identity that is not seen is new again")
	flags.DurationVar(&c.fresh, "new", 15*time.Minute, "how long a first use is new")
	flags.DurationVar(&c.keep, "keep", 6*time.Hour, "how long it goes on firing after that")
	flags.DurationVar(&c.unused, "unused", 30*24*time.Hour, "for how long a capability that is held must not have been used to be told of")
	flags.Float64Var(&c.Rate, "rate", 1, "how many checks of CAP_SYS_ADMIN a second CapabilitySysAdminRate passes over")
	flags.UintVar(&c.Starts, "starts", 3, "how many starts in an hour CapabilityExporterRestarting passes over")
	flags.Float64Var(&c.Full, "full", 0.9, "the `share` of --series.limit that CapabilityExporterSeriesNearLimit passes over")
	flags.Float64Var(&c.Missed, "missed", 0.0001, "the `share` of all checks that CapabilityExporterMissedRuns passes over")
	to := flags.String("out", "", "the `folder` to write to (default: the repository, what is committed)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("arguments %q are not understood; the flags are told by -help", flags.Args())
	}
	if err := c.check(); err != nil {
		return err
	}
	if *to == "" {
		*to = ".." // go -C .tools
	}
	files, err := c.files()
	if err != nil {
		return err
	}
	for _, f := range files {
		path := filepath.Join(*to, f.path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // for all to enter
			return fmt.Errorf("-out: %w", err)
		}
		if err := os.WriteFile(path, f.text, 0o644); err != nil { //nolint:gosec // for all to read
			return fmt.Errorf("-out: %w", err)
		}
	}
	return nil
}

// A file is one that is made, with its path in the repository.
type file struct {
	path string
	text []byte
}

func (c config) files() ([]file, error) {
	rules, err := c.rules("rules.yml")
	if err != nil {
		return nil, err
	}
	owners, err := c.rules("owners.yml")
	if err != nil {
		return nil, err
	}
	files := []file{
		{"deploy/prometheus/rules.yml", rules},
		{"deploy/prometheus/owners.yml", owners},
		{"deploy/kubernetes/prometheusrule.yaml", c.prometheusRule(rules, owners)},
	}
	maps := []string{header}
	for _, d := range c.dashboards() {
		text, err := d.json()
		if err != nil {
			return nil, fmt.Errorf("dashboard %s: %w", d.name, err)
		}
		files = append(files, file{"dashboards/" + d.name + ".json", text})
		maps = append(maps, c.configMap(d.name, text))
	}
	return append(files, file{"deploy/kubernetes/dashboards.yaml", []byte(strings.Join(maps, ""))}), nil
}

// header says where a file comes from.
const header = "# Made by `make mixin` from .tools/mixin. Change it there.\n"
