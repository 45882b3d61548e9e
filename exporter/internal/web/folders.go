package web

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"go.yaml.in/yaml/v2"
)

// ConfigFolders returns the folders that a web configuration and the files it
// names are in. The toolkit reads all of them at each handshake, so that they
// may be replaced: a file by another, or the folder that a link to it goes
// through.
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
		folders = append(folders, filepath.Dir(file))
		if linked, err := filepath.EvalSymlinks(file); err == nil {
			folders = append(folders, filepath.Dir(linked))
		}
	}
	slices.Sort(folders)
	return slices.Compact(folders), nil
}
