package web

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"go.yaml.in/yaml/v2"
)

// ConfigFolders returns the folders that a web configuration and the files it
// names are in. The toolkit reads all of them at each handshake, so that they
// may be replaced: a file by another, or a link on the way to it, of a folder as
// well, by one to somewhere beside.
func ConfigFolders(path string) ([]string, error) {
	if path == "" {
		return nil, nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the web configuration: %w", err)
	}
	var config struct {
		TLS struct {
			Cert string `yaml:"cert_file"`
			Key  string `yaml:"key_file"`
			CAs  string `yaml:"client_ca_file"`
		} `yaml:"tls_server_config"`
	}
	if err := yaml.Unmarshal(content, &config); err != nil {
		return nil, fmt.Errorf("reading the web configuration: %w", err)
	}
	var folders []string
	for _, file := range []string{path, config.TLS.Cert, config.TLS.Key, config.TLS.CAs} {
		if file == "" {
			continue
		}
		if !filepath.IsAbs(file) && file != path {
			file = filepath.Join(filepath.Dir(path), file)
		}
		on, err := foldersOnTheWay(file)
		if err != nil {
			return nil, fmt.Errorf("looking for %s: %w", file, err)
		}
		folders = append(folders, on...)
	}
	slices.Sort(folders)
	return slices.Compact(folders), nil
}

// foldersOnTheWay returns the folder that a file is in, and that of what each
// link on the way to it leads to.
func foldersOnTheWay(file string) ([]string, error) {
	file, err := filepath.Abs(file)
	if err != nil {
		return nil, err
	}
	const root = "/"
	split := func(path string) []string { return strings.Split(strings.Trim(path, root), root) }
	folders := []string{filepath.Dir(file)}
	at, rest := root, split(file)
	for links := 0; len(rest) > 0; {
		next := filepath.Join(at, rest[0])
		rest = rest[1:]
		target, err := os.Readlink(next)
		if err != nil { // no link, or not there
			at = next
			continue
		}
		links++
		if links > 40 { // as the kernel follows
			return nil, syscall.ELOOP
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(at, target)
		}
		at, rest = root, append(split(target), rest...)
		// Not all files, for that /var/run leads to /run.
		if folder := filepath.Dir(target); folder != root {
			folders = append(folders, folder)
		}
	}
	return append(folders, filepath.Dir(at)), nil
}
