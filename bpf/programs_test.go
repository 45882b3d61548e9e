package bpf

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// systemProgram copies a program of the system under a name of its own.
func systemProgram(t *testing.T, program, name string) string {
	t.Helper()
	found, err := exec.LookPath(program)
	if err != nil {
		lacks(t, "not installed: ", err)
	}
	image, err := os.ReadFile(found)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	openToAll(t, dir)
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, image, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func asNobody(cmd *exec.Cmd) *exec.Cmd {
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	return cmd
}

// TestRealPrograms runs what administrators run, and finds what it is known to ask for.
func TestRealPrograms(t *testing.T) {
	tr := openLive(t, Options{})
	for _, p := range []struct {
		name, program string
		command       func(path string) *exec.Cmd
		prepare       func(path string) error
		want          Check
		sites         []string // one of these asked for it
		mayFail       bool
	}{{
		name: "ping-with-file-capability", program: "ping",
		prepare: func(path string) error {
			return holding([]cap.Value{cap.NET_RAW}).SetFile(path)
		},
		command: func(path string) *exec.Cmd { return asNobody(exec.Command(path, "-c1", "-w2", "127.0.0.1")) },
		want:    Check{Capability: uint8(cap.NET_RAW)},
		sites:   []string{"inet_create", "inet6_create"},
	}, {
		name: "dmesg-of-root", program: "dmesg",
		command: func(path string) *exec.Cmd { return exec.Command(path) },
		want:    Check{Capability: uint8(cap.SYSLOG)},
		sites:   []string{"devkmsg_open", "do_syslog", "check_syslog_permissions"},
	}, {
		name: "dmesg-of-nobody", program: "dmesg", mayFail: true,
		command: func(path string) *exec.Cmd { return asNobody(exec.Command(path)) },
		want:    Check{Capability: uint8(cap.SYSLOG), Denied: true},
		sites:   []string{"devkmsg_open", "do_syslog", "check_syslog_permissions"},
	}, {
		name: "real-mount", program: "mount",
		command: func(path string) *exec.Cmd {
			cmd := exec.Command(path, "-t", "tmpfs", "none", filepath.Dir(path))
			cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
			return cmd
		},
		want:  Check{Capability: uint8(cap.SYS_ADMIN)},
		sites: []string{"path_mount", "__do_sys_fsopen", "sys_fsopen", "sys_fsmount", "sys_move_mount"},
	}, {
		name: "real-unshare", program: "unshare",
		command: func(path string) *exec.Cmd { return exec.Command(path, "-m", "/bin/true") },
		want:    Check{Capability: uint8(cap.SYS_ADMIN)},
		sites:   []string{"unshare_nsproxy_namespaces"},
	}, {
		name: "ss-of-nobody", program: "ss",
		command: func(path string) *exec.Cmd { return asNobody(exec.Command(path, "-tan")) },
		want:    Check{Capability: uint8(cap.NET_ADMIN), Denied: true},
		sites:   []string{"inet_diag_dump_compat", "__inet_diag_dump", "inet_diag_dump", "tcp_diag_dump", "netlink_net_capable"},
	}} {
		t.Run(p.name, func(t *testing.T) {
			path := systemProgram(t, p.program, p.name)
			if p.prepare != nil {
				if err := p.prepare(path); err != nil {
					t.Fatal(err)
				}
			}
			if out, err := p.command(path).CombinedOutput(); err != nil && !p.mayFail {
				t.Fatalf("%v\n%s", err, out)
			}
			s := checkIdentities(t, tr)
			got := by(s, p.name)
			if got[p.want.String()] == 0 {
				t.Errorf("asked for %v, want %s among it", got, p.want)
			}
			other := p.want
			other.Denied = !other.Denied
			if got[other.String()] != 0 {
				t.Errorf("asked for %v, want no %s", got, other)
			}
			asked := sitesOf(s, p.name, p.want)
			if !slices.ContainsFunc(asked, func(site string) bool { return slices.Contains(p.sites, symbolName(site)) }) {
				t.Errorf("asked by %v, want one of %v", asked, p.sites)
			}
		})
	}
}

// TestPs reads all of /proc as nobody: the kernel looks at CAP_SYS_PTRACE for each process, without audit.
func TestPs(t *testing.T) {
	tr := openLive(t, Options{})
	const name = "ps-of-nobody"
	path := systemProgram(t, "ps", name)
	check := Check{Capability: uint8(cap.SYS_PTRACE), Denied: true}
	sites := []string{"__ptrace_may_access", "ptrace_may_access"}
	before := siteCount(snapshot(t, tr), check, AuditedNo, sites)
	run(t, asNobody(exec.Command(path, "-e", "-o", "pid,stat,wchan")))
	s := checkIdentities(t, tr)
	if n := siteCount(s, check, AuditedNo, sites) - before; n == 0 {
		t.Error("no unaudited check of CAP_SYS_PTRACE")
	}
	for c, n := range by(s, name) {
		if c != "19 denied host" { // the security modules' own part of the check is audited (kernel-facts: cap_ptrace_access_check)
			t.Errorf("%d audited checks of %s", n, c)
		}
	}
}
