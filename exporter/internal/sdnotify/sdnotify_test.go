package sdnotify

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"capability_exporter/exporter/internal/exportertest"
)

func connect(t *testing.T) *Manager {
	t.Helper()
	m, err := Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func hear(t *testing.T, from *net.UnixConn) string {
	t.Helper()
	if err := from.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	message := make([]byte, 1024)
	n, err := from.Read(message)
	if err != nil {
		t.Fatal(err)
	}
	return string(message[:n])
}

// hush fails if there is anything to be heard.
func hush(t *testing.T, from *net.UnixConn) {
	t.Helper()
	if err := from.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	message := make([]byte, 1024)
	if n, err := from.Read(message); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("told %q, %v", message[:n], err)
	}
}

func TestMessages(t *testing.T) {
	manager := exportertest.ServiceManager(t, time.Minute)
	m := connect(t)
	for want, tell := range map[string]func() error{
		"READY=1\nSTATUS=as it should be": func() error { return m.Ready("as it should be") },
		"STOPPING=1":                      m.Stopping,
	} {
		if err := tell(); err != nil {
			t.Error(err)
		}
		if got := hear(t, manager); got != want {
			t.Errorf("told %q, want %q", got, want)
		}
	}
	hush(t, manager)
}

// TestWatch: the watchdog is fed while all is well, and by nothing else.
func TestWatch(t *testing.T) {
	const watchdog = 300 * time.Millisecond
	manager := exportertest.ServiceManager(t, watchdog)
	m := connect(t)
	ctx, stop := context.WithCancel(t.Context())
	asked, wrong, told, done := make(chan struct{}, 100), make(chan error), make(chan error, 100), make(chan struct{})
	works := func() error {
		asked <- struct{}{}
		return <-wrong
	}
	go func() {
		m.Watch(ctx, works, func(err error) { told <- err })
		close(done)
	}()
	for range 3 {
		<-asked
		wrong <- nil
		if got := hear(t, manager); got != "WATCHDOG=1" {
			t.Errorf("told %q", got)
		}
	}
	stuck := errors.New("stuck")
	<-asked
	wrong <- stuck
	if err := <-told; !errors.Is(err, stuck) {
		t.Errorf("told %v", err)
	}
	<-asked
	time.Sleep(watchdog)
	hush(t, manager) // as works does not return
	wrong <- nil
	if got := hear(t, manager); got != "WATCHDOG=1" {
		t.Errorf("told %q", got)
	}
	<-asked
	stop()
	wrong <- stuck
	<-done
	if len(told) != 0 {
		t.Errorf("what was about to end did not work: %v", <-told)
	}
	hush(t, manager)
}

// TestWatchEnds: who is told to end asks no more, though it is time to.
func TestWatchEnds(t *testing.T) {
	exportertest.ServiceManager(t, 3*time.Millisecond)
	m := connect(t)
	for range 20 {
		ctx, stop := context.WithCancel(t.Context())
		asked := 0
		m.Watch(ctx, func() error {
			asked++
			stop()
			time.Sleep(2 * m.every)
			return errors.New("about to end")
		}, func(err error) { t.Error(err) })
		if asked != 1 {
			t.Fatalf("asked %d times", asked)
		}
	}
}

// How often it is fed must leave it time for one that is late.
func TestWatchIsOften(t *testing.T) {
	manager := exportertest.ServiceManager(t, 30*time.Second)
	if m := connect(t); m.every != 30*time.Second {
		t.Errorf("every %v", m.every)
	}
	hush(t, manager)
	t.Setenv("WATCHDOG_PID", "1") // another's
	if m := connect(t); m.every != 0 {
		t.Errorf("feeds another's watchdog every %v", m.every)
	} else {
		m.Watch(t.Context(), nil, nil) // at once
	}
}

func TestNobodyListens(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	m := connect(t)
	m.Watch(t.Context(), nil, nil)
	for _, tell := range []func() error{func() error { return m.Ready("x") }, m.Stopping, m.Close} {
		if err := tell(); err != nil {
			t.Error(err)
		}
	}
}

func TestRefusals(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	t.Setenv("NOTIFY_SOCKET", missing)
	m, err := Connect()
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), missing) || !strings.Contains(err.Error(), "AF_UNIX") {
		t.Errorf("nobody there: %v", err)
	}
	if err := m.Ready("x"); err != nil { // as if it had not been asked for
		t.Error(err)
	}
	exportertest.ServiceManager(t, 0)
	if _, err := Connect(); err == nil {
		t.Error("a watchdog of no time at all is fed")
	}
	t.Setenv("WATCHDOG_USEC", "")
	manager := exportertest.ServiceManager(t, time.Minute)
	m = connect(t)
	manager.Close()
	if err := m.Stopping(); err == nil {
		t.Error("who has gone is told")
	}
}

// TestNoRoom: a manager that reads nothing holds nobody up for long.
func TestNoRoom(t *testing.T) {
	exportertest.ServiceManager(t, time.Minute)
	m := connect(t)
	began := time.Now()
	var err error
	for err == nil && time.Since(began) < time.Minute {
		err = m.Stopping()
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}
