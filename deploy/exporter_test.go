package deploy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds each wait for something that must happen. Nothing is
// measured by it: it only ends a test that would otherwise hang.
const patience = time.Minute

// needsRoot skips, or under CI fails, a test that loads BPF programs or sets
// the privileges of others.
func needsRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "needs root, to set the exporter's privileges")
	}
}

// skip ends a test that could run on this machine if it were set up for it,
// which CI's is.
func skip(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// program returns the path of a program that `make tools` unpacks or links in
// build/bin, or else of the system's.
func program(t *testing.T, name string) string {
	t.Helper()
	for _, path := range []string{built(t, "bin", name), "/usr/sbin/" + name, "/usr/bin/" + name, "/sbin/" + name, "/bin/" + name} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	skip(t, name+" is not here: run `make tools packages`")
	return ""
}

// eachPrometheus runs a test with the paths of Debian's Prometheus and Alertmanager, and with those of the newest that Debian has.
func eachPrometheus(t *testing.T, test func(t *testing.T, path func(name string) string)) {
	t.Helper()
	t.Run("debian", func(t *testing.T) {
		test(t, func(name string) string { return program(t, name) })
	})
	t.Run("newest", func(t *testing.T) {
		test(t, func(name string) string { return newest(t, name) })
	})
}

// newest returns the path of the newest of Prometheus' programs that Debian has.
func newest(t *testing.T, name string) string {
	t.Helper()
	path := built(t, "newest", "bin", name)
	if _, err := os.Stat(path); err != nil {
		skip(t, "the newest "+name+" is not here: run `make tools`")
	}
	return path
}

// built returns the path of what `make` leaves in build/.
func built(t *testing.T, path ...string) string {
	t.Helper()
	absolute, err := filepath.Abs(filepath.Join(append([]string{"..", "build"}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	return absolute
}

// buildExporter builds the program as it is shipped, where any user can execute it.
func buildExporter(t *testing.T) string {
	t.Helper()
	path := filepath.Join(worldReadableDir(t), "capability_exporter")
	// With cgo it would be linked to this machine's libc.
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", path, "../exporter")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the exporter: %v\n%s", err, out)
	}
	return path
}

// worldReadableDir is t.TempDir() for programs that another user executes.
func worldReadableDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "capability_exporter")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// freeAddress returns a loopback address on which nobody listens just now.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// process is a program that a test has started. It is ended with the test.
type process struct {
	cmd    *exec.Cmd
	output *lockedBuffer // of both standard output and standard error
	ended  chan struct{} // closed when it has ended
	err    error         // what Wait returned, once it has
}

func start(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{cmd: cmd, output: &lockedBuffer{}, ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.output, p.output
	cmd.WaitDelay = patience // a child of the process may hold its output open
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() { p.stop(t) })
	return p
}

// stop asks the process to end, and waits until it has.
func (p *process) stop(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(unix.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
	select {
	case <-p.ended:
	case <-time.After(patience):
		t.Errorf("%s does not end, killing it\n%s", p.cmd.Path, p.output)
		if err := p.cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		<-p.ended
	}
}

// wait waits for the process to end by itself.
func (p *process) wait(t *testing.T) error {
	t.Helper()
	select {
	case <-p.ended:
		return p.err
	case <-time.After(patience):
		t.Fatalf("%s goes on\n%s", p.cmd.Path, p.output)
		return nil
	}
}

// eventually calls f until it returns nil, and fails if the process ends first
// or patience is over.
func (p *process) eventually(t *testing.T, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		err := f(ctx)
		if err == nil {
			return
		}
		select {
		case <-p.ended:
			t.Fatalf("%s has ended: %v\n%s", p.cmd.Path, p.err, p.output)
		case <-ctx.Done():
			t.Fatalf("still failing: %v\n%s", err, p.output)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// get returns the body of a page that was served with status 200.
func get(ctx context.Context, url string) (string, error) {
	return requestBy(ctx, http.DefaultClient, http.MethodGet, url)
}

func requestBy(ctx context.Context, client *http.Client, method, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, http.NoBody)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return "", err
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s: %s", url, response.Status, body)
	}
	return string(body), nil
}

// scrape returns the exporter's metrics once it has any.
func (p *process) scrape(t *testing.T, address string) string {
	t.Helper()
	var metrics string
	p.eventually(t, func(ctx context.Context) (err error) {
		if _, err = get(ctx, "http://"+address+"/-/ready"); err == nil {
			metrics, err = get(ctx, "http://"+address+"/metrics")
		}
		return err
	})
	return metrics
}

// series returns the lines of a metric.
func series(metrics, name string) []string {
	var lines []string
	for line := range strings.Lines(metrics) {
		if strings.HasPrefix(line, name+"{") || strings.HasPrefix(line, name+" ") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// lockedBuffer is written to by a process and read by the test.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
