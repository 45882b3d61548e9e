package logging

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/common/promslog"
)

// blocked is a place that is not read until it is released.
type blocked struct {
	entered, release chan struct{}
	out              bytes.Buffer
}

func newBlocked() *blocked {
	return &blocked{entered: make(chan struct{}, 1), release: make(chan struct{})}
}

func (b *blocked) Write(p []byte) (int, error) {
	select {
	case b.entered <- struct{}{}:
	default:
	}
	<-b.release
	return b.out.Write(p)
}

// fill writes a line to a place that is blocked, and the same one until the
// queue takes no more. It returns how many lines wait.
func fill(t *testing.T, place *blocked, q *Queue, to io.Writer, line string) int {
	t.Helper()
	if _, err := q.Write([]byte("first\n")); err != nil {
		t.Fatal(err)
	}
	<-place.entered // this one is being written, the queue is empty
	for n := 0; ; n++ {
		if _, err := io.WriteString(to, line); errors.Is(err, ErrFull) {
			return n
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func TestWritesWhatItIsGivenInOrder(t *testing.T) {
	var out bytes.Buffer
	q := NewQueue(&out)
	var want strings.Builder
	line := make([]byte, 0, 10) // the same one each time, as slog has it
	for n := range 500 {
		line = fmt.Appendf(line[:0], "%d\n", n)
		want.Write(line)
		if _, err := q.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	q.Stop(time.Minute)
	if out.String() != want.String() || q.Dropped() != 0 {
		t.Errorf("%d dropped, wrote\n%s", q.Dropped(), &out)
	}
}

func TestAPlaceThatIsNotReadHoldsUpNobody(t *testing.T) {
	for _, test := range []struct {
		name, line string
		ordinary   bool
		room       int
	}{
		{"lines", "x\n", false, 1024},
		{"ordinary lines", "x\n", true, 768},
		{"bytes", strings.Repeat("x", 1<<16), false, 16},
		{"ordinary bytes", strings.Repeat("x", 1<<16), true, 12},
	} {
		t.Run(test.name, func(t *testing.T) {
			place := newBlocked()
			q := NewQueue(place)
			var to io.Writer = q
			if test.ordinary {
				to = ordinary{q}
			}
			if room := fill(t, place, q, to, test.line); room != test.room {
				t.Errorf("room for %d, want %d", room, test.room)
			}
			if q.Dropped() != 1 {
				t.Errorf("%d dropped, want one", q.Dropped())
			}
			if _, err := io.WriteString(q, "seen\n"); (err == nil) != test.ordinary {
				t.Errorf("a line that must be seen, beside others: %v", err)
			}
			close(place.release)
			q.Stop(time.Minute)
			if got := strings.Count(place.out.String(), test.line); got != test.room {
				t.Errorf("%d were written, want %d", got, test.room)
			}
			if strings.HasSuffix(place.out.String(), "seen\n") != test.ordinary {
				t.Error("a line that must be seen was not written, or although there was no room")
			}
		})
	}
}

// What was written has room for others.
func TestRoomIsGivenBack(t *testing.T) {
	var out bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue(&out)
		for range 10 {
			for range 10 {
				if _, err := io.WriteString(q, strings.Repeat("x", maxBytes/10)); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Wait()
		}
		q.Stop(time.Minute)
	})
	if out.Len() != 100*(maxBytes/10) {
		t.Errorf("wrote %d bytes", out.Len())
	}
}

func TestStopDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		place := newBlocked()
		q := NewQueue(place)
		if _, err := io.WriteString(q, "x\n"); err != nil {
			t.Fatal(err)
		}
		<-place.entered
		start := time.Now()
		q.Stop(Grace)
		if took := time.Since(start); took != 200*time.Millisecond {
			t.Errorf("stopped after %v", took)
		}
		close(place.release)
		synctest.Wait()
		if _, err := io.WriteString(q, "late\n"); !errors.Is(err, ErrFull) || q.Dropped() != 1 {
			t.Errorf("a line after the end: %v, %d dropped", err, q.Dropped())
		}
	})
}

// gone fails each write.
type gone struct{}

func (gone) Write([]byte) (int, error) { return 0, errors.New("no reader") }

func TestLinesThatCannotBeWrittenAreCounted(t *testing.T) {
	l := New(promslog.Config{}, gone{})
	for range 3 {
		l.Info("x")
	}
	l.Stop()
	if l.Dropped() != 3 {
		t.Errorf("%d dropped, want 3", l.Dropped())
	}
}

func TestAStormOfLinesLeavesRoomForWarnings(t *testing.T) {
	place := newBlocked()
	l := New(promslog.Config{}, place)
	l.With("with", "more").WithGroup("group").Info("first")
	<-place.entered
	for range 2000 {
		l.With("with", "more").WithGroup("group").Info("storm", "n", 1)
	}
	l.With("with", "more").WithGroup("group").Warn("seen", "n", 2)
	l.Debug("not wanted")
	close(place.release)
	l.Stop()
	got := place.out.String()
	if n := strings.Count(got, "msg=storm with=more group.n=1\n"); n != 768 {
		t.Errorf("%d lines of the storm, want 768", n)
	}
	if !strings.Contains(got, "msg=seen with=more group.n=2\n") || strings.Contains(got, "not wanted") {
		t.Error("the warning is not there, or what is below the level")
	}
	if l.Dropped() != 2000-768 {
		t.Errorf("%d dropped", l.Dropped())
	}
}

// Told once it is read again, and told once.
func TestWhatWasDroppedIsTold(t *testing.T) {
	place := newBlocked()
	place.release = make(chan struct{}, 1)
	lines := make(chan string, 2000)
	l := New(promslog.Config{}, writerFunc(func(p []byte) (int, error) {
		n, err := place.Write(p)
		lines <- string(p)
		place.release <- struct{}{} // for the next
		return n, err
	}))
	l.Info("first")
	<-place.entered
	for range 1000 {
		l.Info("storm")
	}
	place.release <- struct{}{}
	for told := false; !told; {
		select {
		case line := <-lines:
			told = strings.Contains(line, `msg="Lines were dropped`)
			if told && !strings.HasSuffix(line, "count=232\n") {
				t.Errorf("told %s", line)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("not told")
		}
	}
	l.Info("last")
	l.Stop()
	if n := strings.Count(place.out.String(), "Lines were dropped"); n != 1 {
		t.Errorf("told %d times", n)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestAsTheFlagsWantIt(t *testing.T) {
	config := promslog.Config{Level: promslog.NewLevel(), Format: promslog.NewFormat()}
	for _, err := range []error{config.Level.Set("debug"), config.Format.Set("json")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	l := New(config, &out)
	var writers sync.WaitGroup
	for range 10 { // from several at once
		writers.Go(func() { l.Debug("x") })
	}
	writers.Wait()
	l.Stop()
	if n := strings.Count(out.String(), `"msg":"x"}`+"\n"); n != 10 {
		t.Errorf("%d lines:\n%s", n, &out)
	}
}
