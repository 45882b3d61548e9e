// Command release makes of the programs that `make release` has built what is
// installed: a deb and an rpm for each architecture, by nfpm, one image for both,
// and the checksums of all.
//
//	go -C .tools/release run . -version v1.2.3 -revision 0123abc -time 1764183691 -built ../../build/release
//
// What it makes depends on these and on the repository's files, and on nothing
// else: who makes it again gets the same. It is a module of its own, as nfpm is
// made of much.
package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb"
	_ "github.com/goreleaser/nfpm/v2/rpm"
)

const (
	repository = "../.." // go -C .tools/release
	name       = "capability_exporter"
	sums       = "SHA256SUMS"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) { // the help has been printed
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// release is what is made, and of what.
type release struct {
	version, revision string
	time              time.Time // that all files have
	built             string    // the folder of the programs, to which the rest is added
}

func architectures() []string { return []string{"amd64", "arm64"} }

func run(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("release", flag.ContinueOnError)
	flags.SetOutput(out)
	var r release
	flags.StringVar(&r.version, "version", "", "what `git describe` says")
	flags.StringVar(&r.revision, "revision", "", "the commit")
	at := flags.Int64("time", 0, "of the commit, in seconds since 1970")
	flags.StringVar(&r.built, "built", "", "the `folder` of the programs, to which the rest is added")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || r.version == "" || r.revision == "" || *at <= 0 || r.built == "" {
		return errors.New("each of the flags that -help tells is needed, and nothing else: `make release` gives them")
	}
	r.time = time.Unix(*at, 0).UTC()
	var err error
	if r.built, err = filepath.Abs(r.built); err != nil {
		return err
	}
	if err := os.Chdir(repository); err != nil { // nfpm.yaml names files from there
		return err
	}
	for _, step := range []func() error{r.packages, r.image, func() error { return r.checksums(out) }} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// packages are made of the one unit that there is, with the program where
// packages have it, and of the man page that the program has of itself.
func (r release) packages() error {
	work, err := os.MkdirTemp("", name)
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	unit, err := os.ReadFile("deploy/systemd/" + name + ".service")
	if err != nil {
		return err
	}
	packaged, err := packagedUnit(string(unit))
	if err != nil {
		return err
	}
	page, err := r.manPage()
	if err != nil {
		return err
	}
	var zipped bytes.Buffer
	zip, err := gzip.NewWriterLevel(&zipped, gzip.BestCompression)
	if err != nil {
		return err
	}
	_, err = zip.Write([]byte(page))
	if err := errors.Join(err, zip.Close(),
		os.WriteFile(filepath.Join(work, name+".8.gz"), zipped.Bytes(), 0o600),
		os.WriteFile(filepath.Join(work, name+".service"), []byte(packaged), 0o600)); err != nil { //nolint:gosec // of the repository's unit, into a folder made here
		return err
	}
	for _, arch := range architectures() {
		config, err := nfpm.ParseFileWithEnvMapping("deploy/packages/nfpm.yaml", func(name string) string {
			return map[string]string{"ARCH": arch, "VERSION": packageVersion(r.version, r.time), "BUILT": r.built, "WORK": work}[name]
		})
		if err != nil {
			return fmt.Errorf("deploy/packages/nfpm.yaml: %w", err)
		}
		for _, format := range []string{"deb", "rpm"} {
			if err := r.pack(config, format); err != nil {
				return fmt.Errorf("the %s for %s: %w", format, arch, err)
			}
		}
	}
	return nil
}

func (r release) pack(config nfpm.Config, format string) error {
	info, err := config.Get(format)
	if err != nil {
		return err
	}
	info.MTime = r.time
	info = nfpm.WithDefaults(info)
	packager, err := nfpm.Get(format)
	if err != nil {
		return err
	}
	file, err := os.Create(filepath.Join(r.built, packager.ConventionalFileName(info)))
	if err != nil {
		return err
	}
	return errors.Join(packager.Package(info, file), file.Close())
}

// packagedUnit has the program in /usr/bin. The comment above the first section is
// for who installs it by hand.
func packagedUnit(unit string) (string, error) {
	const here, there = "=/usr/local/bin/" + name, "=/usr/bin/" + name
	_, settings, found := strings.Cut(unit, "\n[Unit]\n")
	if n := strings.Count(settings, here); !found || n != 2 || strings.Count(settings, "/usr/local") != n {
		return "", fmt.Errorf("the unit does not name %s where it did, in ExecStart= and ExecPaths=", here[1:])
	}
	return "[Unit]\n" + strings.ReplaceAll(settings, here, there), nil
}

// packageVersion makes a version that dpkg and rpm order as it is meant: a tag's,
// a candidate before the version that it is of, and what comes after a tag after it.
// Before the first tag it is by time.
func packageVersion(described string, at time.Time) string {
	described, dirty := strings.CutSuffix(described, "-dirty")
	version := "0~" + at.Format("20060102150405") + "." + described
	if tag, isTag := strings.CutPrefix(described, "v"); isTag {
		tag, commits := cutCommits(tag)
		version = strings.Replace(tag, "-", "~", 1) + commits
	}
	if dirty {
		version += "+dirty"
	}
	return strings.ReplaceAll(version, "-", ".")
}

// cutCommits cuts off what `git describe` adds to a tag that is not of the commit
// itself: how many there are since, and which it is.
func cutCommits(tag string) (string, string) {
	parts := strings.Split(tag, "-")
	if n := len(parts); n > 2 && strings.HasPrefix(parts[n-1], "g") {
		return strings.Join(parts[:n-2], "-"), "+" + parts[n-2] + "." + parts[n-1]
	}
	return tag, ""
}

// manPage is what the program has for it, with a head and an end of ours: kingpin
// writes the name alone, and the whole version with the machine it was built on.
func (r release) manPage() (string, error) {
	program := filepath.Join(r.built, name+"-linux-"+runtime.GOARCH)
	out, err := exec.Command(program, "--help-man").Output() //nolint:noctx // it prints, and ends
	if err != nil {
		return "", fmt.Errorf("%s --help-man: %w", program, err)
	}
	end, err := os.ReadFile("deploy/packages/" + name + ".8")
	if err != nil {
		return "", err
	}
	return page(string(out), string(end), r.version, r.time)
}

func page(written, end, version string, at time.Time) (string, error) {
	const synopsis = ".SH \"SYNOPSIS\"\n"
	_, rest, found := strings.Cut(written, synopsis)
	if !found {
		return "", errors.New("the program's man page has no synopsis")
	}
	var page strings.Builder
	fmt.Fprintf(&page, ".TH CAPABILITY_EXPORTER 8 %s \"%s %s\"\n", at.Format(time.DateOnly), name, version)
	fmt.Fprintf(&page, ".SH \"NAME\"\n%s \\- Prometheus exporter of the kernel's capability checks\n%s", name, synopsis)
	lines := bufio.NewScanner(strings.NewReader(rest))
	for lines.Scan() {
		line := lines.Text()
		if line == "" || line == ".PP" { // an empty line on the page, or a paragraph that is none
			continue
		}
		if strings.HasPrefix(line, "'") { // a request, where text was meant
			line = `\&` + line
		}
		// A hyphen, to be copied, is a minus.
		fmt.Fprintln(&page, strings.TrimSpace(strings.ReplaceAll(line, "-", `\-`)))
	}
	return page.String() + end, lines.Err()
}

// checksums are of all that is in the folder, as sha256sum(1) writes and reads them.
func (r release) checksums(out io.Writer) error {
	entries, err := os.ReadDir(r.built)
	if err != nil {
		return err
	}
	var lines []string
	for _, entry := range entries {
		if entry.Name() == sums {
			continue
		}
		content, err := os.ReadFile(filepath.Join(r.built, entry.Name()))
		if err != nil {
			return err
		}
		lines = append(lines, fmt.Sprintf("%x  %s\n", sha256.Sum256(content), entry.Name()))
	}
	text := strings.Join(lines, "")
	_, err = io.WriteString(out, text)
	return errors.Join(err, os.WriteFile(filepath.Join(r.built, sums), []byte(text), 0o644)) //nolint:gosec // for everybody
}
