package bpf

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf/internal/source"
)

// openAndLook is the helper that does the exporter's work with the two capabilities alone.
func openAndLook([]string) error {
	if err := holding(RequiredCapabilities()).SetProc(); err != nil {
		return err
	}
	tr, err := Open(Options{HeldInterval: 200 * time.Millisecond})
	if err != nil {
		return err
	}
	for range 3 {
		if _, err := tr.Snapshot(); err != nil {
			return errors.Join(err, tr.Close())
		}
		time.Sleep(400 * time.Millisecond)
	}
	return tr.Close()
}

// TestOwnChecks watches a tracer being opened, read and closed by an ordinary user with the two capabilities: it asks for
// those, and nothing is denied to it.
func TestOwnChecks(t *testing.T) {
	tr := openLive(t, Options{})
	const name = "itself"
	path := executable(t, name)
	openToAll(t, path[:strings.LastIndex(path, "/")])
	cmd := helper(path, "open")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential:  &syscall.Credential{Uid: nobody, Gid: nobody},
		AmbientCaps: []uintptr{uintptr(cap.BPF), uintptr(cap.PERFMON)},
	}
	run(t, cmd)
	asked := by(checkIdentities(t, tr), name)
	for check, n := range asked {
		switch check {
		case "39 granted host", "38 granted host": // CAP_BPF, CAP_PERFMON
		case "8 granted host", "8 denied host": // CAP_SETPCAP, which capset(2) always asks for
			if strings.Contains(check, "denied") && n > 64 {
				t.Errorf("%d checks of CAP_SETPCAP, more than capset(2) on each thread can explain", n)
			}
		default:
			t.Errorf("asked %d times for %s", n, check)
		}
	}
	if asked["39 granted host"] == 0 {
		t.Errorf("asked for %v: no CAP_BPF, so this was not it", asked)
	}
}

// TestBestSource: of the sources that the kernel has, the first is taken.
func TestBestSource(t *testing.T) {
	tr := openLive(t, Options{})
	for i, s := range source.All() {
		if s.Present(tr.features) {
			// Those before it are told to be absent, and none behind it has been tried.
			if info := tr.Info(); info.Source != Source(s.Name) || len(info.Refused) != i {
				t.Errorf("took %s, and not %s; refused: %v", info.Source, s.Name, info.Refused)
			}
			return
		}
	}
}
