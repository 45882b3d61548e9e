package collectors

import (
	"bufio"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

// The kernel's other answer to the same question, in proc_pid_status(5).
func TestHeldByProcess(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
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
