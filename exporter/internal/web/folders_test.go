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
