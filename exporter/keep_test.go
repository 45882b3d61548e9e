package main

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"capability_exporter/exporter/internal/exportertest"
)

// TestKeepNone: the rest is given up, and only if it is asked for; where the
// kernel then lets nobody read, that is an error which says what to do.
func TestKeepNone(t *testing.T) {
	for _, test := range []struct {
		args    []string
		drop    error
		recheck error
		want    string
		drops   int
	}{
		{nil, nil, unix.EPERM, "", 0},
		{[]string{"--privileges.keep=attach"}, nil, unix.EPERM, "", 0},
		{[]string{"--privileges.keep=none"}, nil, nil, "", 1},
		{[]string{"--privileges.keep=none"}, errors.New("thread 5"), nil, "thread 5", 1},
		{[]string{"--privileges.keep=none"}, nil, unix.EPERM, "kernel.unprivileged_bpf_disabled=0: start with --privileges.keep=attach: operation not permitted", 1},
		{[]string{"--privileges.keep=all"}, nil, nil, `--privileges.keep="all": must be attach or none`, 0},
	} {
		cfg, err := parseFlags(test.args, t.Output())
		drops := 0
		if err == nil {
			fake := &exportertest.Tracer{}
			fake.Set(test.recheck)
			e := fakeEnv(opens(fake), t.Output())
			e.dropRest = func() error { drops++; return test.drop }
			err = settle(e, cfg, fake, slog.New(slog.DiscardHandler))
		}
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: %v, want %q", test.args, err, test.want)
		}
		if drops != test.drops {
			t.Errorf("%q: gave up the rest %d times", test.args, drops)
		}
	}
}

// TestBinaryKeepsNone: without a capability the program does all that it does
// with them. It counts, names new processes and cgroups, ends series, sees what processes hold, and
// learns where a second program on the tracepoint has moved the stack.
func TestBinaryKeepsNone(t *testing.T) {
	program := copyOf(t, exporter(t))
	p := startProcess(t, program, program, "--web.listen-address=127.0.0.1:0", "--privileges.keep=none", "--series.limit=64", "--held.interval=1s")
	none := holding("", 0)
	none.Permitted, none.Effective = 0, 0
	p.checkPrivileges(t, none)
	if metrics := p.get(t, "/metrics").body; strings.Contains(metrics, "\ncapability_exporter_capabilities_info{") {
		t.Error("it says that it holds something")
	}

	cgroup, chown := newCgroup(t), copyOf(t, command("chown").Path)
	name := filepath.Base(chown)
	p.namesNew(t, cgroup, chown, "CAP_CHOWN")
	p.seesHeld(t)

	// Another layout, which is learned: of many checks the stack is soon no more unwound.
	if strings.Contains(p.get(t, "/metrics").body, `source="tracepoint"`) {
		second := secondProgram(t)
		asked := 3.0
		for unwinds, more := p.metric(t, "capability_exporter_unwinds_total"), math.Inf(1); more > 250; { // of dozens of checks that each makes
			if asked > 1500 {
				t.Fatalf("%v unwinds for the last 50 programs of %v beside a second one", more, asked)
			}
			denied(t, cgroup, chown, 50)
			asked += 50
			now := p.metric(t, "capability_exporter_unwinds_total")
			unwinds, more = now, now-unwinds
		}
		if err := second.Close(); err != nil {
			t.Error(err)
		}
		if got := p.asks(t, name)["CAP_CHOWN denied"]; got != asked {
			t.Errorf("counted %v, want %v", got, asked)
		}
	}
	if n := p.metric(t, "capability_exporter_unclassified_checks_total"); n != 0 {
		t.Errorf("%v checks whose class could not be told", n)
	}

	// With more than half of the series in use, those of a cgroup that is gone end soon.
	before := p.metric(t, endedDenials)
	attack(t, 25, cgroup)
	attack(t, 25, newCgroup(t))
	if err := unix.Rmdir(cgroup); err != nil {
		t.Fatal(err)
	}
	p.waitForEnded(t, before+25)
	p.checkStop(t)
}

// namesNew has a new process in a new cgroup be denied something three times.
func (p *process) namesNew(t *testing.T, cgroup, program, capability string) {
	t.Helper()
	denied(t, cgroup, program, 3)
	name := filepath.Base(program)
	if got := p.asks(t, name)[capability+" denied"]; got != 3 {
		t.Errorf("counted %v, want 3", got)
	}
	workload := regexp.MustCompile(`capability_workload_checks_total\{capability="` + capability + `",process="` + name + `",result="denied",scope="host",workload="[^"]*` + filepath.Base(cgroup) + `"\} 3\n`)
	if metrics := p.get(t, "/metrics").body; !workload.MatchString(metrics) {
		t.Errorf("the cgroup is not named:\n%s", metrics)
	}
}

const endedDenials = `capability_exporter_ended_checks_total{capability="CAP_SYS_ADMIN",result="denied",scope="host"}`

// waitForEnded waits for series that attack has made to have ended.
func (p *process) waitForEnded(t *testing.T, checks float64) {
	t.Helper()
	deadline := time.Now().Add(90 * time.Second)
	for p.metric(t, endedDenials) < checks {
		if time.Now().After(deadline) {
			metrics := p.get(t, "/metrics").body
			_ = p.cmd.Process.Kill() // so that its log ends
			t.Fatalf("no %v checks of series that have ended\n%s\n%s", checks, p.log.whole(), metrics)
		}
		time.Sleep(time.Second)
	}
}

// metric is the value of one series, or 0.
func (p *process) metric(t *testing.T, series string) float64 {
	t.Helper()
	for line := range strings.Lines(p.get(t, "/metrics").body) {
		if value, is := strings.CutPrefix(strings.TrimSpace(line), series+" "); is {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	return 0
}

// newCgroup makes one in whichever hierarchy there is.
func newCgroup(t *testing.T) string {
	t.Helper()
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/memory"} {
		if !exists(filepath.Join(root, "cgroup.procs")) {
			continue
		}
		path, err := os.MkdirTemp(root, "keep")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Rmdir(path) })
		return path
	}
	t.Skip("no cgroup hierarchy is mounted where this test looks for one")
	return ""
}

// denied has nobody start a program in a cgroup that many times, which asks for something once: chown(1), or the test itself.
func denied(t *testing.T, cgroup, program string, times int) {
	t.Helper()
	// The shell moves itself as root; setpriv then starts the program as nobody.
	start := asNobody(program, "1", "/")
	start[0] = command(start[0]).Path // not busybox's own, in a guest
	script := fmt.Sprintf(`echo $$ >%s/cgroup.procs; n=0; while [ $n -lt %d ]; do %s 2>/dev/null; n=$((n+1)); done; exit 0`, cgroup, times, strings.Join(start, " "))
	cmd := command("sh", "-c", script)
	cmd.Env = append(cmd.Env, helperRole+"="+helperAsk)
	if out, err := cmd.CombinedOutput(); err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			t.Fatalf("%v\n%s", exit, out)
		}
		t.Fatal(err)
	}
}

// secondProgram attaches another program to the tracepoint.
func secondProgram(t *testing.T) link.Link {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "cap_capable", License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	l, err := link.AttachTracing(link.TracingOptions{Program: p})
	if err != nil {
		t.Fatal(err)
	}
	return l
}
