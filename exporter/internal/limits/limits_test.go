package limits

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"golang.org/x/sys/unix"

	"capability_exporter/bpf"
)

func TestExplain(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("map ring: %w", unix.EMFILE), "too many open files for its limit; raise it before the start, to 1024 for instance (systemd: LimitNOFILE=1024"},
		{fmt.Errorf("open x: %w", unix.ENFILE), "too many open files in the whole system; raise the sysctl fs.file-max"},
		{fmt.Errorf("failed to read cert_file: %s", unix.ENFILE), "in the whole system"}, //nolint:errorlint // as exporter-toolkit does
		{fmt.Errorf("failed to read cert_file: %s", unix.EMFILE), "for its limit"},       //nolint:errorlint // as above
		{fmt.Errorf("map pages: %w", unix.ENOMEM), "the machine has none left, or a memory limit of the cgroup"},
		{fmt.Errorf("attach: %w", &tooLowError{"the limit is 3", unix.EMFILE}), ""},
		{unix.EPERM, ""},
	} {
		got := Explain(test.err)
		if !errors.Is(got, test.err) {
			t.Errorf("%v became %v", test.err, got)
		}
		if want := test.err.Error(); test.want == "" && got.Error() != want || !strings.Contains(got.Error(), test.want) || !strings.HasSuffix(got.Error(), want) {
			t.Errorf("%v is told as %q, want %q before it", test.err, got, test.want)
		}
	}
	if err := Explain(nil); err != nil {
		t.Errorf("no error became %v", err)
	}
}

// TestFiles has a machine that leaves room for some.
func TestFiles(t *testing.T) {
	for _, test := range []struct {
		room  int
		errno error
		want  int
		err   string
	}{
		{10, unix.EMFILE, 10, ""},
		{4, unix.EMFILE, 4, ""},
		{4, unix.ENFILE, 4, ""},
		{3, unix.ENFILE, 0, "in the whole system"},
		{3, unix.EPERM, 10, ""}, // somebody has something against it who is asked by nothing else
	} {
		opened := 0
		got, err := filesBy(func() (int, error) {
			if opened == test.room {
				return 0, test.errno
			}
			opened++
			return unix.Dup(0)
		}, 4, 10)
		if got != test.want || (err == nil) != (test.err == "") || err != nil && (!errors.Is(err, test.errno) || !strings.Contains(err.Error(), test.err)) {
			t.Errorf("room for %d, then %v: %d, %v", test.room, test.errno, got, err)
		}
	}
}

// TestFilesOfThisProcess: by the real limit, to which the soft one has been raised, and all is closed again.
func TestFilesOfThisProcess(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur != limit.Max {
		t.Errorf("package os has not raised the soft limit of %d to %d", limit.Cur, limit.Max)
	}
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Error(err)
		}
	}()
	before := openFiles(t)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 60, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	got, err := Files(10, 100)
	if err != nil || got < 10 || got >= 60 {
		t.Errorf("room for %d, %v", got, err)
	}
	want := fmt.Sprintf("the limit is 60, and it needs about %d; raise", 60+5)
	if _, err := Files(got+5, 100); !errors.Is(err, unix.EMFILE) || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want it to say %q", err, want)
	}
	if after := openFiles(t); after != before {
		t.Errorf("%d files are open, and %d were before", after, before)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

func TestMemoryIsLimitedAsTheCgroupIs(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	var log strings.Builder
	logger := slog.New(slog.NewTextHandler(&log, nil))
	m := ReadMemory(memlimit.Limit(1000<<20), logger)
	if got := debug.SetMemoryLimit(-1); got != 900<<20 || !strings.Contains(log.String(), fmt.Sprint("bytes=", got)) {
		t.Errorf("limited to %d MiB, want 900:\n%s", got>>20, &log)
	}
	// What the kernel takes is not for Go.
	if err := m.Fits(bpf.Memory{Maps: 100 << 20}, 64); err != nil {
		t.Error(err)
	}
	if got := debug.SetMemoryLimit(-1); got != 810<<20 {
		t.Errorf("limited to %d MiB, want 810", got>>20)
	}
	log.Reset()
	debug.SetMemoryLimit(math.MaxInt64)
	for _, none := range []error{memlimit.ErrNoLimit, errors.New("no cgroups are mounted")} {
		m = ReadMemory(func() (uint64, error) { return 0, none }, logger)
		if err := errors.Join(m.Start(), m.Fits(bpf.Memory{Maps: 1 << 40}, 64)); err != nil {
			t.Error(err)
		}
		if got := debug.SetMemoryLimit(-1); got != math.MaxInt64 || log.Len() != 0 {
			t.Errorf("%v: limited to %d, said %s", none, got, &log)
		}
	}
}

func TestTooLittleMemory(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	for _, test := range []struct {
		limit uint64
		err   string // of Start
		fits  string // the error of Fits
	}{
		{limit: toStart - 1, err: "too little memory: the limit of its cgroup is 34 MiB, and it needs about 34 MiB, to start", fits: "needs about 45 MiB"},
		{limit: toStart + 10<<20, fits: "the limit of its cgroup is 44 MiB, and it needs about 45 MiB, 11 MiB of them for what the kernel counts in, with --series.limit=4096"},
		{limit: toStart + 11<<20},
	} {
		m := Memory{test.limit, slog.New(slog.DiscardHandler)}
		for _, answer := range []struct {
			got  error
			want string
		}{{m.Start(), test.err}, {m.Fits(bpf.Memory{Maps: 10<<20 + 1}, 4096), test.fits}} {
			got, want := answer.got, answer.want
			if (got == nil) != (want == "") || got != nil && (!errors.Is(got, unix.ENOMEM) || !strings.Contains(got.Error(), want) || !strings.Contains(got.Error(), "MemoryMax=")) {
				t.Errorf("%d: %v, want %q", test.limit, got, want)
			}
		}
	}
}

// What is enough for now is warned of, once it is not enough for all that may come.
func TestMemoryThatMayBecomeShort(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	most := uint64(toServe + 4096*forSeries + 3<<20)
	for limit, warned := range map[uint64]bool{most: false, most - 1: true} {
		var log strings.Builder
		m := Memory{limit, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))}
		if err := m.Fits(bpf.Memory{Maps: 1 << 20, Names: 2 << 20}, 4096); err != nil {
			t.Error(err)
		}
		if strings.Contains(log.String(), `at_most="65 MiB" series_limit=4096`) != warned || (log.Len() != 0) != warned {
			t.Errorf("%d: said %q", limit, &log)
		}
	}
}
