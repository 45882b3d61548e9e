package collectors

import (
	"maps"
	"testing"

	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf"
)

// setAside is a snapshot of checks of which there is more to say than their result.
func setAside() *bpf.Snapshot {
	nginx, perf := bpf.Cgroup{ID: 1, Path: "/system.slice/nginx.service"}, bpf.Cgroup{ID: 2, Path: "/system.slice/perf.service"}
	instead := func(first cap.Value) bpf.Aside { return bpf.Aside{Fallback: true, First: uint8(first)} }
	return &bpf.Snapshot{
		Time: after(3600), Attached: attached,
		Sites: []bpf.SiteCount{
			{Check: check(cap.PERFMON, true, false), Audited: bpf.AuditedYes, Symbol: "perf_event_open", Count: 7, Created: attached},
			{Check: check(cap.SYS_ADMIN, false, false), Audited: bpf.AuditedYes, Symbol: "perf_event_open", Count: 11, Created: attached},
			{Check: check(cap.SYS_ADMIN, true, false), Audited: bpf.AuditedYes, Symbol: "perf_event_open", Count: 1, Created: attached},
			{Check: check(cap.SYS_PTRACE, false, false), Audited: bpf.AuditedYes, Symbol: "__ptrace_may_access", Count: 1, Created: attached},
			{Check: check(cap.FSETID, true, false), Audited: bpf.AuditedYes, Symbol: "setattr_prepare", Count: 5, Created: attached},
			{Check: check(cap.CHOWN, true, true), Audited: bpf.AuditedYes, Symbol: "chown_ok", Count: 2, Created: attached},
		},
		Workloads: []bpf.WorkloadCount{
			{Check: check(cap.PERFMON, true, false), Cgroup: perf, Process: bpf.Process{Name: "perf"}, Count: 7, Created: attached},
			// The same capability, asked for by itself and in another's place: one series of checks.
			{Check: check(cap.SYS_ADMIN, false, false), Cgroup: perf, Process: bpf.Process{Name: "perf"}, Count: 5, Created: attached},
			{Check: check(cap.SYS_ADMIN, false, false), Aside: instead(cap.PERFMON), Cgroup: perf, Process: bpf.Process{Name: "perf"}, Count: 4, Created: attached},
			// In a cgroup of the same path, before.
			{Check: check(cap.SYS_ADMIN, false, false), Aside: instead(cap.PERFMON), Cgroup: bpf.Cgroup{Path: perf.Path}, Process: bpf.Process{Name: "perf"}, Count: 2, Created: attached},
			{Check: check(cap.SYS_ADMIN, true, false), Aside: instead(cap.PERFMON), Cgroup: perf, Process: bpf.Process{Name: "perf"}, Count: 1, Created: attached},
			// The last of three that will do.
			{
				Check: check(cap.SYS_PTRACE, false, false), Aside: bpf.Aside{Fallback: true, First: uint8(cap.SYS_ADMIN), Last: true, Earlier: uint8(cap.PERFMON)},
				Cgroup: perf, Process: bpf.Process{Name: "perf"}, Count: 1, Created: attached,
			},
			{Check: check(cap.FSETID, true, false), Aside: bpf.Aside{Probe: true}, Cgroup: nginx, Process: bpf.Process{Name: "nginx"}, Count: 5, Created: attached},
			{Check: check(cap.CHOWN, true, true), Aside: instead(cap.CHOWN), Cgroup: nginx, Process: bpf.Process{Name: "nginx"}, Count: 1, Created: attached},
			{Check: check(cap.CHOWN, true, true), Cgroup: nginx, Process: bpf.Process{Name: "nginx"}, Count: 1, Created: attached},
		},
		SeriesLimit: 4096,
	}
}

// What is set aside is exposed as a part of all checks, and of no others' series.
func TestAsidesArePartsOfTheChecks(t *testing.T) {
	families := gatherByName(t, setAside())
	kinds := []string{"capability", "result"}
	if got, want := sumBy(families["capability_workload_checks_total"], kinds, nil), map[string]float64{
		"CAP_PERFMON denied": 7, "CAP_SYS_ADMIN granted": 11, "CAP_SYS_ADMIN denied": 1, "CAP_FSETID denied": 5, "CAP_CHOWN denied": 2,
		"CAP_SYS_PTRACE granted": 1,
	}; !maps.Equal(got, want) {
		t.Errorf("checks: %v, want %v", got, want)
	}
	if got, want := sumBy(families["capability_workload_fallback_checks_total"], []string{"capability", "fallback", "result", "scope", "workload", "process"}, nil), map[string]float64{
		"CAP_PERFMON CAP_SYS_ADMIN granted host perf.service perf":    6,
		"CAP_PERFMON CAP_SYS_ADMIN denied host perf.service perf":     1,
		"CAP_CHOWN CAP_CHOWN denied userns nginx.service nginx":       1,
		"CAP_SYS_ADMIN CAP_SYS_PTRACE granted host perf.service perf": 1,
		"CAP_PERFMON CAP_SYS_PTRACE granted host perf.service perf":   1,
	}; !maps.Equal(got, want) {
		t.Errorf("fallbacks: %v, want %v", got, want)
	}
	if got, want := sumBy(families["capability_workload_probe_denials_total"], []string{"capability", "scope", "workload", "process"}, nil), map[string]float64{
		"CAP_FSETID host nginx.service nginx": 5,
	}; !maps.Equal(got, want) {
		t.Errorf("probes: %v, want %v", got, want)
	}
}
