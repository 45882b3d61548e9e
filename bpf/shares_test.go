package bpf

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"capability_exporter/bpf/internal/programs"
)

var attackSize = flag.Int("attack.size", 0, "how many names or cgroups each attack of TestShares makes; 0: some more than there are slots")

// attack is the helper that does as one who wants the table full would: attack KIND N DIR, as the owner of DIR, which is where its
// executable lies, or a cgroup.
func attack(args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	dir := args[2]
	switch args[0] {
	case "renames": // one process names its own executable anew, over and over
		return asManyNames(dir, n, func() { _ = askSysAdmin(nil) })
	case "kinds": // and with many kinds of checks each time
		return asManyNames(dir, n/len(cheapCalls()), func() {
			for _, c := range cheapCalls() {
				_, _, _ = unix.RawSyscall6(c[0], c[1], c[2], c[3], c[4], 0, 0)
			}
		})
	case "namespaces": // or as root of a user namespace, which is granted what it asks for there
		cmd := helper("/proc/self/exe", "attack", "renames", args[1], dir)
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWUTS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		}
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("no user namespace: %w", err)
		}
		return cmd.Wait()
	case "memfds": // executables without a file: a new name and a new process each time
		return memfds(n, args[3])
	case "cgroups", "cgroups-stay": // one cgroup after the other, below one that it was given
		return manyCgroups(dir, n, args[0] == "cgroups-stay", func() error { return askSysAdmin(nil) })
	case "set-user-id": // in each of them a program that becomes root, and is granted what it asks for
		return manyCgroups(dir, n, true, func() error { return exec.Command(args[3]).Run() })
	}
	return fmt.Errorf("no attack %q", args[0])
}

func asManyNames(dir string, n int, ask func()) error {
	name, err := os.Executable()
	if err != nil {
		return err
	}
	for i := range n {
		next := filepath.Join(dir, fmt.Sprint("attack-", i))
		if err := os.Rename(name, next); err != nil {
			return err
		}
		name = next
		// Who gives up the CPU is asked for its name again.
		if err := giveUpCPU(); err != nil {
			return err
		}
		ask()
	}
	return nil
}

func memfds(n int, program string) error {
	code, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	for i := range n {
		fd, err := unix.MemfdCreate(fmt.Sprint("attack-", i), 0)
		if err != nil {
			return fmt.Errorf("memfd_create: %w", err)
		}
		f := os.NewFile(uintptr(fd), "memfd")
		_, err = f.Write(code)
		if err := errors.Join(err, exec.Command(fmt.Sprintf("/proc/self/fd/%d", fd)).Run(), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

func manyCgroups(dir string, n int, stay bool, ask func() error) error {
	before := dir
	for i := range n {
		next := filepath.Join(dir, fmt.Sprint("attack-", i))
		if err := os.Mkdir(next, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(next, "cgroup.procs"), []byte("0"), 0); err != nil {
			return err
		}
		if err := ask(); err != nil {
			return err
		}
		if !stay && before != dir {
			if err := os.Remove(before); err != nil {
				return err
			}
		}
		before = next
	}
	return nil
}

// TestShares has an unprivileged user do all that could fill the table. Meanwhile and after it a program of root's that has never been
// seen is granted CAP_SYS_ADMIN and has a series and is told; a service that is denied something for the first time stands under
// its own name; what was known goes on; and all is counted.
func TestShares(t *testing.T) {
	attacks := []struct {
		name   string
		cgroup bool // the attacker is given one
	}{
		{"renames", false},
		{"kinds", false},
		{"namespaces", false},
		{"memfds", false},
		{"cgroups", true},
		{"cgroups-stay", true},
		{"set-user-id", true},
	}
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			limit := 512
			if *attackSize > 0 {
				limit = 0 // the default
			}
			size := limit * 3 / 2
			if *attackSize > 0 {
				size = *attackSize
			}
			var mu sync.Mutex
			told := map[string]int{}
			tr := openLive(t, Options{SeriesLimit: limit, Announce: func(a Announcement) {
				if a.Capability == unix.CAP_SYS_ADMIN && a.New && !a.Denied && !a.UserNS {
					mu.Lock()
					told[a.Process.Name]++
					mu.Unlock()
				}
			}})
			known := executable(t, "known-before")
			run(t, helper(known, "sethostname"))

			cmd, undo := attacker(t, a.name, a.cgroup, size)
			defer undo()
			start := time.Now()
			out := new(strings.Builder)
			cmd.Stdout, cmd.Stderr = out, out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			bystanders(t, tr, "during", &mu, told)
			if err := <-ended; err != nil {
				if strings.Contains(out.String(), "no user namespace") {
					t.Skip("ordinary users have no user namespaces here: ", out)
				}
				t.Fatalf("%v\n%s", err, out)
			}
			took := time.Since(start)
			bystanders(t, tr, "after", &mu, told)
			run(t, helper(known, "sethostname"))
			s := checkIdentities(t, tr)
			if got := by(s, "known-before")["21 granted host"]; short(got, 2, mayMiss(t, tr, s)) {
				t.Errorf("a program that was known had %d checks, want 2", got)
			}
			var others, overflow uint64
			owners := map[uint64]bool{}
			for _, w := range s.Workloads {
				if strings.Contains(w.Cgroup.Path, "/given") {
					owners[w.Owner] = true
				}
				switch {
				case w.Overflow:
					overflow += w.Count
				case w.Process.Kind == ProcessOther:
					others += w.Count
				}
			}
			if others == 0 {
				t.Errorf("the attacker was given a slot for each of %d; %d of %d are in use", size, s.Series, s.SeriesLimit)
			}
			if a.cgroup && len(owners) != 1 {
				t.Errorf("the cgroups that the attacker made are of the owners %v, want one", owners)
			}
			if overflow != 0 {
				t.Errorf("%d checks of nobody knows whom", overflow)
			}
			t.Logf("%s: %d in %s; %d of %d slots in use, %d checks under the workload's _other, %d under nobody's", a.name, size,
				took.Round(time.Millisecond), s.Series, s.SeriesLimit, others, overflow)
		})
	}
}

// attacker is an attack's process, as nobody.
func attacker(t *testing.T, kind string, cgroup bool, size int) (cmd *exec.Cmd, undo func()) {
	t.Helper()
	dir, err := os.MkdirTemp("", "attack") // a folder that nobody can go to
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "attacker")
	copyFile(t, path)
	program := filepath.Join(dir, "becomes-root")
	if err := os.Rename(tiny(t, "becomes-root"), program); err != nil {
		if copied := exec.Command("/bin/cp", tiny(t, "becomes-root"), program).Run(); copied != nil {
			t.Fatal(err, copied)
		}
	}
	undo = func() {}
	where := dir
	if cgroup {
		where = newCgroup(t, "given")
		undo = func() { removeBelow(where) }
		for _, name := range []string{"", "cgroup.procs"} {
			if err := os.Chown(filepath.Join(where, name), nobody, nobody); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, f := range []string{dir, path} {
		if err := errors.Join(os.Chown(f, nobody, nobody), os.Chmod(f, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(program, 0o4755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	cmd = helper(path, "attack", kind, strconv.Itoa(size), where, program)
	if cgroup {
		cmd = inCgroup(where, cmd)
		cmd.Args = append([]string{"/bin/sh", "-c", `echo 0 >"$0/cgroup.procs" && exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"`, where}, cmd.Args[4:]...)
		return cmd, undo
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	return cmd, undo
}

// removeBelow removes the cgroups below one.
func removeBelow(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

// bystanders are two that nobody has seen before: a program of root's, and a service that is denied something.
func bystanders(t *testing.T, tr *Tracer, when string, mu *sync.Mutex, told map[string]int) {
	t.Helper()
	root, service := "new-root-"+when, "new-service-"+when
	run(t, helper(executable(t, root), "sethostname"))
	run(t, inCgroup(newCgroup(t, service), helper(executable(t, service), "row", "sethostname", "without", "1", t.TempDir())))
	s := snapshot(t, tr)
	missed := mayMiss(t, tr, s)
	if got := by(s, root)["21 granted host"]; short(got, 1, missed) {
		t.Errorf("%s: %d checks of a new program of root's, want 1", when, got)
	}
	if got, _ := seriesOf(s, "/"+service, service); got == 0 && missed == 0 {
		t.Errorf("%s: a service that is denied something is not told", when)
	}
	for range 300 {
		mu.Lock()
		n := told[root]
		mu.Unlock()
		if n == 1 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	if missed == 0 {
		t.Errorf("%s: the new program of root's was announced %d times", when, told[root])
	}
}

// TestRingKeptForHost: what anybody can bring about never fills the ring, and what is granted on the host finds room there.
func TestRingKeptForHost(t *testing.T) {
	const n, name = 600, "finds-room"
	hold := make(chan struct{})
	var told atomic.Uint64
	tr := openLive(t, Options{RingSize: 16 * os.Getpagesize(), holdReader: hold, Announce: func(a Announcement) {
		if a.Process.Name == name && a.New {
			told.Add(1)
		}
	}})
	cmd, undo := attacker(t, "renames", false, n)
	defer undo()
	run(t, cmd)
	run(t, helper(executable(t, name), "sethostname"))
	s := checkIdentities(t, tr)
	if s.RingWithheld == 0 {
		t.Errorf("none of %d new denials was withheld: the ring was never half full", n)
	}
	close(hold)
	for range 300 {
		if told.Load() != 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	if mayMiss(t, tr, s) == 0 {
		t.Errorf("not announced, after %d records; %d lost, %d withheld", s.RingRecords, s.RingLost, s.RingWithheld)
	}
}

// TestKeptSlots has denials of very many workloads want all slots: none has one of those that are kept for what is granted.
func TestKeptSlots(t *testing.T) {
	const limit = 32
	tr := openLive(t, Options{SeriesLimit: limit})
	root, path := newCgroup(t, "denied-many"), executable(t, "denied-many")
	t.Cleanup(func() { removeBelow(root) })
	for i := range limit {
		dir := filepath.Join(root, strconv.Itoa(i))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		run(t, inCgroup(dir, helper(path, "row", "sethostname", "without", "1", t.TempDir())))
	}
	checkIdentities(t, tr)
	first := uint32(programs.WhoFixed + limit - keptOf(limit))
	for slot := first; slot < programs.WhoFixed+limit; slot++ {
		var r programs.WhoRecord
		if err := record(tr.series.records, slot, &r); err != nil {
			t.Fatal(err)
		}
		if c := checkOf(uint32(r.Key.What)); tr.counters.who(slot) != 0 && (c.Denied || c.UserNS) {
			t.Errorf("slot %d, which is kept, has %s", slot, c)
		}
	}
}

// TestSharesGivenBack: what a workload had goes back to its share, and the books are empty when all have gone.
func TestSharesGivenBack(t *testing.T) {
	const limit, name = 64, "given-back"
	tr := openLive(t, Options{SeriesLimit: limit, Retention: time.Millisecond, quarantine: time.Millisecond, second: neverNow()})
	type share struct{ Used [2]uint32 }
	books := func() (owners int, used, taken uint32) {
		shares := tr.objects.Collection.Maps["shares"]
		for _, serial := range keysOf(t, tr, "shares", uint64(0)) {
			var s share
			if err := shares.Lookup(serial, &s); err != nil {
				t.Fatal(err)
			}
			owners++
			used += s.Used[0] + s.Used[1]
		}
		var slots [2]uint32
		if err := tr.objects.Collection.Variables["taken"].Get(&slots); err != nil {
			t.Fatal(err)
		}
		return owners, used, slots[0] + slots[1]
	}
	path := tiny(t, name)
	for range 3 {
		dir := newCgroup(t, name)
		run(t, inCgroup(dir, helper(self(t), "fork", strconv.Itoa(2*limit), path, filepath.Join(filepath.Dir(path), "again-"))))
		s := checkIdentities(t, tr)
		if _, used, taken := books(); used != taken || int(taken) != s.Series {
			t.Errorf("%d slots in the shares, %d taken, and %d series", used, taken, s.Series)
		}
		if s.Series < limit/2 {
			t.Errorf("%d series for one workload alone, of %d", s.Series, limit)
		}
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		endAll(t, tr)
		s = checkIdentities(t, tr)
		if owners, used, taken := books(); used != taken || int(taken) != s.Series || owners > s.Series {
			t.Errorf("%d owners with %d slots, %d taken, and %d series, after the workload had gone", owners, used, taken, s.Series)
		}
	}
}

// TestAnnouncedOther: a denial of a workload that has used up its share is announced under its true names.
func TestAnnouncedOther(t *testing.T) {
	const limit, name = 32, "announced-other"
	told := make(chan Announcement, 1000)
	tr := openLive(t, Options{SeriesLimit: limit, Announce: func(a Announcement) {
		if strings.HasPrefix(a.Process.Name, "attack-") && a.Overflow {
			told <- a
		}
	}})
	cmd, undo := attacker(t, "renames", false, 2*limit)
	defer undo()
	cmd.SysProcAttr = nil
	cmd.Args = append([]string{"/usr/bin/setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"}, cmd.Args...)
	run(t, inCgroup(newCgroup(t, name), cmd))
	s := checkIdentities(t, tr)
	select {
	case a := <-told:
		if a.Cgroup.Path != "/"+name || !a.Denied {
			t.Errorf("in %v, denied: %t, want a denial in /%s", a.Cgroup, a.Denied, name)
		}
	case <-time.After(5 * time.Second):
		t.Errorf("not announced; %d series in use", s.Series)
	}
}
