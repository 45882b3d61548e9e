package main

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestPackages has dpkg and rpm install what a release consists of, systemd run it, and both remove it again; and Podman run the
// image.
func TestPackages(t *testing.T) {
	if os.Getenv(prebuilt) == "" || !exists("/run/systemd/system") || !exists("/usr/bin/dpkg") {
		t.Skip("installs packages, so it runs in a guest alone (make test-release)")
	}
	before := filesOf(t)
	t.Run("deb", func(t *testing.T) { testDeb(t, inRoot(t, "*.deb")) })
	checkNothingLeft(t, before)
	t.Run("rpm", func(t *testing.T) { testRPM(t, inRoot(t, "*.rpm")) })
	checkNothingLeft(t, before)
	t.Run("image", func(t *testing.T) { testImage(t, inRoot(t, "*.oci.tar")) })
}

const (
	packageName  = "capability-exporter"
	defaultsFile = "/etc/default/capability_exporter"
	manPage      = "/usr/share/man/man8/capability_exporter.8.gz"
	ownUnit      = "/usr/lib/systemd/system/" + unitName
)

// inRoot finds the one file of a release that there is of a kind.
func inRoot(t *testing.T, pattern string) string {
	t.Helper()
	found, err := filepath.Glob("/" + pattern)
	if err != nil || len(found) != 1 {
		t.Fatalf("%s is %q, %v", pattern, found, err)
	}
	return found[0]
}

// filesOf are those that a package might leave behind.
func filesOf(t *testing.T) map[string]bool {
	t.Helper()
	files := map[string]bool{}
	for _, folder := range []string{"/etc", "/usr", "/var/lib/systemd", "/var/lib/private", "/var/cache", "/run/systemd/system"} {
		err := filepath.WalkDir(folder, func(path string, _ os.DirEntry, err error) error {
			if err == nil && strings.Contains(path, "capability") {
				files[path] = true
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}

func checkNothingLeft(t *testing.T, before map[string]bool) {
	t.Helper()
	for path := range filesOf(t) {
		if !before[path] {
			t.Errorf("%s is left", path)
		}
	}
	if users := output(t, "getent", "passwd"); strings.Contains(users, "capability") {
		t.Errorf("a user is left:\n%s", users)
	}
}

func testDeb(t *testing.T, deb string) {
	version := output(t, "dpkg-deb", "--field", deb, "Version")
	output(t, "dpkg", "--install", deb)
	p := serving(t, "127.0.0.1:10041")
	if n := p.metric(t, `capability_held_processes{capability="CAP_BPF",scope="host",workload="`+unitName+`"}`); n < 1 {
		t.Errorf("%v processes of its own hold CAP_BPF", n)
	}
	if got := output(t, "systemctl", "is-enabled", unitName); got != "enabled" {
		t.Errorf("it is %s", got)
	}
	if got := output(t, "systemctl", "status", "--no-pager", unitName); !strings.Contains(got, `Status: "Counting capability checks via `) {
		t.Errorf("its status is\n%s", got)
	}
	if build := p.series(t, "capability_exporter_build_info"); len(build) != 1 || labelsOf(build[0])["version"] == "" || len(labelsOf(build[0])["revision"]) != 40 {
		t.Errorf("package %s was built of %q", version, build)
	}
	if out := output(t, "mandoc", "-T", "lint", "-W", "warning", manPage); out != "" {
		t.Errorf("the man page:\n%s", out)
	}
	p = testDefaults(t, p)
	testWatchdog(t, p)

	// The same version once more: what was changed stays, and it is started again.
	serving(t, "127.0.0.1:10042")
	before := property(t, unitName, "MainPID")
	output(t, "dpkg", "--install", deb)
	if p := serving(t, "127.0.0.1:10042"); strconv.Itoa(p.pid) == before {
		t.Error("an upgrade goes on with the old program")
	}
	output(t, "systemctl", "disable", unitName)
	output(t, "dpkg", "--install", deb)
	if state := property(t, unitName, "UnitFileState"); state != "disabled" {
		t.Errorf("after an upgrade it is %s again", state)
	}

	output(t, "dpkg", "--remove", packageName)
	if state := property(t, unitName, "ActiveState"); state != "inactive" || !exists(defaultsFile) {
		t.Errorf("removed, it is %s, and there is a file of flags: %t", state, exists(defaultsFile))
	}
	output(t, "dpkg", "--purge", packageName)
}

// testDefaults has it listen elsewhere.
func testDefaults(t *testing.T, p *process) *process {
	t.Helper()
	writeFile(t, defaultsFile, "ARGS=--web.listen-address=127.0.0.1:10042 --held.interval=5s\n")
	output(t, "systemctl", "restart", unitName)
	again := serving(t, "127.0.0.1:10042")
	if again.pid == p.pid {
		t.Error("it was not started again")
	}
	return again
}

// testWatchdog stops it where it stands: systemd must notice, and start it again.
func testWatchdog(t *testing.T, p *process) {
	t.Helper()
	if usec := property(t, unitName, "WatchdogUSec"); usec != "1min" {
		t.Errorf("its watchdog waits for %s", usec)
	}
	dropIn := "/etc/systemd/system/" + unitName + ".d"
	if err := os.MkdirAll(dropIn, 0o755); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := os.RemoveAll(dropIn); err != nil {
			t.Error(err)
		}
		output(t, "systemctl", "daemon-reload")
	}()
	writeFile(t, dropIn+"/watchdog.conf", "[Service]\nWatchdogSec=20s\nRestartSec=1s\n")
	output(t, "systemctl", "daemon-reload")
	output(t, "systemctl", "restart", unitName)
	p = serving(t, p.address)
	time.Sleep(45 * time.Second) // longer than the watchdog waits: it is fed
	if n := property(t, unitName, "NRestarts"); n != "0" {
		t.Errorf("systemd has started it again %s times while it worked\n%s", n, output(t, "journalctl", "--no-pager", "--unit="+unitName))
	}
	if err := unix.Kill(p.pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); property(t, unitName, "NRestarts") == "0" || property(t, unitName, "SubState") != "running"; time.Sleep(time.Second) {
		if time.Now().After(deadline) {
			t.Fatalf("systemd does not miss it\n%s", output(t, "journalctl", "--no-pager", "--unit="+unitName))
		}
	}
	if again := serving(t, p.address); again.pid == p.pid {
		t.Error("it was not started again")
	}
	if log := output(t, "journalctl", "--no-pager", "--unit="+unitName); !strings.Contains(log, "Watchdog timeout") {
		t.Errorf("systemd does not say why:\n%s", log)
	}
}

// testRPM has rpm install it, on a system of whose other packages rpm knows nothing.
func testRPM(t *testing.T, rpm string) {
	output(t, "rpm", "--install", "--nodeps", rpm)
	if state := property(t, unitName, "ActiveState"); state != "inactive" {
		t.Errorf("an rpm's service is %s before anybody has started it", state)
	}
	output(t, "systemctl", "enable", "--now", unitName)
	p := serving(t, "127.0.0.1:10041")
	if out := output(t, "rpm", "--verify", packageName); out != "" {
		t.Errorf("rpm finds:\n%s", out)
	}
	want := []string{
		defaultsFile, "/usr/bin/capability_exporter", ownUnit, "/usr/share/doc/capability-exporter", "/usr/share/doc/capability-exporter/CHANGELOG.md",
		"/usr/share/licenses/capability-exporter", "/usr/share/licenses/capability-exporter/LICENSE", manPage,
	}
	if files := strings.Fields(output(t, "rpm", "--query", "--list", packageName)); !slices.Equal(files, want) {
		t.Errorf("it has installed %q", files)
	}
	if files := output(t, "rpm", "--query", "--configfiles", packageName); files != defaultsFile {
		t.Errorf("what may be changed is %s", files)
	}
	output(t, "rpm", "--upgrade", "--nodeps", "--force", rpm)
	if again := serving(t, p.address); again.pid == p.pid {
		t.Error("an upgrade goes on with the old program")
	}
	output(t, "rpm", "--erase", packageName)
	if state := property(t, unitName, "ActiveState"); state != "inactive" || exists(ownUnit) {
		t.Errorf("erased, it is %s, and there is its unit: %t", state, exists(ownUnit))
	}
}

// testImage has skopeo(1) copy it for all architectures, as to a registry, and Podman run that of this machine's.
func testImage(t *testing.T, archive string) {
	copied := t.TempDir()
	output(t, "skopeo", "--insecure-policy", "copy", "--quiet", "--all", "oci-archive:"+archive, "dir:"+copied)
	manifest, err := os.ReadFile(filepath.Join(copied, "manifest.json"))
	if err != nil || !strings.Contains(string(manifest), `"architecture":"amd64"`) || !strings.Contains(string(manifest), `"architecture":"arm64"`) {
		t.Errorf("copied is %s, %v", manifest, err)
	}
	loaded := output(t, "podman", "load", "--quiet", "--input", archive)
	image := strings.TrimSpace(loaded[strings.LastIndex(loaded, ": ")+1:])
	out := output(t, "podman", "run", "--rm", "--network=none", image, "--version")
	version := output(t, "podman", "image", "inspect", `--format={{index .Labels "org.opencontainers.image.version"}}`, image)
	revision := output(t, "podman", "image", "inspect", `--format={{index .Labels "org.opencontainers.image.revision"}}`, image)
	if version == "" || !strings.Contains(out, "version "+version+" ") || len(revision) != 40 || !strings.Contains(out, "revision: "+revision) {
		t.Errorf("the image is of %q, %q, and its program says\n%s", version, revision, out)
	}
}
