package deploy

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestPackages: what the packages are made of fits the unit. That they install,
// and what that does, takes a guest (make test-release).
func TestPackages(t *testing.T) {
	t.Parallel()
	flags := strings.TrimPrefix(readUnit(t).last("EnvironmentFile"), "-")
	unit := filepath.Base(unitFile)
	for _, want := range []string{"    dst: " + flags + "\n    type: config|noreplace\n", "    dst: /usr/lib/systemd/system/" + unit + "\n"} {
		if !strings.Contains(read(t, "packages/nfpm.yaml"), want) {
			t.Errorf("nfpm.yaml has no\n%s", want)
		}
	}
	if defaults := read(t, "packages/defaults"); !strings.HasSuffix(defaults, "\nARGS=\n") {
		t.Errorf("the flags of who has said nothing are\n%s", defaults)
	}
	scripts, err := filepath.Glob("packages/*/*")
	if err != nil || len(scripts) != 6 {
		t.Fatalf("scripts %q, %v", scripts, err)
	}
	for _, script := range scripts {
		if out, err := exec.CommandContext(t.Context(), program(t, "sh"), "-n", script).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", script, err, out)
		}
		text := read(t, script)
		if strings.Count(text, unit) != strings.Count(text, ".service") || !strings.Contains(text, "systemctl") && !strings.Contains(text, "deb-systemd-") {
			t.Errorf("%s is not about %s:\n%s", script, unit, text)
		}
		if !strings.Contains(read(t, "packages/nfpm.yaml"), " deploy/"+script+"\n") {
			t.Errorf("%s is in no package", script)
		}
	}
}
