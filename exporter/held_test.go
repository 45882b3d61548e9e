package main

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// seesHeld starts a process that holds a capability in a cgroup of its own, and finds it at one of the next looks.
func (p *process) seesHeld(t *testing.T) {
	t.Helper()
	cgroup := newCgroup(t)
	start := asNobody("--inh-caps", "+chown", "--ambient-caps", "+chown", "sleep", "60")
	start[0] = command(start[0]).Path // not busybox's own, in a guest
	cmd := command(start...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		for range 100 { // the kernel takes a moment to see that it is empty
			if !errors.Is(unix.Rmdir(cgroup), unix.EBUSY) {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	if err := os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		var held []string
		for _, series := range p.series(t, "capability_held_processes") {
			labels := labelsOf(series)
			if !strings.HasSuffix(labels["workload"], "/"+filepath.Base(cgroup)) {
				continue
			}
			if labels["scope"] != "host" || series.GetGauge().GetValue() != 1 {
				t.Errorf("it has %v", series)
			}
			held = append(held, labels["capability"])
		}
		if len(held) == 1 && held[0] == "CAP_CHOWN" { // setpriv has begun with more
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("it holds %v, want CAP_CHOWN", held)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// TestBinaryHeld: with the two capabilities alone, confined, it goes on looking what processes hold. Told not to look, it says so, and tells no number.
func TestBinaryHeld(t *testing.T) {
	program := copyOf(t, exporter(t))
	p := startProcess(t, program, withBoth(program, "--web.listen-address=127.0.0.1:0", "--held.interval=1s")...)
	if os.Getenv("CAPABILITY_EXPORTER_GUEST") != "" { // where nobody else does anything
		page := p.get(t, "/metrics").body
		if n := seriesOf(page); n > mostIdle {
			t.Errorf("%d series, want %d at most:\n%s", n, mostIdle, page)
		}
	}
	p.seesHeld(t)
	if p.metric(t, "capability_exporter_held_look_seconds") <= 0 {
		t.Error("it does not say what a look takes")
	}
	p.checkStop(t)

	p = startProcess(t, program, withBoth(program, "--web.listen-address=127.0.0.1:0", "--held.interval=0")...)
	if p.metric(t, `capability_exporter_held_refused_info{reason="off"}`) != 1 || len(p.series(t, "capability_held_processes")) != 0 {
		t.Error("told not to look, it does not say so")
	}
	p.checkStop(t)
}
