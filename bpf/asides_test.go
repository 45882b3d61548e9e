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
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"capability_exporter/bpf/internal/programs"
	"capability_exporter/bpf/internal/source"
)

// An asideRow is what is called, with which capabilities alone, and what becomes of the checks of each call.
type asideRow struct {
	name  string
	keep  []cap.Value
	calls []asideCall
	wants map[string]uint64 // by asideName: each as often as this, for each call; 0: once or more often
}

type asideCall func(dir string) error

// asideName says all of a check and of what became of it.
func asideName(c Check, a Aside) string {
	name := c.String()
	if a.Fallback {
		name += fmt.Sprint(" after ", a.First)
	}
	if a.Probe {
		name += " probe"
	}
	return name
}

// asideRows are real calls. The kernel asks for CAP_DAC_OVERRIDE at one and the same place whether a file is to be read or written, and
// only for the former after CAP_DAC_READ_SEARCH.
func asideRows() []asideRow {
	open := func(flags int) asideCall {
		return func(dir string) error { return closing(unix.Open(strangersFile(dir), flags|unix.O_CLOEXEC, 0)) }
	}
	read, write := open(unix.O_RDONLY), open(unix.O_WRONLY)
	list := func(dir string) error {
		return closing(unix.Open(filepath.Join(dir, "closed"), unix.O_RDONLY|unix.O_DIRECTORY, 0))
	}
	sethostname := func(string) error { return syscall3(unix.SYS_SETHOSTNAME, 0, ^uintptr(0), 0) }
	// CAP_NET_ADMIN, which is denied, by a function of its own.
	priority := func(string) error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 4096)
	}
	mark := func(string) error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, 1)
	}
	marked := map[string]uint64{"13 denied host": 1, "12 granted host after 13": 1}
	if runtime.GOARCH == "arm64" { // sk_setsockopt asks for the first by itself, and for the second by sockopt_ns_capable (Debian's kernels)
		marked = map[string]uint64{"13 denied host": 1, "12 granted host": 1}
	}
	const realtime = 1 << 13
	ioprio := func(string) error { return syscall3(unix.SYS_IOPRIO_SET, 1, 0, realtime) }
	clone := func(string) error {
		pid := int32(os.Getpid()) // taken, so that no process is made
		args := struct {
			flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
		}{exitSignal: uint64(unix.SIGCHLD), setTID: uint64(uintptr(unsafe.Pointer(&pid))), setTIDSize: 1}
		return syscall3(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
	}
	chmod := func(dir string) error { return unix.Chmod(filepath.Join(dir, "group"), 0o2755) }
	return []asideRow{
		{"read", []cap.Value{cap.DAC_OVERRIDE}, []asideCall{read}, map[string]uint64{"2 denied host": 1, "1 granted host after 2": 1}},
		{"read-denied", nil, []asideCall{read}, map[string]uint64{"2 denied host": 1, "1 denied host after 2": 1}},
		{"list", []cap.Value{cap.DAC_OVERRIDE}, []asideCall{list}, map[string]uint64{"2 denied host": 1, "1 granted host after 2": 1}},
		{"write", []cap.Value{cap.DAC_OVERRIDE}, []asideCall{write}, map[string]uint64{"1 granted host": 1}},
		{"read-and-write", []cap.Value{cap.DAC_OVERRIDE}, []asideCall{read, write, write, read}, map[string]uint64{
			"2 denied host": 2, "1 granted host after 2": 2, "1 granted host": 2,
		}},
		{"checkpoint", []cap.Value{cap.SYS_ADMIN}, []asideCall{clone}, map[string]uint64{"40 denied host": 1, "21 granted host after 40": 1}},
		{"checkpoint-denied", nil, []asideCall{clone}, map[string]uint64{"40 denied host": 1, "21 denied host after 40": 1}},
		{"ioprio", []cap.Value{cap.SYS_NICE}, []asideCall{ioprio}, map[string]uint64{"21 denied host": 1, "23 granted host after 21": 1}},
		{"mark", []cap.Value{cap.NET_ADMIN}, []asideCall{mark}, marked},
		// What comes next is of another function.
		{"unrelated", []cap.Value{cap.SYS_ADMIN}, []asideCall{priority, sethostname}, map[string]uint64{"12 denied host": 1, "21 granted host": 1}},
		{"in-between", []cap.Value{cap.SYS_ADMIN}, []asideCall{clone, sethostname, priority, clone}, map[string]uint64{
			"40 denied host": 2, "21 granted host after 40": 2, "21 granted host": 1, "12 denied host": 1,
		}},
		{"capabilities", nil, []asideCall{func(string) error { return cap.NewSet().SetProc() }}, map[string]uint64{"8 denied host probe": 0}},
		{"set-group-id", []cap.Value{cap.FOWNER}, []asideCall{chmod}, map[string]uint64{"3 granted host": 1, "4 denied host probe": 0}},
		{"set-group-id-kept", []cap.Value{cap.FOWNER, cap.FSETID}, []asideCall{chmod}, map[string]uint64{"3 granted host": 1, "4 granted host": 0}},
	}
}

// makeAside is the helper that makes a row's calls: aside NAME N DIR.
func makeAside(args []string) error {
	runtime.LockOSThread()
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	calls, err := asideCalls(args[0], args[2])
	if err != nil {
		return err
	}
	for range n {
		calls()
	}
	return nil
}

// asideCalls leaves the process the capabilities of a row, and makes its calls in a directory. What they return does not matter.
func asideCalls(name, dir string) (func(), error) {
	all := asideRows()
	r := all[slices.IndexFunc(all, func(r asideRow) bool { return r.name == name })]
	return func() {
		for _, call := range r.calls {
			_ = call(dir)
		}
	}, holding(r.keep).SetProc()
}

// TestAsideOfTheKey: what a slot leaves to its series when it changes hands is still set aside.
func TestAsideOfTheKey(t *testing.T) {
	s, r := newSeries(1, 0, 0), programs.WhoRecord{}
	r.Key.What = 21
	plain := s.keyOf(&cgroupState{}, programs.WhoFixed, &r)
	r.Key.What |= 39 << programs.WhatAfterShift
	if key, want := s.keyOf(&cgroupState{}, programs.WhoFixed, &r), (Aside{Fallback: true, First: 38}); key == plain || key.aside != want {
		t.Errorf("the key is %+v, without the aside %+v", key, plain)
	}
}

// TestAsideParts reads what the kernel side writes.
func TestAsideParts(t *testing.T) {
	for part, want := range map[uint32]Aside{
		0: {}, 1: {Probe: true}, 2: {Fallback: true}, 78: {Fallback: true, First: 38}, 128: {Fallback: true, First: 63}, 129: {Fallback: true, First: 63, Probe: true},
	} {
		if got := asideOf(part); got != want {
			t.Errorf("%d: %+v, want %+v", part, got, want)
		}
		var r programs.WhoRecord
		r.Key.What = uint64(part)*programs.WhatProbe | 21 | programs.WhatUserNS | programs.KindExiting<<programs.WhatKindShift
		if got := asideOf(partOf(&r)); got != want {
			t.Errorf("%d in a key: %+v, want %+v", part, got, want)
		}
	}
}

// TestAsides finds of each check whether it was only asked for because another was denied at the same place, and of each denial whether
// the kernel went on.
func TestAsides(t *testing.T) {
	tr := openLive(t, Options{})
	const n = 300
	for _, r := range asideRows() {
		t.Run(r.name, func(t *testing.T) {
			if r.name == "capabilities" && tr.Info().Source == SourceFexit {
				t.Log(unseen)
				return
			}
			path := executable(t, "aside-"+r.name)
			dir := t.TempDir()
			closed, group := filepath.Join(dir, "closed"), filepath.Join(dir, "group")
			if err := errors.Join(makeStrangersFile(dir), os.Mkdir(closed, 0o700), os.Chown(closed, stranger, stranger),
				os.WriteFile(group, nil, 0o644), os.Chown(group, stranger, stranger)); err != nil {
				t.Fatal(err)
			}
			run(t, helper(path, "aside", r.name, strconv.Itoa(n), dir))
			s := checkIdentities(t, tr)
			got, want := map[string]uint64{}, map[string]uint64{}
			var sites []string
			for _, w := range s.Workloads {
				if w.Process.Name == "aside-"+r.name && w.Check != (Check{Capability: uint8(cap.SETPCAP)}) { // the helper's own capset(2)
					got[asideName(w.Check, w.Aside)] += w.Count
					sites = append(sites, asideName(w.Check, w.Aside)+" by "+strings.Join(w.CallSites, ", "))
				}
			}
			for name, times := range r.wants {
				if times == 0 {
					times = max(got[name]/n, 1)
				}
				want[name] = n * times
			}
			if !maps.Equal(got, want) {
				t.Errorf("asked for %v, want %v; %q", got, want, sites)
			}
			mayMiss(t, tr, s)
		})
	}
}

// TestAsidesInStorm has tasks preempt each other anywhere: between the check that is denied and the one that is made for it, of which a
// CPU, or one of two programs, then sees the one without the other, and before a check that is none.
func TestAsidesInStorm(t *testing.T) {
	const n, name = 3000, "aside-storm"
	made := uint64(2 * n * runtime.NumCPU() * stormKinds()["ordinary"].ordinary) // of each kind
	tr := openLive(t, Options{})
	dir := t.TempDir()
	if err := makeStrangersFile(dir); err != nil {
		t.Fatal(err)
	}
	run(t, helper(executable(t, name), "storm", "ordinary", strconv.Itoa(n), "read-and-write", dir))
	s := checkIdentities(t, tr)
	got := map[string]uint64{}
	for _, w := range s.Workloads {
		if c := w.Check.Capability; w.Process.Name == name && (c == uint8(cap.DAC_READ_SEARCH) || c == uint8(cap.DAC_OVERRIDE)) {
			got[asideName(w.Check, w.Aside)] += w.Count
		}
	}
	mayMiss(t, tr, s)
	if want := (map[string]uint64{"2 denied host": made, "1 granted host after 2": made, "1 granted host": made}); !maps.Equal(got, want) && s.MissedRuns == 0 {
		t.Errorf("asked for %v, want %v", got, want)
	}
}

// TestAsidesAreFast: the cache holds a fallback like any other check, and what comes after it is no slower.
func TestAsidesAreFast(t *testing.T) {
	tr := openLive(t, Options{})
	if tr.mode == source.PeekNone {
		t.Skip("the kernel names no functions, so that every check is looked up")
	}
	const n = 5000
	dir := t.TempDir()
	if err := makeStrangersFile(dir); err != nil {
		t.Fatal(err)
	}
	slow := slowRuns(t, tr)
	run(t, helper(executable(t, "aside-fast"), "aside", "read-and-write", strconv.Itoa(n), dir))
	if slow = slowRuns(t, tr) - slow; slow > n/2 {
		t.Errorf("%d of %d checks were not found in the cache", slow, 6*n)
	}
}

// TestAsidesOfPrograms has real programs do with one capability what the kernel asks for another first.
func TestAsidesOfPrograms(t *testing.T) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("no busybox, which `make packages` installs: ", err)
	}
	image, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	levels, err := os.ReadFile("/proc/sys/kernel/printk")
	if err != nil {
		t.Fatal(err)
	}
	tr := openLive(t, Options{})
	dir := t.TempDir()
	if err := makeStrangersFile(dir); err != nil {
		t.Fatal(err)
	}
	for _, r := range []struct {
		name, keep string
		args       []string
		want       map[string]uint64
	}{
		{"cat", "dac_override", []string{"cat", strangersFile(dir)}, map[string]uint64{"2 denied host": 1, "1 granted host after 2": 1}},
		{"write", "dac_override", []string{"truncate", "-s", "0", strangersFile(dir)}, map[string]uint64{"1 granted host": 1}},
		{"ionice", "sys_nice", []string{"ionice", "-c", "1", "true"}, map[string]uint64{"21 denied host": 1, "23 granted host after 21": 1}},
		// Up to 6.1 CAP_SYS_ADMIN will do (check_syslog_permissions).
		{"dmesg", "sys_admin", []string{"dmesg", "-n", string(levels[0])}, map[string]uint64{"34 denied host": 1, "21 granted host after 34": 1}},
	} {
		t.Run(r.name, func(t *testing.T) {
			name := "busybox-" + r.name // it takes its applet's name from its argument if its own begins so
			path := filepath.Join(dir, name)
			if err := os.WriteFile(path, image, 0o755); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("setpriv", append([]string{"--bounding-set", "-all,+" + r.keep, "--inh-caps", "-all", path}, r.args...)...)
			out, err := cmd.CombinedOutput()
			got := map[string]uint64{}
			for _, w := range checkIdentities(t, tr).Workloads {
				if w.Process.Name == name {
					got[asideName(w.Check, w.Aside)] += w.Count
				}
			}
			if r.name == "dmesg" && got["21 granted host after 34"] == 0 {
				delete(r.want, "21 granted host after 34")
			} else if err != nil {
				t.Errorf("%v: %v: %s", cmd, err, out)
			}
			if !maps.Equal(got, r.want) {
				t.Errorf("%v asked for %v, want %v", cmd, got, r.want)
			}
		})
	}
}
