package bpf

import (
	"os"
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
	const most = 2 // at one time
	done := make(chan error, most)
	var made uint64
	storm := func() {
		made += n
		cmd := helper(path, "sethostname", strconv.Itoa(n))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func() { done <- cmd.Wait() }()
	}
	for range most {
		storm()
	}
	last, times := snapshot(t, tr), 0
	again := func() {
		s := snapshot(t, tr)
		neverBack(t, last, s)
		last = s
	}
	// A CPU may take seconds to come back among those who do nothing but ask.
	for running := most; running > 0; times++ {
		for _, to := range []string{"0", "1"} {
			write(t, online, to)
			again()
			select {
			case err := <-done:
				if err != nil {
					t.Fatal(err)
				}
				if times < 5 {
					storm()
				} else {
					running--
				}
			case <-time.After(20 * time.Millisecond):
			}
			again()
		}
	}
	again()
	s := checkIdentities(t, tr)
	if got := by(s, name); short(got["21 granted host"], made, mayMiss(t, tr, s)) || total(got) != got["21 granted host"] {
		t.Errorf("asked for %v, want %d of CAP_SYS_ADMIN", got, made)
	}
	t.Logf("the CPU went and came back %d times in %d checks; %v counted, %d missed of all", times, made, by(s, name), s.MissedRuns)
}
