package web

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	toolkit "github.com/prometheus/exporter-toolkit/web"
)

func flagsFor(addresses ...string) *toolkit.FlagConfig {
	none, file := false, ""
	return &toolkit.FlagConfig{WebListenAddresses: &addresses, WebSystemdSocket: &none, WebConfigFile: &file}
}

// listen takes an address that was free.
func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener
}

func TestStartServesEachAddress(t *testing.T) {
	one, other := listen(t), listen(t)
	one.Close()
	other.Close()
	server, err := Start(landed(t, nil), flagsFor(one.Addr().String(), other.Addr().String()), &State{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, listener := range []net.Listener{one, other} {
		response, err := http.Get("http://" + listener.Addr().String() + HealthyPath)
		if err != nil {
			t.Error(err)
			continue
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", listener.Addr(), response.Status)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	if err := server.Answers(); err != nil {
		t.Error(err)
	}
	server.Stop()
	if err := server.Answers(); !errors.Is(err, http.ErrServerClosed) {
		t.Errorf("what has stopped answers: %v", err)
	}
	select {
	case err := <-server.Failed():
		t.Errorf("a stop is told as a failure: %v", err)
	default:
	}
}

// Where one address is taken, the others are given up.
func TestStartServesAllOrNothing(t *testing.T) {
	free, taken := listen(t), listen(t)
	free.Close()
	if _, err := Start(landed(t, nil), flagsFor(free.Addr().String(), taken.Addr().String()), &State{}, slog.New(slog.DiscardHandler)); !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("an address that is taken: %v", err)
	}
	if conn, err := net.Dial("tcp", free.Addr().String()); err == nil {
		conn.Close()
		t.Error("the other address is still served")
	}
}

// A server that does not come to answer is found out, in bounded time; and it is
// not at a client's cost.
func TestAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck, state := make(chan struct{}), &State{}
		state.LimitConnections(1)
		one, other := net.Pipe()
		defer other.Close()
		state.limits.connections.changed(remote{one}, http.StateNew)
		answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) })
		server := &Server{servers: []*http.Server{newServer(answer, state, slog.New(slog.DiscardHandler), func() {})}}
		if err := server.Answers(); err != nil {
			t.Errorf("who wants a password does not answer: %v", err)
		}
		if n := state.ConnectionsClosed(); n != 0 {
			t.Errorf("%d clients had to go for it", n)
		}
		server.servers = append(server.servers, newServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-stuck }), state, slog.New(slog.DiscardHandler), func() {}))
		began := time.Now()
		if err := server.Answers(); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != answerTimeout {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		close(stuck)
		synctest.Wait()
		if n := len(state.limits.connections.open); n != 1 {
			t.Errorf("%d connections are open", n)
		}
	})
}

// remote is a connection from somewhere.
type remote struct{ net.Conn }

func (remote) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1} }
