package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// These tests start the program with less than it needs. It must say so, and
// which limit is too low, and must run with as much as it says.

// TestBinaryUnderFileLimits: with any number of open files it ends with that
// message or starts, and never with another one.
func TestBinaryUnderFileLimits(t *testing.T) {
	needsTracing(t)
	program := copyOf(t, exporter(t))
	with := func(limit int) []string {
		// Without what whoever started the test has left open.
		return after(fmt.Sprint("exec 3>&- 4>&- 5>&- 6>&- && ulimit -n ", limit), withBoth(program, "--web.listen-address=127.0.0.1:0")...)
	}
	needs := 0
	tooFew := func(limit int) {
		out := failed(t, command(with(limit)...))
		match := regexp.MustCompile(`^capability_exporter: too many open files: the limit is (\d+), and it needs about (\d+); raise it .*LimitNOFILE=.*\n$`).FindStringSubmatch(out)
		if match == nil || match[1] != strconv.Itoa(limit) {
			t.Fatalf("with %d:\n%s", limit, out)
		}
		if needs, _ = strconv.Atoi(match[2]); needs > 200 {
			t.Fatalf("with %d it needs %d", limit, needs)
		}
	}
	few, more := 30, 10 // the fewer, the more may go wrong
	if os.Getenv(prebuilt) != "" {
		few, more = 0, 40 // where each start takes a second
	}
	for limit := 8; limit < max(needs, 9); { // with fewer Go's runtime itself does not start
		tooFew(limit)
		limit++
		if limit > few {
			limit += more
		}
	}
	tooFew(needs - 1)

	p := startProcess(t, program, with(needs)...)
	// More clients than it has room for, none of which lock out a scraper.
	for range 40 {
		conn, err := net.Dial("tcp", p.address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
	}
	for _, path := range []string{"/metrics", "/"} {
		if got := p.get(t, path).StatusCode; got != 200 {
			t.Errorf("%s: answered %d", path, got)
		}
	}
	if n := p.metric(t, `capability_exporter_http_refused_total{reason="connections"}`); n < 20 {
		t.Errorf("%v connections were closed for others", n)
	}
	p.checkStop(t)
	for _, want := range []string{"Few files may be open at one time", "connections=16 usual=256"} {
		if !strings.Contains(p.log.whole(), want) {
			t.Errorf("does not say %q:\n%s", want, p.log.whole())
		}
	}
	if strings.Contains(p.log.whole(), "too many open files") {
		t.Errorf("short of files:\n%s", p.log.whole())
	}
}

// A soft limit below the hard one limits nobody.
func TestBinaryRaisesTheSoftFileLimit(t *testing.T) {
	program := copyOf(t, exporter(t))
	start := after("ulimit -S -n 20", withBoth(program, "--web.listen-address=127.0.0.1:0")...)
	startProcess(t, program, start...).checkStop(t)
}

// TestBinaryUnderFileMax runs in a guest only: others would be short of files, too.
func TestBinaryUnderFileMax(t *testing.T) {
	if os.Getenv(prebuilt) == "" {
		t.Skip("takes all open files from the whole machine, so it runs in a guest alone (make test-vm)")
	}
	program := copyOf(t, exporter(t))
	start := withBoth(program, "--web.listen-address=127.0.0.1:0")
	set := func(value string) {
		if err := os.WriteFile("/proc/sys/fs/file-max", []byte(value), 0); err != nil {
			t.Error(err)
		}
	}
	read := func(path string) string {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Fields(string(content))[0]
	}
	defer set(read("/proc/sys/fs/file-max"))
	open, err := strconv.Atoi(read("/proc/sys/fs/file-nr"))
	if err != nil {
		t.Fatal(err)
	}
	// With fewer it is not even executed. Of what it takes, about 100, each CPU may have 31 that are not yet in the number which the
	// kernel goes by first (percpu_counter_read_positive in alloc_empty_file).
	for _, more := range []int{20, 30} {
		set(strconv.Itoa(open + more))
		if out := failed(t, command(start...)); !strings.HasPrefix(out, "capability_exporter: too many open files in the whole system; raise the sysctl fs.file-max") {
			t.Errorf("with %d more:\n%s", more, out)
		}
	}
}

// TestBinaryUnderMemoryLimits: the kernel does not get to kill it for want of memory.
func TestBinaryUnderMemoryLimits(t *testing.T) {
	needsTracing(t)
	program := copyOf(t, exporter(t))
	cgroup := newMemoryCgroup(t)
	within := func(limit, series int) []string {
		return after(fmt.Sprintf("echo %d >%s && echo $$ >%s/cgroup.procs", limit<<20, cgroup.limit, cgroup.path),
			withBoth(program, "--web.listen-address=127.0.0.1:0", fmt.Sprint("--series.limit=", series))...)
	}
	needs := func(limit, series int) int {
		out := failed(t, command(within(limit, series)...))
		match := regexp.MustCompile(fmt.Sprintf(`too little memory: the limit of its cgroup is %d MiB, and it needs about (\d+) MiB, .*MemoryMax=.*--series.limit`, limit)).FindStringSubmatch(out)
		if match == nil {
			t.Fatalf("with %d MiB for %d series:\n%s", limit, series, out)
		}
		n, err := strconv.Atoi(match[1])
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for _, limit := range []int{12, 20} {
		if n := needs(limit, 4096); n != 34 {
			t.Errorf("with %d MiB it needs %d", limit, n)
		}
	}
	limits := []int{4096, 65536}
	if os.Getenv(prebuilt) != "" { // where each start takes seconds
		limits = limits[:1]
	}
	for _, series := range limits {
		enough := 34
		if !chargesMaps(t) {
			enough = needs(34, series)
			if most := needs(enough-1, series); most != enough {
				t.Errorf("needs %d MiB, and %d", enough, most)
			}
		}
		p := startProcess(t, program, within(enough, series)...)
		for _, path := range []string{"/metrics", "/"} {
			if got := p.get(t, path).StatusCode; got != 200 {
				t.Errorf("%s: answered %d", path, got)
			}
		}
		p.checkStop(t)
		if warned := strings.Contains(p.log.whole(), "may be too low once all series are in use"); warned == chargesMaps(t) {
			t.Errorf("with %d MiB for %d series: %s", enough, series, p.log.whole())
		}
	}
}

// memoryCgroup is one whose memory can be limited.
type memoryCgroup struct{ path, limit string }

func newMemoryCgroup(t *testing.T) memoryCgroup {
	t.Helper()
	for _, hierarchy := range []struct{ root, limit string }{
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"}, {"/mnt/memory", "memory.limit_in_bytes"}, {"/sys/fs/cgroup", "memory.max"},
	} {
		if hierarchy.limit == "memory.max" {
			// Where it stands there already, or cannot be had, the file below tells.
			_ = os.WriteFile(filepath.Join(hierarchy.root, "cgroup.subtree_control"), []byte("+memory"), 0)
		}
		path, err := os.MkdirTemp(hierarchy.root, "limits")
		if err != nil {
			continue
		}
		t.Cleanup(func() { _ = unix.Rmdir(path) })
		if err := os.Chmod(path, 0o755); err != nil { // nobody reads it
			t.Fatal(err)
		}
		if limit := filepath.Join(path, hierarchy.limit); exists(limit) {
			return memoryCgroup{path, limit}
		}
	}
	const why = "no memory controller is mounted where this test looks for one"
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
	return memoryCgroup{}
}
