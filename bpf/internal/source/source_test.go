package source

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"capability_exporter/bpf/internal/programs"
)

// TestAll: the tracepoint, which sees every check, comes first, and each source has its programs in their places.
func TestAll(t *testing.T) {
	type shape struct {
		name        string
		opts        bool
		program     [3]string
		pair, entry [2]string
		latestFirst bool
	}
	var got []shape
	for _, s := range All() {
		got = append(got, shape{s.Name, s.Opts, s.program, s.pair, s.entry, s.latestFirst})
		spec, err := s.load()
		if err != nil {
			t.Fatal(err)
		}
		names := slices.Concat(s.program[:], s.pair[:], []string{programGone, programClock})
		if s.entry[0] != "" && runtime.GOARCH == "amd64" {
			names = append(names, s.entry[0], s.entry[1], programBeside)
		}
		for _, name := range names {
			if spec.Programs[name] == nil {
				t.Errorf("%s has no program %s", s.Name, name)
			}
		}
	}
	want := []shape{
		{
			"tracepoint", false, [3]string{"tracepoint", "tracepoint_probe", "tracepoint_probe"},
			[2]string{"tracepoint_first", "tracepoint_second"}, [2]string{"entry_first", "entry_second"}, false,
		},
		{"fexit", true, [3]string{"fexit", "fexit_probe", "fexit_unnamed"}, [2]string{"fexit_first", "fexit_second"}, [2]string{}, true},
	}
	if !slices.Equal(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
}

// TestOrder: the program that is to run first is attached last where the latest runs first, and what tells that a cgroup is gone last.
// Where the first is at an entry, what has that called comes before the second, which would count all alone.
func TestOrder(t *testing.T) {
	first, second, beside, gone := new(ebpf.Program), new(ebpf.Program), new(ebpf.Program), new(ebpf.Program)
	entry := &Objects{
		Collection: &ebpf.Collection{Programs: map[string]*ebpf.Program{programGone: gone, programBeside: beside}},
		Programs:   []*ebpf.Program{first, second},
	}
	if got, want := entry.order(), []*ebpf.Program{first, beside, second, gone}; !slices.Equal(got, want) || !entry.AtEntry() {
		t.Errorf("at an entry: %v, want %v", got, want)
	}
	for latestFirst, want := range map[bool][]*ebpf.Program{false: {first, second, gone}, true: {second, first, gone}} {
		o := &Objects{
			Collection: &ebpf.Collection{Programs: map[string]*ebpf.Program{programGone: gone}},
			Programs:   []*ebpf.Program{first, second}, latestFirst: latestFirst,
		}
		if !slices.Equal(o.order(), want) || o.Programs[0] != first || o.AtEntry() {
			t.Errorf("the latest first: %t: %v, want %v", latestFirst, o.order(), want)
		}
	}
}

func TestReasons(t *testing.T) {
	for want, errs := range map[string][]error{
		"absent":     {errAbsent, ebpf.ErrNotSupported},
		"memlock":    {ErrMemlock, fmt.Errorf("%w: %w", ErrMemlock, unix.EPERM)},
		"permission": {unix.EPERM, errLockdown},
		"memory":     {unix.ENOMEM, &ebpf.VerifierError{Cause: unix.ENOMEM}},
		"files":      {unix.EMFILE, unix.ENFILE},
		"verifier":   {errors.New("else"), unix.EINVAL},
	} {
		for _, err := range errs {
			err = fmt.Errorf("load: %w", err)
			if got := ReasonOf(err); got != want {
				t.Errorf("%v: %s, want %s", err, got, want)
			}
			if got := Exhausted(err); got != (want == "memory" || want == "files") {
				t.Errorf("%v: exhausted: %t", err, got)
			}
		}
	}
}

func TestPeek(t *testing.T) {
	for f, want := range map[Features]Peek{
		{}: PeekNone, {cast: true}: PeekNone, {Names: true}: PeekProbe, {Names: true, cast: true}: PeekCast,
	} {
		if got := f.Peek(); got != want {
			t.Errorf("%+v: %d, want %d", f, got, want)
		}
	}
}

// TestWantsTwo: two programs are for the way of reading that has them, and where one would miss checks.
func TestWantsTwo(t *testing.T) {
	yes, no := true, false
	for _, test := range []struct {
		mode        Peek
		pair        *bool
		preemptible bool
		want        bool
	}{
		{PeekCast, nil, true, true}, {PeekCast, nil, false, false}, {PeekCast, &yes, false, true}, {PeekCast, &no, true, false},
		{PeekProbe, nil, true, false}, {PeekNone, &yes, true, false},
	} {
		s := Source{preemptible: func(*Features) (bool, error) { return test.preemptible, nil }}
		if got, err := s.wantsTwo(&Features{}, test.mode, Options{Pair: test.pair}); err != nil || got != test.want {
			t.Errorf("%+v: %t, %v", test, got, err)
		}
	}
	for err, ends := range map[error]bool{unix.EPERM: true, unix.EMFILE: true, unix.ENOENT: false} {
		s := Source{preemptible: func(*Features) (bool, error) { return false, err }}
		if _, got := s.wantsTwo(&Features{}, PeekCast, Options{Logger: slog.New(slog.DiscardHandler)}); (got != nil) != ends {
			t.Errorf("%v while asking became %v", err, got)
		}
	}
}

// TestDetach: of two programs the second goes first, so that it counts nothing for want of the other.
func TestDetach(t *testing.T) {
	var closed []int
	o := &Objects{atEntry: closer{}}
	for i := range 3 {
		o.links = append(o.links, closer{func() { closed = append(closed, i) }, nil})
	}
	if err := o.Detach(); err != nil || !slices.Equal(closed, []int{2, 1, 0}) || o.links != nil || o.atEntry != nil {
		t.Errorf("closed %v: %v", closed, err)
	}
}

// A closer is a link of which only the end is looked at.
type closer struct {
	closed func()
	link.Link
}

func (c closer) Close() error { c.closed(); return nil }

// TestFallsBack: what speaks against the better two programs is told, and the others are taken. Where they are asked for, nobody asks.
func TestFallsBack(t *testing.T) {
	yes := true
	for _, pair := range []*bool{nil, &yes} {
		asked := 0
		var log strings.Builder
		unreadable := errors.New("an object that cannot be read")
		s := Source{
			present:     func(*btf.Spec) bool { return true },
			preemptible: func(*Features) (bool, error) { return true, nil },
			guarded:     func(*Features) error { asked++; return errors.New("not here") },
			load:        func() (*ebpf.CollectionSpec, error) { return nil, unreadable },
		}
		_, err := s.Open(&Features{}, PeekCast, Options{Pair: pair, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if told := strings.Contains(log.String(), "not here"); !errors.Is(err, unreadable) || told != (pair == nil) || asked != 1 && told {
			t.Errorf("%v; asked %d times, told: %s", err, asked, log.String())
		}
	}
}

// Where there is not enough for the better two programs, the lesser ones are not taken for it.
func TestDoesNotFallBackForWantOfMemory(t *testing.T) {
	s := Source{
		present:     func(*btf.Spec) bool { return true },
		preemptible: func(*Features) (bool, error) { return true, nil },
		guarded:     func(*Features) error { return unix.ENOMEM },
		load:        func() (*ebpf.CollectionSpec, error) { t.Error("tries others"); return nil, unix.EINVAL },
	}
	if _, err := s.Open(&Features{}, PeekCast, Options{Logger: slog.New(slog.DiscardHandler)}); !errors.Is(err, unix.ENOMEM) {
		t.Error(err)
	}
}

// TestLSMs: each has its programs, and is active where /sys says so.
func TestLSMs(t *testing.T) {
	spec, err := programs.LoadLSM()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"selinux", "apparmor", "apparmor_label", programGone, programRelease} {
		if spec.Programs[name] == nil {
			t.Errorf("no program %s", name)
		}
	}
	for name, want := range map[string][]string{"": nil, "Y": {"apparmor"}, "N": nil, "selinux": {"selinux"}} {
		sys := t.TempDir()
		file := filepath.Join(sys, "module/apparmor/parameters/enabled")
		if name == "selinux" {
			file = filepath.Join(sys, "fs/selinux/enforce")
		}
		if name != "" {
			if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(name+"\n"), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		var got []string
		for _, lsm := range LSMs() {
			if active, err := lsm.Active(sys); err != nil {
				t.Error(err)
			} else if active {
				got = append(got, lsm.Name)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: %v are active, want %v", name, got, want)
		}
	}
	notAFolder := filepath.Join(t.TempDir(), "sys")
	if err := os.WriteFile(notAFolder, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, lsm := range LSMs() {
		if _, err := lsm.Active(notAFolder); err == nil {
			t.Errorf("%s: no error where nothing can be told", lsm.Name)
		}
	}
}

// TestLeaveOutStays: what the kernel does not have is not looked for, which takes CAP_SYS_ADMIN.
func TestLeaveOutStays(t *testing.T) {
	for _, has := range []bool{false, true} {
		spec, err := programs.LoadTracepoint()
		if err != nil {
			t.Fatal(err)
		}
		p := spec.Programs["tracepoint_first"]
		before := len(p.Instructions)
		leaveOutStays(p, func(string) bool { return has })
		calls := 0
		for _, ins := range p.Instructions {
			if ins.IsKfuncCall() && slices.Contains(stayCalls(), ins.Reference()) {
				calls++
			}
		}
		if want := map[bool]int{false: 0, true: len(stayCalls())}[has]; calls != want || len(p.Instructions) != before {
			t.Errorf("the kernel has them: %v: %d calls in %d instructions, want %d in %d", has, calls, len(p.Instructions), want, before)
		}
	}
}
