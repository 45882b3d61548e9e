package web

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// answerTimeout is how long an answer may take that takes no time.
const answerTimeout = 5 * time.Second

// Answers asks each server as a client does, from within: once it is confined the
// program can connect to nobody, not to itself either. That its listeners still
// accept is what Failed is for.
func (w *Server) Answers() error {
	for _, server := range w.servers {
		if err := answers(server); err != nil {
			return fmt.Errorf("the HTTP server does not answer: %w", err)
		}
	}
	return nil
}

// answers takes any answer for one: there may be a password.
func answers(server *http.Server) error {
	client, own := net.Pipe()
	defer client.Close()
	if err := client.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return err
	}
	if err := server.Serve(&pipeListener{own, own.LocalAddr()}); !errors.Is(err, errAccepted) {
		own.Close()
		return err
	}
	if _, err := fmt.Fprintf(client, "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", HealthyPath); err != nil {
		return err
	}
	response, err := http.ReadResponse(bufio.NewReader(client), nil)
	if err != nil {
		return err
	}
	return response.Body.Close()
}

var errAccepted = errors.New("the one connection is served")

// pipeListener has one connection to accept. A server then serves that, and
// returns what the second Accept has for it.
type pipeListener struct {
	one     net.Conn
	address net.Addr
}

func (l *pipeListener) Accept() (net.Conn, error) {
	if l.one == nil {
		return nil, errAccepted
	}
	one := l.one
	l.one = nil
	return one, nil
}

func (*pipeListener) Close() error     { return nil }
func (l *pipeListener) Addr() net.Addr { return l.address }

// pipe is the address of who asks from within, and of no client.
const pipe = "pipe"

// isPipe tells a connection from within from a client's.
func isPipe(conn net.Conn) bool { return conn.RemoteAddr().String() == pipe }
