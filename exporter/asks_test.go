package main

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// asks returns what an exporter has counted for the executable of that name:
// "CAP_BPF granted" and how often.
func (p *process) asks(t *testing.T, executable string) map[string]float64 {
	t.Helper()
	counts := map[string]float64{}
	for _, metric := range p.series(t, "capability_workload_checks_total") {
		if labels := labelsOf(metric); labels["process"] == executable {
			counts[labels["capability"]+" "+labels["result"]] += value(metric)
		}
	}
	return counts
}

// series returns those of a metric.
func (p *process) series(t *testing.T, name string) []*dto.Metric {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(p.get(t, "/metrics").body))
	if err != nil {
		t.Fatal(err)
	}
	return families[name].GetMetric()
}

func labelsOf(metric *dto.Metric) map[string]string {
	labels := map[string]string{}
	for _, pair := range metric.GetLabel() {
		labels[pair.GetName()] = pair.GetValue()
	}
	return labels
}

func value(metric *dto.Metric) float64 { return metric.GetCounter().GetValue() }

// TestBinaryAsksForNothingElse watches an exporter with another one. Until it
// attaches it asks for CAP_SETPCAP in capset(2), once per thread and only where
// there is something to give up, and besides that only for what it holds.
// Scrapes, the page and the stop are denied nothing.
func TestBinaryAsksForNothingElse(t *testing.T) {
	plain := copyOf(t, exporter(t))
	capable := withFileCaps(t, exporter(t))
	asksForNothingElse(t, []asking{
		{"ambient", plain, 1, withBoth(plain, "--web.listen-address=127.0.0.1:0")},
		{"file capabilities", capable, 0, asNobodyBySu("exec " + capable + " --web.listen-address=127.0.0.1:0")},
	})
}

// TestKeepingNoneAsksForNothingElse is the same without the two. It is not for
// kernels up to 6.1, on which each bpf(2) call asks for CAP_BPF.
func TestKeepingNoneAsksForNothingElse(t *testing.T) {
	plain := copyOf(t, exporter(t))
	asksForNothingElse(t, []asking{
		{"keeping none", plain, 2, withBoth(plain, "--web.listen-address=127.0.0.1:0", "--privileges.keep=none")},
	})
}

// asking is an exporter that is watched.
type asking struct {
	name, program string
	givesUp       int // times: the inheritable and ambient sets, which file capabilities leave empty, and what is not kept
	args          []string
}

func asksForNothingElse(t *testing.T, exporters []asking) {
	t.Helper()
	watching := copyOf(t, exporter(t))
	watcher := startProcess(t, watching, watching, "--web.listen-address=127.0.0.1:0")
	for _, test := range exporters {
		t.Run(test.name, func(t *testing.T) {
			executable := filepath.Base(test.program)
			before := watcher.asks(t, executable)
			p := startProcess(t, test.program, test.args...)
			threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", p.pid))
			if err != nil {
				t.Fatal(err)
			}

			attached := watcher.asks(t, executable)
			if attached["CAP_BPF granted"] == before["CAP_BPF granted"] {
				t.Fatalf("the watcher did not see it attach: %v", attached)
			}
			got := attached["CAP_SETPCAP denied"] - before["CAP_SETPCAP denied"]
			if got == 0 && test.givesUp != 0 && strings.Contains(watcher.get(t, "/metrics").body, `source="fexit"`) {
				t.Log("unseen: fexit does not see what capset(2) asks where cap_capable was inlined into cap_capset")
			} else if got > float64(test.givesUp*len(threads)) || (got > 0) != (test.givesUp != 0) {
				t.Errorf("asked %v times for CAP_SETPCAP with %d threads", got, len(threads))
			}
			for _, key := range slices.Sorted(maps.Keys(attached)) {
				switch key {
				case "CAP_SETPCAP denied", "CAP_BPF granted", "CAP_PERFMON granted":
				default:
					t.Errorf("%s: %v", key, attached[key])
				}
			}

			for range 3 {
				p.get(t, "/metrics")
				p.get(t, "/")
			}
			p.checkStop(t)
			for key, count := range watcher.asks(t, executable) {
				if strings.HasSuffix(key, "denied") && count != attached[key] {
					t.Errorf("after it had attached: %s, %v times", key, count-attached[key])
				}
			}
		})
	}
}
