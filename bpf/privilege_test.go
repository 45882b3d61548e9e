package bpf

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

func TestRequiredCapabilities(t *testing.T) {
	// The numbers are the kernel's own, from linux/capability.h.
	want := []cap.Value{unix.CAP_BPF, unix.CAP_PERFMON}
	if got := RequiredCapabilities(); !slices.Equal(got, want) {
		t.Errorf("RequiredCapabilities() = %v, want %v", got, want)
	}

	RequiredCapabilities()[0] = cap.SYS_ADMIN
	if got := RequiredCapabilities(); !slices.Equal(got, want) {
		t.Errorf("a caller's change reached the next caller: %v", got)
	}
}
