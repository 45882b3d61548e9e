package bpf

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// openLive opens a tracer on this machine's kernel, with what the exporter has and no more.
func openLive(t *testing.T, opts Options) *Tracer {
	t.Helper()
	needsRoot(t)
	var tr *Tracer
	var err error
	asExporter(t, func() { tr, err = Open(opts) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	})
	return tr
}

func needsRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		lacks(t, "needs root: it attaches to the kernel's capability checks")
	}
}

// lacks skips a test for want of something that the machine could have, and fails it in CI, where it must.
func lacks(t *testing.T, why ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why...)
	}
	t.Skip(why...)
}

func snapshot(t *testing.T, tr *Tracer) *Snapshot {
	t.Helper()
	tr.mu.Lock()
	err := tr.addLosses(&Snapshot{}) // what is missed by then is told by the next look
	tr.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	s, err := tr.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// self is this test binary. With the race detector it takes half a second to start: then its helpers, which are programs of their own,
// run the one that was built without, where there is one.
func self(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("CAPABILITY_EXPORTER_HELPERS"); dir != "" {
		return filepath.Join(dir, "bpf.test")
	}
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// executable makes this test binary an executable of another name, which no other process on the machine has. The file itself may
// be the same.
func executable(t *testing.T, name string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), name)
	if err := os.Link(self(t), to); err != nil { // another file system
		copyFile(t, to)
	}
	return to
}

func copyFile(t *testing.T, to string) {
	t.Helper()
	from, err := os.Open(self(t))
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	f, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(f, from)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// helper runs path, which is this test binary, as the helper of that name (helpers in helper_test.go).
func helper(path, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(path, args...)
	cmd.Env = []string{helperVariable + "=" + name, "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Dir = "/"
	return cmd
}

func run(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
}

// by returns what the processes of one name have asked for: the checks, as text, and how many of each.
func by(s *Snapshot, process string) map[string]uint64 {
	sums := map[string]uint64{}
	for _, w := range s.Workloads {
		if w.Process == (Process{Name: process}) {
			sums[w.Check.String()] += w.Count
		}
	}
	return sums
}

// String is for test messages: "21 denied userns".
func (c Check) String() string {
	words := []string{fmt.Sprint(c.Capability), "granted", "host"}
	if c.Denied {
		words[1] = "denied"
	}
	if c.UserNS {
		words[2] = "userns"
	}
	return strings.Join(words, " ")
}

// named is what call sites are called: "", each of them, where the kernel names no functions.
func named(tr *Tracer, sites []string) []string {
	if !tr.features.Names {
		return []string{""}
	}
	return sites
}

func siteCount(s *Snapshot, check Check, audited Audited, sites []string) (n uint64) {
	for _, c := range s.Sites {
		if c.Check == check && c.Audited == audited && slices.Contains(sites, symbolName(c.Symbol)) {
			n += c.Count
		}
	}
	return n
}

func sitesOf(s *Snapshot, process string, check Check) (sites []string) {
	for _, w := range s.Workloads {
		if w.Process.Name == process && w.Check == check {
			sites = append(sites, w.CallSites...)
		}
	}
	return sites
}

// symbolName takes off what differs between builds.
func symbolName(symbol string) string {
	symbol, _, _ = strings.Cut(symbol, " ")
	symbol, _, _ = strings.Cut(symbol, ".")
	for _, arch := range []string{"__x64_", "__arm64_"} {
		symbol = strings.TrimPrefix(symbol, arch)
	}
	return symbol
}

func total(counts map[string]uint64) (n uint64) {
	for _, c := range counts {
		n += c
	}
	return n
}

// checkIdentities holds DESIGN's sums against each other. They are exact only while no check is in flight, so it looks again
// until two snapshots agree about the totals.
func checkIdentities(t *testing.T, tr *Tracer) *Snapshot {
	t.Helper()
	var s *Snapshot
	var wrong []string
	for range 50 {
		s = snapshot(t, tr)
		audited, who := map[Check]uint64{}, map[Check]uint64{}
		for _, c := range s.Sites {
			if c.Audited == AuditedYes {
				audited[c.Check] += c.Count
			}
		}
		for _, c := range s.Workloads {
			who[c.Check] += c.Count
		}
		for _, c := range slices.Concat(s.Borrowed, s.Ended) {
			who[c.Check] += c.Count
		}
		wrong = nil
		for c, n := range audited {
			if who[c] != n {
				wrong = append(wrong, fmt.Sprintf("%s: %d audited checks, but %d by workloads, borrowed and ended", c, n, who[c]))
			}
		}
		for c, n := range who {
			if audited[c] == 0 {
				wrong = append(wrong, fmt.Sprintf("%s: %d by workloads, but no audited checks", c, n))
			}
		}
		if wrong == nil {
			return s
		}
	}
	t.Fatalf("sums differ:\n%s", strings.Join(wrong, "\n"))
	return nil
}

// newCgroup makes a cgroup in v2, or in another hierarchy where that is not mounted.
func newCgroup(t *testing.T, name string) string {
	t.Helper()
	for _, h := range []string{"v2", "memory", "pids", "devices", "freezer", "cpu"} {
		if hierarchyMount(t, h) != "" {
			return newCgroupIn(t, h, name)
		}
	}
	t.Fatal("no cgroup hierarchy is mounted whole")
	return ""
}

// newCgroupIn makes a cgroup in v2, or in the v1 hierarchy of a subsystem.
func newCgroupIn(t *testing.T, hierarchy, name string) string {
	t.Helper()
	mount := hierarchyMount(t, hierarchy)
	if mount == "" {
		t.Skipf("the cgroup hierarchy %s is not mounted here", hierarchy)
	}
	dir := filepath.Join(mount, name)
	_ = unix.Rmdir(dir) // left over by a test that was killed
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeEmptied(dir) })
	return dir
}

// hierarchyMount is where the whole of a hierarchy is mounted, if it is.
func hierarchyMount(t *testing.T, hierarchy string) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		before, after, _ := strings.Cut(strings.TrimSpace(line), " - ")
		fields, fs := strings.Fields(before), strings.Fields(after)
		if fields[3] == "/" && (hierarchy == "v2" && fs[0] == "cgroup2" ||
			hierarchy != "v2" && fs[0] == "cgroup" && slices.Contains(strings.Split(fs[2], ","), hierarchy)) {
			return fields[4]
		}
	}
	return ""
}

// inCgroup makes a command start in a cgroup: through a shell that moves itself there first.
func inCgroup(dir string, cmd *exec.Cmd) *exec.Cmd {
	sh := exec.Command("/bin/sh", "-c", `echo 0 >"$0/cgroup.procs" && exec "$@"`, dir)
	sh.Args = append(sh.Args, cmd.Args...)
	sh.Env, sh.Dir = cmd.Env, cmd.Dir
	return sh
}

// fillTable takes all slots, for as many workloads: no share is used up by that. What it returns takes the workloads away.
func fillTable(t *testing.T, tr *Tracer) (empty func()) {
	t.Helper()
	root, path := newCgroup(t, "filling"), tiny(t, "fills")
	var dirs []string
	empty = func() {
		for _, dir := range dirs {
			_ = os.Remove(dir)
		}
		dirs = nil
	}
	t.Cleanup(empty)
	for range 2 * tr.opts.SeriesLimit {
		dir := filepath.Join(root, fmt.Sprint(len(dirs)))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, dir)
		run(t, inCgroup(dir, exec.Command(path)))
		if s := snapshot(t, tr); s.Series == s.SeriesLimit {
			return empty
		}
	}
	s := snapshot(t, tr)
	t.Fatalf("%d of %d series in use after %d workloads", s.Series, s.SeriesLimit, len(dirs))
	return nil
}
