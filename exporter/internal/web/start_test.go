package web

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"testing"

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
	server.Stop()
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
