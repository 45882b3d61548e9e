package bpf

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf/internal/testprog"
)

// An asideProgram is a program of Debian's that an ordinary user runs with these capabilities alone.
type asideProgram struct {
	name    string
	keep    []cap.Value
	args    []string
	wants   []programWants          // one of these: kernels differ
	prepare func(*testing.T)        // or skip it
	image   func(*testing.T) []byte // what it consists of, where Debian has no such program
	done    func() bool             // tells whether it has done what it is there for
	root    bool                    // not by an ordinary user: it would not do it
	beside  bool                    // it asks for other things, too: those are only held against the witness
	alone   bool                    // in a network namespace of its own, in which anybody may ping
}

// A programWants is what becomes of a program's checks, and whether it then fails.
type programWants struct {
	checks asideWants
	fails  bool
}

func asidePrograms(t *testing.T) []asideProgram {
	dir := t.TempDir()
	openToAll(t, dir)
	if err := makeAsideFiles(dir); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(dir, "log")
	environ := []string{"cat", fmt.Sprintf("/proc/%d/environ", startPrivileged(t))}
	tracer, perfmon, admin := []cap.Value{cap.SYS_PTRACE}, []cap.Value{cap.PERFMON}, []cap.Value{cap.SYS_ADMIN}
	override := []cap.Value{cap.DAC_OVERRIDE}
	wants := func(all ...asideWants) (w []programWants) {
		for _, checks := range all {
			w = append(w, programWants{checks: checks})
		}
		return w
	}
	orFails := func(w []programWants, checks asideWants) []programWants { return append(w, programWants{checks, true}) }
	resource := wants(asideWants{"24 denied host": 1, "21 granted host after 24": 1})
	return []asideProgram{
		{name: "cat", keep: override, args: []string{"cat", strangersFile(dir)},
			wants: wants(asideWants{"2 denied host": 1, "1 granted host after 2": 1})},
		{name: "truncate", keep: override, args: []string{"truncate", "-s", "0", strangersFile(dir)}, wants: wants(asideWants{"1 granted host": 1})},
		{name: "ionice", keep: []cap.Value{cap.SYS_NICE}, args: []string{"ionice", "-c", "1", "true"},
			wants: wants(asideWants{"21 denied host": 1, "23 granted host after 21": 1})},
		// CAP_SYS_ADMIN will do up to 6.1 (check_syslog_permissions).
		{name: "dmesg", keep: admin, args: []string{"dmesg"}, prepare: dmesgIsRestricted,
			wants: orFails(wants(asideWants{"34 denied host": 0, "21 granted host after 34": 0}), asideWants{"34 denied host": 0})},
		{name: "ping", keep: []cap.Value{cap.NET_ADMIN}, args: []string{"ping", "-m", "1", "-c", "1", "127.0.0.1"}, alone: true, beside: true,
			wants: wants(asideWants{"13 denied host": 0, "12 granted host after 13": 0}, asideWants{"12 granted host": 0})}, // 5.10
		{name: "perf", keep: admin, args: []string{"perf", "stat", "-a", "-e", "cpu-clock", "true"}, prepare: notParanoid, beside: true,
			wants: wants(asideWants{"38 denied host": 0, "21 granted host after 38": 0})},
		{name: "bpftool", keep: admin, beside: true,
			args:  []string{"bpftool", "map", "create", openBPFFS(t) + "/map", "type", "lru_hash", "key", "4", "value", "8", "entries", "1", "name", "aside"},
			wants: wants(asideWants{"39 denied host": 0, "21 granted host after 39": 0})},
		{name: "sh", keep: admin, args: []string{"dash", "-c", "ulimit -p 0; (:); :"}, wants: resource},
		{name: "pipe", keep: admin, args: []string{"dash", "-c", ": | :"}, prepare: holdPipes, wants: resource},
		{name: "environ", keep: tracer, args: environ, wants: wants(asideWants{"19 granted host": 1})},
		// In 6.18, and not in 6.12.
		{name: "environ-2", keep: perfmon, args: environ,
			wants: orFails(wants(asideWants{"19 denied host": 1, "38 granted host after 19": 1}), asideWants{"19 denied host": 1})},
		{name: "environ-3", keep: admin, args: environ, wants: orFails(wants(
			asideWants{"19 denied host": 1, "38 denied host after 19": 1, "21 granted host after 38 after 19": 1}), asideWants{"19 denied host": 1})},
		{name: "logrotate", root: true, keep: []cap.Value{cap.CHOWN}, done: func() bool { return rotated(log) },
			args:  append([]string{"logrotate", "--force", "--state", filepath.Join(dir, "state")}, logToRotate(t, log)),
			wants: wants(asideWants{"0 granted host": 0, "4 denied host probe": 0})},
		{name: "32-bit", keep: override, image: narrow,
			args:  []string{"", filepath.Join(dir, readableFile), filepath.Join(dir, writableFile), strangersFile(dir)},
			wants: wants(asideWants{"3 denied host": 2, "1 granted host after 3": 1, "1 granted host": 1})},
		{name: "capsh", keep: perfmon, args: []string{"capsh", "--caps="}, // fexit does not see capset(2)
			wants: wants(asideWants{"8 denied host probe": 0}, asideWants{})},
		// What looks like a fallback, and is none: the outright look for CAP_SYS_ADMIN; those for overcommit, which come after a denial; and
		// those of a pair that are not audited.
		{name: "progs", keep: admin, args: []string{"bpftool", "prog", "list"}, beside: true, wants: wants(asideWants{"21 granted host": 0})},
		{name: "nice", args: []string{"nice", "-n", "-5", "true"}, wants: wants(asideWants{"23 denied host": 1})},
		{name: "next-id", args: []string{"cat", "/proc/sys/kernel/msg_next_id"}, wants: wants(asideWants{})},
	}
}

// startPrivileged starts a process of the user's that holds a capability more than he does, and so is not for him to look into.
func startPrivileged(t *testing.T) int {
	return startSleeper(t, asLimited([]cap.Value{cap.WAKE_ALARM}))
}

// asLimited makes a command the user's who has nothing but what is kept.
func asLimited(keep []cap.Value) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: limited, Gid: limited}}
	for _, c := range keep {
		attr.AmbientCaps = append(attr.AmbientCaps, uintptr(c))
	}
	return attr
}

func dmesgIsRestricted(t *testing.T) {
	if v, err := os.ReadFile("/proc/sys/kernel/dmesg_restrict"); err != nil || v[0] != '1' {
		t.Skipf("kernel.dmesg_restrict is not 1, and dmesg asks for nothing: %s, %v", v, err)
	}
}

// openBPFFS mounts a BPF file system that anybody may pin things in.
func openBPFFS(t *testing.T) string {
	dir := t.TempDir()
	openToAll(t, dir)
	if err := unix.Mount("bpf", dir, "bpf", 0, "mode=1777"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// holdPipes has a process of the user's take all that he may have in pipes.
func holdPipes(t *testing.T) {
	pipesAreLimited(t)
	path := executable(t, "holds-pipes")
	openToAll(t, filepath.Dir(path))
	cmd := helper(path, "pipes")
	cmd.SysProcAttr = asLimited(nil)
	end, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	full, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		end.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	if _, err := full.Read(make([]byte, 1)); err != nil {
		t.Fatal("the pipes are not taken: ", err)
	}
}

// takePipes is the helper that does it, until its standard input ends.
func takePipes([]string) error {
	if err := usePipes(""); err != nil {
		return err
	}
	if _, err := os.Stdout.WriteString("."); err != nil {
		return err
	}
	_, _ = os.Stdin.Read(make([]byte, 1))
	return nil
}

// logToRotate makes a log that a group may read which root is not in, and returns what says how to rotate it.
func logToRotate(t *testing.T, log string) (config string) {
	config = log + ".conf"
	for name, content := range map[string]string{log: "told\n", config: log + " {\n\trotate 1\n\tcreate\n}\n"} {
		if err := os.WriteFile(name, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(log, 0, stranger); err != nil {
		t.Fatal(err)
	}
	return config
}

// rotated tells whether there is a new log in the place of the old one, with the same owner, group and mode.
func rotated(log string) bool {
	var s unix.Stat_t
	return unix.Stat(log, &s) == nil && s.Size == 0 && s.Uid == 0 && s.Gid == stranger && s.Mode&0o7777 == 0o640
}

// inOwnNetwork runs a command in a network namespace of its own.
func inOwnNetwork(cmd *exec.Cmd) (out []byte, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return
		}
		if err = os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 2147483647"), 0); err != nil {
			return
		}
		if out, err = exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			return
		}
		out, err = cmd.CombinedOutput()
	}()
	<-done
	return out, err
}

// installed finds a program, and copies it under a name by which the witness watches it.
func (p asideProgram) installed(t *testing.T) string {
	dir := t.TempDir()
	openToAll(t, dir)
	to := filepath.Join(dir, "aside-"+p.name)
	if p.image != nil {
		if err := os.WriteFile(to, p.image(t), 0o755); err != nil {
			t.Fatal(err)
		}
		return to
	}
	from, err := exec.LookPath(p.args[0])
	if real, _ := filepath.EvalSymlinks(from); filepath.Base(real) == "busybox" {
		err = errors.New("it is busybox's")
	}
	if err != nil && os.Getenv("CAPABILITY_EXPORTER_GUEST") != "" && runtime.GOARCH == "arm64" {
		t.Log("unseen: the guest has no such program of Debian's: ", err)
		return ""
	}
	if err != nil {
		lacks(t, "not installed, as `make test-deps` does it: ", err)
	}
	image, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, image, 0o755); err != nil {
		t.Fatal(err)
	}
	return to
}

// command is the program, with what it is left.
func (p asideProgram) command(path string) *exec.Cmd {
	cmd := exec.Command(path, p.args[1:]...)
	cmd.Args[0] = p.args[0]
	if p.root {
		bound := "-all"
		for _, c := range p.keep {
			bound += ",+" + strings.TrimPrefix(c.String(), "cap_")
		}
		cmd = exec.Command("setpriv", append([]string{"--inh-caps", "-all", "--bounding-set", bound, path}, p.args[1:]...)...)
	} else {
		cmd.SysProcAttr = asLimited(p.keep)
	}
	cmd.Env, cmd.Dir = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, "/"
	return cmd
}

// TestAsidesOfPrograms has real programs do with one capability what the kernel asks for another first, and others that only look like
// it, beside the witness of TestAsides. A program whose denials harm nobody does what it is there for.
func TestAsidesOfPrograms(t *testing.T) {
	tr := openLive(t, Options{})
	w := newWitness(t, witnessBeside(tr), testprog.CallsBegun)
	for _, p := range asidePrograms(t) {
		t.Run(p.name, func(t *testing.T) {
			path := p.installed(t)
			if path == "" {
				return
			}
			if p.prepare != nil {
				p.prepare(t)
			}
			cmd := p.command(path)
			runs := cmd.CombinedOutput
			if p.alone {
				runs = func() ([]byte, error) { return inOwnNetwork(cmd) }
			}
			from, skipped := w.sightings(t), w.skipped(t)
			out, failed := runs()
			switch {
			case errors.Is(failed, unix.ENOEXEC) && runtime.GOARCH == "arm64":
				t.Log("unseen: the guest's machine has no 32-bit mode")
				return
			case errors.Is(failed, unix.ENOEXEC):
				t.Skip("the kernel runs no 32-bit programs: ", failed)
			}
			got := p.told(t, tr)
			t.Logf("asked for %v; %v", got, failed)
			if !slices.ContainsFunc(p.wants, func(want programWants) bool {
				checks := want.checks.toldBy(tr).times(1, got)
				if p.beside {
					return within(checks, got) && want.fails == (failed != nil)
				}
				return maps.Equal(checks, got) && want.fails == (failed != nil)
			}) {
				t.Errorf("%v asked for %v, want one of %v; %v: %s", cmd, got, p.wants, failed, out)
			}
			if p.done != nil && !p.done() {
				t.Errorf("%v has not done what it is there for: %s", cmd, out)
			}
			if skipped = w.skipped(t) - skipped; skipped != 0 {
				t.Logf("the witness was skipped %d times, and so says nothing", skipped)
				return
			}
			if told, seen := asWitnessed(tr, got), asWitnessed(tr, w.asides(t, from, w.sightings(t))); !maps.Equal(told, seen) {
				t.Errorf("%v asked for %v, and the witness saw %v", cmd, told, seen)
			}
		})
	}
}

// told is what the tracer says of a program's checks.
func (p asideProgram) told(t *testing.T, tr *Tracer) map[string]uint64 {
	t.Helper()
	got := map[string]uint64{}
	s := checkIdentities(t, tr)
	for _, w := range s.Workloads {
		if w.Process.Name == "aside-"+p.name && (w.Check.Capability != uint8(cap.SETPCAP) || w.Check.Denied) {
			got[asideName(w.Check, w.Aside)] += w.Count
		}
	}
	mayMiss(t, tr, s)
	return got
}

// toldBy is what is left of it where the kernel names no functions.
func (w asideWants) toldBy(tr *Tracer) asideWants {
	if tr.features.Names {
		return w
	}
	left := asideWants{}
	for name, times := range w {
		name, _, _ = strings.Cut(name, " after ")
		if !strings.HasPrefix(name, "4 ") {
			name = strings.TrimSuffix(name, " probe")
		}
		left[name] += times
	}
	return left
}

// asWitnessed is what the tracer and the witness can agree about.
func asWitnessed(tr *Tracer, checks map[string]uint64) map[string]uint64 {
	sums := map[string]uint64{}
	for name, times := range checks {
		name = strings.TrimSuffix(name, " probe")
		if !tr.features.Names {
			name, _, _ = strings.Cut(name, " after ")
		}
		sums[name] += times
	}
	return sums
}

// within tells whether all of some checks are among others, as often.
func within(some, all map[string]uint64) bool {
	for name, times := range some {
		if all[name] != times {
			return false
		}
	}
	return true
}
