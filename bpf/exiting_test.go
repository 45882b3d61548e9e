package bpf

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// TestExiting has tasks ask that have given up their memory. The kernel writes its record of a process after that (acct_process
// comes after exit_mm in do_exit, kernel/exit.c), and where the record's file has the set-user-id bit, each write is a check of
// CAP_FSETID. It is made with the credentials of whoever has turned accounting on.
func TestExiting(t *testing.T) {
	inGuest(t)
	const n = 20
	dir := t.TempDir()
	// A file system that knows its size: else the kernel takes it for full.
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	records := filepath.Join(dir, "records")
	if err := os.WriteFile(records, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(records, 0o600|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	tr := openLive(t, Options{})
	path := tiny(t, "soon-gone")
	openToAll(t, filepath.Dir(path))
	if err := unix.Acct(records); err != nil {
		t.Skip("the kernel keeps no records of processes: ", err)
	}
	accounting := true
	stop := func() {
		if accounting {
			if err := syscall3(unix.SYS_ACCT, 0, 0, 0); err != nil {
				t.Error(err)
			}
		}
		accounting = false
	}
	defer stop()
	before := snapshot(t, tr)
	for range n {
		run(t, exec.Command(path))
	}
	between := snapshot(t, tr)
	for range n {
		run(t, asNobody(exec.Command(path)))
	}
	after := checkIdentities(t, tr)
	stop()
	fsetid := Check{Capability: uint8(cap.FSETID)}
	exiting := func(s *Snapshot) (asked uint64, sites []string) {
		for _, w := range s.Workloads {
			if w.Process == (Process{Kind: ProcessExiting}) && w.Check == fsetid {
				asked += w.Count
				sites = append(sites, w.CallSites...)
			}
		}
		return asked, sites
	}
	first, _ := exiting(before)
	second, sites := exiting(between)
	third, _ := exiting(after)
	if asked := second - first; asked < n {
		t.Errorf("%d checks of CAP_FSETID by tasks that are exiting, want %d", asked, n)
	}
	if asked := borrowedCount(after, fsetid.Capability) - borrowedCount(between, fsetid.Capability); asked < n {
		t.Errorf("%d checks of CAP_FSETID on behalf of who turned accounting on, by tasks of another that are exiting, want %d", asked, n)
	}
	if third != second {
		t.Errorf("%d checks stand under tasks that have not asked on their own behalf", third-second)
	}
	t.Logf("%d of [exiting], %d borrowed, asked by %v", second-first, borrowedCount(after, fsetid.Capability)-borrowedCount(between, fsetid.Capability), sites)
}
