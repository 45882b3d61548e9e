package bpf

import (
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"
)

// TestHotplug takes a CPU away and gives it back, over and over, in the middle of a storm of checks: nothing is lost, and no counter
// goes back.
func TestHotplug(t *testing.T) {
	inGuest(t)
	const n, name = 500_000, "on-fewer-cpus"
	const online = "/sys/devices/system/cpu/cpu1/online"
	if _, err := os.Stat(online); err != nil {
		t.Skip("the machine has no second CPU that can go offline: ", err)
	}
	tr := openLive(t, Options{})
	t.Cleanup(func() { write(t, online, "1") })
	path := executable(t, name)
	done := make(chan error, 2)
	for range cap(done) {
		cmd := helper(path, "sethostname", strconv.Itoa(n))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func(cmd *exec.Cmd) { done <- cmd.Wait() }(cmd)
	}
	last, times := snapshot(t, tr), 0
	again := func() {
		s := snapshot(t, tr)
		neverBack(t, last, s)
		last = s
	}
	for running := cap(done); running > 0; times++ {
		for _, to := range []string{"0", "1"} {
			write(t, online, to)
			again()
			select {
			case err := <-done:
				if err != nil {
					t.Fatal(err)
				}
				running--
			case <-time.After(20 * time.Millisecond):
			}
			again()
		}
	}
	again()
	s := checkIdentities(t, tr)
	if got, made := by(s, name), uint64(cap(done)*n); short(got["21 granted host"], made, mayMiss(t, tr, s)) || total(got) != got["21 granted host"] {
		t.Errorf("asked for %v, want %d of CAP_SYS_ADMIN", got, made)
	}
	if times < 5 {
		t.Errorf("the CPU went and came back only %d times", times)
	}
	t.Logf("the CPU went and came back %d times in %d checks; %v counted, %d missed of all", times, cap(done)*n, by(s, name), s.MissedRuns)
}
