package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// callDenied is the helper that is denied something about a path by each kind of argument that may be one: denied DIR.
func callDenied(args []string) error {
	runtime.LockOSThread()
	name := []byte("named-itself\x00")
	if err := unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0, 0, 0); err != nil {
		return fmt.Errorf("prctl: %w", err)
	}
	in := func(name string) string { return filepath.Join(args[0], name) }
	if err := unix.Setresuid(nobody, 65533, 65533); err != nil {
		return fmt.Errorf("setresuid: %w", err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	for what, err := range map[string]error{
		"openat":   func() error { _, err := unix.Open(in("opened"), unix.O_RDONLY, 0); return err }(),
		"mkdirat":  unix.Mkdirat(unix.AT_FDCWD, in("made"), 0o755),
		"fchownat": unix.Fchownat(unix.AT_FDCWD, "/", 0, 0, 0),
		"bind":     unix.Bind(fd, &unix.SockaddrUnix{Name: in("bound")}),
		"linkat":   unix.Linkat(unix.AT_FDCWD, "/etc/passwd", unix.AT_FDCWD, in("linked"), 0),
	} {
		if !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("%s: %w, want to be denied", what, err)
		}
	}
	return nil
}

// TestAnnouncedCall: an announcement says which system call it was, what path that was given, and who the process is: to the machine,
// to itself, and in its own PID namespace.
func TestAnnouncedCall(t *testing.T) {
	const name = "calls"
	var mu sync.Mutex
	told := map[string]Announcement{}
	tr := openLive(t, Options{Announce: func(a Announcement) {
		if a.Process.Name == name && a.Denied && a.UID == nobody {
			mu.Lock()
			told[a.SyscallName] = a
			mu.Unlock()
		}
	}})
	if !tr.features.PtRegs {
		t.Skip("the kernel does not say which system call it is in (bpf_task_pt_regs, since 5.15)")
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := helper(executable(t, name), "denied", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}
	run(t, cmd)
	want := map[string]string{
		"openat": "opened", "mkdirat": "made", "bind": "bound", "linkat": "linked", "fchownat": "",
	}
	for range 300 {
		mu.Lock()
		n := len(told)
		mu.Unlock()
		if n >= len(want) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	mu.Lock()
	defer mu.Unlock()
	for call, name := range want {
		a, path := told[call], filepath.Join(dir, name)
		if name == "" {
			path = "/"
		}
		if a.Path != path || a.EUID != 65533 || a.Comm != "named-itself" || a.NSTGID != 1 || a.TGID < 2 {
			t.Errorf("%s: %+v, want the path %s, effective user id 65533, named-itself, and process 1 in its namespace", call, a, path)
		}
	}
	if a := told["fchownat"]; a.Capability != uint8(cap.CHOWN) {
		t.Errorf("fchownat: %s, want CAP_CHOWN", a.Check)
	}
}
