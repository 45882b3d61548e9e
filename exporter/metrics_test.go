package main

import (
	"flag"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf"
	"capability_exporter/exporter/internal/exportertest"
)

var update = flag.Bool("update", false, "write what the tests get to their golden files")

// goldenSnapshot has something for each metric. Its identities hold.
func goldenSnapshot() bpf.Snapshot {
	start := time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)
	admin := bpf.Check{Capability: uint8(cap.SYS_ADMIN)}
	rawDenied := bpf.Check{Capability: uint8(cap.NET_RAW), Denied: true}
	userns := bpf.Check{Capability: uint8(cap.CHOWN), UserNS: true}
	nginx := bpf.Cgroup{ID: 11, Path: "/system.slice/nginx.service"}
	return bpf.Snapshot{
		Time:     start.Add(time.Hour),
		Attached: start,
		Sites: []bpf.SiteCount{
			{Check: admin, Audited: bpf.AuditedYes, Symbol: "path_mount", Count: 10, Created: start},
			{Check: admin, Audited: bpf.AuditedNo, Symbol: "__vm_enough_memory", Count: 5000, Created: start},
			{Check: rawDenied, Audited: bpf.AuditedYes, Symbol: "packet_create [af_packet]", Count: 3, Created: start},
			{Check: userns, Audited: bpf.AuditedYes, Count: 4, Created: start},
			{Check: userns, Audited: bpf.AuditedUnknown, Overflow: true, Count: 1, Created: start},
		},
		Workloads: []bpf.WorkloadCount{
			{Check: admin, Cgroup: nginx, Process: bpf.Process{Name: "nginx"}, Count: 6, Created: start, Grown: start.Add(30 * time.Minute), CallSites: []string{"path_mount"}},
			{Check: admin, Cgroup: bpf.Cgroup{ID: 1, Path: "/"}, Process: bpf.Process{Kind: bpf.ProcessKernel}, Count: 2, Created: start, Grown: start.Add(30 * time.Minute)},
			{Check: rawDenied, Cgroup: nginx, Process: bpf.Process{Name: "ev\"il\n\xff"}, Count: 3, Created: start.Add(time.Minute), Grown: start.Add(20 * time.Minute), CallSites: []string{"packet_create [af_packet]"}},
			{Check: userns, Overflow: true, Count: 4, Created: start, Grown: start.Add(10 * time.Minute)},
		},
		Borrowed:          []bpf.CheckCount{{Check: admin, Count: 1}},
		Ended:             []bpf.CheckCount{{Check: admin, Count: 1}},
		Refusals:          []bpf.RefusalCount{{LSM: "selinux", Capability: uint8(cap.SYS_ADMIN), Cgroup: nginx, Process: bpf.Process{Name: "nginx"}, Count: 2, Created: start}},
		EndedRefusals:     []bpf.EndedRefusals{{LSM: "selinux", Capability: uint8(cap.SYS_TIME), Count: 1}},
		MissedRefusalRuns: 5,
		RingRecords:       20, RingLost: 1, RingWithheld: 2, Unwinds: 30, MissedRuns: 4,
		Series: 3, SeriesLimit: 4096,
	}
}

// goldenHeld has something for each metric of what processes hold.
func goldenHeld() bpf.Held {
	network := bpf.HeldCount{Cgroup: bpf.Cgroup{ID: 12, Path: "/system.slice/systemd-networkd.service"}}
	network.Each[cap.NET_RAW], network.Each[cap.NET_ADMIN] = 1, 1
	return bpf.Held{
		Time: time.Date(2024, 5, 6, 8, 8, 0, 0, time.UTC), Took: time.Millisecond,
		Counts: []bpf.HeldCount{{Cgroup: bpf.Cgroup{ID: 11, Path: "/system.slice/nginx.service"}, All: 2}, network},
	}
}

// volatileLines belong to the process that runs the test, not to what it serves.
func withoutVolatile(page string) string {
	page = regexp.MustCompile(`(?m)^(# (HELP|TYPE|UNIT) )?(go|process)_.*\n`).ReplaceAllString(page, "")
	page = regexp.MustCompile(`(?m)^(capability_exporter_(log_lines_dropped|announcements_dropped|http_refused|held_partial_looks)_created\S*) .*$`).ReplaceAllString(page, "$1 ...")
	return regexp.MustCompile(`(?m)^(capability_exporter_build_info)\{.*\} 1(\.0)?$`).ReplaceAllString(page, "$1{...} 1")
}

// golden holds a page against the one that is stored.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the page differs from %s (go test -update rewrites it); it is\n%s", path, got)
	}
}

func TestMetricsGolden(t *testing.T) {
	fake := exportertest.NewTracer(bpf.Info{Source: bpf.SourceFexit, Audit: "opts", Cgroups: "v2", LSM: "selinux",
		Refused: []bpf.Refusal{{Source: bpf.SourceTracepoint, Reason: "absent"}}}, goldenSnapshot())
	fake.SetHeld(goldenHeld())
	const openMetrics = "application/openmetrics-text; version=1.0.0"
	for _, test := range []struct {
		golden, accept string
		args           []string
	}{
		{"metrics.txt", "text/plain", nil},
		{"metrics.openmetrics.txt", openMetrics, nil},
		{"metrics.created.openmetrics.txt", openMetrics, []string{"--web.created-samples"}},
	} {
		t.Run(test.golden, func(t *testing.T) {
			i := start(t, opens(fake), test.args...)
			i.waitReady(t)
			page := i.do(t, http.MethodGet, "/metrics", http.Header{"Accept": {test.accept}})
			if page.StatusCode != http.StatusOK || !strings.HasPrefix(page.Header.Get("Content-Type"), strings.Split(test.accept, ";")[0]) {
				t.Fatalf("answered %s as %s", page.Status, page.Header.Get("Content-Type"))
			}
			for _, family := range []string{"\ngo_goroutines ", "\nprocess_open_fds ", "\ncapability_exporter_build_info{"} {
				if !strings.Contains(page.body, family) {
					t.Errorf("no %q on the page", family)
				}
			}
			if test.accept == "text/plain" {
				inReadme(t, page.body)
			}
			golden(t, test.golden, withoutVolatile(page.body))
		})
	}
}

// inReadme: README has each metric of a page, and of what is not told by the
// collectors' own table (their TestReference) no other.
func inReadme(t *testing.T, page string) {
	t.Helper()
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	served := map[string]bool{}
	for _, match := range regexp.MustCompile(`(?m)^# TYPE (\S+) `).FindAllStringSubmatch(page, -1) {
		served[match[1]] = true
		if !strings.Contains(string(readme), "`"+match[1]+"`") {
			t.Errorf("README does not tell of %s", match[1])
		}
	}
	for _, match := range regexp.MustCompile("`((?:go|process)_[a-z_]+|capability_exporter_build_info)`").FindAllStringSubmatch(string(readme), -1) {
		if !served[match[1]] {
			t.Errorf("README tells of %s, which is not served", match[1])
		}
	}
}

func bcryptSecret(t *testing.T) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(hash)
}
