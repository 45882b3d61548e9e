package bpf

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// An asideRow is what is called, with which capabilities alone, and what becomes of the checks of each call.
type asideRow struct {
	name    string
	keep    []cap.Value
	calls   []asideCall
	wants   []asideWants            // one of these: kernels differ
	prepare asideCall               // before the first, with those capabilities; it asks for nothing
	limited bool                    // by a user with limits of its own, which root has not
	inside  bool                    // in a user namespace
	give    func(*testing.T) []file // the row's files; none: the kernel cannot make them
	where   func(*testing.T) string // its directory, likewise; nil: one with a stranger's files
	skip    func(*testing.T)
	more    bool // beside another process, which holds more
	alike   bool // no kernel does it otherwise
	unseen  bool // by the witness, which knows system calls and nothing else
}

type (
	asideCall  func(dir string) error
	asideWants map[string]uint64 // by asideName: each as often as this, for each call; 0: once or more often
	file       interface{ Fd() uintptr }
)

// limited is a user who has nothing.
const limited = 54321

// What a row's directory holds beside a stranger's file.
const (
	closedDir    = "closed"
	groupFile    = "group"
	readableFile = "readable"
	writableFile = "writable"
	ownFile      = "own"
	pidFile      = "pid"
)

func makeAsideFiles(dir string) error {
	closed := filepath.Join(dir, closedDir)
	errs := []error{makeStrangersFile(dir), os.Mkdir(closed, 0o700), os.Chown(closed, stranger, stranger)}
	page := make([]byte, os.Getpagesize())
	for name, mode := range map[string]os.FileMode{groupFile: 0o644, readableFile: 0o644, writableFile: 0o666} {
		name = filepath.Join(dir, name)
		errs = append(errs, os.WriteFile(name, page, 0o600), os.Chmod(name, mode), os.Chown(name, stranger, stranger))
	}
	return errors.Join(append(errs, os.WriteFile(filepath.Join(dir, ownFile), nil, 0o600))...)
}

// openIn opens a file of the row's directory.
func openIn(name string, flags int) asideCall {
	return func(dir string) error {
		return closing(unix.Open(filepath.Join(dir, name), flags|unix.O_CLOEXEC, 0))
	}
}

// setOption makes a socket and sets one of its options.
func setOption(family, level, option, to int) asideCall {
	return func(string) error {
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.SetsockoptInt(fd, level, option, to)
	}
}

// mapFiles maps the first page of each file, one behind the other. Each is there at once: for MADV_PAGEOUT the kernel asks once more where
// the page has a table, which it else has only if something close by is mapped (madvise_cold_or_pageout_pte_range).
func mapFiles(use func(pages []byte) error, names ...string) asideCall {
	const flags = unix.MAP_SHARED | unix.MAP_FIXED | unix.MAP_POPULATE
	return func(dir string) error {
		size := os.Getpagesize()
		pages, err := unix.Mmap(-1, 0, len(names)*size, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Munmap(pages) }()
		for i, name := range names {
			fd, err := unix.Open(filepath.Join(dir, name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			at := uintptr(unsafe.Pointer(&pages[i*size]))
			_, _, errno := unix.RawSyscall6(unix.SYS_MMAP, at, uintptr(size), unix.PROT_READ, flags, uintptr(fd), 0)
			if err := unix.Close(fd); err != nil || errno != 0 {
				return errors.Join(err, errno)
			}
		}
		return use(pages)
	}
}

func mincore(pages []byte) error {
	var in [8]byte
	return syscall3(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&pages[0])), uintptr(len(pages)), uintptr(unsafe.Pointer(&in[0])))
}

func pageOut(pages []byte) error { return unix.Madvise(pages, unix.MADV_PAGEOUT) }

func cachestat(name string) asideCall {
	return func(dir string) error {
		fd, err := unix.Open(filepath.Join(dir, name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		var of [2]uint64
		var stat [5]uint64
		const number = 451 // on each architecture
		_, _, errno := unix.RawSyscall6(number, uintptr(fd), uintptr(unsafe.Pointer(&of)), uintptr(unsafe.Pointer(&stat)), 0, 0, 0)
		return errno
	}
}

func touch(name string) asideCall {
	return func(dir string) error {
		now := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
		return unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dir, name), now, 0)
	}
}

// dedupe has the kernel compare the first file that the row was given with another.
func dedupe(with int) asideCall {
	return func(string) error {
		return unix.IoctlFileDedupeRange(3, &unix.FileDedupeRange{Src_length: 1, Info: []unix.FileDedupeRangeInfo{{Dest_fd: int64(with)}}})
	}
}

// onOverlay gives a file whose file system knows of deduplication, and two of a stranger: one closed, one open to all.
func onOverlay(t *testing.T) []file {
	dir := t.TempDir()
	for _, name := range []string{"lower", "upper", "work", "all"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	all := filepath.Join(dir, "all")
	options := fmt.Sprintf("lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work", dir, dir, dir)
	if err := unix.Mount("overlay", all, "overlay", 0, options); err != nil {
		if os.Getenv("CAPABILITY_EXPORTER_GUEST") == "" {
			lacks(t, "no overlayfs here: ", err)
		}
		return nil
	}
	t.Cleanup(func() {
		if err := unix.Unmount(all, 0); err != nil {
			t.Error(err)
		}
	})
	open := func(dir, name string) file {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	if err := errors.Join(makeAsideFiles(dir), os.WriteFile(filepath.Join(all, "source"), []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	return []file{open(all, "source"), open(dir, filepath.Base(strangersFile(dir))), open(dir, writableFile)}
}

// onFull gives a directory on a file system of which no blocks are left but those for root.
func onFull(t *testing.T) string {
	dir := t.TempDir()
	image, all := filepath.Join(dir, "image"), filepath.Join(dir, "all")
	openToAll(t, dir)
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 4<<20), os.Mkdir(all, 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{
		{"mkfs.ext4", "-q", "-m", "50", "-O", "^has_journal", image},
		{"mount", "-t", "ext4", "-o", "loop,nodelalloc", image, all},
	} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			if os.Getenv("CAPABILITY_EXPORTER_GUEST") == "" {
				lacks(t, "no ext4 here: ", err, ": ", string(out))
			}
			return ""
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(all, 0); err != nil {
			t.Error(err)
		}
	})
	f, err := os.Create(filepath.Join(all, "full"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := (unix.Statfs_t{Bavail: 1}); s.Bavail != 0; {
		_, written := f.Write(make([]byte, s.Bsize))
		if err := errors.Join(written, unix.Statfs(all, &s)); err != nil {
			t.Fatal(err)
		}
	}
	more := filepath.Join(all, ownFile)
	if err := errors.Join(os.WriteFile(more, nil, 0o600), os.Chown(more, limited, limited)); err != nil {
		t.Fatal(err)
	}
	return all
}

func writeMore(dir string) error {
	fd, err := unix.Open(filepath.Join(dir, ownFile), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	_, err = unix.Write(fd, []byte{0})
	return errors.Join(err, unix.Close(fd))
}

// someProgram gives a BPF program.
func someProgram(t *testing.T) []file {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SocketFilter, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return []file{fdFile(p.FD())}
}

type fdFile uintptr

func (f fdFile) Fd() uintptr { return uintptr(f) }

func bpfCall(command int, attr *[16]uint32) error {
	fd, _, errno := unix.RawSyscall(unix.SYS_BPF, uintptr(command), uintptr(unsafe.Pointer(attr)), unsafe.Sizeof(*attr))
	if errno != 0 {
		return errno
	}
	if fd != 0 {
		return unix.Close(int(fd))
	}
	return nil
}

func makeMap(kind, key, value uint32) asideCall {
	return func(string) error { return bpfCall(unix.BPF_MAP_CREATE, &[16]uint32{kind, key, value, 1}) }
}

func describeProgram(string) error {
	var info [256]byte
	attr := [16]uint32{3, uint32(len(info))}
	*(*uint64)(unsafe.Pointer(&attr[2])) = uint64(uintptr(unsafe.Pointer(&info)))
	err := bpfCall(unix.BPF_OBJ_GET_INFO_BY_FD, &attr)
	runtime.KeepAlive(&info)
	return err
}

func perfEvent(pid, cpu int, bits uint64) error {
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_DUMMY, Bits: bits}
	attr.Size = uint32(unsafe.Sizeof(attr))
	return closing(unix.PerfEventOpen(&attr, pid, cpu, -1, unix.PERF_FLAG_FD_CLOEXEC))
}

func perfAll(string) error  { return perfEvent(-1, 0, 0) }
func perfSelf(string) error { return perfEvent(os.Getpid(), -1, unix.PerfBitExcludeKernel) }

// another is the process of a row's directory that holds more, see startAnother.
func another(dir string) int {
	content, err := os.ReadFile(filepath.Join(dir, pidFile))
	if err != nil {
		return -1
	}
	pid, err := strconv.Atoi(string(content))
	if err != nil {
		return -1
	}
	return pid
}

// startAnother starts a process that holds what the test does.
func startAnother(t *testing.T, dir string) {
	if err := os.WriteFile(filepath.Join(dir, pidFile), []byte(strconv.Itoa(startSleeper(t, nil))), 0o644); err != nil {
		t.Fatal(err)
	}
}

// startSleeper starts a process that does nothing until the test ends.
func startSleeper(t *testing.T, attr *syscall.SysProcAttr) (pid int) {
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = attr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}

func perfAnother(dir string) error { return perfEvent(another(dir), -1, unix.PerfBitExcludeKernel) }

func paranoid() bool {
	v, err := os.ReadFile("/proc/sys/kernel/perf_event_paranoid")
	return err == nil && v[0] > '2'
}

func notParanoid(t *testing.T) {
	if paranoid() {
		t.Skip("kernel.perf_event_paranoid is above 2: Debian's kernels then ask for CAP_SYS_ADMIN first")
	}
}

// environ opens another's environment.
func environ(dir string) error {
	return closing(unix.Open(fmt.Sprintf("/proc/%d/environ", another(dir)), unix.O_RDONLY|unix.O_CLOEXEC, 0))
}

// under makes a call with another limit.
func under(resource int, to uint64, call func() error) (err error) {
	var old unix.Rlimit
	if err := unix.Prlimit(0, resource, nil, &old); err != nil {
		return err
	}
	if err := unix.Prlimit(0, resource, &unix.Rlimit{Cur: to, Max: old.Max}, nil); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Prlimit(0, resource, &old, nil)) }()
	return call()
}

type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

func (a *cloneArgs) call() error {
	return syscall3(unix.SYS_CLONE3, uintptr(unsafe.Pointer(a)), unsafe.Sizeof(*a), 0)
}

// cloneAs asks for a process id that is taken, so that no process is made.
func cloneAs(string) error {
	pid := int32(os.Getpid())
	err := (&cloneArgs{exitSignal: uint64(unix.SIGCHLD), setTID: uint64(uintptr(unsafe.Pointer(&pid))), setTIDSize: 1}).call()
	runtime.KeepAlive(&pid)
	return err
}

// forkAtLimit makes one process too many, in a cgroup that there is not.
func forkAtLimit(string) error {
	args := cloneArgs{flags: unix.CLONE_INTO_CGROUP, exitSignal: uint64(unix.SIGCHLD), cgroup: 1 << 20}
	return under(unix.RLIMIT_NPROC, 0, args.call)
}

// usePipes takes all pages that a user may have in pipes (fs.pipe-user-pages-soft), with file descriptor 3 the smallest of them.
func usePipes(string) error {
	const small, large, most = 16, 256, 16384 // pages
	pipe := func() (int, error) {
		var ends [2]int
		err := unix.Pipe2(ends[:], unix.O_CLOEXEC)
		return ends[0], err
	}
	first, err := pipe()
	if err != nil {
		return err
	}
	if first != 3 {
		if err := unix.Dup3(first, 3, unix.O_CLOEXEC); err != nil {
			return err
		}
	}
	used := small
	for ; used+large <= most; used += large {
		fd, err := pipe()
		if err != nil {
			return err
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, large*os.Getpagesize()); err != nil {
			return err
		}
	}
	for ; used < most; used += small {
		if _, err := pipe(); err != nil {
			return err
		}
	}
	return nil
}

func pipesAreLimited(t *testing.T) {
	for name, want := range map[string]string{"pipe-user-pages-soft": "16384", "pipe-user-pages-hard": "0", "pipe-max-size": "1048576"} {
		if v, err := os.ReadFile("/proc/sys/fs/" + name); err != nil || strings.TrimSpace(string(v)) != want {
			t.Skipf("fs.%s is not %s: %s, %v", name, want, v, err)
		}
	}
}

func morePipes(string) error {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	return errors.Join(unix.Close(ends[0]), unix.Close(ends[1]))
}

// largePipe asks for a size that no user's limit is asked about.
func largePipe(string) error {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	_, err := unix.FcntlInt(uintptr(ends[0]), unix.F_SETPIPE_SZ, 1<<28)
	return errors.Join(err, unix.Close(ends[0]), unix.Close(ends[1]))
}

func growPipe(string) error {
	_, err := unix.FcntlInt(3, unix.F_SETPIPE_SZ, 32*os.Getpagesize())
	if err != nil {
		return err
	}
	_, err = unix.FcntlInt(3, unix.F_SETPIPE_SZ, 16*os.Getpagesize())
	return err
}

// sendFile sends a file to itself, through sockets of descriptors 3 and 4, and takes it out again but for the first.
func sendFile(string) error {
	err := under(unix.RLIMIT_NOFILE, 0, func() error { return unix.Sendmsg(3, []byte{0}, unix.UnixRights(3), nil, unix.MSG_DONTWAIT) })
	if err != nil {
		return err
	}
	var b [1]byte
	_, err = unix.Read(4, b[:])
	return err
}

func sendFirstFile(string) error {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	for i, fd := range ends { // in this order: a process that was given no files has the first two free
		if fd != 3+i {
			if err := unix.Dup3(fd, 3+i, unix.O_CLOEXEC); err != nil {
				return err
			}
		}
	}
	return unix.Sendmsg(3, []byte{0}, unix.UnixRights(3), nil, unix.MSG_DONTWAIT)
}

// markMessage gives one message the mark.
func markMessage(string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	control := make([]byte, unix.CmsgSpace(4))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	h.Level, h.Type = unix.SOL_SOCKET, unix.SO_MARK
	h.SetLen(unix.CmsgLen(4))
	control[unix.CmsgLen(0)] = 1
	return unix.Sendmsg(fd, []byte{0}, control, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{127, 0, 0, 1}}, 0)
}

// holdNothing has this thread give up what it holds. By libcap each of the process' would, of which there may be one more meanwhile.
func holdNothing(string) error {
	var none [2]unix.CapUserData
	return unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0])
}

// absentLink asks for a network link that there is not, which the kernel would load a module for.
func absentLink(string) error {
	return ofLink("absent0", func(fd int, r *unix.Ifreq) error { return unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, r) })
}

// setMTU asks for what only CAP_NET_ADMIN may do with a link.
func setMTU(string) error {
	return ofLink("lo", func(fd int, r *unix.Ifreq) error {
		r.SetUint32(65536)
		if err := unix.IoctlIfreq(fd, unix.SIOCSIFMTU, r); err != unix.EPERM {
			return fmt.Errorf("set the MTU of lo: %w, want EPERM", err)
		}
		return nil
	})
}

// ofLink does something by ioctl(2) with the network link of a name (netdevice(7)).
func ofLink(name string, do func(fd int, r *unix.Ifreq) error) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	return do(fd, r)
}

// netlinkMessage is one with nothing in it but zeros.
func netlinkMessage(kind, flags uint16, size int) []byte {
	m := make([]byte, unix.SizeofNlMsghdr+size)
	*(*unix.NlMsghdr)(unsafe.Pointer(&m[0])) = unix.NlMsghdr{Len: uint32(len(m)), Type: kind, Flags: flags}
	return m
}

// deleteLinkAsAnother makes two messages of one sendmmsg(2): that a network link be deleted, and one by another process.
func deleteLinkAsAnother(string) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	control := unix.UnixCredentials(&unix.Ucred{Pid: 1})
	type message struct {
		header unix.Msghdr
		_      uint32 // how much was sent
	}
	var messages [2]message
	var vectors [2]unix.Iovec
	bodies := [][]byte{netlinkMessage(unix.RTM_DELLINK, unix.NLM_F_REQUEST, unix.SizeofIfInfomsg), netlinkMessage(unix.NLMSG_NOOP, 0, 0)}
	for i, body := range bodies {
		vectors[i].Base = &body[0]
		vectors[i].SetLen(len(body))
		messages[i].header.Iov = &vectors[i]
		messages[i].header.SetIovlen(1)
	}
	messages[1].header.Control = &control[0]
	messages[1].header.SetControllen(len(control))
	_, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&messages)), 2, 0, 0, 0)
	return errno
}

// listSockets asks for the TCP sockets, as ss does.
func listSockets(string) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	const byFamily, size = 20, 56 // struct inet_diag_req_v2
	m := netlinkMessage(byFamily, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, size)
	body := m[unix.SizeofNlMsghdr:]
	body[0], body[1] = unix.AF_INET, unix.IPPROTO_TCP
	copy(body[4:8], []byte{0xff, 0xff, 0xff, 0xff})
	return unix.Sendto(fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// setFileCapability writes one as it is for all user namespaces.
func setFileCapability(dir string) error {
	data := make([]byte, 20) // struct vfs_cap_data
	data[3] = 2              // VFS_CAP_REVISION_2
	return unix.Setxattr(filepath.Join(dir, ownFile), "security.capability", data, 0)
}

// onAnother makes calls on a thread of its own. They are made while the caller waits.
func onAnother() func(asideCall) asideCall {
	type job struct {
		call asideCall
		dir  string
		done chan error
	}
	var jobs chan job
	return func(call asideCall) asideCall {
		return func(dir string) error {
			if jobs == nil {
				jobs = make(chan job)
				go func() {
					runtime.LockOSThread()
					for j := range jobs {
						j.done <- j.call(j.dir)
					}
				}()
			}
			done := make(chan error)
			jobs <- job{call, dir, done}
			return <-done
		}
	}
}

// byUring makes calls by an io_uring, which the first of them makes.
func byUring() func(func(u *uring, dir string) error) asideCall {
	var u *uring
	return func(call func(*uring, string) error) asideCall {
		return func(dir string) (err error) {
			if u == nil {
				if u, err = newUring(); err != nil {
					return err
				}
			}
			return call(u, dir)
		}
	}
}

// asideRows are real calls. The kernel asks for CAP_DAC_OVERRIDE at one and the same place whether a file is to be read or written, and
// only for the former after CAP_DAC_READ_SEARCH.
func asideRows() []asideRow {
	stranger0 := filepath.Base(strangersFile(""))
	read, write := openIn(stranger0, unix.O_RDONLY), openIn(stranger0, unix.O_WRONLY)
	list := openIn(closedDir, unix.O_RDONLY|unix.O_DIRECTORY)
	sethostname := func(string) error { return syscall3(unix.SYS_SETHOSTNAME, 0, ^uintptr(0), 0) }
	// CAP_NET_ADMIN, which is denied, by a function of its own.
	buffers := setOption(unix.AF_INET, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 4096)
	mark := setOption(unix.AF_INET, unix.SOL_SOCKET, unix.SO_MARK, 1)
	const realtime = 1 << 13
	ioprio := func(string) error { return syscall3(unix.SYS_IOPRIO_SET, 1, 0, realtime) }
	chmod := func(dir string) error { return unix.Chmod(filepath.Join(dir, groupFile), 0o2755) }
	own := func(uid, gid int) asideCall {
		return func(dir string) error { return unix.Chown(filepath.Join(dir, readableFile), uid, gid) }
	}
	klogctl := func(string) error { _, err := unix.Klogctl(9, nil); return err } // SYSLOG_ACTION_SIZE_UNREAD
	nice := func(string) error { return unix.Setpriority(unix.PRIO_PROCESS, 0, -1) }
	overcommit := func(string) error {
		m, err := unix.Mmap(-1, 0, 1<<16, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			return err
		}
		return unix.Munmap(m)
	}
	nextID := func(string) error {
		return closing(unix.Open("/proc/sys/kernel/msg_next_id", unix.O_RDONLY|unix.O_CLOEXEC, 0))
	}
	nextProgram := func(string) error { return bpfCall(unix.BPF_PROG_GET_NEXT_ID, &[16]uint32{}) }
	const transparent, transparent6 = 19, 75
	onThread, uringed := onAnother(), byUring()
	uringOpen := func(name string, openFlags uint32, flags uint8) asideCall {
		return uringed(func(u *uring, dir string) error { return u.open(filepath.Join(dir, name), openFlags, flags) })
	}
	uringEnviron := func(flags uint8) asideCall {
		return uringed(func(u *uring, dir string) error {
			return u.open(fmt.Sprintf("/proc/%d/environ", another(dir)), unix.O_RDONLY, flags)
		})
	}
	// A worker does it in any case.
	uringPageOut := func(name string) asideCall {
		return uringed(func(u *uring, dir string) error {
			return mapFiles(func(page []byte) error {
				return u.do(uringSQE{
					opcode: uringMadvise, addr: uint64(uintptr(unsafe.Pointer(&page[0]))), length: uint32(len(page)), openFlags: unix.MADV_PAGEOUT,
				})
			}, name)(dir)
		})
	}

	override, admin, netAdmin := []cap.Value{cap.DAC_OVERRIDE}, []cap.Value{cap.SYS_ADMIN}, []cap.Value{cap.NET_ADMIN}
	calls := func(c ...asideCall) []asideCall { return c }
	want := func(w ...asideWants) []asideWants { return w }
	netRaw := want(asideWants{"13 denied host": 1, "12 granted host after 13": 1})
	byOwner := want(asideWants{"3 denied host": 1, "1 granted host after 3": 1})
	resource := want(asideWants{"24 denied host": 1, "21 granted host after 24": 1})
	return []asideRow{
		{name: "read", keep: override, calls: calls(read), wants: want(asideWants{"2 denied host": 1, "1 granted host after 2": 1})},
		{name: "read-denied", alike: true, calls: calls(read), wants: want(asideWants{"2 denied host": 1, "1 denied host after 2": 1})},
		{name: "list", alike: true, keep: override, calls: calls(list),
			wants: want(asideWants{"2 denied host": 1, "1 granted host after 2": 1})},
		{name: "write", alike: true, keep: override, calls: calls(write), wants: want(asideWants{"1 granted host": 1})},
		{name: "read-and-write", keep: override, calls: []asideCall{read, write, write, read}, wants: want(asideWants{
			"2 denied host": 2, "1 granted host after 2": 2, "1 granted host": 2,
		})},
		{name: "checkpoint", keep: admin, calls: calls(cloneAs),
			wants: want(asideWants{"40 denied host": 1, "21 granted host after 40": 1})},
		{name: "checkpoint-denied", alike: true, calls: calls(cloneAs),
			wants: want(asideWants{"40 denied host": 1, "21 denied host after 40": 1})},
		{name: "ioprio", keep: []cap.Value{cap.SYS_NICE}, calls: calls(ioprio),
			wants: want(asideWants{"21 denied host": 1, "23 granted host after 21": 1})},
		{name: "mark", keep: netAdmin, calls: calls(mark), wants: netRaw},
		{name: "mark-denied", alike: true, calls: calls(mark),
			wants: want(asideWants{"13 denied host": 1, "12 denied host after 13": 1})},
		{name: "mark-message", keep: netAdmin, calls: calls(markMessage), wants: netRaw},
		{name: "priority", keep: netAdmin, calls: calls(setOption(unix.AF_INET, unix.SOL_SOCKET, unix.SO_PRIORITY, 7)), wants: netRaw},
		{name: "transparent", keep: netAdmin, calls: calls(setOption(unix.AF_INET, unix.SOL_IP, transparent, 1)), wants: netRaw},
		{name: "transparent6", keep: netAdmin, calls: calls(setOption(unix.AF_INET6, unix.SOL_IPV6, transparent6, 1)), wants: netRaw},
		{name: "module", calls: calls(absentLink), wants: want(asideWants{"12 denied host": 1, "16 denied host after 12": 1})},
		{name: "perf-all", keep: admin, calls: calls(perfAll), skip: notParanoid,
			wants: want(asideWants{"38 denied host": 0, "21 granted host after 38": 0})},
		{name: "fork", keep: admin, calls: calls(forkAtLimit), limited: true, wants: resource},
		{name: "pipe", keep: admin, calls: calls(morePipes), prepare: usePipes, limited: true, skip: pipesAreLimited, wants: resource},
		{name: "pipe-size", keep: admin, calls: calls(growPipe), prepare: usePipes, limited: true, skip: pipesAreLimited,
			wants: resource},
		{name: "files", keep: admin, calls: calls(sendFile), prepare: sendFirstFile, wants: resource},
		// A fallback up to 6.1.
		{name: "syslog", keep: admin, calls: calls(klogctl), wants: want(
			asideWants{"34 denied host": 1}, asideWants{"34 denied host": 1, "21 granted host after 34": 1},
		)},
		// Of one place, which asks for several, and up to 6.1 of two.
		{name: "maps", keep: admin, calls: calls(makeMap(unix.BPF_MAP_TYPE_LRU_HASH, 4, 8), makeMap(unix.BPF_MAP_TYPE_DEVMAP, 4, 4)),
			wants: want(
				asideWants{"39 denied host": 0, "21 granted host after 39": 0, "12 denied host": 1, "21 granted host after 12": 1},
				asideWants{"39 denied host": 0, "21 granted host after 39": 0, "12 denied host": 1},
			)},
		// By another function.
		{name: "mincore", keep: override, calls: calls(mapFiles(mincore, readableFile)), wants: byOwner},
		{name: "mincore-denied", alike: true, calls: calls(mapFiles(mincore, readableFile)),
			wants: want(asideWants{"3 denied host": 1, "1 denied host after 3": 1})},
		{name: "mincore-two", keep: override, calls: calls(mapFiles(mincore, writableFile, readableFile)), wants: want(asideWants{
			"3 denied host": 2, "1 granted host after 3": 1,
		})},
		{name: "pageout", keep: override, calls: calls(mapFiles(pageOut, readableFile)),
			wants: want(asideWants{"3 denied host": 0, "1 granted host after 3": 0})},
		{name: "cachestat", keep: override, calls: calls(cachestat(readableFile)),
			wants: append(want(asideWants{}), byOwner...)}, // since 6.5
		{name: "touch", keep: override, calls: calls(touch(readableFile)), wants: byOwner},
		{name: "dedupe", keep: override, calls: calls(dedupe(4)), give: onOverlay,
			wants: want(asideWants{"21 denied host": 1, "1 granted host after 21": 1})},
		{name: "perf-other", more: true, keep: []cap.Value{cap.SYS_PTRACE}, calls: calls(perfAnother), skip: notParanoid, wants: want(asideWants{
			"38 denied host": 1, "21 denied host after 38": 1, "19 granted host after 21 after 38": 1,
		})},
		{name: "perf-other-denied", more: true, alike: true, calls: calls(perfAnother), skip: notParanoid, wants: want(asideWants{
			"38 denied host": 1, "21 denied host after 38": 1, "19 denied host after 21 after 38": 1,
		})},
		{name: "environ", more: true, alike: true, keep: []cap.Value{cap.SYS_PTRACE}, calls: calls(environ),
			wants: want(asideWants{"19 granted host": 1})},
		// In 6.18, and not in 6.12.
		{name: "environ-perfmon", more: true, keep: []cap.Value{cap.PERFMON}, calls: calls(environ), wants: want(
			asideWants{"19 denied host": 1}, asideWants{"19 denied host": 1, "38 granted host after 19": 1},
		)},
		{name: "environ-admin", more: true, alike: true, keep: admin, calls: calls(environ), wants: want(
			asideWants{"19 denied host": 1}, asideWants{"19 denied host": 1, "38 denied host after 19": 1, "21 granted host after 38 after 19": 1},
		)},
		// In a worker of io_uring's, and in io_uring_enter(2).
		{name: "uring-pageout", unseen: true, keep: override, calls: calls(uringPageOut(readableFile)),
			wants: want(asideWants{"3 denied host": 0, "1 granted host after 3": 0})},
		{name: "uring-environ-worker", more: true, unseen: true, keep: []cap.Value{cap.PERFMON}, calls: calls(uringEnviron(uringAsync)), wants: want(
			asideWants{"19 denied host": 1}, asideWants{"19 denied host": 1, "38 granted host after 19": 1},
		)},
		{name: "uring-environ", more: true, unseen: true, keep: []cap.Value{cap.PERFMON}, calls: calls(uringEnviron(0)), wants: want(
			asideWants{"19 denied host": 0}, asideWants{"19 denied host": 0, "38 granted host after 19": 0},
		)},
		// What comes next is of another request.
		{name: "uring-pageout-and-write", unseen: true, alike: true, keep: override,
			calls: calls(uringPageOut(writableFile), uringOpen(stranger0, unix.O_WRONLY, uringAsync)),
			wants: want(asideWants{"3 denied host": 0, "1 granted host": 1})},
		{name: "uring-noatime-and-write", unseen: true, alike: true, keep: override,
			calls: calls(uringOpen(readableFile, unix.O_RDONLY|unix.O_NOATIME, uringAsync), uringOpen(stranger0, unix.O_WRONLY, uringAsync)),
			wants: want(asideWants{"3 denied host": 1, "1 granted host": 1})},
		// What comes next is of another function.
		{name: "unrelated", alike: true, keep: admin, calls: calls(buffers, sethostname),
			wants: want(asideWants{"12 denied host": 1, "21 granted host": 1})},
		// The first is asked for by a function that asks for another in its place only where the device is not there.
		{name: "mtu-and-hostname", alike: true, keep: admin, calls: calls(setMTU, sethostname),
			wants: want(asideWants{"12 denied host": 1, "21 granted host": 1})},
		{name: "in-between", alike: true, keep: admin, calls: []asideCall{cloneAs, sethostname, buffers, cloneAs}, wants: want(asideWants{
			"40 denied host": 2, "21 granted host after 40": 2, "21 granted host": 1, "12 denied host": 1,
		})},
		{name: "pipe-and-hostname", alike: true, keep: admin, calls: calls(largePipe, sethostname),
			wants: want(asideWants{"24 denied host": 1, "21 granted host": 1})},
		{name: "one-call", alike: true, keep: admin, calls: calls(deleteLinkAsAnother),
			wants: want(asideWants{"12 denied host": 1, "21 granted host": 1})},
		{name: "programs", keep: admin, calls: calls(nextProgram), wants: want(
			asideWants{"21 granted host": 1}, asideWants{"39 denied host": 1, "21 granted host after 39": 1, "21 granted host": 1},
		)},
		// Of the same one, which asks for other reasons, too.
		{name: "buffers-and-mark", alike: true, calls: calls(buffers, mark), wants: want(asideWants{
			"12 denied host": 1, "13 denied host": 1, "12 denied host after 13": 1,
		})},
		{name: "chown", alike: true, calls: calls(own(stranger+1, -1), own(-1, stranger+1)), wants: want(asideWants{"0 denied host": 2})},
		// Of the function that the kernel would ask by, in another system call.
		{name: "mincore-and-write", keep: override, calls: calls(mapFiles(mincore, readableFile), mapFiles(mincore, writableFile), write),
			wants: want(asideWants{
				"3 denied host": 2, "1 granted host after 3": 1, "1 granted host": 1,
			})},
		{name: "touch-and-write", alike: true, keep: override, calls: calls(touch(writableFile), write),
			wants: want(asideWants{"3 denied host": 1, "1 granted host": 1})},
		{name: "chmod-and-write", alike: true, keep: override, calls: calls(chmod, write),
			wants: want(asideWants{"3 denied host": 1, "1 granted host": 1})},
		{name: "noatime-and-write", alike: true, keep: override, calls: calls(openIn(readableFile, unix.O_RDONLY|unix.O_NOATIME), write),
			wants: want(asideWants{
				"3 denied host": 1, "1 granted host": 1,
			})},
		{name: "dedupe-and-write", alike: true, keep: override, calls: calls(dedupe(5), write), give: onOverlay,
			wants: want(asideWants{"21 denied host": 1, "1 granted host": 1})},
		{name: "perf-and-environ", more: true, alike: true, keep: []cap.Value{cap.SYS_PTRACE}, calls: calls(perfSelf, environ), skip: notParanoid,
			wants: want(asideWants{
				"38 denied host": 1, "21 denied host after 38": 1, "19 granted host": 1,
			})},
		// Of another thread.
		{name: "in-turn", alike: true, keep: override, calls: []asideCall{read, onThread(write), mapFiles(mincore, writableFile), onThread(write), read},
			wants: want(asideWants{
				"2 denied host": 2, "1 granted host after 2": 2, "3 denied host": 1, "1 granted host": 2,
			})},
		// Not audited.
		{name: "overcommit", alike: true, calls: calls(nice, overcommit), wants: want(asideWants{"23 denied host": 1})},
		{name: "no-audit", alike: true, calls: calls(cloneAs, nextID),
			wants: want(asideWants{"40 denied host": 1, "21 denied host after 40": 1})},
		// Denials that the kernel does not mind.
		{name: "capabilities", calls: calls(holdNothing), wants: want(asideWants{"8 denied host probe": 1})},
		{name: "set-group-id", keep: []cap.Value{cap.FOWNER}, calls: calls(chmod),
			wants: want(asideWants{"3 granted host": 1, "4 denied host probe": 0})},
		{name: "set-group-id-kept", alike: true, keep: []cap.Value{cap.FOWNER, cap.FSETID}, calls: calls(chmod),
			wants: want(asideWants{"3 granted host": 1, "4 granted host": 0})},
		{name: "file-capability", keep: []cap.Value{cap.SETFCAP}, calls: calls(setFileCapability), inside: true, wants: want(asideWants{
			"31 granted userns": 1, "31 denied host probe": 1,
		})},
		{name: "file-capability-denied", alike: true, calls: calls(setFileCapability), wants: want(asideWants{"31 denied host": 1})},
		{name: "reserved", calls: calls(writeMore), where: onFull, limited: true, wants: want(asideWants{"24 denied host probe": 0})},
		// Up to 6.1 each bpf(2) call asks beforehand.
		{name: "program", calls: calls(describeProgram), give: someProgram, wants: want(
			asideWants{"39 denied host probe": 1, "21 denied host after 39 probe": 1},
			asideWants{"39 denied host probe": 1, "21 denied host after 39 probe": 1, "39 denied host": 1, "21 denied host after 39": 1},
		)},
		// Where inet_diag is no module.
		{name: "sockets", calls: calls(listSockets), wants: want(asideWants{"12 denied host probe": 1}, asideWants{})},
	}
}
