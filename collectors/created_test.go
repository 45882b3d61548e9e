package collectors

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"capability_exporter/bpf"
)

// created returns the created timestamps of a counter by its labels, through
// the protobuf format, in which Prometheus reads them.
func created(t *testing.T, s *bpf.Snapshot, name string) map[string]time.Time {
	t.Helper()
	encoded := encode(t, []*dto.MetricFamily{gatherByName(t, s)[name]}, expfmt.TypeProtoDelim)
	decoder := expfmt.NewDecoder(bytes.NewReader(encoded), expfmt.NewFormat(expfmt.TypeProtoDelim))
	times := make(map[string]time.Time)
	for {
		var family dto.MetricFamily
		err := decoder.Decode(&family)
		if errors.Is(err, io.EOF) {
			return times
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, metric := range family.GetMetric() {
			var labels []string
			for _, pair := range metric.GetLabel() {
				labels = append(labels, pair.GetValue())
			}
			times[strings.Join(labels, " ")] = metric.GetCounter().GetCreatedTimestamp().AsTime()
		}
	}
}

func TestCreatedTimestamps(t *testing.T) {
	tests := []struct {
		metric, labels string // the labels' values in the order of their names
		want           time.Time
	}{
		{"capability_checks_total", "yes CAP_SYS_ADMIN granted host", attached},
		{"capability_checks_total", "yes CAP_SYS_MODULE granted host", attached}, // never happened
		{"capability_exporter_borrowed_checks_total", "CAP_SYS_ADMIN granted host", attached},
		{"capability_exporter_ended_checks_total", "CAP_SYS_ADMIN granted host", attached},
		// What is counted for the whole machine, since there is a program to count it.
		{"capability_exporter_ring_records_total", "", attached},
		{"capability_exporter_ring_lost_total", "", attached},
		{"capability_exporter_ring_withheld_total", "", attached},
		{"capability_exporter_unwinds_total", "", attached},
		{"capability_exporter_missed_runs_total", "", attached},
		{"capability_exporter_overflow_checks_total", "", attached},
		{"capability_exporter_unclassified_checks_total", "", attached},
		// The oldest of two slots, whichever comes first.
		{"capability_workload_checks_total", "CAP_SYS_ADMIN mount granted host backup.service", after(20)},
		{"capability_workload_checks_total", "CAP_SYS_CHROOT app granted host pod/12fdc709-933e-41d0-917f-cd84de9afa94", after(35)},
		{"capability_call_site_checks_total", "yes path_mount CAP_SYS_ADMIN granted", after(10)},
		{"capability_call_site_checks_total", "no mmap_region CAP_SYS_ADMIN granted", after(0.5)},
		// What found a table full, in slots that were there from the start.
		{"capability_workload_checks_total", "CAP_SYS_ADMIN _other granted host _other", attached},
		{"capability_call_site_checks_total", "yes _other CAP_SYS_PTRACE granted", attached},
	}
	for _, test := range tests {
		times := created(t, realistic(), test.metric)
		if got, found := times[test.labels]; !found {
			t.Errorf("%s has no series %q, but %v", test.metric, test.labels, times)
		} else if !got.Equal(test.want) {
			t.Errorf("%s %q was created %v, want %v", test.metric, test.labels, got, test.want)
		}
	}
}

// With _created samples the OpenMetrics text has one for each counter series
// and every line is well-formed.
func TestOpenMetricsCreatedSamples(t *testing.T) {
	families := gather(t, New(&fakeTracer{info: fexitInfo, snapshot: realistic()}, fakeHoldings{}, nil))
	text := string(encode(t, families, expfmt.TypeOpenMetrics, expfmt.WithCreatedLines()))

	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if last := lines[len(lines)-1]; last != "# EOF" {
		t.Errorf("the last line is %q", last)
	}
	// ABNF of the OpenMetrics specification, as far as these metrics need it.
	sample := regexp.MustCompile(`^([a-z_]+)((?:\{(?:[a-z_]+="(?:[^"\\\n]|\\[\\n"])*",?)+\})?) ([0-9.e+-]+)$`)
	meta := regexp.MustCompile(`^# (?:(?:HELP|TYPE) [a-z_]+ .+|EOF)$`)
	counters := make(map[string]bool) // series, without the suffix of its name
	stamps := make(map[string]string)
	for _, line := range lines {
		match := sample.FindStringSubmatch(line)
		if match == nil {
			if !meta.MatchString(line) {
				t.Errorf("malformed line %q", line)
			}
			continue
		}
		if name, found := strings.CutSuffix(match[1], "_total"); found {
			counters[name+match[2]] = true
		} else if name, found := strings.CutSuffix(match[1], "_created"); found {
			stamps[name+match[2]] = match[3]
		}
	}
	if len(counters) == 0 {
		t.Error("there are no counters")
	}
	for series := range counters {
		if stamps[series] == "" {
			t.Errorf("%s has no _created sample", series)
		}
	}
	if len(stamps) != len(counters) {
		t.Errorf("%d counters, %d _created samples", len(counters), len(stamps))
	}
	const mmap = `capability_call_site_checks{audited="no",call_site="mmap_region",capability="CAP_SYS_ADMIN",result="granted"}`
	if got, want := stamps[mmap], "1.7723664005e+09"; got != want {
		t.Errorf("created %q, want %q", got, want)
	}
}
