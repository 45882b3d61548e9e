package pods

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"capability_exporter/collectors/workload"
)

const uid = "12fdc709-933e-41d0-917f-cd84de9afa94"

func logTo(out *bytes.Buffer) *slog.Logger {
	return slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func TestFolder(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "default_web-0_"+uid), 0o700); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	f := Open(dir, logTo(&out))
	if got := f.Names(map[string]bool{uid: true}); got[uid] != (workload.PodName{Namespace: "default", Pod: "web-0"}) || out.Len() != 0 {
		t.Errorf("found %v, and said %s", got, &out)
	}
}

// Where there is no folder nobody is told, until there is a pod; then once.
func TestNoFolder(t *testing.T) {
	var out bytes.Buffer
	dir := filepath.Join(t.TempDir(), "pods")
	f := Open(dir, logTo(&out))
	if got := out.String(); strings.Contains(got, "WARN") || !strings.Contains(got, "DEBUG") {
		t.Errorf("said %s", got)
	}
	for range 3 {
		f.Names(map[string]bool{uid: true})
	}
	if got := out.String(); strings.Count(got, "WARN") != 1 || !strings.Contains(got, "mount it (as deploy/kubernetes/daemonset.yaml does)") || !strings.Contains(got, "start the exporter again") {
		t.Errorf("said %s", got)
	}
}

// What cannot be read is told once, and once more after it could be.
func TestUnreadable(t *testing.T) {
	var out bytes.Buffer
	dir := t.TempDir()
	f := Open(dir, logTo(&out))
	for range 3 {
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		f.Names(nil)
		f.Names(nil)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		f.Names(nil)
	}
	if n := strings.Count(out.String(), "WARN"); n != 3 {
		t.Errorf("said %d times:\n%s", n, &out)
	}
}
