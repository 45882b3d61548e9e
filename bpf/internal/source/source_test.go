package source

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// TestAll: the tracepoint, which sees every check, comes first, and each source has its programs in their places.
func TestAll(t *testing.T) {
	type shape struct {
		name        string
		opts        bool
		program     [3]string
		pair        [2]string
		latestFirst bool
	}
	var got []shape
	for _, s := range All() {
		got = append(got, shape{s.Name, s.Opts, s.program, s.pair, s.latestFirst})
		spec, err := s.load()
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range slices.Concat(s.program[:], s.pair[:], []string{programGone, programClock}) {
			if spec.Programs[name] == nil {
				t.Errorf("%s has no program %s", s.Name, name)
			}
		}
	}
	want := []shape{
		{"tracepoint", false, [3]string{"tracepoint", "tracepoint_probe", "tracepoint_probe"}, [2]string{"tracepoint_first", "tracepoint_second"}, false},
		{"fexit", true, [3]string{"fexit", "fexit_probe", "fexit_unnamed"}, [2]string{"fexit_first", "fexit_second"}, true},
	}
	if !slices.Equal(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
}

// TestOrder: the program that is to run first is attached last where the latest runs first, and what tells that a cgroup is gone last.
func TestOrder(t *testing.T) {
	first, second, gone := new(ebpf.Program), new(ebpf.Program), new(ebpf.Program)
	for latestFirst, want := range map[bool][]*ebpf.Program{false: {first, second, gone}, true: {second, first, gone}} {
		o := &Objects{
			Collection: &ebpf.Collection{Programs: map[string]*ebpf.Program{programGone: gone}},
			Programs:   []*ebpf.Program{first, second}, latestFirst: latestFirst,
		}
		if !slices.Equal(o.order(), want) || o.Programs[0] != first {
			t.Errorf("the latest first: %t: %v, want %v", latestFirst, o.order(), want)
		}
	}
}

func TestReasons(t *testing.T) {
	for want, errs := range map[string][]error{
		"absent":     {errAbsent, ebpf.ErrNotSupported},
		"memlock":    {ErrMemlock, fmt.Errorf("%w: %w", ErrMemlock, unix.EPERM)},
		"permission": {unix.EPERM, errLockdown},
		"verifier":   {errors.New("else"), unix.EINVAL},
	} {
		for _, err := range errs {
			if got := ReasonOf(fmt.Errorf("load: %w", err)); got != want {
				t.Errorf("%v: %s, want %s", err, got, want)
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
}
