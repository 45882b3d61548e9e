// Package sdnotify tells systemd, or whoever else has asked for it by
// $NOTIFY_SOCKET, how the program is (sd_notify(3)), and feeds its watchdog. It
// does not know what it means to work.
package sdnotify

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// patience is how long a message may find no room in the manager's queue.
const patience = time.Second

// Manager is who has started the program. That of the zero value wants to know
// nothing.
type Manager struct {
	conn  net.Conn      // nil: nobody listens
	every time.Duration // how often its watchdog must be fed; 0: it has none
}

// Connect reads from the environment what the manager wants to know. The library
// would connect for each message anew: this is done once, while there are still
// system calls for it.
func Connect() (*Manager, error) {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return &Manager{}, nil
	}
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return &Manager{}, fmt.Errorf("cannot tell how often the watchdog must be fed: %w", err)
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return &Manager{}, fmt.Errorf("cannot reach NOTIFY_SOCKET=%s (in a unit, RestrictAddressFamilies= must name AF_UNIX, and SystemCallFilter= connect): %w", socket, err)
	}
	return &Manager{conn, every}, nil
}

// Ready says that the program does what it is for, and how, in words for
// systemctl(1) to show.
func (m *Manager) Ready(status string) error {
	return m.tell(daemon.SdNotifyReady + "\nSTATUS=" + status)
}

// Stopping says that it is about to end.
func (m *Manager) Stopping() error { return m.tell(daemon.SdNotifyStopping) }

// Watch feeds the manager's watchdog until the context is done: three times as
// often as it must be, but only when works has found nothing wrong. What it has
// found is told otherwise; where works does not return, nothing is fed.
func (m *Manager) Watch(ctx context.Context, works func() error, otherwise func(error)) {
	if m.every == 0 {
		return
	}
	tick := time.NewTicker(m.every / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if ctx.Err() != nil { // both were ready
			return
		}
		err := works()
		if err == nil {
			err = m.tell(daemon.SdNotifyWatchdog)
		}
		if err != nil && ctx.Err() == nil { // what is about to end need not work
			otherwise(err)
		}
	}
}

// Close ends it.
func (m *Manager) Close() error {
	if m.conn == nil {
		return nil
	}
	return m.conn.Close()
}

func (m *Manager) tell(state string) error {
	if m.conn == nil {
		return nil
	}
	err := m.conn.SetWriteDeadline(time.Now().Add(patience))
	if err == nil {
		_, err = m.conn.Write([]byte(state))
	}
	if err != nil {
		return fmt.Errorf("telling the service manager: %w", err)
	}
	return nil
}
