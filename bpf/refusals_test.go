package bpf

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// confinedBy is how a program comes to be in a domain of vm/selinux.conf or vm/apparmor.conf.
func confinedBy(module, domain string) (file, content string) {
	if module == "selinux" {
		return "/proc/thread-self/attr/exec", "everybody:everybody:" + domain
	}
	return "/proc/thread-self/attr/apparmor/exec", "exec " + domain
}

// askConfined is the helper that asks for CAP_SYS_ADMIN and CAP_WAKE_ALARM in a domain: confined MODULE DOMAIN AS N. AS says what is to come
// of it: refused, passed, or denied, as it gives them up before. Or it is names, and it asks for one under as many names.
func askConfined(args []string) error {
	module, domain, as := args[0], args[1], args[2]
	n, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	if domain != "" {
		file, content := confinedBy(module, domain)
		if err := os.WriteFile(file, []byte(content), 0); err != nil {
			return err
		}
		return unix.Exec(self, []string{self, module, "", as, args[3]}, os.Environ())
	}
	noFilter := unix.SockFprog{Len: 1} // the call fails right after its check
	want := unix.EPERM
	switch as {
	case "passed":
		want = unix.EINVAL
	case "denied":
		var none [2]unix.CapUserData
		if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]); err != nil {
			return fmt.Errorf("capset: %w", err)
		}
	case "time":
		_ = askSysAdmin(args[3:]) // an emulator translates what it has not met yet
		begun := time.Now()
		err := askSysAdmin(args[3:])
		fmt.Println(time.Since(begun).Nanoseconds() / int64(n))
		return err
	case "names":
		return asManyNames(filepath.Dir(self), n, func() { _ = askSysAdmin(nil) })
	}
	for range n {
		if err := syscall3(unix.SYS_SETHOSTNAME, 0, ^uintptr(0), 0); !errors.Is(err, want) {
			return fmt.Errorf("sethostname: %w, want %w", err, want)
		}
		fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME_ALARM, 0)
		if err == nil {
			err = unix.Close(fd)
		}
		if errors.Is(err, unix.EPERM) != (want == unix.EPERM) {
			return fmt.Errorf("timerfd_create: %w", err)
		}
		// Which is asked without audit, and refused as well.
		if err := syscall3(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&noFilter))); errors.Is(err, unix.EACCES) != (want == unix.EPERM) {
			return fmt.Errorf("seccomp: %w", err)
		}
	}
	return nil
}

// activeModule is the one of the two that this guest has been booted with.
func activeModule(t *testing.T) string {
	t.Helper()
	inGuest(t)
	if _, err := os.Stat("/sys/fs/selinux/enforce"); err != nil {
		return "apparmor"
	}
	write(t, "/sys/fs/selinux/enforce", "1")
	t.Cleanup(func() { write(t, "/sys/fs/selinux/enforce", "0") })
	return "selinux"
}

// refusalsOf are those of a process, by capability.
func refusalsOf(s *Snapshot, module, path, process string) map[uint8]uint64 {
	sums := map[uint8]uint64{}
	for _, r := range s.Refusals {
		if r.LSM == module && r.Cgroup.Path == path && r.Process == (Process{Name: process}) {
			sums[r.Capability] += r.Count
		}
	}
	return sums
}

// TestRefusals: what another module refuses is counted, whom it refused, and nothing else is.
func TestRefusals(t *testing.T) {
	const n = 10 // of which all fit into the queue of the audit subsystem
	module := activeModule(t)
	var mu sync.Mutex
	told := map[string]Announcement{}
	second := make(chan time.Time)
	tr := openLive(t, Options{Retention: time.Millisecond, quarantine: time.Millisecond, second: second, Announce: func(a Announcement) {
		mu.Lock()
		defer mu.Unlock()
		if a.LSM != "" {
			told[a.Process.Name] = a
		}
	}})
	if got := tr.Info().LSM; got != module {
		t.Fatalf("%s is active, and the label says %q", module, got)
	}
	refused := map[uint8]uint64{uint8(cap.SYS_ADMIN): n, wakeAlarm: n}
	unaudited := refused
	if module == "selinux" {
		unaudited = map[uint8]uint64{}
	}
	none := map[uint8]uint64{}
	dir := newCgroup(t, "refusing")
	ask := func(name, domain, as string, userns bool, want map[uint8]uint64) {
		t.Helper()
		cmd := helper(executable(t, name), "confined", module, domain, as, strconv.Itoa(n))
		cmd = inCgroup(dir, cmd)
		if userns {
			cmd.SysProcAttr = &syscall.SysProcAttr{
				Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWUTS,
				UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
			}
		}
		run(t, cmd)
		s := checkIdentities(t, tr)
		if got := refusalsOf(s, module, "/refusing", name); !maps.Equal(got, want) {
			t.Errorf("%s: %v refused, want %v", name, got, want)
		}
		// Who refuses changes nothing of what the capability module has said.
		result := "granted"
		if as == "denied" {
			result = "denied"
		}
		scope := "host"
		if userns {
			scope = "userns"
		}
		key := fmt.Sprintf("%d %s %s", cap.SYS_ADMIN, result, scope)
		if got := by(s, name)[key]; got != n {
			t.Errorf("%s: %d times %s, want %d", name, got, key, n)
		}
	}
	ask("limited", "limited", "refused", false, refused)
	ask("silent", "silent", "refused", false, unaudited)
	ask("tolerated", "tolerated", "passed", false, none)
	ask("unconfined", "", "passed", false, none)
	ask("incapable", "limited", "denied", false, none)
	ask("namespaced", "limited", "refused", true, map[uint8]uint64{uint8(cap.SYS_ADMIN): n}) // and the host's is not granted there
	if module == "selinux" {
		write(t, "/sys/fs/selinux/enforce", "0")
		ask("permissive", "limited", "passed", false, none)
	}

	eventually(t, "the last refusal is announced", func() bool { // the ring is read when there is time for it
		mu.Lock()
		defer mu.Unlock()
		return told["namespaced"].LSM != ""
	})
	mu.Lock()
	a := told["limited"]
	if !a.Denied || a.UserNS || a.Capability != uint8(cap.SYS_ADMIN) && a.Capability != wakeAlarm || a.LSM != module || a.Cgroup.Path != "/refusing" || a.TGID == 0 {
		t.Errorf("announced: %+v", a)
	}
	if a := told["namespaced"]; !a.Denied || !a.UserNS {
		t.Errorf("announced: %+v", a)
	}
	if len(told) != 2+len(unaudited)/2 {
		t.Errorf("announced: %v", told)
	}
	mu.Unlock()

	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what the cgroup was refused has ended", func() bool {
		for range 10 { // housekeeping looks each ten seconds
			second <- time.Now()
		}
		return len(snapshot(t, tr).Refusals) == 0
	})
	s := snapshot(t, tr)
	ended := map[uint8]uint64{}
	for _, e := range s.EndedRefusals {
		ended[e.Capability] += e.Count
	}
	want := map[uint8]uint64{uint8(cap.SYS_ADMIN): 2*n + unaudited[uint8(cap.SYS_ADMIN)], wakeAlarm: n + unaudited[wakeAlarm]}
	if !maps.Equal(ended, want) {
		t.Errorf("%v ended, want %v", ended, want)
	}
	if s.MissedRefusalRuns != 0 {
		t.Errorf("%d runs missed", s.MissedRefusalRuns)
	}
}

// TestRefusalsOfMany: who is refused something under ever new names fills no more than his share. All is counted, and another has a series.
func TestRefusalsOfMany(t *testing.T) {
	const n, limit = 50, 16
	module := activeModule(t)
	tr := openLive(t, Options{refusalLimit: limit})
	run(t, inCgroup(newCgroup(t, "flooding"), helper(executable(t, "flood"), "confined", module, "limited", "names", strconv.Itoa(n))))
	run(t, inCgroup(newCgroup(t, "refused-late"), helper(executable(t, "late"), "confined", module, "limited", "refused", "2")))
	s := checkIdentities(t, tr)
	var sum, others uint64
	own := 0
	for _, r := range s.Refusals {
		switch {
		case r.Cgroup.Path != "/flooding":
		case r.Process.Kind == ProcessOther:
			others += r.Count
			sum += r.Count
		default:
			own++
			sum += r.Count
		}
	}
	if sum != n || others == 0 || own > limit*3/4 || own < limit/2 {
		t.Errorf("%d refused, of which %d stand under _other, in %d series: want %d in all, and %d series at most", sum, others, own, n, limit*3/4)
	}
	if got, want := refusalsOf(s, module, "/refused-late", "late"), map[uint8]uint64{uint8(cap.SYS_ADMIN): 2, wakeAlarm: 2}; !maps.Equal(got, want) {
		t.Errorf("the one who came late: %v, want %v", got, want)
	}
	if s.Series > len(s.Workloads) || s.Workloads == nil {
		t.Errorf("%d series of checks in use", s.Series)
	}
}

// TestUnwatched: where no other module is active nothing is loaded for one. What is active and cannot be watched is told, and all else
// goes on.
func TestUnwatched(t *testing.T) {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatal(err)
	}
	var fn *btf.Func
	for _, test := range []struct{ name, enabled, want string }{
		{"none", "N", "none"},
		{"lacked by the kernel", "Y", "apparmor_unavailable"},
		{"not told", "", "apparmor_unavailable"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.enabled == "Y" && kernel.TypeByName("aa_capable", &fn) == nil {
				t.Skip("the kernel has AppArmor, which TestRefusals watches in a guest")
			}
			sys := t.TempDir()
			enabled := filepath.Join(sys, "module/apparmor/parameters/enabled")
			if err := errors.Join(os.Chmod(sys, 0o755), os.Chmod(filepath.Dir(sys), 0o755), os.MkdirAll(enabled, 0o755)); err != nil {
				t.Fatal(err)
			}
			if test.enabled != "" { // else it stays a folder
				if err := errors.Join(os.Remove(enabled), os.WriteFile(enabled, []byte(test.enabled+"\n"), 0o644)); err != nil {
					t.Fatal(err)
				}
			}
			tr := openLive(t, Options{sys: sys})
			if got := tr.Info().LSM; got != test.want || tr.refusals != nil {
				t.Errorf("the label says %q, want %q, and %d are watched", got, test.want, len(tr.refusals))
			}
			const name = "asks-all-the-same"
			run(t, helper(executable(t, name), "sethostname", "3"))
			if got := by(checkIdentities(t, tr), name)["21 granted host"]; got != 3 {
				t.Errorf("counted %d, want 3", got)
			}
		})
	}
}

// TestRefusalCost measures, in a guest, what it costs to look whether AppArmor refuses: nothing for who is not confined.
//
//	FILES=build/vm/apparmor.policy bpf/vm/boot 7 build/amd64/bpf.test -test.v -test.run TestRefusalCost -cost
func TestRefusalCost(t *testing.T) {
	inGuest(t)
	if !*cost {
		t.Skip("only with -cost")
	}
	policy, err := os.ReadFile("/apparmor.policy")
	if err != nil {
		t.Fatal(err)
	}
	write(t, "/sys/kernel/security/apparmor/.replace", string(policy))
	tr := openLive(t, Options{})
	path := executable(t, "timed")
	domains := []string{"", "capable"}
	var took [2][2][]float64 // by domain, and whether it is attached
	for range *costRounds {
		for attached := range 2 {
			for domain, name := range domains {
				out, err := helper(path, "confined", "apparmor", name, "time", "20000").Output()
				if err != nil {
					t.Fatal(err)
				}
				ns, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
				if err != nil {
					t.Fatal(err)
				}
				took[domain][1-attached] = append(took[domain][1-attached], ns)
			}
			change := tr.refusals[0].objects.Attach
			if attached == 0 {
				change = tr.refusals[0].objects.Detach
			}
			if err := change(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for domain, name := range domains {
		without, with := slices.Min(took[domain][0]), slices.Min(took[domain][1]) // of an emulator, whose noise only adds
		t.Logf("as %q: %.0f ns a check without, %.0f with: %.3f", name, without, with, with/without)
	}
}
