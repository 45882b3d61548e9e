package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// image is the last stage of deploy/Dockerfile, for each architecture, in one
// archive that skopeo(1) copies to a registry and Podman loads (OCI). Docker is
// not needed for it.
func (r release) image() error {
	dockerfile, err := os.ReadFile("deploy/Dockerfile")
	if err != nil {
		return err
	}
	stage, err := lastStage(string(dockerfile), map[string]string{"VERSION": r.version, "REVISION": r.revision})
	if err != nil {
		return fmt.Errorf("deploy/Dockerfile: %w", err)
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range architectures() {
		program, err := os.ReadFile(filepath.Join(r.built, name+"-linux-"+arch))
		if err != nil {
			return err
		}
		image, err := r.imageFor(arch, stage, program)
		if err != nil {
			return fmt.Errorf("the image for %s: %w", arch, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{
			Platform: &v1.Platform{OS: "linux", Architecture: arch},
		}})
	}
	folder, err := os.MkdirTemp("", name)
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	// One thing in the archive, of which a runtime takes what is for its machine.
	outer, err := layout.Write(folder, mutate.IndexMediaType(empty.Index, types.OCIImageIndex))
	if err != nil {
		return err
	}
	named := layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "localhost/" + name + ":" + tag(r.version)})
	if err := outer.AppendIndex(index, named); err != nil {
		return err
	}
	archive, err := r.archive(os.DirFS(folder))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.built, name+".oci.tar"), archive, 0o644) //nolint:gosec // for everybody
}

// tag is what an image may be called by.
func tag(version string) string {
	return strings.ReplaceAll(strings.TrimPrefix(version, "v"), "+", "_")
}

// stage is what a Dockerfile says of an image.
type stage struct {
	config v1.Config
	to     string // where the one file goes
}

// lastStage understands what the stage that is shipped consists of, and nothing
// else.
func lastStage(dockerfile string, args map[string]string) (stage, error) {
	at := strings.LastIndex(dockerfile, "\nFROM ")
	if at < 0 {
		return stage{}, errors.New("it has no FROM")
	}
	s := stage{config: v1.Config{Labels: map[string]string{}, ExposedPorts: map[string]struct{}{}}}
	for line := range strings.Lines(dockerfile[at+1:]) {
		line = strings.TrimSpace(line)
		instruction, arguments, _ := strings.Cut(line, " ")
		fields := strings.Fields(arguments)
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case line == "FROM scratch":
		case instruction == "ARG":
			if known, _, _ := strings.Cut(arguments, "="); args[known] == "" {
				return stage{}, fmt.Errorf("what is %s?", line)
			}
		case instruction == "LABEL":
			for _, label := range fields {
				key, value, _ := strings.Cut(label, "=")
				s.config.Labels[key] = os.Expand(value, func(name string) string { return args[name] })
			}
		case instruction == "COPY" && len(fields) == 3 && fields[0] == "--from=build" && s.to == "":
			s.to = fields[2]
		case instruction == "USER":
			s.config.User = arguments
		case instruction == "EXPOSE":
			s.config.ExposedPorts[arguments+"/tcp"] = struct{}{}
		case instruction == "ENTRYPOINT":
			if err := json.Unmarshal([]byte(arguments), &s.config.Entrypoint); err != nil {
				return stage{}, fmt.Errorf("%s: %w", line, err)
			}
		default:
			return stage{}, fmt.Errorf("%q is not understood", line)
		}
	}
	return s, nil
}

func (r release) imageFor(arch string, s stage, program []byte) (v1.Image, error) {
	files, err := r.tarOf(file{strings.TrimPrefix(s.to, "/"), 0o755, program})
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files)), nil },
		tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	base, err = mutate.ConfigFile(base, &v1.ConfigFile{OS: "linux", Architecture: arch, Created: v1.Time{Time: r.time}, Config: s.config, RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		return nil, err
	}
	return mutate.Append(base, mutate.Addendum{Layer: layer, History: v1.History{Created: v1.Time{Time: r.time}, CreatedBy: "COPY " + s.to}})
}

// archive has all files of a folder, in the order of their names.
func (r release) archive(folder fs.FS) ([]byte, error) {
	var all []file
	err := fs.WalkDir(folder, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := fs.ReadFile(folder, name)
		all = append(all, file{path.Clean(name), 0o644, content})
		return err
	})
	if err != nil {
		return nil, err
	}
	return r.tarOf(all...)
}

type file struct {
	name    string
	mode    int64
	content []byte
}

func (r release) tarOf(files ...file) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.content)), ModTime: r.time}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, err
		}
	}
	err := w.Close() // which writes the end
	return b.Bytes(), err
}
