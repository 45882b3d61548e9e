package web

import (
	"cmp"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// MaxConnections is how many clients may be connected at one time, over all
// addresses that are served. Each costs some 20 KiB, with TLS some 60, and a file
// descriptor.
const MaxConnections = 256

// connections keeps their number. Who comes when it is reached is let in, and
// another one is closed for it: a set of connections that do nothing, or do not
// read, must not lock out a scraper.
type connections struct {
	mu     sync.Mutex
	open   map[net.Conn]*connection
	closed uint64
	most   int // 0: MaxConnections
}

type connection struct {
	from  string
	busy  bool      // with a request
	since time.Time // it is
}

// changed is an http.Server's ConnState: it is called for each connection,
// wherever its listener comes from, and before the next one is accepted.
func (c *connections) changed(conn net.Conn, state http.ConnState) {
	if excess := c.note(conn, state); excess != nil {
		closeNow(excess)
	}
}

// note returns the connection that has to go, if one has.
func (c *connections) note(conn net.Conn, state http.ConnState) net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch state {
	case http.StateNew:
		if isPipe(conn) { // which is over at once, and no client is to go for it
			return nil
		}
		if c.open == nil {
			c.open = make(map[net.Conn]*connection)
		}
		var excess net.Conn
		if len(c.open) >= cmp.Or(c.most, MaxConnections) {
			excess = c.leastMissed(from(conn.RemoteAddr().String()))
			delete(c.open, excess)
			c.closed++
		}
		c.open[conn] = &connection{from: from(conn.RemoteAddr().String()), since: time.Now()}
		return excess
	case http.StateActive, http.StateIdle:
		if known := c.open[conn]; known != nil {
			known.busy, known.since = state == http.StateActive, time.Now()
		}
	case http.StateClosed, http.StateHijacked:
		delete(c.open, conn)
	}
	return nil
}

// leastMissed is a connection of the client that has most of them, the one that
// wants another included: one without a request, if there is one, and of these
// the one that has been so for longest.
func (c *connections) leastMissed(newcomer string) net.Conn {
	number := map[string]int{newcomer: 1}
	for _, one := range c.open {
		number[one.from]++
	}
	var least net.Conn
	var of *connection
	for conn, one := range c.open {
		if of == nil || before(one, of, number) {
			least, of = conn, one
		}
	}
	return least
}

func before(a, b *connection, number map[string]int) bool {
	switch {
	case number[a.from] != number[b.from]:
		return number[a.from] > number[b.from]
	case a.busy != b.busy:
		return b.busy
	default:
		return a.since.Before(b.since)
	}
}

// from is whose a remote address is: an address without its port, or the network
// of one where a client has as many addresses as it likes.
func from(remote string) string {
	address, err := netip.ParseAddrPort(remote)
	if err != nil { // a Unix socket has none, and vsock's are "host(2):1024"
		host, _, _ := strings.Cut(remote, ":")
		return host
	}
	ip := address.Addr().Unmap()
	if ip.Is6() {
		if network, err := ip.Prefix(64); err == nil {
			return network.String()
		}
	}
	return ip.String()
}

// closeNow does not wait for the other side to hear TLS's last words.
func closeNow(conn net.Conn) {
	if over, ok := conn.(*tls.Conn); ok {
		conn = over.NetConn()
	}
	_ = conn.Close() // there is nobody to tell
}

// limit sets how many there may be, before any is.
func (c *connections) limit(most int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.most = most
}

// made is how many connections were closed to make room.
func (c *connections) made() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}
