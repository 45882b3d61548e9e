package collectors

import (
	"bytes"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"capability_exporter/bpf"
)

// gather returns what a collector exposes through a registry that checks it,
// in the order in which it is exposed.
func gather(t *testing.T, collector prometheus.Collector) []*dto.MetricFamily {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(collector)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// gatherByName returns the metric families a snapshot is exposed as, by name.
func gatherByName(t *testing.T, s *bpf.Snapshot) map[string]*dto.MetricFamily {
	t.Helper()
	families := make(map[string]*dto.MetricFamily)
	for _, family := range gather(t, New(&fakeTracer{info: tracepointInfo, snapshot: s}, fakeHoldings{}, nil)) {
		families[family.GetName()] = family
	}
	return families
}

// encode writes families as a scrape would get them.
func encode(t *testing.T, families []*dto.MetricFamily, format expfmt.FormatType, options ...expfmt.EncoderOption) []byte {
	t.Helper()
	var encoded bytes.Buffer
	encoder := expfmt.NewEncoder(&encoded, expfmt.NewFormat(format), options...)
	for _, family := range families {
		if err := encoder.Encode(family); err != nil {
			t.Fatal(err)
		}
	}
	if closer, ok := encoder.(expfmt.Closer); ok {
		if err := closer.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return encoded.Bytes()
}
