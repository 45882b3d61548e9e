package confine

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// role names the variable that makes this test binary the program that confines
// itself; it holds the one folder that it may read, in which there is one that
// it may list, and beside it one of which it may do neither.
const role = "CAPABILITY_EXPORTER_TEST_CONFINED"

// attempts are what a confined process tries, in this order.
func attempts(folder string) []struct {
	name string
	try  func() error
} {
	call := func(number, a, b uintptr) func() error {
		return func() error {
			if _, _, errno := unix.Syscall(number, a, b, 0); errno != 0 {
				return errno
			}
			return nil
		}
	}
	open := func(path string, flags int) func() error {
		return func() error {
			file, err := os.OpenFile(path, flags, 0o600)
			if err == nil {
				file.Close()
			}
			return err
		}
	}
	return []struct {
		name string
		try  func() error
	}{
		{"read", open(filepath.Join(folder, "file"), os.O_RDONLY)},
		{"list", func() error { _, err := os.ReadDir(folder); return err }},
		{"thread", exercise},
		{"write", open(filepath.Join(folder, "file"), os.O_WRONLY)},
		{"make", open(filepath.Join(folder, "new"), os.O_RDONLY|os.O_CREATE)},
		{"truncate", open(filepath.Join(folder, "file"), os.O_RDONLY|os.O_TRUNC)},
		{"unlink", func() error { return unix.Unlink(filepath.Join(folder, "file")) }},
		{"socket", func() error { _, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0); return err }},
		{"dial", func() error { _, err := net.Dial("tcp", "127.0.0.1:1"); return err }},
		{"execute", func() error { return syscall.Exec("/bin/true", []string{"true"}, nil) }},
		{"fork", call(unix.SYS_CLONE, unix.CLONE_SIGHAND, 0)}, // which the kernel itself finds invalid
		{"load a program", call(unix.SYS_BPF, unix.BPF_PROG_LOAD, 0)},
		{"make a map", call(unix.SYS_BPF, unix.BPF_MAP_CREATE, 0)},
		{"attach", call(unix.SYS_BPF, unix.BPF_LINK_CREATE, 0)},
		{"trace", call(unix.SYS_PTRACE, unix.PTRACE_ATTACH, 1)},
		{"signal another", call(unix.SYS_TGKILL, 1, 1)},
		{"signal all", call(unix.SYS_KILL, ^uintptr(0), 0)},
		{"be dumped", call(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 1)},
		{"code", func() error {
			_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE)
			return err
		}},
		{"change capabilities", call(unix.SYS_CAPSET, 0, 0)},
		{"io_uring", call(unix.SYS_IO_URING_SETUP, 1, 0)},
		{"a namespace", call(unix.SYS_UNSHARE, unix.CLONE_NEWUSER, 0)},
		{"read elsewhere", open("/etc/passwd", os.O_RDONLY)},
		{"list a folder of names", func() error { _, err := os.ReadDir(folder + "-names"); return err }},
		{"read in a folder of names", open(filepath.Join(folder+"-names", "file"), os.O_RDONLY)},
		{"list elsewhere", func() error { _, err := os.ReadDir("/etc"); return err }},
	}
}

// exercise has Go start threads.
func exercise() error {
	done := make(chan struct{})
	for range 20 {
		go func() {
			_ = unix.Nanosleep(&unix.Timespec{Nsec: 1e6}, nil)
			done <- struct{}{}
		}()
	}
	for range 20 {
		<-done
	}
	return checkThreads("/proc/self/task")
}

func tryAll(folder string) []string {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return []string{err.Error()}
	}
	_, _ = os.ReadFile("/proc/self/status") // starts what Go waits with, as a listener has done
	if err := Confine(Files{Read: []string{folder, "/proc"}, List: []string{folder + "-names", folder + "-none"}}, slog.New(slog.NewTextHandler(os.Stdout, nil))); err != nil {
		return []string{err.Error()}
	}
	var lines []string
	for _, attempt := range attempts(folder) {
		answer := "done"
		switch err := attempt.try(); {
		case errors.Is(err, unix.EPERM):
			answer = "EPERM"
		case errors.Is(err, unix.EACCES):
			answer = "EACCES"
		case err != nil:
			answer = err.Error()
		}
		lines = append(lines, attempt.name+": "+answer)
	}
	return lines
}

// TestConfine has a program of its own, without privileges, try what a stolen
// one might.
func TestConfine(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "folder")
	for _, dir := range []string{folder, folder + "-names"} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), role+"="+folder)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	abi, err := ll.LandlockGetABIVersion()
	if err != nil || abi <= 0 {
		abi = 0
		t.Log("the kernel has no Landlock:", err)
	}
	for _, attempt := range attempts(folder) {
		want := "EPERM"
		switch attempt.name {
		case "read", "list", "thread", "list a folder of names":
			want = "done"
		case "read elsewhere", "read in a folder of names", "list elsewhere":
			want = "EACCES"
			if abi == 0 {
				want = "done"
			}
		}
		if !strings.Contains(string(out), "\n"+attempt.name+": "+want+"\n") {
			t.Errorf("%s: want %s", attempt.name, want)
		}
	}
	if t.Failed() {
		t.Logf("%s", out)
	}
}

// TestListed: each name is known wherever the exporter runs, and stands once;
// and each condition is of a call that passes.
func TestListed(t *testing.T) {
	run, start := calls(listed, "run"), calls(listed, "start")
	all := slices.Sorted(slices.Values(slices.Concat(run, start)))
	if len(run) < 20 || len(start) < 5 || len(slices.Compact(slices.Clone(all))) != len(all) {
		t.Errorf("%d and %d, or one of them twice: %q", len(run), len(start), all)
	}
	for _, machine := range []*arch.Info{arch.X86_64, arch.AARCH64} {
		p, err := policy(machine, listed)
		if err != nil {
			t.Fatal(err)
		}
		if own, err := arch.GetInfo(""); err != nil || own != machine {
			continue // the library assembles for the machine that it runs on
		}
		if _, err := p.Assemble(); err != nil {
			t.Error(err)
		}
	}
	for name := range conditions() {
		if !slices.Contains(run, name) {
			t.Errorf("%s passes with no argument", name)
		}
	}
	if _, err := policy(arch.X86_64, "[run]\nno_such_call\n"); err == nil {
		t.Error("a name that is misspelled is passed over")
	}
	for _, name := range []string{"execve", "execveat", "ptrace", "socket", "connect", "bind", "listen", "capset", "clone3", "fork", "vfork", "kill",
		"openat2", "open", "creat", "unlinkat", "mount", "io_uring_setup", "process_vm_readv", "pidfd_getfd", "setuid", "unshare", "setns", "seccomp"} {
		if slices.Contains(run, name) {
			t.Errorf("%s passes the filter", name)
		}
	}
}

func TestCheckThreads(t *testing.T) {
	folder := t.TempDir()
	if err := os.Mkdir(filepath.Join(folder, "1"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := checkThreads(folder); err != nil {
		t.Errorf("a thread that has ended: %v", err)
	}
	for status, ok := range map[string]bool{"Seccomp:\t2": true, "Seccomp:\t0": false, "Seccomp_filters:\t2": false} {
		if err := os.WriteFile(filepath.Join(folder, "1", "status"), []byte("NoNewPrivs:\t1\n"+status+"\nx\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := checkThreads(folder); (err == nil) != ok {
			t.Errorf("%s: %v", status, err)
		}
	}
}
