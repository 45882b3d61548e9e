package deploy

import (
	"debug/elf"
	"fmt"
	"go/version"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

// instruction is one of a Dockerfile's.
type instruction struct{ name, arguments string }

// readStages returns the instructions of each stage of the Dockerfile, FROM first.
func readStages(t *testing.T) [][]instruction {
	t.Helper()
	var stages [][]instruction
	for line := range strings.Lines(read(t, "Dockerfile")) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, arguments, _ := strings.Cut(line, " ")
		if name == "FROM" {
			stages = append(stages, nil)
		}
		if len(stages) == 0 {
			t.Fatalf("%s stands before FROM", line)
		}
		stages[len(stages)-1] = append(stages[len(stages)-1], instruction{name, arguments})
	}
	if len(stages) != 2 {
		t.Fatalf("%d stages, and not one that builds and one that is shipped", len(stages))
	}
	return stages
}

// TestImage: the shipped stage holds the program and nothing beside it, and is
// started by the user that the DaemonSet names: with another, who runs the
// image by hand gets an exporter without a capability.
func TestImage(t *testing.T) {
	t.Parallel()
	_, pod := readManifest(t)
	security := pod.Containers[0].SecurityContext
	if security.RunAsUser == nil || security.RunAsGroup == nil {
		t.Fatal("the DaemonSet leaves the user or the group to the image")
	}
	want := []instruction{
		{"FROM", "scratch"},
		{"ARG", "VERSION=unknown"},
		{"ARG", "REVISION=unknown"},
		{"LABEL", "org.opencontainers.image.title=capability_exporter org.opencontainers.image.licenses=Apache-2.0"},
		{"LABEL", "org.opencontainers.image.version=$VERSION org.opencontainers.image.revision=$REVISION"},
		{"COPY", "--from=build /capability_exporter /capability_exporter"},
		{"USER", fmt.Sprintf("%d:%d", *security.RunAsUser, *security.RunAsGroup)},
		{"EXPOSE", defaultPort(t)},
		{"ENTRYPOINT", `["/capability_exporter"]`},
	}
	if shipped := readStages(t)[1]; !slices.Equal(shipped, want) {
		t.Errorf("the image is made by\n%q, want\n%q", shipped, want)
	}
	// Without these the context is all that was ever built or committed.
	if ignored := strings.Fields(read(t, "Dockerfile.dockerignore")); !slices.Equal(ignored, []string{".git", "build"}) {
		t.Errorf("left out of the build are %q", ignored)
	}
}

// TestImageBuild runs the image's own build command: what it makes must start
// in an image that holds no library, and say which version it is.
func TestImageBuild(t *testing.T) {
	t.Parallel()
	build := readStages(t)[0]
	image, ok := strings.CutSuffix(build[0].arguments, " AS build")
	tag, golang := strings.CutPrefix(image, "--platform=$BUILDPLATFORM golang:")
	module := regexp.MustCompile(`(?m)^go (\S+)$`).FindStringSubmatch(read(t, "../go.mod"))
	if !ok || !golang || module == nil || version.Compare("go"+tag, version.Lang("go"+module[1])) < 0 {
		t.Errorf("it is built from %q, and go.mod asks for %q", build[0].arguments, module)
	}
	// In this order the modules are downloaded again only when they change.
	want := []instruction{
		{"WORKDIR", "/src"}, {"COPY", "go.mod go.sum ./"}, {"RUN", "go mod download"}, {"COPY", ". ."},
		{"ARG", "VERSION=unknown"}, {"ARG", "REVISION=unknown"}, {"ARG", "TARGETARCH"},
	}
	if len(build) != 9 || !slices.Equal(build[1:8], want) || build[8].name != "RUN" {
		t.Fatalf("built by %q", build)
	}

	path := filepath.Join(t.TempDir(), "capability_exporter")
	command := strings.Replace(build[8].arguments, " -o /capability_exporter ", " -o "+path+" ", 1)
	if command == build[8].arguments {
		t.Fatalf("%s does not write the file that is copied", command)
	}
	runFor := func(arch, command string) string {
		run := exec.CommandContext(t.Context(), "bash", "-euc", command)
		run.Dir = ".."
		// CGO_ENABLED=1 is Go's default, where there is a C compiler.
		run.Env = append(os.Environ(), "CGO_ENABLED=1", "TARGETARCH="+arch, "VERSION=1.2.3-rc.1", "REVISION=0123abc")
		out, err := run.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
		return string(out)
	}
	runFor(runtime.GOARCH, command)
	checkStatic(t, path)
	if out, err := exec.CommandContext(t.Context(), path, "--version").CombinedOutput(); err != nil ||
		!strings.Contains(string(out), "capability_exporter, version 1.2.3-rc.1 (branch: , revision: 0123abc)") {
		t.Errorf("%v\n%s", err, out)
	}
	if root, err := filepath.Abs(".."); err != nil || strings.Contains(read(t, path), root+"/exporter") {
		t.Errorf("it names the folder it was built in, %s, %v", root, err)
	}
	// To compile all of it for the other one takes a minute: Go is asked what it would compile for.
	for _, arch := range []string{"amd64", "arm64"} {
		if got := runFor(arch, strings.Replace(command, " go build ", " go env GOARCH # ", 1)); got != arch+"\n" {
			t.Errorf("for %s it is built for %s", arch, got)
		}
	}
}

// TestDockerRun: the command in the Dockerfile's comment gives what the
// DaemonSet gives.
func TestDockerRun(t *testing.T) {
	t.Parallel()
	comment := regexp.MustCompile(`(?m)^# ?`).ReplaceAllString(read(t, "Dockerfile"), "")
	_, command, _ := strings.Cut(comment, "  docker run ")
	command, _, _ = strings.Cut(strings.ReplaceAll(command, "\\\n", " "), "\n")
	port := defaultPort(t)
	want := []string{"-d", "--read-only", "--security-opt", "no-new-privileges", "--cap-drop", "ALL"}
	_, pod := readManifest(t)
	for _, name := range pod.Containers[0].SecurityContext.Capabilities.Add {
		want = append(want, "--cap-add", name)
	}
	want = append(want, "-p", port+":"+port, "capability_exporter")
	if got := strings.Fields(command); !slices.Equal(got, want) {
		t.Errorf("docker run %q, want %q", got, want)
	}
}

// checkStatic fails if a program needs another file to start: there is none in
// the image, and the unit lets no other be executed.
func checkStatic(t *testing.T, path string) {
	t.Helper()
	file, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, program := range file.Progs {
		if program.Type == elf.PT_INTERP {
			t.Errorf("%s is linked to this machine's libraries", path)
		}
	}
}

// help is what the program prints of itself.
var help = sync.OnceValues(func() ([]byte, error) {
	return exec.Command("go", "run", "../exporter", "--help").CombinedOutput()
})

// defaultPort is where the program listens if it is not told otherwise.
func defaultPort(t *testing.T) string {
	t.Helper()
	text, err := help()
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	match := regexp.MustCompile(`--web\.listen-address=:(\d+) `).FindSubmatch(text)
	if match == nil {
		t.Fatalf("no default port in\n%s", text)
	}
	return string(match[1])
}
