package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestBinaryUnderAttack has nobody make more names than there are series. A
// program of root's that uses CAP_SYS_ADMIN for the first time after it has its
// series, its line in the log, and its row on the page.
func TestBinaryUnderAttack(t *testing.T) {
	const names, later = 6000, "came-later"
	program := copyOf(t, exporter(t))
	p := startProcess(t, program, program, "--web.listen-address=127.0.0.1:0")

	start := time.Now()
	attack(t, names, "")
	took := time.Since(start)

	asks := copyOf(t, self(t))
	root := filepath.Join(filepath.Dir(asks), later)
	if err := os.Rename(asks, root); err != nil {
		t.Fatal(err)
	}
	cmd := command(root)
	cmd.Env = append(cmd.Env, helperRole+"="+helperAsk)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got := p.asks(t, later)["CAP_SYS_ADMIN granted"]; got != 1 {
		t.Errorf("%v checks in a series of its own, want 1", got)
	}
	p.log.waitFor(t, `level=WARN .*capability=CAP_SYS_ADMIN result=granted scope=host workload=\S+ process=(`+later+`) `)
	row := regexp.MustCompile(`(?s)<tr class="admin"><td[^>]*>[^<]*<span class="cap">CAP_SYS_ADMIN</span></td>\s*<td[^>]*>(?:<bdi>[^<]*</bdi>|<details[^>]*><summary[^>]*><bdi[^>]*>[^<]*</bdi><bdi[^>]*>[^<]*</bdi></summary></details>)</td>\s*<td[^>]*><bdi>` + later + `</bdi>`)
	page := ""
	for range 40 {
		page = strings.ReplaceAll(p.get(t, "/").body, "\n", "")
		if row.MatchString(page) {
			break
		}
		time.Sleep(500 * time.Millisecond)
	}
	if !row.MatchString(page) {
		t.Errorf("no row on the page, which has %d", strings.Count(page, "<tr"))
	}
	found := strings.ReplaceAll(p.get(t, "/?class=admin&q="+later).body, "\n", "")
	if n := strings.Count(found, `data-h="Process"`); n != 1 || !row.MatchString(found) {
		t.Errorf("a filter by its name finds %d rows, want that one", n)
	}
	overflow := regexp.MustCompile(`(?m)^capability_exporter_(overflow_checks_total|workload_series|ring_withheld_total|announcements_dropped_total\S*) \d+`).
		FindAllString(p.get(t, "/metrics").body, -1)
	t.Logf("%d names in %s; %s", names, took.Round(time.Millisecond), strings.Join(overflow, ", "))
}

// attack has nobody ask for CAP_SYS_ADMIN under so many names, in a cgroup if one
// is given.
func attack(t *testing.T, names int, cgroup string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "attack") // where nobody can go
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	attacker := filepath.Join(dir, "attacker")
	if out, err := command("cp", copyOf(t, self(t)), attacker).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, path := range []string{dir, attacker} {
		if err := os.Chown(path, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	start := asNobody(attacker, strconv.Itoa(names))
	if cgroup != "" {
		start = after("echo $$ >"+filepath.Join(cgroup, "cgroup.procs"), start...)
	}
	cmd := command(start...)
	cmd.Env = append(cmd.Env, helperRole+"="+helperFlood)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
