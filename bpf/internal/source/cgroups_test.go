package source

import (
	"os"
	"path/filepath"
	"testing"
)

func TestUsedHierarchies(t *testing.T) {
	proc := t.TempDir()
	write := func(pid, content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(proc, pid), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(proc, pid, "cgroup"), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	check := func(want ...string) {
		t.Helper()
		used, err := usedHierarchies(proc)
		if err != nil {
			t.Fatal(err)
		}
		if len(used) != len(want) {
			t.Errorf("%v, want %v", used, want)
		}
		for _, w := range want {
			if !used[w] {
				t.Errorf("%v, want %v", used, want)
			}
		}
	}
	check()
	write("1", "4:memory:/\n1:name=systemd:/init.scope\n0::/\n")
	check()
	write("2", "8:pids:/x\n4:memory:/a:b\n3:cpu,cpuacct:/c\n7:blkio:/y\n0::/\n")
	check("pids", "memory", "cpu")
	write("3", "garbage\n0::/system.slice\n")
	check("pids", "memory", "cpu", "v2")
	write("self", "5:freezer:/not-a-process\n")
	check("pids", "memory", "cpu", "v2")
}
