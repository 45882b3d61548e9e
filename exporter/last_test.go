package main

import (
	"strings"
	"testing"
	"time"

	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf"
	"capability_exporter/exporter/internal/exportertest"
)

// TestLastChecksBetweenScrapes: checks of a series that ended before anybody scraped were seen by the page.
func TestLastChecksBetweenScrapes(t *testing.T) {
	slot := func(capability cap.Value) bpf.WorkloadCount {
		return bpf.WorkloadCount{
			Check: bpf.Check{Capability: uint8(capability)}, Cgroup: bpf.Cgroup{ID: 1, Path: "/a"}, Process: bpf.Process{Name: "a"}, Count: 1, Created: time.Now(),
		}
	}
	fake := exportertest.NewTracer(bpf.Info{Source: bpf.SourceFexit}, bpf.Snapshot{SeriesLimit: 64, Workloads: []bpf.WorkloadCount{slot(cap.CHOWN), slot(cap.KILL)}})
	i := start(t, opens(fake))
	i.waitReady(t)
	for fake.Taken() == 0 { // the page's first
		time.Sleep(time.Millisecond)
	}
	fake.Set(nil, slot(cap.KILL))
	if metrics := i.get(t, "/metrics").body; !strings.Contains(metrics, `capability_workload_last_check_timestamp_seconds{capability="CAP_CHOWN",result="granted",workload="/a"} `) {
		t.Errorf("nobody has seen it:\n%s", metrics)
	}
}
