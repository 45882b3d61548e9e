// Command chart makes what is rendered from the Helm chart in
// deploy/kubernetes/chart: the plain manifest beside it, which is what `helm
// template` prints, and the table of values in the chart's README.
//
//	go -C .tools/chart run . -out /tmp/chart
//
// It knows Helm, and nothing of the exporter. It is a module of its own: Helm is
// made of so much that the other tools would be of other versions for it.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	releaseutil "helm.sh/helm/v4/pkg/release/v1/util"
)

const (
	repository = "../.." // go -C .tools/chart
	kubernetes = "deploy/kubernetes"
	// name is of the release and of its namespace in the plain manifest.
	name = "capability-exporter"
)

func main() {
	slog.SetDefault(slog.New(slog.DiscardHandler))                                       // Helm tells of each symbolic link
	if err := run(os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) { // the help has been printed
		fmt.Fprintln(os.Stderr, "chart:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("chart", flag.ContinueOnError)
	flags.SetOutput(out)
	to := flags.String("out", repository, "the `folder` to write to (default: the repository, what is committed)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("arguments %q are not understood; the flags are told by -help", flags.Args())
	}
	made, err := files(repository)
	if err != nil {
		return err
	}
	for name, text := range made {
		path := filepath.Join(*to, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // for all to enter
			return fmt.Errorf("-out: %w", err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil { //nolint:gosec // for all to read
			return fmt.Errorf("-out: %w", err)
		}
	}
	return nil
}

// files returns what is made, by its path in the repository.
func files(repository string) (map[string]string, error) {
	const manifest, values, readme = kubernetes + "/daemonset.yaml", kubernetes + "/daemonset.values.yaml", kubernetes + "/chart/README.md"
	chosen, err := os.ReadFile(filepath.Join(repository, values))
	if err != nil {
		return nil, err
	}
	c, err := loader.LoadDir(filepath.Join(repository, kubernetes, "chart"))
	if err != nil {
		return nil, err
	}
	rendered, err := render(c, string(chosen))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", values, err)
	}
	defaults, err := os.ReadFile(filepath.Join(repository, kubernetes, "chart", "values.yaml"))
	if err != nil {
		return nil, err
	}
	table, err := tableOf(defaults)
	if err != nil {
		return nil, fmt.Errorf("values.yaml: %w", err)
	}
	text, err := os.ReadFile(filepath.Join(repository, readme))
	if err != nil {
		return nil, err
	}
	documented, err := between(string(text), table)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", readme, err)
	}
	return map[string]string{manifest: rendered.manifest, readme: documented}, nil
}

// release is what a chart makes of values.
type release struct {
	manifest string
	notes    string
}

// render does what `helm template` does, but that a value which a template asks
// for and nobody has is an error. The values are YAML.
func render(c *chart.Chart, values string) (release, error) {
	given, err := loader.LoadValues(strings.NewReader(values))
	if err != nil {
		return release{}, err
	}
	options := common.ReleaseOptions{Name: name, Namespace: name, Revision: 1, IsInstall: true}
	all, err := util.ToRenderValues(c, given, options, common.DefaultCapabilities)
	if err != nil {
		return release{}, err
	}
	texts, err := engine.Engine{Strict: true}.RenderWithContext(context.Background(), c, all)
	if err != nil {
		return release{}, err
	}
	notes := c.Name() + "/templates/NOTES.txt"
	r := release{notes: texts[notes]}
	delete(texts, notes)
	hooks, manifests, err := releaseutil.SortManifests(texts, nil, releaseutil.InstallOrder)
	if err != nil {
		return release{}, err
	}
	if len(hooks) > 0 {
		return release{}, errors.New("hooks are not printed yet")
	}
	var b strings.Builder
	for _, m := range manifests {
		fmt.Fprintf(&b, "---\n# Source: %s\n%s\n", m.Name, m.Content)
	}
	r.manifest = strings.TrimSpace(b.String()) + "\n"
	return r, nil
}

// tableOf describes each value by the comment above it. A mapping with a comment
// is one value, and one without is what its values have in common.
func tableOf(values []byte) (string, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(values, &document); err != nil {
		return "", err
	}
	if len(document.Content) != 1 || document.Content[0].Kind != yaml.MappingNode {
		return "", errors.New("there are none")
	}
	b := bytes.NewBufferString("| value | default | |\n|---|---|---|\n")
	err := addRows(b, "", document.Content[0])
	return b.String(), err
}

func addRows(b *bytes.Buffer, above string, mapping *yaml.Node) error {
	for i := 0; i < len(mapping.Content); i += 2 {
		key, value := mapping.Content[i], mapping.Content[i+1]
		path := above + key.Value
		comment := strings.Join(strings.Fields(strings.ReplaceAll(key.HeadComment, "#", "")), " ")
		if comment == "" && value.Kind == yaml.MappingNode && len(value.Content) > 0 {
			if err := addRows(b, path+".", value); err != nil {
				return err
			}
			continue
		}
		if comment == "" {
			return fmt.Errorf("%s has no comment above it", path)
		}
		var is any
		if err := value.Decode(&is); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		text, err := json.Marshal(is)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		fmt.Fprintf(b, "| `%s` | `%s` | %s |\n", path, text, strings.ReplaceAll(comment, "|", `\|`))
	}
	return nil
}

// between puts the table where the text has room for it.
func between(text, table string) (string, error) {
	const begin, end = "<!-- Made by `make chart` from values.yaml. -->\n", "<!-- end -->\n"
	before, rest, begins := strings.Cut(text, begin)
	_, after, ends := strings.Cut(rest, end)
	if !begins || !ends {
		return "", fmt.Errorf("there is no place for the table: %q and %q", begin, end)
	}
	return before + begin + table + end + after, nil
}
