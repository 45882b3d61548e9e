package main

import (
	"crypto/tls"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestBinaryReadsCertificatesWhenConfined: certificates are read at each
// handshake, and may have been replaced by other files since the program
// confined itself.
func TestBinaryReadsCertificatesWhenConfined(t *testing.T) {
	needsTracing(t)
	program := exporter(t)
	dir := worldReadable(t)
	config := filepath.Join(dir, "web.yml")
	if err := os.WriteFile(config, []byte("tls_server_config: {cert_file: cert.pem, key_file: key.pem}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	pool := writeCertificate(t, dir)
	own := func(names ...string) {
		for _, name := range names {
			if err := os.Chown(filepath.Join(dir, name), nobody, nobody); err != nil {
				t.Fatal(err)
			}
		}
	}
	own("cert.pem", "key.pem")

	reader, writer := io.Pipe()
	log := readLog(reader)
	cmd := command(program, "--web.listen-address=127.0.0.1:0", "--web.config.file="+config)
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

	get := func() {
		t.Helper()
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}}
		for _, path := range []string{"/metrics", "/"} {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+address+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			response, err := client.Do(request)
			if err != nil {
				t.Errorf("%s: %v", path, err)
				continue
			}
			if _, err := io.Copy(io.Discard, response.Body); err != nil {
				t.Error(err)
			}
			response.Body.Close()
		}
	}
	get()
	for _, name := range []string{"cert.pem", "key.pem"} { // another file below takes its place
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	pool = writeCertificate(t, dir)
	own("cert.pem", "key.pem")
	get()

	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("ended with %v\n%s", err, log.all.String())
	}
}
