package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// tree holds the files of a checkout as they stood when it was read: what git
// tracks, changes that are not committed, and what is new and not ignored, such
// as the test that is just being written. Who goes on editing changes nothing.
type tree struct {
	root  string
	files map[string]file // by the path from the root
}

// file is a file's content, or the target of a symbolic link.
type file struct {
	content []byte
	mode    fs.FileMode
}

func readTree(ctx context.Context, root string) (*tree, error) {
	list := exec.CommandContext(ctx, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	list.Dir = root
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("git ls-files in %s: %w", root, err)
	}
	t := &tree{root: root, files: map[string]file{}}
	for path := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		f, err := readFile(filepath.Join(root, path))
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted, and that is not committed yet
		}
		if err != nil {
			return nil, err
		}
		t.files[path] = f
	}
	return t, nil
}

func readFile(path string) (file, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return file{}, err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		target, err := os.Readlink(path)
		return file{content: []byte(target), mode: info.Mode()}, err
	}
	content, err := os.ReadFile(path)
	return file{content: content, mode: info.Mode()}, err
}

// with returns the file with another content.
func (f file) with(content string) file {
	f.content = []byte(content)
	return f
}

// write writes a file below a folder, or puts it back to what it was.
func (f file) write(dir, path string) error {
	path = filepath.Join(dir, path)
	if err := folder(filepath.Dir(path)); err != nil {
		return err
	}
	if f.mode&fs.ModeSymlink != 0 {
		if err := os.Symlink(string(f.content), path); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("copying: %w", err)
		}
		return nil
	}
	if err := os.WriteFile(path, f.content, f.mode.Perm()); err != nil {
		return fmt.Errorf("copying: %w", err)
	}
	return nil
}

// write writes all files into a folder, or those named. The programs that
// `make tools` has unpacked are the repository's own.
func (t *tree) write(dir string, paths ...string) error {
	for _, path := range paths {
		if err := t.files[path].write(dir, path); err != nil {
			return err
		}
	}
	if len(paths) > 0 {
		return nil
	}
	for path, f := range t.files {
		if err := f.write(dir, path); err != nil {
			return err
		}
	}
	// If none are unpacked, a command that needs one will say so.
	for _, unpacked := range []string{"bin", "newest"} {
		programs := filepath.Join(t.root, "build", unpacked)
		if _, err := os.Stat(programs); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := folder(filepath.Join(dir, "build")); err != nil {
			return err
		}
		if err := os.Symlink(programs, filepath.Join(dir, "build", unpacked)); err != nil {
			return fmt.Errorf("copying: %w", err)
		}
	}
	return nil
}

// folder makes a folder that any user can enter, as one of a checkout: tests
// become other users.
func folder(path string) error {
	if err := os.MkdirAll(path, 0o755); err != nil { //nolint:gosec // see above
		return fmt.Errorf("copying: %w", err)
	}
	return nil
}

// plant returns the content of the fault's file with the fault in it. A text
// that does not stand there exactly once is an error: the file has changed since
// the line was written, and what would be planted is anybody's guess.
func (t *tree) plant(f fault) (string, error) {
	target, ok := t.files[f.path]
	if !ok {
		return "", fmt.Errorf("there is no %s", f.path)
	}
	if count := strings.Count(string(target.content), f.old); count != 1 {
		return "", fmt.Errorf("%s holds %q %d times, and not once", f.path, f.old, count)
	}
	return strings.Replace(string(target.content), f.old, f.new, 1), nil
}

// generated returns the files that `make generate` writes.
func (t *tree) generated() []string {
	var paths []string
	for path := range t.files {
		if strings.Contains(filepath.Base(path), "_bpfel.") {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return paths
}
