package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

func TestMain(m *testing.M) {
	if err := os.Chdir(repository); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// at is when what the tests make was committed.
var at = time.Date(2026, 11, 26, 18, 35, 58, 0, time.UTC)

// TestVersions: what git says becomes what dpkg orders as it is meant.
func TestVersions(t *testing.T) {
	var last string
	for _, test := range []struct{ described, want string }{
		{"632ba4c", "0~20261126183558.632ba4c"},
		{"632ba4c-dirty", "0~20261126183558.632ba4c+dirty"},
		{"v0.1.0-rc.1", "0.1.0~rc.1"},
		{"v0.1.0-rc.1-2-gabcdef0", "0.1.0~rc.1+2.gabcdef0"},
		{"v0.1.0", "0.1.0"},
		{"v0.1.0-dirty", "0.1.0+dirty"},
		{"v0.1.0-5-gabcdef0", "0.1.0+5.gabcdef0"},
		{"v0.1.1", "0.1.1"},
	} {
		got := packageVersion(test.described, at)
		if got != test.want {
			t.Errorf("%s becomes %s, want %s", test.described, got, test.want)
		}
		switch test.described {
		case "v0.1.0-5-gabcdef0": // dpkg has no opinion on that and +dirty
			last = "0.1.0"
		case "632ba4c":
			last = "0~0"
		}
		if out, err := exec.Command("dpkg", "--compare-versions", last, "lt", got).CombinedOutput(); err != nil {
			t.Errorf("%s is not after %s: %v %s", got, last, err, out)
		}
		last = got
	}
}

func TestUnit(t *testing.T) {
	unit, err := os.ReadFile("deploy/systemd/capability_exporter.service")
	if err != nil {
		t.Fatal(err)
	}
	got, err := packagedUnit(string(unit))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(got, "[Unit]\nDescription=") || strings.Contains(got, "/usr/local") ||
		strings.Count(got, "\nExecStart=/usr/bin/capability_exporter $ARGS\n") != 1 || strings.Count(got, "\nExecPaths=/usr/bin/capability_exporter\n") != 1 {
		t.Errorf("the packages' unit is\n%s", got)
	}
	for _, wrong := range []string{"", got, strings.Replace(string(unit), "ExecPaths=/usr/local/bin/", "ExecPaths=/opt/", 1)} {
		if _, err := packagedUnit(wrong); err == nil {
			t.Errorf("taken for the unit:\n%s", wrong)
		}
	}
}

// TestPage: the program's own page has all flags.

func TestPage(t *testing.T) {
	help, err := exec.Command("go", "run", "./exporter", "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	written, err := exec.Command("go", "run", "./exporter", "--help-man").Output()
	if err != nil {
		t.Fatal(err)
	}
	got, err := page(string(written), ".SH \"FILES\"\nNone.\n", "1.2.3", at)
	if err != nil {
		t.Fatal(err)
	}
	flags := regexp.MustCompile(`(?m)^ +(?:-\w, )?--(?:\[no-\])?([a-z.-]+)`).FindAllStringSubmatch(string(help), -1)
	if len(flags) < 10 {
		t.Fatalf("flags %q in\n%s", flags, help)
	}
	for _, flag := range flags {
		if !strings.Contains(got, `\-\-`+strings.ReplaceAll(flag[1], "-", `\-`)) {
			t.Errorf("there is no --%s", flag[1])
		}
	}
	for _, want := range []string{".TH CAPABILITY_EXPORTER 8 2026-11-26 \"capability_exporter 1.2.3\"\n.SH \"NAME\"\n", "\n.SH \"FILES\"\nNone.\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("there is no %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, runtime.Version()) {
		t.Errorf("it names the machine that it was made on:\n%s", got)
	}
	if _, err := page("", "", "", at); err == nil {
		t.Error("nothing is taken for a page")
	}
}

// TestImage: the archive is whole, and each image in it is what the Dockerfile's
// last stage would make.
func TestImage(t *testing.T) {
	r := release{version: "v1.2.3", revision: "0123abc", time: at, built: t.TempDir()}
	for _, arch := range architectures() {
		if err := os.WriteFile(filepath.Join(r.built, name+"-linux-"+arch), []byte("of "+arch), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.image(); err != nil {
		t.Fatal(err)
	}
	archive, err := os.ReadFile(filepath.Join(r.built, "capability_exporter.oci.tar"))
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	for name, content := range untar(t, archive) {
		if err := errors.Join(os.MkdirAll(filepath.Join(folder, path.Dir(name)), 0o700), os.WriteFile(filepath.Join(folder, name), content, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	outer, err := layout.ImageIndexFromPath(folder)
	if err != nil {
		t.Fatal(err)
	}
	one, err := outer.IndexManifest()
	if err != nil || len(one.Manifests) != 1 { // or Podman asks which
		t.Fatalf("the archive holds %+v, %v", one, err)
	}
	index, err := outer.ImageIndex(one.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, one := range manifest.Manifests {
		found = append(found, one.Platform.Architecture)
		image, err := index.Image(one.Digest)
		if err != nil {
			t.Fatal(err)
		}
		checkImage(t, image, one.Platform.Architecture)
	}
	if !slices.Equal(found, architectures()) {
		t.Errorf("images for %q", found)
	}
}

func checkImage(t *testing.T, image v1.Image, arch string) {
	t.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c := config.Config
	if config.Architecture != arch || c.User != "0:0" || !slices.Equal(c.Entrypoint, []string{"/capability_exporter"}) ||
		c.Labels["org.opencontainers.image.version"] != "v1.2.3" || c.Labels["org.opencontainers.image.revision"] != "0123abc" {
		t.Errorf("the image for %s: %+v", arch, config)
	}
	if _, exposed := c.ExposedPorts["10041/tcp"]; !exposed || len(c.ExposedPorts) != 1 {
		t.Errorf("ports %v", c.ExposedPorts)
	}
	files := mutate.Extract(image)
	defer files.Close()
	content, err := io.ReadAll(files)
	if err != nil {
		t.Fatal(err)
	}
	if got := untar(t, content); len(got) != 1 || string(got["capability_exporter"]) != "of "+arch {
		t.Errorf("in the image for %s is %q", arch, got)
	}
}

// untar returns the files, to the end that an archive must have.
func untar(t *testing.T, archive []byte) map[string][]byte {
	t.Helper()
	if !bytes.HasSuffix(archive, make([]byte, 1024)) {
		t.Error("the archive has no end")
	}
	files := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if !header.ModTime.Equal(at) {
			t.Errorf("%s is of %v", header.Name, header.ModTime)
		}
		if files[path.Clean(header.Name)], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

// What is new in the Dockerfile must not be left out of the image without a word.
func TestDockerfilesThatAreNotUnderstood(t *testing.T) {
	for _, stage := range []string{"", "FROM debian:12", "FROM scratch\nENV A=b", "FROM scratch\nARG OTHER", "FROM scratch\nENTRYPOINT /a", "FROM scratch\nCOPY a b"} {
		if _, err := lastStage("FROM golang\n"+stage, map[string]string{"VERSION": "1"}); err == nil {
			t.Errorf("understood: %s", stage)
		}
	}
}

// TestPackages: both have what belongs in them, and nothing else.
func TestPackages(t *testing.T) {
	r := release{version: "v1.2.3", revision: "0123abc", time: at, built: t.TempDir()}
	program := filepath.Join(r.built, name+"-linux-")
	for _, arch := range architectures() {
		if err := os.WriteFile(program+arch, []byte("#!/bin/sh\necho '.SH \"SYNOPSIS\"'\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.packages(); err != nil {
		t.Fatal(err)
	}
	if err := r.checksums(io.Discard); err != nil {
		t.Fatal(err)
	}
	check := exec.Command("sha256sum", "--check", "--strict", "--quiet", sums)
	check.Dir = r.built
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	entries, err := fs.Glob(os.DirFS(r.built), "*")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		sums, "capability-exporter-1.2.3-1.aarch64.rpm", "capability-exporter-1.2.3-1.x86_64.rpm",
		"capability-exporter_1.2.3_amd64.deb", "capability-exporter_1.2.3_arm64.deb", "capability_exporter-linux-amd64", "capability_exporter-linux-arm64",
	}
	slices.Sort(entries)
	if !slices.Equal(entries, want) {
		t.Errorf("made %q", entries)
	}
	for _, arch := range architectures() {
		deb := filepath.Join(r.built, "capability-exporter_1.2.3_"+arch+".deb")
		if out, err := exec.Command("dpkg-deb", "--info", deb, "conffiles").Output(); err != nil || string(out) != "/etc/default/capability_exporter\n" {
			t.Errorf("what is kept as it was changed: %q, %v", out, err)
		}
		out, err := exec.Command("dpkg-deb", "--fsys-tarfile", deb).Output()
		if err != nil {
			t.Fatal(err)
		}
		var files []string
		for name, content := range untar(t, out) {
			if len(content) > 0 { // no folder
				files = append(files, name)
			}
		}
		want := []string{
			"etc/default/capability_exporter", "usr/bin/capability_exporter", "usr/lib/systemd/system/capability_exporter.service",
			"usr/share/doc/capability-exporter/CHANGELOG.md", "usr/share/doc/capability-exporter/copyright", "usr/share/man/man8/capability_exporter.8.gz",
		}
		slices.Sort(files)
		if !slices.Equal(files, want) {
			t.Errorf("the deb for %s has %q", arch, files)
		}
	}
}
