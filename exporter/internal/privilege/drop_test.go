package privilege

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// role names the variable that makes this test binary the program that drops
// its privileges, started as one of the following.
const role = "CAPABILITY_EXPORTER_TEST_ROLE"

const (
	asRoot      = "root"
	unbounded   = "unbounded"    // as root, without CAP_SETPCAP: the bounding set stays
	unraised    = "unraised"     // as root, with nothing effective
	notDumpable = "not dumpable" // as root, as execve(2) of a file with capabilities leaves it
	oddThread   = "odd thread"   // this thread has nothing to give up, another has all of root's
	withoutProc = "without /proc"
	inGroups    = "in groups" // as root, in groups besides, and with a real user that is not root
	stays       = "stays"     // as root, which it shall stay
	bound       = "bound"     // as root, without CAP_SETUID
	rest        = "rest"      // as root, and then gives up the rest
	savedAlone  = "saved"     // as another user, who can become root again
)

// ordinary is whom the programs become.
func ordinary() User { return User{UID: 12345, GID: 54321} }

// TestDrop has programs of their own drop all of root's privileges.
func TestDrop(t *testing.T) {
	needsRoot(t)
	type plain Status // without its String
	for as, bounding := range map[string]uint64{asRoot: 0, unbounded: own(t).Bounding, unraised: 0, notDumpable: 0, inGroups: 0, stays: 0, rest: 0} {
		t.Run(as, func(t *testing.T) {
			status := Status{Permitted: bothMask, Effective: bothMask, Bounding: bounding, NoNewPrivs: true, Seccomp: own(t).Seccomp}
			if as == rest {
				status.Permitted, status.Effective = 0, 0
			}
			if as == stays {
				status.Groups = own(t).Groups
			} else {
				status.UIDs, status.GIDs = [4]uint32{12345, 12345, 12345, 12345}, [4]uint32{54321, 54321, 54321, 54321}
			}
			wanted := fmt.Sprintf("%+v", plain(status))
			out, err := dropping(t, as)
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			lines := strings.Split(strings.TrimSpace(out), "\n")
			if len(lines) < 4 {
				t.Fatalf("%d threads, a Go program has more:\n%s", len(lines)-1, out)
			}
			for _, line := range lines[1:] {
				if line != wanted {
					t.Errorf("a thread has %s, want %s", line, wanted)
				}
			}
			if want := fmt.Sprint("dumpable ", dumpableHere(t)); lines[0] != want {
				t.Errorf("it is %s, want %s", lines[0], want)
			}
		})
	}
}

// dumpableHere is 1 where file descriptors are counted by listing them.
func dumpableHere(t *testing.T) int {
	t.Helper()
	folder, err := os.Stat("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	if folder.Size() == 0 {
		return 1
	}
	return 0
}

func TestSetDumpable(t *testing.T) {
	t.Cleanup(func() {
		if err := setDumpable("/proc/self/fdinfo"); err != nil {
			t.Error(err)
		}
	})
	for folder, want := range map[string]int{
		"/proc/self/fdinfo": 1, // whose size no kernel tells
		t.TempDir():         0,
	} {
		if err := setDumpable(folder); err != nil {
			t.Fatal(err)
		}
		if got, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || got != want {
			t.Errorf("%s: dumpable %d, %v", folder, got, err)
		}
	}
	if err := setDumpable(filepath.Join(t.TempDir(), "gone")); err == nil {
		t.Error("without /proc it is not known what to do, and nothing is said")
	}
}

// TestDropActsOnItsVerdict has Drop find nothing to give up on its own thread,
// while another one still has all of root's. Libcap keeps the threads of a Go
// program alike, so that only a library that goes its own way can bring this
// about; then the program must not run, nor where it cannot see its threads.
func TestDropActsOnItsVerdict(t *testing.T) {
	needsRoot(t)
	for as, want := range map[string]string{
		oddThread:   "refusing to run with other privileges than intended: thread ",
		withoutProc: "is /proc mounted?",
		bound:       "started as root, without CAP_SETUID to become the user 12345:54321\n",
		savedAlone:  "--privileges.user=0",
	} {
		t.Run(as, func(t *testing.T) {
			if out, err := dropping(t, as); err == nil || !strings.Contains(out, want) {
				t.Errorf("ended with %v, want it to say %q:\n%s", err, want, out)
			}
		})
	}
}

func needsRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("CI must run this as root")
	}
	t.Skip("needs root, to have something to give up")
}

// dropping returns what the program in a role prints.
func dropping(t *testing.T, as string) (string, error) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	if as == withoutProc {
		cmd = exec.Command("unshare", "--mount", "sh", "-c", `mount -t tmpfs none /proc && exec "$0"`, self)
	}
	cmd.Env = append(os.Environ(), role+"="+as)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// dropAs is the program in a role.
func dropAs(as string) error {
	runtime.LockOSThread()
	hold, held := make(chan struct{}), make(chan struct{})
	go func() { // a thread that is not this one
		runtime.LockOSThread()
		close(held)
		<-hold
	}()
	<-held
	defer close(hold)
	if err := prepare(as); err != nil {
		return fmt.Errorf("preparing the test: %w", err)
	}
	to := ordinary()
	if as == stays || as == oddThread {
		to = User{}
	}
	if _, err := Drop(to); err != nil {
		return err
	}

	if as == rest {
		if err := DropRest(); err != nil {
			return err
		}
		if err := getBack(); err != nil {
			return err
		}
	}

	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil {
		return err
	}
	fmt.Println("dumpable", dumpable)
	paths, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil {
		return err
	}
	for _, path := range paths {
		status, err := ReadStatus(path)
		if err != nil {
			return err
		}
		type plain Status // without its String
		fmt.Printf("%+v\n", plain(status))
	}
	return nil
}

// getBack fails if somebody who has taken over the process can load a program,
// or can have a capability or root again.
func getBack() error {
	instructions := [2]uint64{0xb7, 0x95} // r0 = 0; exit
	license := [4]byte{'G', 'P', 'L'}
	attr := struct {
		kind, count       uint32
		program, license  uint64
		level, size       uint32
		log               uint64
		version, flags    uint32
		name              [16]byte
		ifindex, expected uint32
	}{kind: unix.BPF_PROG_TYPE_SOCKET_FILTER, count: 2, program: uint64(uintptr(unsafe.Pointer(&instructions))), license: uint64(uintptr(unsafe.Pointer(&license)))}
	for kind := attr.kind; kind <= unix.BPF_PROG_TYPE_TRACING; kind++ {
		if kind == unix.BPF_PROG_TYPE_SOCKET_FILTER || kind == unix.BPF_PROG_TYPE_CGROUP_SKB {
			continue // which are for everybody, if the machine is set up so
		}
		attr.kind = kind
		_, _, errno := unix.RawSyscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
		if errno != unix.EPERM {
			return fmt.Errorf("loading a program of type %d: %w", kind, errno)
		}
	}
	runtime.KeepAlive(&instructions)
	runtime.KeepAlive(&license)
	set := cap.NewSet()
	if err := errors.Join(set.SetFlag(cap.Permitted, true, cap.BPF), set.SetProc()); !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("having CAP_BPF again: %w", err)
	}
	if err := syscall.Setuid(0); !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("being root again: %w", err)
	}
	return nil
}

func prepare(as string) error {
	switch as {
	case unbounded:
		most := cap.GetProc()
		return errors.Join(most.SetFlag(cap.Permitted, false, cap.SETPCAP), most.SetFlag(cap.Effective, false, cap.SETPCAP), most.SetProc())
	case unraised:
		all := cap.GetProc()
		return errors.Join(all.ClearFlag(cap.Effective), all.SetProc())
	case notDumpable:
		return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	case inGroups:
		return errors.Join(syscall.Setgroups([]int{4, 24}), syscall.Setresgid(0, 7, 0), syscall.Setresuid(1000, 0, 1000))
	case bound:
		most := cap.GetProc()
		return errors.Join(most.SetFlag(cap.Permitted, false, cap.SETUID), most.SetFlag(cap.Effective, false, cap.SETUID), most.SetProc())
	case savedAlone:
		return errors.Join(syscall.Setresuid(1000, 1000, 0), cap.NewSet().SetProc())
	case oddThread:
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3} // this thread alone
		sets := [2]unix.CapUserData{1: {Effective: bothMask >> 32, Permitted: bothMask >> 32}}
		return unix.Capset(&header, &sets[0])
	}
	return nil
}

// own is what the thread that runs the test holds, and with it all others.
func own(t *testing.T) Status {
	t.Helper()
	status, err := ReadStatus("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	return status
}

const ownThreads = "/proc/self/task"

func TestCheckThreads(t *testing.T) {
	status := own(t)
	if err := checkThreads(ownThreads, status); err != nil {
		t.Errorf("what they hold is not what they hold: %v", err)
	}
	other := status
	other.Seccomp = 2 - status.Seccomp // a container's filter stays
	if err := checkThreads(ownThreads, other); err != nil {
		t.Errorf("refused for its seccomp mode: %v", err)
	}
	for name, change := range map[string]func(*Status){
		"inheritable":  func(s *Status) { s.Inheritable ^= 1 },
		"permitted":    func(s *Status) { s.Permitted ^= 1 },
		"effective":    func(s *Status) { s.Effective ^= 1 },
		"bounding":     func(s *Status) { s.Bounding ^= 1 },
		"ambient":      func(s *Status) { s.Ambient ^= 1 },
		"no_new_privs": func(s *Status) { s.NoNewPrivs = !s.NoNewPrivs },
		"saved uid":    func(s *Status) { s.UIDs[2] ^= 1 },
		"saved gid":    func(s *Status) { s.GIDs[2] ^= 1 },
		"groups":       func(s *Status) { s.Groups += " 1" },
	} {
		want := status
		change(&want)
		if err := checkThreads(ownThreads, want); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%v, want %v", status, want)) {
			t.Errorf("another %s than wanted: %v", name, err)
		}
	}
}

// A thread may end at any time, and then holds nothing; one that cannot be read
// for another reason may hold anything.
func TestCheckThreadsThatCannotBeRead(t *testing.T) {
	folder := t.TempDir()
	if err := os.Mkdir(filepath.Join(folder, "1"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := checkThreads(folder, Status{}); err != nil {
		t.Errorf("a thread that has ended: %v", err)
	}
	if err := os.WriteFile(filepath.Join(folder, "1", "status"), []byte("CapPrm:\tnonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := checkThreads(folder, Status{}); err == nil {
		t.Error("nonsense passed")
	}
}

func TestStatusIsReadable(t *testing.T) {
	s := Status{Permitted: bothMask, Effective: 1 << unix.CAP_BPF, Inheritable: 1 << unix.CAP_CHOWN, Bounding: fullMask, NoNewPrivs: true,
		UIDs: [4]uint32{1, 2, 3, 4}, GIDs: [4]uint32{5, 6, 7, 8}, Groups: "9 10"}
	const want = "uid [1 2 3 4], gid [5 6 7 8], groups [9 10], permitted CAP_PERFMON and CAP_BPF, effective CAP_BPF, inheritable CAP_CHOWN, ambient none, bounding 0x1ffffffffff, no_new_privs true"
	if got := s.String(); got != want {
		t.Errorf("%s, want\n%s", got, want)
	}
	if got, want := capabilityNames(1<<unix.CAP_SYS_ADMIN|bothMask), "CAP_SYS_ADMIN, CAP_PERFMON and CAP_BPF"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestObserve(t *testing.T) {
	found, err := observe()
	if err != nil {
		t.Fatal(err)
	}
	namespace, err := os.Readlink("/proc/self/ns/user")
	if err != nil {
		t.Fatal(err)
	}
	if found.Status != own(t) || found.userNamespace != namespace || found.fileCaps != 0 {
		t.Errorf("observed %+v", found)
	}
}

// The kernel's number for it, PROC_USER_INIT_INO, is a part of its interface.
func TestInitialUserNamespace(t *testing.T) {
	if want := fmt.Sprintf("user:[%d]", 0xEFFFFFFD); initialUserNamespace != want {
		t.Errorf("%s, want %s", initialUserNamespace, want)
	}
}

// Where no filter stands before bpf(2), the call gets to the kernel, and no
// further than to its first look at the arguments.
func TestProbe(t *testing.T) {
	if own(t).Seccomp != 0 {
		t.Skip("a seccomp filter may stand before bpf(2)")
	}
	if got := probeBPF(); got != unix.E2BIG {
		t.Errorf("answered %v, want %v", got, unix.E2BIG)
	}
}

func TestSecurityModules(t *testing.T) {
	dir := t.TempDir()
	if got := securityModules(dir); got != "" {
		t.Errorf("nothing is told, but said: %q", got)
	}
	for name, content := range map[string]string{"lsm": "lockdown,yama,apparmor,bpf", "lockdown": "none integrity [confidentiality]\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const want = " (lsm: lockdown,yama,apparmor,bpf, lockdown: none integrity [confidentiality])"
	if got := securityModules(dir); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
