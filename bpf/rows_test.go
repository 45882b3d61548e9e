package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"capability_exporter/bpf/internal/source"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// A row is one system call and the checks it makes, with only the capabilities it needs and with none.
type row struct {
	name          string
	call          func(dir string, i int) error // made n times, in a folder that holds a stranger's file
	keep          []cap.Value
	with, without []want
	// What the call returns. The kernel often looks at the capability before all else, so that an error other than EPERM
	// shows that it was granted, and nothing is changed.
	withErr, withoutErr error
	skip                func(*testing.T) // where the kernel does not ask
	fallback            bool             // kernels without the tracepoint may ask for CAP_SYS_ADMIN once that was denied
	// The compiler may have inlined cap_capable into the caller, and then fexit does not see it (Debian's 5.10 to 6.12).
	inlined bool
	also    []string // where the same is asked besides: for another reason, or by the helper's own capset(2)
}

// A want is one check that each call makes.
type want struct {
	cap     cap.Value
	denied  bool
	noAudit bool
	times   uint64   // by each call; 0: once
	sites   []string // the newest kernel's on amd64, and what others have in its place: vm/sites says which, and why
}

func granted(c cap.Value, sites ...string) want { return want{cap: c, sites: sites} }
func denied(c cap.Value, sites ...string) want  { return want{cap: c, denied: true, sites: sites} }
func silent(w want) want                        { w.noAudit = true; return w }
func times(n uint64, w want) want               { w.times = n; return w }

func syscall3(nr, a, b, c uintptr) error {
	if _, _, errno := unix.RawSyscall(nr, a, b, c); errno != 0 {
		return errno
	}
	return nil
}

func closing(fd int, err error) error {
	if err == nil {
		err = unix.Close(fd)
	}
	return err
}

// rtnetlink sends one request, and returns what it is answered.
func rtnetlink(kind uint16, body []byte) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	request = binary.NativeEndian.AppendUint16(request, kind)
	request = binary.NativeEndian.AppendUint16(request, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	request = append(append(request, make([]byte, 8)...), body...)
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	n, err := unix.Read(fd, answer)
	if err != nil {
		return err
	}
	if n < unix.SizeofNlMsghdr+4 {
		return fmt.Errorf("an answer of %d bytes", n)
	}
	if errno := -int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); errno != 0 {
		return syscall.Errno(errno)
	}
	return nil
}

const stranger = 1000 // a user id that no row's process has

// strangersFile is in the folder that each row is given: a file of another's, closed to everybody else.
func strangersFile(dir string) string { return filepath.Join(dir, "file") }

func makeStrangersFile(dir string) error {
	name := strangersFile(dir)
	return errors.Join(os.WriteFile(name, nil, 0o600), os.Chown(name, stranger, stranger))
}

func rows() []row {
	one := func(keep cap.Value, r row, sites ...string) row {
		r.keep = []cap.Value{keep}
		r.with, r.without = []want{granted(keep, sites...)}, []want{denied(keep, sites...)}
		if r.withoutErr == nil {
			r.withoutErr = unix.EPERM
		}
		return r
	}
	// CAP_SYS_ADMIN does as well, and is asked for where the narrow one is denied.
	orAdmin := func(keep cap.Value, r row, sites ...string) row {
		r = one(keep, r, sites...)
		r.without = append(r.without, denied(cap.SYS_ADMIN, sites...))
		return r
	}
	return []row{
		one(cap.SYS_ADMIN, row{
			name:    "sethostname",
			call:    func(string, int) error { return syscall3(unix.SYS_SETHOSTNAME, 0, ^uintptr(0), 0) },
			withErr: unix.EINVAL,
		}, "sys_sethostname"),
		one(cap.SYS_TIME, row{
			name: "settimeofday",
			call: func(string, int) error {
				var zone [2]int32
				return syscall3(unix.SYS_SETTIMEOFDAY, 0, uintptr(unsafe.Pointer(&zone)), 0)
			},
		}, "cap_settime"),
		// Root may set what it has already, so the denial does no harm; it is one all the same.
		one(cap.SETUID, row{
			name: "setuid", call: func(string, int) error { return syscall3(unix.SYS_SETUID, 0, 0, 0) }, withoutErr: errNone,
		}, "__sys_setuid"),
		one(cap.SETGID, row{
			name: "setgid", call: func(string, int) error { return syscall3(unix.SYS_SETGID, 0, 0, 0) }, withoutErr: errNone,
		}, "__sys_setgid"),
		one(cap.CHOWN, row{
			name: "chown",
			call: func(dir string, _ int) error { return unix.Chown(strangersFile(dir), stranger+1, -1) },
		}, "setattr_prepare"),
		one(cap.FOWNER, row{
			name: "utimes",
			call: func(dir string, _ int) error { return unix.Utimes(strangersFile(dir), []unix.Timeval{{}, {}}) },
		}, "setattr_prepare", "inode_owner_or_capable"),
		{
			name: "mlock", // of more than nothing, where nothing is the limit
			call: func(string, int) error {
				if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{}); err != nil {
					return err
				}
				return unix.Mlock(make([]byte, 1))
			},
			keep:       []cap.Value{cap.IPC_LOCK},
			with:       []want{times(3, granted(cap.IPC_LOCK, "do_mlock"))},
			without:    []want{denied(cap.IPC_LOCK, "do_mlock")},
			withoutErr: unix.EPERM,
		},
		one(cap.SYS_ADMIN, row{
			name:    "umount",
			call:    func(dir string, _ int) error { return unix.Unmount(dir, 0) },
			withErr: unix.EINVAL,
		}, "path_umount"),
		one(cap.NET_ADMIN, row{
			name: "rcvbufforce",
			call: func(string, int) error {
				fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4096)
			},
		}, "sk_setsockopt"),
		one(cap.NET_ADMIN, row{
			name:    "dellink",
			call:    func(string, int) error { return rtnetlink(unix.RTM_DELLINK, make([]byte, unix.SizeofIfInfomsg)) },
			withErr: unix.EINVAL,
		}, "rtnetlink_rcv_msg", "netlink_net_capable"),
		{
			name:       "open0600",
			call:       func(dir string, _ int) error { return closing(unix.Open(strangersFile(dir), unix.O_RDONLY, 0)) },
			keep:       []cap.Value{cap.DAC_OVERRIDE},
			with:       []want{denied(cap.DAC_READ_SEARCH, "generic_permission"), granted(cap.DAC_OVERRIDE, "generic_permission")},
			without:    []want{denied(cap.DAC_READ_SEARCH, "generic_permission"), denied(cap.DAC_OVERRIDE, "generic_permission")},
			withoutErr: unix.EACCES,
		},
		one(cap.NET_BIND_SERVICE, row{
			name: "bind",
			call: func(string, int) error {
				fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				return unix.Bind(fd, &unix.SockaddrInet4{Port: 777, Addr: [4]byte{127, 0, 0, 1}})
			},
			withoutErr: unix.EACCES,
		}, "__inet_bind"),
		one(cap.NET_RAW, row{
			name: "rawsocket", call: func(string, int) error { return closing(unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)) },
		}, "inet_create"),
		one(cap.NET_RAW, row{
			name: "packetsocket", call: func(string, int) error { return closing(unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)) },
		}, "packet_create"),
		one(cap.SYS_ADMIN, row{
			name:    "mount",
			call:    func(dir string, _ int) error { return unix.Mount("", dir, "", unix.MS_REMOUNT, "") },
			withErr: unix.EINVAL,
		}, "path_mount"),
		orAdmin(cap.BPF, row{
			name: "bpfmap",
			skip: func(t *testing.T) {
				if v, err := os.ReadFile("/proc/sys/kernel/unprivileged_bpf_disabled"); err == nil && v[0] == '0' {
					t.Skip("kernel.unprivileged_bpf_disabled is 0: anybody may make this map, and nothing is asked")
				}
			},
			call: func(string, int) error {
				attr := struct{ kind, key, value, entries uint32 }{unix.BPF_MAP_TYPE_HASH, 4, 8, 1}
				fd, _, errno := unix.RawSyscall(unix.SYS_BPF, unix.BPF_MAP_CREATE, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
				if errno == 0 {
					return unix.Close(int(fd))
				}
				return errno
			},
		}, "bpf_token_capable", "__sys_bpf"),
		{
			name: "perfevent",
			skip: func(t *testing.T) {
				if v, err := os.ReadFile("/proc/sys/kernel/perf_event_paranoid"); err == nil && v[0] > '2' {
					t.Skip("kernel.perf_event_paranoid is above 2: Debian's kernels then ask for CAP_SYS_ADMIN first")
				}
			},
			call: func(string, int) error {
				attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_DUMMY, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{}))}
				return closing(unix.PerfEventOpen(&attr, 0, -1, -1, 0))
			},
			keep:       []cap.Value{cap.PERFMON},
			with:       []want{times(2, granted(cap.PERFMON, "perf_allow_kernel", "__do_sys_perf_event_open"))},
			without:    []want{denied(cap.PERFMON, "perf_allow_kernel", "__do_sys_perf_event_open"), denied(cap.SYS_ADMIN, "perf_allow_kernel", "__do_sys_perf_event_open")},
			withoutErr: unix.EACCES,
		},
		one(cap.SYSLOG, row{
			name: "syslog", fallback: true,
			call: func(string, int) error { _, err := unix.Klogctl(9, nil); return err }, // SYSLOG_ACTION_SIZE_UNREAD
		}, "do_syslog", "check_syslog_permissions"),
		one(cap.MKNOD, row{
			name: "mknod",
			call: func(dir string, i int) error {
				return unix.Mknod(filepath.Join(dir, strconv.Itoa(i)), unix.S_IFCHR, int(unix.Mkdev(1, 3)))
			},
		}, "vfs_mknod"),
		one(cap.SYS_CHROOT, row{
			name: "chroot", call: func(string, int) error { return unix.Chroot("/") },
		}, "sys_chroot"),
		one(cap.SYS_NICE, row{
			name:       "setpriority",
			call:       func(_ string, i int) error { return unix.Setpriority(unix.PRIO_PROCESS, 0, -1-i) },
			withoutErr: unix.EACCES,
		}, "can_nice"),
		one(cap.SETPCAP, row{
			name: "capset",
			call: func(string, int) error {
				header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
				var data [2]unix.CapUserData
				if err := unix.Capget(&header, &data[0]); err != nil {
					return err
				}
				return unix.Capset(&header, &data[0])
			},
			withoutErr: errNone, // asked, needed or not
			inlined:    true,
		}, "security_capset"),
		one(cap.SETPCAP, row{
			name: "securebits",
			call: func(string, int) error {
				bits, err := unix.PrctlRetInt(unix.PR_GET_SECUREBITS, 0, 0, 0, 0)
				if err != nil {
					return err
				}
				return unix.Prctl(unix.PR_SET_SECUREBITS, uintptr(bits), 0, 0, 0)
			},
			inlined: true, also: []string{"security_capset"},
		}, "security_task_prctl"),
		one(cap.SYS_RAWIO, row{
			name: "mmaplow",
			skip: func(t *testing.T) {
				if v, err := os.ReadFile("/proc/sys/vm/mmap_min_addr"); err == nil && strings.TrimSpace(string(v)) == "0" {
					t.Skip("vm.mmap_min_addr is 0: anybody may map the lowest page, and nothing is asked")
				}
			},
			call: func(string, int) error {
				size := uintptr(unix.Getpagesize())
				const flags = unix.MAP_PRIVATE | unix.MAP_ANON | unix.MAP_FIXED
				if _, _, errno := unix.RawSyscall6(unix.SYS_MMAP, 0, size, unix.PROT_NONE, flags, ^uintptr(0), 0); errno != 0 {
					return errno
				}
				return syscall3(unix.SYS_MUNMAP, 0, size, 0)
			},
			inlined: true,
		}, "security_mmap_addr"),
		{
			name:       "mmap", // is there memory to promise?
			call:       func(string, int) error { return source.MakeCheck() },
			keep:       []cap.Value{cap.SYS_ADMIN},
			with:       []want{silent(granted(cap.SYS_ADMIN, "__mmap_region"))},
			without:    []want{silent(denied(cap.SYS_ADMIN, "__mmap_region"))},
			withoutErr: errNone,
			inlined:    true,
		},
		{
			name: "seccomp",
			call: func(string, int) error {
				filter := unix.SockFprog{Len: 1}
				return syscall3(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&filter)))
			},
			keep:       []cap.Value{cap.SYS_ADMIN},
			with:       []want{silent(granted(cap.SYS_ADMIN, "do_seccomp"))},
			without:    []want{silent(denied(cap.SYS_ADMIN, "do_seccomp"))},
			withErr:    unix.EINVAL,
			withoutErr: unix.EACCES,
		},
		{
			name: "sysctl", // read by one who could write it, and by one who could not
			call: func(string, int) error {
				return closing(unix.Open("/proc/sys/net/ipv4/ip_forward", unix.O_RDONLY, 0))
			},
			keep:       []cap.Value{cap.NET_ADMIN},
			with:       []want{silent(granted(cap.NET_ADMIN, "net_ctl_permissions"))},
			without:    []want{silent(denied(cap.NET_ADMIN, "net_ctl_permissions"))},
			withoutErr: errNone,
		},
		orAdmin(cap.CHECKPOINT_RESTORE, row{
			name: "clone3",
			call: func(string, int) error {
				pid := int32(os.Getpid()) // taken, so that no process is made
				args := struct {
					flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
				}{exitSignal: uint64(unix.SIGCHLD), setTID: uint64(uintptr(unsafe.Pointer(&pid))), setTIDSize: 1}
				err := syscall3(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
				runtime.KeepAlive(&pid)
				return err
			},
			withErr: unix.EEXIST,
		}, "alloc_pid"),
		orAdmin(cap.CHECKPOINT_RESTORE, row{
			name: "nslastpid",
			call: func(string, int) error { // writes what it reads
				const name = "/proc/sys/kernel/ns_last_pid"
				last, err := os.ReadFile(name)
				if err != nil {
					return err
				}
				return os.WriteFile(name, last, 0)
			},
		}, "pid_ns_ctl_handler"),
		orAdmin(cap.CHECKPOINT_RESTORE, row{
			name: "mapfiles", // opens its own executable by the link of its first mapping
			call: func(string, int) error {
				const dir = "/proc/self/map_files"
				mappings, err := os.ReadDir(dir)
				if err != nil {
					return err
				}
				return closing(unix.Open(filepath.Join(dir, mappings[0].Name()), unix.O_RDONLY, 0))
			},
		}, "proc_map_files_get_link"),
	}
}

var (
	errNone = errors.New("no error") // in row.withoutErr: the call succeeds all the same
)

// holding is a set with these, permitted and effective, and no others.
func holding(keep []cap.Value) *cap.Set {
	set := cap.NewSet()
	for _, flag := range []cap.Flag{cap.Permitted, cap.Effective} {
		if err := set.SetFlag(flag, true, keep...); err != nil {
			panic(err) // a capability that there is not
		}
	}
	return set
}

// makeRow is the helper that makes one row's calls: row NAME with|without N DIR.
func makeRow(args []string) error {
	runtime.LockOSThread()
	all := rows()
	r := all[slices.IndexFunc(all, func(r row) bool { return r.name == args[0] })]
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	keep, wanted := r.keep, r.withErr
	if args[1] == "without" {
		keep, wanted = nil, r.withoutErr
	}
	if err := holding(keep).SetProc(); err != nil {
		return err
	}
	for i := range n {
		err := r.call(args[3], i)
		if wanted == nil {
			wanted = errNone
		}
		if err == nil {
			err = errNone
		}
		if !errors.Is(err, wanted) {
			return fmt.Errorf("call %d of %s %s: %w; want %w", i, r.name, args[1], err, wanted)
		}
	}
	return nil
}

// logSite says which of its sites a row's check was made at, for vm/matrix to compare.
func logSite(t *testing.T, row, site string, w want) {
	if site != "" {
		t.Logf("call site: %s: %s, usually %s", row, site, w.sites[0])
	}
}

// TestSites: vm/sites explains each site that a row has beside its usual one, and no other.
func TestSites(t *testing.T) {
	content, err := os.ReadFile("vm/sites")
	if err != nil {
		t.Fatal(err)
	}
	explained := map[string]bool{}
	for line := range strings.Lines(string(content)) {
		if fields := strings.Fields(line); len(fields) > 0 && fields[0] != "#" {
			if len(fields) < 4 {
				t.Fatalf("no reason: %s", line)
			}
			explained[fields[0]+" "+fields[1]] = true
		}
	}
	for _, r := range rows() {
		for _, w := range slices.Concat(r.with, r.without) {
			for _, site := range w.sites[1:] {
				if of := r.name + " " + site; !explained[of] {
					t.Errorf("vm/sites does not say where %s is, and why", of)
				}
			}
		}
	}
	for _, r := range rows() {
		for _, w := range slices.Concat(r.with, r.without) {
			for _, site := range w.sites[1:] {
				delete(explained, r.name+" "+site)
			}
		}
	}
	for of := range explained {
		t.Errorf("vm/sites explains %s, which is no row's", of)
	}
}

const unseen = "unseen: fexit does not see the checks of a caller that cap_capable was inlined into"

// TestRows makes each system call of the table, with and without its capability, and finds exactly its checks.
func TestRows(t *testing.T) {
	tr := openLive(t, Options{})
	t.Log("the source is", tr.Info().Source)
	const n = 7
	for _, r := range rows() {
		for _, v := range []struct {
			name  string
			wants []want
		}{{"with", r.with}, {"without", r.without}} {
			t.Run(r.name+"/"+v.name, func(t *testing.T) {
				if r.skip != nil {
					r.skip(t)
				}
				name := r.name + "-" + v.name
				path := executable(t, name)
				dir := t.TempDir()
				if err := makeStrangersFile(dir); err != nil {
					t.Fatal(err)
				}
				before := snapshot(t, tr)
				run(t, helper(path, "row", r.name, v.name, strconv.Itoa(n), dir))
				s := checkIdentities(t, tr)
				asked := map[string]uint64{}
				const capset = "8 granted host" // the helper's own, once for each of its threads
				inlined := r.inlined && tr.Info().Source == SourceFexit
				for _, w := range v.wants {
					w.sites = named(tr, w.sites)
					check := Check{Capability: uint8(w.cap), Denied: w.denied}
					if w.noAudit {
						got := siteCount(s, check, AuditedNo, w.sites) - siteCount(before, check, AuditedNo, w.sites)
						if got == 0 && inlined {
							t.Log(unseen)
						} else if got < n {
							t.Errorf("%s, no-audit, at %v: %d more, want %d", check, w.sites, got, n)
						}
						for _, site := range w.sites {
							if at := []string{site}; siteCount(s, check, AuditedNo, at)-siteCount(before, check, AuditedNo, at) >= n {
								logSite(t, r.name, site, w)
							}
						}
						continue
					}
					asked[check.String()] += n * max(w.times, 1)
					for _, site := range sitesOf(s, name, check) {
						switch site = symbolName(site); {
						case slices.Contains(w.sites, site):
							logSite(t, r.name, site, w)
						case !slices.Contains(r.also, site):
							t.Errorf("%s was asked by %s, want one of %v", check, site, w.sites)
						}
					}
				}
				got := by(s, name)
				if len(asked) > 0 && inlined && len(got) == 0 {
					t.Log(unseen)
					return
				}
				if r.fallback && tr.Info().Source == SourceFexit && got["21 denied host"] != 0 {
					asked["21 denied host"] = n
				}
				if got[capset] >= asked[capset] {
					asked[capset] = got[capset]
				}
				if asked[capset] == 0 {
					delete(asked, capset)
				}
				if fmt.Sprint(got) != fmt.Sprint(asked) {
					t.Errorf("asked for %v, want %v", got, asked)
				}
				mayMiss(t, tr, s)
			})
		}
	}
}

// TestUserNamespace uses CAP_SYS_ADMIN in a user namespace of its own, and from there asks for it on the host.
func TestUserNamespace(t *testing.T) {
	tr := openLive(t, Options{})
	const name, outside, n = "in-user-namespace", "out-of-user-namespace", 5
	for name, flags := range map[string]uintptr{name: unix.CLONE_NEWUTS, outside: 0} {
		cmd := helper(executable(t, name), "sethostname", strconv.Itoa(n))
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER | flags,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		}
		run(t, cmd)
	}
	s := checkIdentities(t, tr)
	if got := by(s, name); got["21 granted userns"] != n || got["21 granted host"] != 0 {
		t.Errorf("asked for %v, want %d of CAP_SYS_ADMIN in a user namespace", got, n)
	}
	if got := by(s, outside); got["21 denied host"] != n || got["21 denied userns"] != 0 {
		t.Errorf("asked for %v, want %d of CAP_SYS_ADMIN on the host, denied", got, n)
	}
}
