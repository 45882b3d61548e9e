package announce

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"unicode"

	"github.com/prometheus/common/promslog"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf"
)

// testLogger writes to the returned buffer, as with the two flags.
func testLogger(t *testing.T, level, format string) (*slog.Logger, *bytes.Buffer) {
	t.Helper()
	var out bytes.Buffer
	config := &promslog.Config{Level: promslog.NewLevel(), Format: promslog.NewFormat(), Writer: &out}
	if err := config.Level.Set(level); err != nil {
		t.Fatal(err)
	}
	if err := config.Format.Set(format); err != nil {
		t.Fatal(err)
	}
	return promslog.New(config), &out
}

func logged(t *testing.T, level, format string, announcements ...bpf.Announcement) string {
	t.Helper()
	logger, out := testLogger(t, level, format)
	a := NewLog(logger)
	for _, announcement := range announcements {
		a.Announce(announcement)
	}
	a.Stop()
	return out.String()
}

func TestAnnouncementLevels(t *testing.T) {
	admin, chown := uint8(cap.SYS_ADMIN), uint8(cap.CHOWN)
	for _, test := range []struct {
		name         string
		announcement bpf.Announcement
		want         string
	}{
		{"new CAP_SYS_ADMIN", bpf.Announcement{New: true, Check: bpf.Check{Capability: admin}}, "WARN"},
		{"new CAP_SYS_ADMIN, denied", bpf.Announcement{New: true, Check: bpf.Check{Capability: admin, Denied: true}}, "WARN"},
		{"new CAP_SYS_ADMIN in a user namespace", bpf.Announcement{New: true, Check: bpf.Check{Capability: admin, UserNS: true}}, "INFO"},
		{"CAP_SYS_ADMIN denied again", bpf.Announcement{Check: bpf.Check{Capability: admin, Denied: true}}, "INFO"},
		{"denied", bpf.Announcement{New: true, Check: bpf.Check{Capability: chown, Denied: true}}, "INFO"},
		{"new", bpf.Announcement{New: true, Check: bpf.Check{Capability: chown}}, "DEBUG"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var line struct{ Level string }
			if err := json.Unmarshal([]byte(logged(t, "debug", "json", test.announcement)), &line); err != nil {
				t.Fatal(err)
			}
			if line.Level != test.want {
				t.Errorf("logged at %s, want %s", line.Level, test.want)
			}
		})
	}
	if got := logged(t, "info", "json", bpf.Announcement{New: true}); got != "" {
		t.Errorf("logged at info: %s", got)
	}
}

func TestAnnouncementFields(t *testing.T) {
	got := logged(t, "info", "logfmt", bpf.Announcement{
		New:     true,
		Check:   bpf.Check{Capability: uint8(cap.NET_RAW), Denied: true, UserNS: true},
		Cgroup:  bpf.Cgroup{ID: 7, Path: "/system.slice/ping.service"},
		Process: bpf.Process{Name: "ping"},
		TGID:    100, TID: 101, UID: 65534, Syscall: 41, Symbol: "packet_create [af_packet]",
	})
	const want = `level=INFO source=announce.go msg="Capability denied" capability=CAP_NET_RAW result=denied scope=userns ` +
		`workload=/system.slice/ping.service process=ping tgid=100 tid=101 uid=65534 syscall=41 call_site=packet_create borrowed=false`
	// The time stands first, and the line of the source file is not of interest.
	_, got, _ = strings.Cut(strings.TrimSpace(got), " ")
	before, after, _ := strings.Cut(got, "announce.go:")
	_, after, _ = strings.Cut(after, " ")
	if got := before + "announce.go " + after; got != want {
		t.Errorf("logged\n%s\nwant\n%s", got, want)
	}
}

func TestHostileNamesDoNotBreakALogLine(t *testing.T) {
	const hostile = "a\nlevel=WARN msg=\"forged\"\x1b[31m\r\x00\u202e\u2028\xff\xfe\",\"x\":1}"
	announcement := bpf.Announcement{
		New:     true,
		Check:   bpf.Check{Capability: uint8(cap.SYS_ADMIN)},
		Cgroup:  bpf.Cgroup{Path: "/" + hostile},
		Process: bpf.Process{Name: hostile},
		Symbol:  hostile,
	}
	for _, format := range promslog.FormatFlagOptions {
		t.Run(format, func(t *testing.T) {
			got := logged(t, "info", format, announcement)
			line, rest, _ := strings.Cut(got, "\n")
			if rest != "" {
				t.Errorf("more than one line: %q", got)
			}
			for _, r := range line {
				if !unicode.IsPrint(r) {
					t.Errorf("%q in the line: %q", r, line)
				}
			}
			if format != "json" {
				return
			}
			var fields map[string]any
			if err := json.Unmarshal([]byte(line), &fields); err != nil {
				t.Fatal(err)
			}
			const want = `a\u000alevel=WARN msg="forged"\u001b[31m\u000d\u0000\u202e\u2028\xff\xfe","x":1}`
			if fields["process"] != want {
				t.Errorf("process = %q, want %q", fields["process"], want)
			}
			if _, forged := fields["x"]; forged || fields["level"] != "WARN" {
				t.Errorf("the name forged a field: %v", fields)
			}
		})
	}
}

// blockedWriter blocks until released.
type blockedWriter struct {
	entered, release chan struct{}
	out              bytes.Buffer
}

func (w *blockedWriter) Write(p []byte) (int, error) {
	select {
	case w.entered <- struct{}{}:
	default:
	}
	<-w.release
	return w.out.Write(p)
}

func TestASlowLogDoesNotHoldUpTheRing(t *testing.T) {
	w := &blockedWriter{entered: make(chan struct{}, 1), release: make(chan struct{})}
	a := NewLog(promslog.New(&promslog.Config{Writer: w}))
	denied := bpf.Announcement{Check: bpf.Check{Denied: true}}
	a.Announce(denied)
	<-w.entered // this one is being written, the queue is empty
	const tooMany = 5
	for range queueLength + tooMany {
		a.Announce(denied)
	}
	close(w.release)
	a.Stop()

	got := w.out.String()
	if n := strings.Count(got, `msg="Capability denied"`); n != queueLength+1 {
		t.Errorf("%d announcements logged, want %d", n, queueLength+1)
	}
	if !strings.Contains(got, "count=5") {
		t.Error("the number of those that were not logged is missing")
	}
}
