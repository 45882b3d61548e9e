package collectors

import (
	"bufio"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The kernel's other answer to the same question, in proc_pid_status(5), on a
// thread that has switched off all that it may use: it holds that all the same.
func TestHeldByProcess(t *testing.T) {
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
	data[0].Effective, data[1].Effective = 0, 0
	if err := unix.Capset(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
	held, err := HeldByProcess()
	if err != nil {
		t.Fatal(err)
	}
	var got uint64
	for _, value := range held {
		got |= 1 << value
	}

	status, err := os.Open("/proc/thread-self/status")
	if err != nil {
		t.Fatal(err)
	}
	defer status.Close()
	lines := bufio.NewScanner(status)
	for lines.Scan() {
		mask, found := strings.CutPrefix(lines.Text(), "CapPrm:\t")
		if !found {
			continue
		}
		want, err := strconv.ParseUint(mask, 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("held %#x, permitted by status %#x", got, want)
		}
		return
	}
	t.Fatalf("no CapPrm in /proc/thread-self/status: %v", lines.Err())
}
