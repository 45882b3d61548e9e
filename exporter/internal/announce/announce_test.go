package announce

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
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
	return out.String()
}

func TestAnnouncementLevels(t *testing.T) {
	admin, chown := uint8(cap.SYS_ADMIN), uint8(cap.CHOWN)
	for _, test := range []struct {
		name         string
		announcement bpf.Announcement
		want         string
	}{
		{"new CAP_SYS_ADMIN", bpf.Announcement{New: true, Check: bpf.Check{Capability: admin}}, "WARN CAP_SYS_ADMIN asked for by a new process or workload"},
		{"new CAP_SYS_ADMIN, denied", bpf.Announcement{New: true, Check: bpf.Check{Capability: admin, Denied: true}}, "WARN CAP_SYS_ADMIN asked for by a new process or workload"},
		{"new CAP_SYS_ADMIN in a user namespace", bpf.Announcement{New: true, Check: bpf.Check{Capability: admin, UserNS: true}}, "INFO CAP_SYS_ADMIN asked for by a new process or workload"},
		{"CAP_SYS_ADMIN denied again", bpf.Announcement{Check: bpf.Check{Capability: admin, Denied: true}}, "INFO Capability denied"},
		{"CAP_SYS_ADMIN denied again in a user namespace", bpf.Announcement{Check: bpf.Check{Capability: admin, Denied: true, UserNS: true}}, "INFO Capability denied"},
		{"denied", bpf.Announcement{New: true, Check: bpf.Check{Capability: chown, Denied: true}}, "INFO Capability denied"},
		{"denied, and the kernel went on", bpf.Announcement{New: true, Check: bpf.Check{Capability: chown, Denied: true}, Aside: bpf.Aside{Probe: true}}, "DEBUG Capability denied, which the kernel did not mind"},
		{"denied, and another granted", bpf.Announcement{New: true, Check: bpf.Check{Capability: chown, Denied: true}, Harmless: true}, "DEBUG Capability denied, and another granted in its place"},
		{"CAP_SYS_ADMIN denied again, and another granted", bpf.Announcement{Check: bpf.Check{Capability: admin, Denied: true}, Harmless: true}, "DEBUG Capability denied, and another granted in its place"},
		{"new CAP_SYS_ADMIN, denied, and another granted", bpf.Announcement{New: true, Check: bpf.Check{Capability: admin, Denied: true}, Harmless: true}, "WARN CAP_SYS_ADMIN asked for by a new process or workload"},
		{"new", bpf.Announcement{New: true, Check: bpf.Check{Capability: chown}}, "DEBUG Capability asked for by a new process or workload"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var line struct{ Level, Msg string }
			if err := json.Unmarshal([]byte(logged(t, "debug", "json", test.announcement)), &line); err != nil {
				t.Fatal(err)
			}
			if got := line.Level + " " + line.Msg; got != test.want {
				t.Errorf("logged %q, want %q", got, test.want)
			}
		})
	}
	if got := logged(t, "info", "json", bpf.Announcement{New: true}); got != "" {
		t.Errorf("logged at info: %s", got)
	}
}

// Each field has two values, so that none can stand for good.
func TestAnnouncementFields(t *testing.T) {
	for _, test := range []struct {
		announcement bpf.Announcement
		want         string
	}{
		{bpf.Announcement{
			New:     true,
			Check:   bpf.Check{Capability: uint8(cap.NET_RAW), Denied: true, UserNS: true},
			Cgroup:  bpf.Cgroup{ID: 7, Path: "/system.slice/ping.service"},
			Process: bpf.Process{Name: "ping"},
			TGID:    100, TID: 101, UID: 65534, EUID: 1000, Comm: "ping: a", NSTGID: 7, Syscall: 41, SyscallName: "socket", Symbol: "packet_create [af_packet]",
		}, `level=INFO source=announce.go msg="Capability denied" capability=CAP_NET_RAW result=denied scope=userns ` +
			`workload=ping.service process=ping comm="ping: a" tgid=100 tid=101 ns_tgid=7 uid=65534 euid=1000 syscall=socket path="" call_site=packet_create fallback_of="" borrowed=false overflow=false`},
		{bpf.Announcement{
			New:   true,
			Check: bpf.Check{Capability: uint8(cap.SYS_ADMIN)}, Aside: bpf.Aside{Fallback: true, First: uint8(cap.BPF)},
			Cgroup:  bpf.Cgroup{ID: 8, Path: "/"},
			Process: bpf.Process{Name: "mount"},
			TGID:    4194303, TID: 4194302, UID: 4294967294, Syscall: -1, Path: "/mnt/a\nb", Borrowed: true,
		}, `level=WARN source=announce.go msg="CAP_SYS_ADMIN asked for by a new process or workload" capability=CAP_SYS_ADMIN result=granted scope=host ` +
			`workload=/ process=mount comm="" tgid=4194303 tid=4194302 ns_tgid=0 uid=4294967294 euid=0 syscall="" path=/mnt/a\x0ab call_site=_unknown fallback_of=CAP_BPF borrowed=true overflow=false`},
		{bpf.Announcement{
			Overflow: true,
			Check:    bpf.Check{Capability: 63, Denied: true}, Aside: bpf.Aside{Fallback: true, First: uint8(cap.SYS_ADMIN), Last: true, Earlier: uint8(cap.PERFMON)},
			Cgroup:  bpf.Cgroup{ID: 9, Path: "/a"},
			Process: bpf.Process{Name: "a"},
			Syscall: 400,
		}, `level=INFO source=announce.go msg="Capability denied" capability=CAP_63 result=denied scope=host ` +
			`workload=/a process=a comm="" tgid=0 tid=0 ns_tgid=0 uid=0 euid=0 syscall=400 path="" call_site=_unknown fallback_of=CAP_SYS_ADMIN,CAP_PERFMON borrowed=false overflow=true`},
		{bpf.Announcement{
			New: true, Harmless: true, Instead: uint8(cap.SYS_NICE),
			Check:   bpf.Check{Capability: uint8(cap.SYS_ADMIN), Denied: true},
			Cgroup:  bpf.Cgroup{ID: 11, Path: "/c"},
			Process: bpf.Process{Name: "ionice"},
			Syscall: -1,
		}, `level=WARN source=announce.go msg="CAP_SYS_ADMIN asked for by a new process or workload" capability=CAP_SYS_ADMIN result=denied scope=host ` +
			`workload=/c process=ionice comm="" tgid=0 tid=0 ns_tgid=0 uid=0 euid=0 syscall="" path="" call_site=_unknown fallback_of="" borrowed=false overflow=false fallback=CAP_SYS_NICE`},
		{bpf.Announcement{
			New: true, LSM: "apparmor",
			Check:   bpf.Check{Capability: uint8(cap.SYS_ADMIN), Denied: true},
			Cgroup:  bpf.Cgroup{ID: 10, Path: "/b"},
			Process: bpf.Process{Name: "b"},
			Syscall: -1,
		}, `level=INFO source=announce.go msg="Capability granted, and refused by another security module" capability=CAP_SYS_ADMIN result=denied scope=host ` +
			`workload=/b process=b comm="" tgid=0 tid=0 ns_tgid=0 uid=0 euid=0 syscall="" path="" call_site=_unknown fallback_of="" borrowed=false overflow=false lsm=apparmor`},
	} {
		got := logged(t, "info", "logfmt", test.announcement)
		if test.announcement.Overflow { // another line, before it
			_, got, _ = strings.Cut(got, "\n")
		}
		// The time stands first, and the line of the source file is not of interest.
		_, got, _ = strings.Cut(strings.TrimSpace(got), " ")
		before, after, _ := strings.Cut(got, "announce.go:")
		_, after, _ = strings.Cut(after, " ")
		if got := before + "announce.go " + after; got != test.want {
			t.Errorf("logged\n%s\nwant\n%s", got, test.want)
		}
	}
}

// TestOverflowIsToldOnce: which flag to raise is said once, whatever else is, and again only where that was lost.
func TestOverflowIsToldOnce(t *testing.T) {
	crowded := bpf.Announcement{Overflow: true, Cgroup: bpf.Cgroup{ID: 9, Path: "/a"}, Process: bpf.Process{Name: "b"}}
	out := logged(t, "warn", "logfmt", bpf.Announcement{}, crowded, crowded, crowded)
	if strings.Count(out, "\n") != 1 || !strings.Contains(out, "raise --series.limit") || !strings.HasSuffix(out, "workload=/a process=b\n") {
		t.Errorf("said:\n%s", out)
	}
	// The flag is of no use for what another module refuses.
	refused := crowded
	refused.LSM = "selinux"
	if out := logged(t, "warn", "logfmt", refused); out != "" {
		t.Errorf("said:\n%s", out)
	}
	a := NewLog(slog.New(full{slog.DiscardHandler}))
	a.Announce(crowded)
	if a.toldOverflow.Load() {
		t.Error("what the log had no room for is not said again")
	}
}

func TestHostileNamesDoNotBreakALogLine(t *testing.T) {
	const hostile = "a\nlevel=WARN msg=\"forged\"\x1b[31m\r\x00\u202e\u2028\xff\xfe\",\"x\":1}"
	announcement := bpf.Announcement{
		New:     true,
		Check:   bpf.Check{Capability: uint8(cap.SYS_ADMIN)},
		Cgroup:  bpf.Cgroup{Path: "/" + hostile},
		Process: bpf.Process{Name: hostile},
		Comm:    hostile,
		Path:    hostile,
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
			const want = `a\x0alevel=WARN msg="forged"\x1b[31m\x0d\x00\xe2\x80\xae\xe2\x80\xa8\xff\xfe","x":1}`
			if fields["process"] != want {
				t.Errorf("process = %q, want %q", fields["process"], want)
			}
			if _, forged := fields["x"]; forged || fields["level"] != "WARN" {
				t.Errorf("the name forged a field: %v", fields)
			}
		})
	}
}

// full is a log that takes nothing.
type full struct{ slog.Handler }

func (full) Handle(context.Context, slog.Record) error { return errors.New("full") }

func TestWhatTheLogDoesNotTakeIsCounted(t *testing.T) {
	a := NewLog(slog.New(full{slog.NewTextHandler(io.Discard, nil)}))
	a.Announce(bpf.Announcement{Check: bpf.Check{Denied: true}})
	a.Announce(bpf.Announcement{New: true}) // debug, which nobody wants
	if a.NotTaken() != 1 || a.OverBudget() != 0 {
		t.Errorf("%d not taken, %d over budget, want one and none", a.NotTaken(), a.OverBudget())
	}
}
