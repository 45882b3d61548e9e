package collectors

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// TestReference holds README's table of metrics against what the collectors
// say of themselves. With -update it writes the table.
func TestReference(t *testing.T) {
	const path, begin, end = "../README.md", "<!-- Made by go test ./collectors -run TestReference -update. -->\n", "<!-- end -->\n"
	readme, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(readme), begin)
	got, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("README has no place for the table, between %q and %q", begin, end)
	}
	want := reference(t)
	if *update {
		if err := os.WriteFile(path, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got == want {
		return
	}
	ours, theirs := slices.Collect(strings.Lines(want)), slices.Collect(strings.Lines(got))
	for _, line := range theirs {
		if !slices.Contains(ours, line) {
			t.Errorf("README has, and the collectors have not: %s", line)
		}
	}
	for _, line := range ours {
		if !slices.Contains(theirs, line) {
			t.Errorf("the collectors have, and README has not: %s", line)
		}
	}
	t.Error("README's table of metrics is another one: run the test with -update")
}

// reference is a table of all metrics: those of the checks, then those of the exporter itself.
func reference(t *testing.T) string {
	t.Helper()
	rows, described := map[string]string{}, map[string]bool{}
	for _, collector := range goldens() {
		for _, family := range gather(t, collector) {
			labels := map[string]bool{}
			for _, metric := range family.GetMetric() {
				for _, label := range metric.GetLabel() {
					labels[label.GetName()] = true
				}
			}
			rows[family.GetName()] = "| " + strings.Join([]string{
				"`" + family.GetName() + "`", strings.ToLower(family.GetType().String()), strings.Join(slices.Sorted(maps.Keys(labels)), ", "), markdown(family.GetHelp()),
			}, " | ") + " |\n"
		}
		for name := range descriptions(t, collector) {
			described[name] = true
		}
	}
	for name := range described {
		if rows[name] == "" {
			t.Errorf("%s is on no golden page, so that its labels and type are not known", name)
		}
	}
	own := strings.NewReplacer("capability_exporter_", "~") // behind all others
	names := slices.SortedFunc(maps.Keys(rows), func(a, b string) int { return strings.Compare(own.Replace(a), own.Replace(b)) })
	var table strings.Builder
	table.WriteString("| metric | type | labels | |\n|---|---|---|---|\n")
	for _, name := range names {
		table.WriteString(rows[name])
	}
	return table.String()
}

// descriptions are the names of the metrics that a collector may have.
func descriptions(t *testing.T, collector prometheus.Collector) map[string]bool {
	t.Helper()
	ch, names := make(chan *prometheus.Desc), map[string]bool{}
	go func() {
		defer close(ch)
		collector.Describe(ch)
	}()
	for desc := range ch {
		// It has no other way to say its name.
		match := regexp.MustCompile(`^Desc\{fqName: "([a-z_]+)"`).FindStringSubmatch(desc.String())
		if match == nil {
			t.Fatalf("a description is not written as it was: %s", desc)
		}
		names[match[1]] = true
	}
	return names
}

// markdown writes a help text as a cell of a table: names, labels and flags as code.
func markdown(help string) string {
	code := regexp.MustCompile(`\bcapability_[a-z_]+\b|\b[a-z_]+="[^"]*"|--[a-z]+[.][a-z.=]+[a-z]|\bCAP_[A-Z_]+\b`)
	return code.ReplaceAllString(strings.NewReplacer("|", `\|`, "<", "&lt;").Replace(help), "`$0`")
}
