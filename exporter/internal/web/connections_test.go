package web

import (
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// client is a connection from an address, and whether it was closed.
type client struct {
	net.Conn
	address string
	closed  bool
}

func (c *client) RemoteAddr() net.Addr { return named(c.address) }
func (c *client) Close() error         { c.closed = true; return nil }

type named string

func (n named) Network() string { return "tcp" }
func (n named) String() string  { return string(n) }

// connected tells a set of connections what a server would.
type connected struct {
	connections
	port int
}

func (c *connected) dial(host string, then ...http.ConnState) *client {
	c.port++
	conn := &client{address: net.JoinHostPort(host, fmt.Sprint(c.port))}
	c.changed(conn, http.StateNew)
	for _, state := range then {
		c.changed(conn, state)
	}
	time.Sleep(time.Millisecond)
	return conn
}

func wantClosed(t *testing.T, what string, conn *client, want bool) {
	t.Helper()
	if conn.closed != want {
		t.Errorf("%s: closed is %t", what, conn.closed)
	}
}

func TestANewConnectionTakesThePlaceOfAnIdleOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &connected{}
		busy := c.dial("10.0.0.1", http.StateActive)
		idle := c.dial("10.0.0.1", http.StateActive, http.StateIdle)
		for range 254 {
			c.dial("10.0.0.1")
		}
		wantClosed(t, "at the limit", idle, false)
		c.changed(idle, http.StateActive) // it is used again
		c.changed(idle, http.StateIdle)
		time.Sleep(time.Millisecond)
		c.dial("10.0.0.1")
		if c.made() != 1 || len(c.open) != 256 {
			t.Errorf("%d closed, %d open", c.made(), len(c.open))
		}
		wantClosed(t, "used last", idle, false)
		for range 254 {
			c.dial("10.0.0.1")
		}
		wantClosed(t, "idle for longest", idle, true)
		wantClosed(t, "with a request", busy, false)

		c.changed(busy, http.StateClosed)
		made := c.made()
		c.dial("10.0.0.1")
		if c.made() != made {
			t.Error("one was closed although there was room")
		}
	})
}

func TestAllBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &connected{}
		oldest := c.dial("10.0.0.1", http.StateActive)
		for range 255 {
			c.dial("10.0.0.1", http.StateActive)
		}
		scraper := c.dial("10.0.0.1")
		wantClosed(t, "busy for longest", oldest, true)
		wantClosed(t, "the new one", scraper, false)
	})
}

func TestOneClientCannotTakeTheOthersConnections(t *testing.T) {
	for many, other := range map[string]string{"10.0.0.1": "10.0.0.2", "2001:db8::1": "2001:db8:0:1::1", "::ffff:10.0.0.1": "::ffff:10.0.0.2"} {
		synctest.Test(t, func(t *testing.T) {
			c := &connected{}
			scraper := c.dial(other)
			first := c.dial(many, http.StateActive)
			for n := range 1000 {
				from := many
				if from == "2001:db8::1" { // as many addresses as one likes
					from = fmt.Sprintf("2001:db8::%x", n+1)
				}
				c.dial(from, http.StateActive)
			}
			wantClosed(t, "another client's", scraper, false)
			wantClosed(t, "of the one that has most", first, true)
		})
	}
}

func TestFrom(t *testing.T) {
	for address, want := range map[string]string{
		"10.0.0.1:5":           "10.0.0.1",
		"[::ffff:10.0.0.1]:5":  "10.0.0.1",
		"[2001:db8::1]:5":      "2001:db8::/64",
		"[fe80::1%eth0]:5":     "fe80::/64",
		"host(2):1024":         "host(2)",
		"@":                    "@",
		"":                     "",
		"/run/exporter.socket": "/run/exporter.socket",
	} {
		if got := from(address); got != want {
			t.Errorf("%q is from %q, want %q", address, got, want)
		}
	}
}

// TLS's own end of a connection is a message, and who does not read it is not
// waited for.
func TestConnectionsAreClosedAtOnce(t *testing.T) {
	below := &client{}
	closeNow(tls.Server(below, nil))
	wantClosed(t, "below TLS", below, true)
}

// The same by a real server, on several addresses at once.
func TestIdleConnectionsDoNotLockOut(t *testing.T) {
	one, other := listen(t), listen(t)
	one.Close()
	other.Close()
	state := &State{}
	server, err := Start(landed(t, nil), flagsFor(one.Addr().String(), other.Addr().String()), state, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	defer http.DefaultClient.CloseIdleConnections()
	const more = 40
	for n := range MaxConnections + more {
		listener := one
		if n%2 == 0 {
			listener = other
		}
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if _, err := io.WriteString(conn, "GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err != nil {
			t.Fatalf("connection %d: %v", n, err)
		}
	}
	response, err := http.Get("http://" + one.Addr().String() + HealthyPath)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if got := state.ConnectionsClosed(); got != more+1 {
		t.Errorf("%d were closed, want %d", got, more+1)
	}
}

func TestStreamsOfOneConnectionAreLimited(t *testing.T) {
	if got := newServer(nil, &State{}, slog.New(slog.DiscardHandler), func() {}).HTTP2; got.MaxConcurrentStreams != 8 || got.MaxReceiveBufferPerConnection != 64<<10 || got.MaxReceiveBufferPerStream != 64<<10 {
		t.Errorf("limited to %+v", got)
	}
}
