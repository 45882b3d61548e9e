package bpf

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// A silentRow is a refusal that shows in no denied check of the capability that would have helped.
type silentRow struct {
	name    string
	prepare func(dir string) error // with all capabilities, in a mount namespace whose dir is a file system of its own
	keep    []cap.Value            // what is left for the calls
	call    func(dir string) error
	err     error
	wants   map[string]uint64 // audited checks of each call
	noAudit cap.Value         // denied without audit, by one of sites
	sites   []string
}

func silentRows() []silentRow {
	const program = "asks"
	runs := func(name string, args ...string) func(string) error {
		return func(dir string) error { return exec.Command(filepath.Join(dir, name), args...).Run() }
	}
	write := func(dir string) error {
		return closing(unix.Open(filepath.Join(dir, "file"), unix.O_WRONLY|unix.O_CLOEXEC, 0))
	}
	touch := func(dir string) error { return os.WriteFile(filepath.Join(dir, "file"), nil, 0o644) }
	copied := func(from, to string) error {
		content, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		return os.WriteFile(to, content, 0o755)
	}
	return []silentRow{
		{
			name: "seccomp", keep: []cap.Value{cap.SYS_ADMIN}, err: unix.EPERM,
			prepare: func(string) error {
				return errors.Join(unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), refuse(unix.SYS_SETHOSTNAME))
			},
			call: func(string) error { return syscall3(unix.SYS_SETHOSTNAME, 0, ^uintptr(0), 0) },
		},
		{
			name: "immutable", keep: []cap.Value{cap.SYS_ADMIN, cap.DAC_OVERRIDE, cap.FOWNER}, err: unix.EPERM, call: write,
			prepare: func(dir string) error {
				if err := touch(dir); err != nil {
					return err
				}
				f, err := os.Open(filepath.Join(dir, "file"))
				if err != nil {
					return err
				}
				defer f.Close()
				const immutable = 0x10 // FS_IMMUTABLE_FL, linux/fs.h
				return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, immutable)
			},
		},
		{
			name: "read-only", keep: []cap.Value{cap.SYS_ADMIN, cap.DAC_OVERRIDE, cap.FOWNER}, err: unix.EROFS, call: write,
			prepare: func(dir string) error {
				return errors.Join(touch(dir), unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
			},
		},
		{ // execve(2): the file asks for what the process may never have
			name: "bounded", keep: []cap.Value{cap.SYS_ADMIN}, err: unix.EPERM, call: runs(program),
			prepare: func(dir string) error {
				to := filepath.Join(dir, program)
				return errors.Join(copied("/bin/true", to), holding([]cap.Value{cap.SYS_TIME}).SetFile(to), cap.DropBound(cap.SYS_TIME))
			},
		},
		{ // a program that looks at its own sets, and never asks
			name: "looks", call: runs("silent-looks", "--has-p=cap_sys_admin"),
			prepare: func(dir string) error {
				path, err := exec.LookPath("capsh")
				if err != nil {
					return err
				}
				const noRoot = 1 // SECBIT_NOROOT: user 0 gets nothing by execve(2)
				return errors.Join(copied(path, filepath.Join(dir, "silent-looks")), unix.Prctl(unix.PR_SET_SECUREBITS, noRoot, 0, 0, 0))
			},
		},
		{ // capset(2) asks for CAP_SETPCAP, whatever it is that the process may not have
			name: "raises", err: unix.EPERM, wants: map[string]uint64{"8 denied host probe": 1},
			call: func(string) error {
				set := cap.GetProc()
				return errors.Join(set.SetFlag(cap.Permitted, true, cap.SYS_ADMIN), set.SetProc())
			},
		},
		{
			name: "filters", err: unix.EACCES, noAudit: cap.SYS_ADMIN, sites: []string{"seccomp_set_mode_filter", "seccomp_prepare_filter", "do_seccomp"},
			call: func(string) error { return refuse(unix.SYS_SETHOSTNAME) },
		},
		{
			name: "landlock", err: unix.EPERM, noAudit: cap.SYS_ADMIN, sites: []string{"__do_sys_landlock_restrict_self", "sys_landlock_restrict_self"},
			call: func(string) error {
				rules := uint64(1)
				ruleset, _, errno := unix.RawSyscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&rules)), unsafe.Sizeof(rules), 0)
				if errno != 0 {
					return fmt.Errorf("landlock_create_ruleset: %w", errno)
				}
				defer unix.Close(int(ruleset))
				return syscall3(unix.SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0, 0)
			},
		},
	}
}

// refuse has a seccomp filter answer a system call with EPERM.
func refuse(call uint32) error {
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // seccomp_data.nr
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: call, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	return syscall3(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})))
}

// refused is the helper that makes a row's calls: refused NAME N DIR.
func refused(args []string) error {
	runtime.LockOSThread()
	all := silentRows()
	r := all[slices.IndexFunc(all, func(r silentRow) bool { return r.name == args[0] })]
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	dir := args[2]
	if err := errors.Join(unix.Unshare(unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount("silent", dir, "tmpfs", 0, "")); err != nil {
		return err
	}
	if r.prepare != nil {
		if err := r.prepare(dir); err != nil {
			return fmt.Errorf("preparing %s: %w", r.name, err)
		}
	}
	if err := holding(r.keep).SetProc(); err != nil {
		return err
	}
	for range n {
		if err := r.call(dir); err == nil || r.err != nil && !errors.Is(err, r.err) {
			return fmt.Errorf("%s: got %s; want %s", r.name, fmt.Sprint(err), fmt.Sprint(r.err))
		}
	}
	return nil
}

// TestSilentRefusals: where a call fails and nobody was denied anything, the kernel did not ask, or only looked.
func TestSilentRefusals(t *testing.T) {
	tr := openLive(t, Options{})
	const n = 7
	for _, r := range silentRows() {
		t.Run(r.name, func(t *testing.T) {
			name := "silent-" + r.name
			path, dir := executable(t, name), t.TempDir()
			before := snapshot(t, tr)
			run(t, helper(path, "refused", r.name, strconv.Itoa(n), dir))
			s := checkIdentities(t, tr)
			got := map[string]uint64{}
			for _, w := range s.Workloads {
				if w.Process.Name == name && w.Check.Denied {
					got[asideName(w.Check, w.Aside)] += w.Count
				}
			}
			want := map[string]uint64{}
			for check, times := range r.wants {
				want[check] = n * times
			}
			if !maps.Equal(got, want) {
				t.Errorf("denied %v, want %v", got, want)
			}
			if len(r.sites) == 0 {
				return
			}
			check, sites := Check{Capability: uint8(r.noAudit), Denied: true}, named(tr, r.sites)
			if looked := siteCount(s, check, AuditedNo, sites) - siteCount(before, check, AuditedNo, sites); looked < n {
				t.Errorf("%s, no-audit, at %v: %d more, want %d", check, sites, looked, n)
			}
		})
	}
}
