package main

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestBinaryServesTLSWhenConfined: TLS, HTTP/2 and passwords go on under the
// filter and Landlock, and so they do when what they are read from at each
// handshake is renewed, in each of the ways in which that is done.
func TestBinaryServesTLSWhenConfined(t *testing.T) {
	needsTracing(t)
	program := exporter(t)
	dir := worldReadable(t)
	path := func(name string) string { return filepath.Join(dir, name) }
	// A folder that is a link, and in it files that are links through another, as Kubernetes mounts a secret.
	link := func(target, name string) {
		t.Helper()
		if err := os.Symlink(target, path(name+".new")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path(name+".new"), path(name)); err != nil {
			t.Fatal(err)
		}
	}
	write := func(folder string) *x509.CertPool {
		t.Helper()
		if err := os.MkdirAll(path(folder), 0o755); err != nil {
			t.Fatal(err)
		}
		pool := writeCertificate(t, path(folder))
		for _, name := range []string{"cert.pem", "key.pem"} {
			if err := os.Chown(filepath.Join(path(folder), name), nobody, nobody); err != nil {
				t.Fatal(err)
			}
		}
		return pool
	}
	configure := func(user string) {
		t.Helper()
		content := "tls_server_config: {cert_file: ../current/cert.pem, key_file: ../current/key.pem}\nbasic_auth_users: {" + user + ": '" + bcryptSecret(t) + "'}\n"
		if err := os.WriteFile(path("config/web.yml.new"), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path("config/web.yml.new"), path("config/web.yml")); err != nil {
			t.Fatal(err)
		}
	}
	pool := write("releases/1/..1")
	link("..1", "releases/1/..data")
	link("..data/cert.pem", "releases/1/cert.pem")
	link("..data/key.pem", "releases/1/key.pem")
	link("releases/1", "current")
	if err := os.Mkdir(path("config"), 0o755); err != nil {
		t.Fatal(err)
	}
	configure("alice")

	reader, writer := io.Pipe()
	log := readLog(reader)
	cmd := command(program, "--web.listen-address=127.0.0.1:0", "--web.config.file="+path("config/web.yml"))
	cmd.Stderr = writer
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		err := cmd.Wait()
		writer.Close()
		ended <- err
	}()
	hung := time.AfterFunc(2*time.Minute, func() { _ = cmd.Process.Kill() })
	defer hung.Stop()
	address := log.waitFor(t, listening)
	log.waitFor(t, `msg="(Confined: )`)

	get := func(t *testing.T, user string, http2 bool) {
		t.Helper()
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true, ForceAttemptHTTP2: http2}}
		for password, want := range map[string]int{"secret": 200, "wrong": 401} {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+address+"/metrics", nil)
			if err != nil {
				t.Fatal(err)
			}
			request.SetBasicAuth(user, password)
			response, err := client.Do(request)
			if err != nil {
				t.Errorf("%s: %v", password, err)
				continue
			}
			if _, err := io.Copy(io.Discard, response.Body); err != nil {
				t.Error(err)
			}
			response.Body.Close()
			if response.StatusCode != want || (response.ProtoMajor == 2) != http2 {
				t.Errorf("%s: %s %s, want %d", password, response.Proto, response.Status, want)
			}
		}
	}
	get(t, "alice", false)
	get(t, "alice", true)
	for _, renewal := range []struct {
		name  string
		renew func()
	}{
		{"other files in their place", func() {
			pool = write("new")
			for _, name := range []string{"cert.pem", "key.pem"} {
				if err := os.Rename(path("new/"+name), path("releases/1/..1/"+name)); err != nil {
					t.Fatal(err)
				}
			}
		}},
		{"another folder behind a link beside them", func() {
			pool = write("releases/1/..2")
			link("..2", "releases/1/..data")
			if err := os.RemoveAll(path("releases/1/..1")); err != nil {
				t.Fatal(err)
			}
		}},
		{"a link to their folder that leads elsewhere", func() {
			pool = write("releases/2")
			link("releases/2", "current")
		}},
		{"another configuration", func() { configure("bob") }},
	} {
		t.Run(renewal.name, func(t *testing.T) {
			renewal.renew()
			user := "alice"
			if renewal.name == "another configuration" {
				user = "bob"
			}
			get(t, user, true)
		})
	}

	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("ended with %v\n%s", err, log.all.String())
	}
}
