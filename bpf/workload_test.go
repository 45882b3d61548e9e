package bpf

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// broadWorkload is what machines do all day, and some of what they do seldom. Whether each command succeeds does not matter.
const broadWorkload = `
ps auxww; ss -tanup; ls -lR /proc/self /sys/kernel; cat /proc/[0-9]*/stat /proc/[0-9]*/status /proc/[0-9]*/maps /proc/[0-9]*/io
setpriv --reuid 65534 --clear-groups sh -c 'ps auxww; sysctl -a; cat /proc/[0-9]*/stat /proc/[0-9]*/maps /proc/[0-9]*/environ /proc/kallsyms /etc/shadow; dmesg; ping -c1 127.0.0.1; mount -t tmpfs none /mnt; date -s now; ls -lR /etc /root /var/lib; nice -n -5 true; chown 0 /tmp; kill -0 1'
dmesg; sysctl -a; ping -c1 -w1 127.0.0.1
unshare -m sh -c 'mount -t tmpfs none /mnt && touch /mnt/x && mknod /mnt/null c 1 3 && setfattr -n trusted.x -v 1 /mnt/x; getfattr -d -m - /mnt/x; umount /mnt'
unshare -Ur sh -c 'id; mount -t tmpfs none /mnt; hostname x; chown 1 /tmp'
unshare -Urn sh -c 'ip link set lo up; ip addr; ss -tan; sysctl -a'
nice -n -5 true; renice -n -1 $$; chroot / true; hostname; date
echo 0 >/proc/self/oom_score_adj; echo -17 >/proc/self/oom_score_adj
for i in 1 2 3 4 5 6 7 8 9 10; do /bin/true; sh -c 'x=$(seq 1 2000)'; done
find /proc/[0-9]*/task /proc/[0-9]*/ns /proc/[0-9]*/fd; strace -f -o /dev/null true
tar cf /dev/null /etc; su -s /bin/sh nobody -c 'id'; bpftool prog; bpftool map
`

// work does all that the broad workload holds, as root, as nobody, and as root of a user namespace. In a guest most of the
// shell's commands are missing; the helper's system calls are the same everywhere.
func work(t *testing.T) {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", broadWorkload)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Dir = "/"
	_ = cmd.Run()
	dir := t.TempDir()
	openToAll(t, dir)
	if err := makeStrangersFile(dir); err != nil {
		t.Fatal(err)
	}
	broad := func() *exec.Cmd { return helper("/proc/self/exe", "broad", dir) }
	inNamespace := broad()
	inNamespace.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
	}
	for _, cmd := range []*exec.Cmd{broad(), asNobody(broad()), inNamespace} {
		run(t, cmd)
	}
}

// broadCalls is the helper that makes system calls which ask for something, with arguments that change nothing, and reads
// whatever procfs lets it: broad DIR, with a stranger's file in it.
func broadCalls(args []string) error {
	runtime.LockOSThread() // a thread may only change attributes of its own
	for range 10 {
		for _, call := range askingCalls(args[0]) {
			call()
		}
	}
	for range 200 {
		growMemory()
		growStack()
	}
	for range 3 {
		confine()
		if err := errors.Join(helper("/proc/self/exe", "sethostname").Run(), traceChild()); err != nil {
			return err
		}
	}
	readAll("/proc/sys")
	readAll("/proc/thread-self/net")
	readAll("/sys/kernel/security")
	pids, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	for _, pid := range pids {
		readAll(pid)
	}
	return nil
}

// readAll reads the beginning of each file that can be opened, a task's threads, descriptors and network aside.
func readAll(root string) {
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return fs.SkipDir
		case d.IsDir() && (d.Name() == "task" || d.Name() == "fd" || d.Name() == "fdinfo" || d.Name() == "net") && path != root:
			return fs.SkipDir
		case !d.Type().IsRegular():
			_, _ = os.Readlink(path)
			return nil
		}
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			return nil
		}
		defer unix.Close(fd)
		if name := d.Name(); name != "clear_refs" && !strings.HasSuffix(path, "/mem") {
			var buf [4096]byte
			_, _ = unix.Read(fd, buf[:])
		}
		return nil
	})
}

// growMemory is what asks for CAP_SYS_ADMIN on behalf of overcommit.
func growMemory() {
	mem, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return
	}
	_ = unix.Mprotect(mem, unix.PROT_READ|unix.PROT_WRITE)
	if more, err := unix.Mremap(mem, 2<<20, unix.MREMAP_MAYMOVE); err == nil {
		mem = more
	}
	_ = unix.Munmap(mem)
	brk, _, _ := unix.RawSyscall(unix.SYS_BRK, 0, 0, 0)
	unix.RawSyscall(unix.SYS_BRK, brk+1<<16, 0, 0)
	unix.RawSyscall(unix.SYS_BRK, brk, 0, 0)
}

// growStack touches the page below a mapping that grows downwards, as a stack does.
func growStack() {
	const size = 4 << 20
	room, err := unix.MmapPtr(-1, 0, nil, size, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return
	}
	page := uintptr(unix.Getpagesize())
	top := unsafe.Add(room, size-page)
	// The kernel keeps a gap between it and the next mapping below.
	_ = unix.MunmapPtr(room, size)
	if _, err := unix.MmapPtr(-1, 0, top, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_FIXED|unix.MAP_GROWSDOWN); err != nil {
		return
	}
	*(*byte)(unsafe.Add(top, -1)) = 1
	_ = unix.MunmapPtr(unsafe.Add(top, -int(page)), 2*page)
}

// confine puts a thread of its own into a Landlock domain that keeps it from making device nodes.
func confine() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with its domain
		attr := struct{ access uint64 }{unix.LANDLOCK_ACCESS_FS_MAKE_CHAR}
		ruleset, _, errno := unix.RawSyscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
		if errno == 0 {
			_, _, _ = unix.RawSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0, 0)
			_ = unix.Close(int(ruleset))
		}
	}()
	<-done
}

// traceChild starts a child under ptrace and reads a word of it once it is not dumpable any more, which takes CAP_SYS_PTRACE.
func traceChild() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	child := helper("/proc/self/exe", "traced")
	child.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := child.Start(); err != nil {
		return err
	}
	pid := child.Process.Pid
	// It stops when it has been executed, at signals of Go's own, and at its own SIGSTOP.
	for {
		var status unix.WaitStatus
		if _, err := unix.Wait4(pid, &status, 0, nil); err != nil || !status.Stopped() || status.StopSignal() == unix.SIGSTOP {
			break
		}
		if err := unix.PtraceCont(pid, 0); err != nil {
			break
		}
	}
	var word [8]byte
	_, _ = unix.PtracePeekData(pid, reflect.ValueOf(traceChild).Pointer(), word[:]) // at the same address in both
	_ = child.Process.Kill()
	_ = child.Wait()
	return nil
}

// beTraced is the helper that traceChild traces.
func beTraced([]string) error {
	return errors.Join(unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0), unix.Kill(os.Getpid(), unix.SIGSTOP))
}

func askingCalls(dir string) []func() {
	file := strangersFile(dir)
	byNumber := func(nr uintptr, args ...uintptr) func() {
		return func() {
			var a [6]uintptr
			copy(a[:], args)
			_, _, _ = unix.RawSyscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
		}
	}
	socket := func(domain, kind, proto int, options ...[3]int) func() {
		return func() {
			fd, err := unix.Socket(domain, kind, proto)
			if err != nil {
				return
			}
			defer unix.Close(fd)
			for _, o := range options {
				_ = unix.SetsockoptInt(fd, o[0], o[1], o[2])
			}
			filter := unix.SockFprog{Len: 1, Filter: &unix.SockFilter{Code: unix.BPF_RET}}
			_ = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &filter)
			_ = unix.Bind(fd, &unix.SockaddrInet4{Port: 777, Addr: [4]byte{127, 0, 0, 1}})
		}
	}
	empty, filter := []byte{0}, unix.SockFprog{Len: 1}
	nothing := uintptr(unsafe.Pointer(&empty[0]))
	closing := func(fd int, err error) {
		if err == nil {
			unix.Close(fd)
		}
	}
	return []func(){
		byNumber(unix.SYS_SETHOSTNAME, 0, ^uintptr(0)), byNumber(unix.SYS_SETDOMAINNAME, 0, ^uintptr(0)),
		byNumber(unix.SYS_SWAPON, nothing, 0), byNumber(unix.SYS_SWAPOFF, nothing), byNumber(unix.SYS_REBOOT),
		byNumber(unix.SYS_PIVOT_ROOT, nothing, nothing), byNumber(unix.SYS_INIT_MODULE, 0, 0, nothing),
		byNumber(unix.SYS_DELETE_MODULE, nothing, 0), byNumber(unix.SYS_SYSLOG, 9), byNumber(unix.SYS_VHANGUP + 1<<20),
		byNumber(unix.SYS_QUOTACTL, ^uintptr(0)), byNumber(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&filter))),
		byNumber(unix.SYS_UMOUNT2, nothing, 0), byNumber(unix.SYS_FSOPEN, nothing, 0), byNumber(unix.SYS_OPEN_TREE, nothing, nothing),
		byNumber(unix.SYS_FANOTIFY_INIT, 1<<30), byNumber(unix.SYS_LANDLOCK_RESTRICT_SELF, ^uintptr(0), 0),
		byNumber(unix.SYS_SETNS, ^uintptr(0)), byNumber(unix.SYS_OPEN_BY_HANDLE_AT, ^uintptr(99), nothing, 0),
		byNumber(unix.SYS_PROCESS_VM_READV, 1, nothing, 0, nothing, 0), byNumber(unix.SYS_KCMP, 1, 1, 0),
		byNumber(unix.SYS_IO_URING_SETUP, 1, 0), byNumber(unix.SYS_MIGRATE_PAGES, 1, 0, 0, 0), byNumber(unix.SYS_MOVE_PAGES, 1),
		byNumber(unix.SYS_SCHED_SETSCHEDULER, 0, 1, nothing), byNumber(unix.SYS_IOPRIO_SET, 1, 0, 1<<13),
		byNumber(unix.SYS_CAPSET), byNumber(unix.SYS_BPF, ^uintptr(0)), byNumber(unix.SYS_BPF, unix.BPF_MAP_GET_NEXT_ID, nothing, 1),
		byNumber(unix.SYS_USERFAULTFD, ^uintptr(0)), byNumber(unix.SYS_MLOCK, 1<<20, 1), byNumber(unix.SYS_PTRACE, unix.PTRACE_SEIZE, 1),
		func() { closing(unix.FanotifyInit(unix.FAN_CLASS_NOTIF, unix.O_RDONLY)) },
		func() { closing(unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_REPORT_FID, unix.O_RDONLY)) },
		func() { closing(unix.TimerfdCreate(unix.CLOCK_BOOTTIME_ALARM, 0)) },
		func() { closing(unix.Open(file, unix.O_RDONLY, 0)) },
		func() { closing(unix.Open(dir, unix.O_RDONLY|unix.O_NOATIME, 0)) },
		func() { _ = unix.Chmod(file, 0o600) },
		func() { _ = unix.Chown(file, stranger, -1) },
		func() { _ = unix.Utimes(file, []unix.Timeval{{}, {}}) },
		func() { _ = unix.Setxattr(file, "trusted.x", nil, unix.XATTR_REPLACE) },
		func() { _ = unix.Setxattr(file, "security.x", nil, unix.XATTR_REPLACE) },
		func() { _, _ = unix.Listxattr(file, nil) },
		func() { _ = unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR, int(unix.Mkdev(1, 3))) },
		func() { _ = unix.Mount("", dir, "", unix.MS_REMOUNT, "") },
		func() { _ = unix.Chroot("/") },
		func() { _ = unix.Setpriority(unix.PRIO_PROCESS, 0, -1) },
		func() { _ = unix.Kill(1, 0) },
		func() { _ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Max: 1}) },
		func() { _ = unix.Prlimit(1, unix.RLIMIT_CORE, nil, &unix.Rlimit{}) },
		func() { _ = unix.Prctl(unix.PR_CAPBSET_DROP, 63, 0, 0, 0) },
		func() { _ = unix.Prctl(unix.PR_SET_SECUREBITS, ^uintptr(0), 0, 0, 0) },
		func() { _ = unix.Prctl(unix.PR_SET_MM, ^uintptr(0), 0, 0, 0) },
		func() { _ = unix.Setxattr(file, "security.selinux", []byte("no-such-context"), unix.XATTR_REPLACE) },
		func() { _, _ = unix.Getxattr(file, "security.selinux", nil) },
		func() { _ = os.WriteFile("/proc/thread-self/attr/fscreate", []byte("no-such-context"), 0) },
		func() { _ = os.WriteFile("/proc/self/oom_score_adj", []byte("0"), 0) },
		func() { _ = os.WriteFile("/sys/kernel/security/apparmor/.remove", []byte("no-such-profile"), 0) },
		func() {
			_ = os.WriteFile("/proc/thread-self/attr/apparmor/current", []byte("changeprofile unconfined"), 0)
		},
		func() { _, _ = unix.PerfEventOpen(&unix.PerfEventAttr{Size: 1}, -1, 0, -1, 0) },
		socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP), socket(unix.AF_PACKET, unix.SOCK_RAW, 0),
		socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE, [3]int{unix.SOL_NETLINK, unix.NETLINK_LISTEN_ALL_NSID, 1}),
		socket(unix.AF_INET, unix.SOCK_STREAM, 0, [3]int{unix.SOL_SOCKET, unix.SO_MARK, 0}, [3]int{unix.SOL_SOCKET, unix.SO_PRIORITY, 7},
			[3]int{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4096}, [3]int{unix.SOL_SOCKET, unix.SO_DEBUG, 0},
			[3]int{unix.SOL_IP, unix.IP_TRANSPARENT, 1}, [3]int{unix.SOL_SOCKET, unix.SO_BUSY_POLL, 1 << 20}),
	}
}
