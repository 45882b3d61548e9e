package main

import (
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

var soak = flag.Duration("soak", 30*time.Second, "how long TestSoak goes on")

// TestSoak has a machine ask 200,000 times a second, start processes all the
// time, and make and remove cgroups, while somebody scrapes and looks at the
// page each second. At the end all is counted, and the exporter holds no more
// than it did when it was warm.
func TestSoak(t *testing.T) {
	program := copyOf(t, exporter(t))
	p := startProcess(t, program, program, "--web.listen-address=127.0.0.1:0")
	asker := copyOf(t, self(t))

	stop := make(chan struct{})
	var running sync.WaitGroup
	var failed error
	var mu sync.Mutex
	until := func(f func(n int) error) {
		running.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := f(n); err != nil {
					mu.Lock()
					failed = errors.Join(failed, err)
					mu.Unlock()
					return
				}
			}
		})
	}
	load := role(asker, helperAsks, "200000")
	if err := load.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = errors.Join(load.Process.Kill(), load.Wait()) }()
	until(func(int) error { // a storm of processes
		if err := exec.Command("/bin/true").Run(); err != nil {
			return fmt.Errorf("true: %w", err)
		}
		return nil
	})
	root := soakCgroup(t)
	until(func(n int) error { // each cgroup with somebody who asks, as containers come and go
		time.Sleep(50 * time.Millisecond)
		dir := filepath.Join(root, strconv.Itoa(n))
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		ask := command("/bin/sh", "-c", `echo 0 >"$0/cgroup.procs" && exec "$1"`, dir, asker)
		ask.Env = append(ask.Env, helperRole+"="+helperAsk)
		out, err := ask.CombinedOutput()
		if err != nil {
			return fmt.Errorf("in a cgroup: %w: %s", err, out)
		}
		for range 100 { // it may not be gone yet
			if err = os.Remove(dir); err == nil {
				return nil
			}
			time.Sleep(10 * time.Millisecond)
		}
		return err
	})

	refused := role(asker, helperAsk)
	refused.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	if out, err := refused.CombinedOutput(); err != nil {
		t.Fatalf("as nobody: %v\n%s", err, out)
	}
	told, details := false, regexp.MustCompile(`Last denial announced <time [^>]*>\d+ s ago</time>:[^\n]* denied in <code>\w+</code>, uid 65534, euid 65534, pid \d+`)

	warm := 10 * time.Second
	before := map[string]float64{}
	started := time.Now()
	requests := 0
	for time.Since(started) < warm+*soak {
		next := time.Now().Add(time.Second)
		page, got := p.get(t, "/"), p.get(t, "/metrics")
		if page.StatusCode != http.StatusOK || got.StatusCode != http.StatusOK {
			t.Fatalf("answered %d and %d", page.StatusCode, got.StatusCode)
		}
		requests += 2
		told = told || details.MatchString(page.body)
		if len(before) == 0 && time.Since(started) > warm {
			before = sumsOf(t, got.body)
		}
		time.Sleep(time.Until(next))
	}
	if !told {
		t.Error("the page did not say who was denied CAP_SYS_ADMIN, and when")
	}
	busy := sumsOf(t, p.get(t, "/metrics").body)
	close(stop)
	running.Wait()
	if err := errors.Join(load.Process.Kill(), failed); err != nil {
		t.Fatal(err)
	}
	_ = load.Wait()
	asked := busy["capability_checks_total"] - before["capability_checks_total"]
	t.Logf("%s: %.0f checks (%.0f a second), %d requests; memory %.1f MiB, then %.1f; file descriptors %.0f, %.0f; goroutines %.0f, %.0f; series %.0f, %.0f",
		*soak, asked, asked/soak.Seconds(), requests, before[rss]/(1<<20), busy[rss]/(1<<20), before[fds], busy[fds],
		before[goroutines], busy[goroutines], before[series], busy[series])

	for what, most := range map[string]float64{rss: before[rss]*1.2 + 8<<20, fds: before[fds] + 4, goroutines: before[goroutines] + 8} {
		if busy[what] > most {
			t.Errorf("%s was %.0f when warm, and %.0f at the end", what, before[what], busy[what])
		}
	}
	if busy[series] < before[series]+5 {
		t.Errorf("%.0f series: the cgroups are not told apart", busy[series])
	}
	if most := before[series] + 2*400*5; busy[series] > most { // what has gone within the retention, twenty a second
		t.Errorf("%.0f series, want %.0f at most", busy[series], most)
	}
	var sums map[string]float64
	for range 50 { // what is in flight is in one sum and not in the other
		sums = sumsOf(t, p.get(t, "/metrics").body)
		if sums["audited"] == sums["who"] {
			break
		}
	}
	if sums["audited"] != sums["who"] {
		t.Errorf("%.0f audited checks, but %.0f by workloads, borrowed and ended", sums["audited"], sums["who"])
	}
	if n := sums["capability_exporter_missed_runs_total"]; n != 0 {
		t.Logf("%.0f checks were missed, which programs of others on the tracepoint or preemption may bring about", n)
	}
}

const (
	rss        = "process_resident_memory_bytes"
	fds        = "process_open_fds"
	goroutines = "go_goroutines"
	series     = "capability_exporter_workload_series"
)

// role is the test binary as one of its helpers.
func role(path, helper string, args ...string) *exec.Cmd {
	cmd := command(append([]string{path}, args...)...)
	cmd.Env = append(cmd.Env, helperRole+"="+helper)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// sumsOf sums each family of a page, and what must be equal: audited, and who.
func sumsOf(t *testing.T, page string) map[string]float64 {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	sums := map[string]float64{}
	for name, family := range families {
		for _, m := range family.GetMetric() {
			v := m.GetCounter().GetValue() + m.GetGauge().GetValue()
			sums[name] += v
			switch name {
			case "capability_checks_total":
				for _, l := range m.GetLabel() {
					if l.GetName() == "audited" && l.GetValue() == "yes" {
						sums["audited"] += v
					}
				}
			case "capability_workload_checks_total", "capability_exporter_borrowed_checks_total", "capability_exporter_ended_checks_total":
				sums["who"] += v
			}
		}
	}
	return sums
}

// soakCgroup makes a cgroup in the hierarchy that tells workloads before all others.
func soakCgroup(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, best := range []string{"cgroup2", "memory", "pids", "devices", "freezer", "cpu"} {
		for line := range strings.Lines(string(mounts)) {
			before, after, _ := strings.Cut(strings.TrimSpace(line), " - ")
			fields, fs := strings.Fields(before), strings.Fields(after)
			if fields[3] != "/" || fs[0] != best && (fs[0] != "cgroup" || !slices.Contains(strings.Split(fs[2], ","), best)) {
				continue
			}
			dir := filepath.Join(fields[4], "soak")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.Remove(dir) })
			return dir
		}
	}
	t.Fatal("no cgroup hierarchy is mounted whole")
	return ""
}
