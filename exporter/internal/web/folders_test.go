package web

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestConfigFolders(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "web.yml")
	archive := t.TempDir()
	if err := os.WriteFile(filepath.Join(archive, "key1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(archive, "key1"), filepath.Join(dir, "key")); err != nil {
		t.Fatal(err)
	}
	for content, want := range map[string][]string{
		"":                         {dir},
		"basic_auth_users: {a: b}": {dir},
		"tls_server_config: {cert_file: certs/cert, key_file: key, client_ca_file: /does/not/exist}": {archive, dir, dir + "/certs", "/does/not"},
	} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		slices.Sort(want)
		if got, err := ConfigFolders(file); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q, %v, want %q", content, got, err, want)
		}
	}
	if got, err := ConfigFolders(""); err != nil || got != nil {
		t.Errorf("without a configuration: %q, %v", got, err)
	}
	if _, err := ConfigFolders(filepath.Join(dir, "gone")); err == nil {
		t.Error("a file that is not there is passed over")
	}
}

// TestFoldersOnTheWay: the links are Kubernetes' (..data), certbot's (into an archive), and of whole folders.
func TestFoldersOnTheWay(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, folder := range []string{"tls/..1", "live", "archive", "releases/1"} {
		if err := os.MkdirAll(path(folder), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{
		"tls/..data": "..1", "tls/key": "..data/key", "live/key": "../archive/key1", "current": path("releases/1"), "loop": "loop", "run": "/run",
	} {
		if err := os.Symlink(target, path(link)); err != nil {
			t.Fatal(err)
		}
	}
	for file, want := range map[string][]string{
		"tls/key":         {path("tls"), path("tls/..data"), path("tls"), path("tls/..1")},
		"live/key":        {path("live"), path("archive"), path("archive")},
		"current/a/b/key": {path("current/a/b"), path("releases"), path("releases/1/a/b")},
		"run/secrets/key": {path("run/secrets"), "/run/secrets"},
		"gone/key":        {path("gone"), path("gone")},
	} {
		if got, err := foldersOnTheWay(path(file)); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v, want %q", file, got, err, want)
		}
	}
	if got, err := foldersOnTheWay(path("loop/key")); err == nil {
		t.Errorf("a link to itself: %q", got)
	}
}
