package workload

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
)

// folders are a file system with folders of these names.
func folders(names ...string) fstest.MapFS {
	files := fstest.MapFS{}
	for _, name := range names {
		files[name] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
	}
	return files
}

func TestFindPods(t *testing.T) {
	const second = "2c4b2241-5c01-41e9-8e4e-42010a800002"
	long := strings.Repeat("a", 63)
	for _, test := range []struct {
		what    string
		folders []string
		want    map[string]PodName
	}{
		{"none", nil, nil},
		{"one, and others", []string{"default_web-0_" + uid, "default_db_" + second}, map[string]PodName{uid: {"default", "web-0"}}},
		{"a static pod", []string{"kube-system_etcd-node.example.com_" + hash}, map[string]PodName{hash: {"kube-system", "etcd-node.example.com"}}},
		{"names as long as can be", []string{long + "_" + strings.Repeat(long+".", 3) + long[:61] + "_" + uid}, map[string]PodName{uid: {long, strings.Repeat(long+".", 3) + long[:61]}}},
		{"two of one pod", []string{"b_x_" + uid, "a_y_" + uid, "a_z_" + uid}, map[string]PodName{uid: {"a", "y"}}},
		{"before Kubernetes 1.14: the uid alone", []string{uid}, nil},
		{"an underscore more", []string{"default_we_b_" + uid, "_default_web_" + uid, "default_web_" + uid + "_"}, nil},
		{"nothing for a name", []string{"_web_" + uid, "default__" + uid, "default_web_"}, nil},
		{"a line break", []string{"def\nault_web_" + uid, "default_we\nb_" + uid, "default_web_" + uid + "\n"}, nil},
		{"no UTF-8", []string{"default_caf\xe9_" + uid, "default_café_" + uid}, nil},
		{"upper case", []string{"Default_web_" + uid, "default_Web_" + uid, "default_web_" + strings.ToUpper(uid)}, nil},
		{"dashes and dots in odd places", []string{"-default_web_" + uid, "default-_web_" + uid, "def.ault_web_" + uid, "default_.web_" + uid, "default_web._" + uid, "default_a..b_" + uid, "default_a.-b_" + uid}, nil},
		{"too long", []string{long + "a_web_" + uid, "default_" + strings.Repeat(long+".", 3) + long[:62] + "_" + uid}, nil},
		{"a uid that is none", []string{"default_web_" + uid[1:], "default_web_" + uid + "a", "default_web_1"}, nil},
	} {
		got, err := FindPods(folders(test.folders...), map[string]bool{uid: true, hash: true})
		if err != nil || !maps.Equal(got, test.want) {
			t.Errorf("%s: %v, %v, want %v", test.what, got, err, test.want)
		}
	}
}

// TestFindPodsInFolder reads a real one: thousands of folders, what is no folder, one that is not there, and one that nobody may read.
func TestFindPodsInFolder(t *testing.T) {
	dir := t.TempDir()
	const many = 3000
	for i := range many {
		if err := os.Mkdir(filepath.Join(dir, fmt.Sprintf("ns-%d_pod-%d_%032x", i%7, i, i)), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	last := fmt.Sprintf("%032x", many-1)
	got, err := FindPods(os.DirFS(dir), map[string]bool{last: true})
	if want := (PodName{fmt.Sprintf("ns-%d", (many-1)%7), fmt.Sprintf("pod-%d", many-1)}); err != nil || got[last] != want || len(got) != 1 {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
	if _, err := FindPods(os.DirFS(filepath.Join(dir, "none")), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
	if _, err := FindPods(os.DirFS(filepath.Join(dir, "file")), nil); err == nil {
		t.Error("a file is listed")
	}
}

// endless is a folder without an end.
type endless struct {
	fs.ReadDirFile
	read int
}

func (e *endless) Open(string) (fs.File, error) { return e, nil }
func (e *endless) Close() error                 { return nil }
func (e *endless) ReadDir(n int) ([]fs.DirEntry, error) {
	entries := make([]fs.DirEntry, n)
	for i := range entries {
		e.read++
		entries[i] = named(fmt.Sprintf("a_b_%032x", e.read))
	}
	return entries, nil
}

// named is a file's name.
type named string

func (n named) Name() string               { return string(n) }
func (n named) IsDir() bool                { return true }
func (n named) Type() fs.FileMode          { return fs.ModeDir }
func (n named) Info() (fs.FileInfo, error) { return nil, fs.ErrInvalid }

func TestFindPodsEnds(t *testing.T) {
	e := &endless{}
	first := fmt.Sprintf("%032x", 1)
	got, err := FindPods(e, map[string]bool{first: true})
	if err == nil || e.read != maxFolders || got[first] != (PodName{"a", "b"}) {
		t.Errorf("%d entries read, found %v, %v", e.read, got, err)
	}
}

func FuzzPodOfFolder(f *testing.F) {
	f.Add("default_web-0_" + uid)
	f.Add("a_b.c_" + hash)
	f.Add("a_b_c_" + hash)
	f.Add("a_b_none")
	f.Fuzz(func(t *testing.T, folder string) {
		uid, name, ok := podOfFolder(folder)
		if ok && (name.Namespace+"_"+name.Pod+"_"+uid != folder || strings.ContainsFunc(folder, func(r rune) bool { return r <= ' ' || r > '~' || r == '\\' })) {
			t.Errorf("%q is %q, %+v", folder, uid, name)
		}
	})
}
