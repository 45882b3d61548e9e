package bpf

import (
	"fmt"
	"runtime"
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

// asExporter calls f on a thread that has what the exporter has: an ordinary user's id, and RequiredCapabilities alone. The rest
// of the process stays root, and starts the workloads.
func asExporter(t *testing.T, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its goroutine
		err := becomeExporter()
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

const nobody = 65534

// becomeExporter changes the calling thread alone, unlike the functions of packages syscall and cap.
func becomeExporter() error {
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("keep capabilities: %w", err)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
		return fmt.Errorf("become nobody: %w", errno)
	}
	var data [2]unix.CapUserData
	for _, c := range RequiredCapabilities() {
		data[c/32].Effective |= 1 << (c % 32)
		data[c/32].Permitted |= 1 << (c % 32)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("keep the two alone: %w", err)
	}
	// A change of the user id takes this from the whole process.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("stay dumpable: %w", err)
	}
	return nil
}
