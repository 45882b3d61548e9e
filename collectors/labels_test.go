package collectors

import (
	"testing"

	"capability_exporter/bpf"
)

func TestCapability(t *testing.T) {
	tests := map[uint8]string{0: "CAP_CHOWN", 21: "CAP_SYS_ADMIN", 40: "CAP_CHECKPOINT_RESTORE", 41: "CAP_41", 63: "CAP_63", 255: "CAP_255"}
	for number, want := range tests {
		if got := Capability(number); got != want {
			t.Errorf("Capability(%d) = %q, want %q", number, got, want)
		}
	}
}

func TestFixedLabels(t *testing.T) {
	tests := []struct{ got, want string }{
		{Result(false), "granted"},
		{Result(true), "denied"},
		{Scope(false), "host"},
		{Scope(true), "userns"},
		{AuditedLabel(bpf.AuditedYes), "yes"},
		{AuditedLabel(bpf.AuditedNo), "no"},
		{AuditedLabel(bpf.AuditedUnknown), "unknown"},
	}
	for _, test := range tests {
		if test.got != test.want {
			t.Errorf("got %q, want %q", test.got, test.want)
		}
	}
}

func TestProcess(t *testing.T) {
	tests := map[bpf.Process]string{
		{Name: "nginx"}:                             "nginx",
		{Name: "my tool"}:                           "my tool",
		{Name: ""}:                                  "_unknown",
		{Kind: bpf.ProcessKernel}:                   "[kernel]",
		{Kind: bpf.ProcessExiting}:                  "[exiting]",
		{Kind: bpf.ProcessKernel, Name: "x"}:        "[kernel]",
		{Name: "[kernel]"}:                          `\[kernel]`,
		{Name: "[exiting]"}:                         `\[exiting]`,
		{Name: "_other"}:                            `\_other`,
		{Name: "_unknown"}:                          `\_unknown`,
		{Name: "_"}:                                 `\_`,
		{Name: `\_other`}:                           `\\_other`,
		{Name: `\\[`}:                               `\\\\[`,
		{Name: "a_b[c]"}:                            "a_b[c]",
		{Name: "caf\xe9"}:                           `caf\xe9`,
		{Name: `caf\xe9`}:                           `caf\\xe9`,
		{Name: "café"}:                              "café",
		{Name: "\xff\xfe"}:                          `\xff\xfe`,
		{Name: "\uFFFD"}:                            "\uFFFD", // the real replacement character
		{Name: "\uFFFD\xff"}:                        "\uFFFD\\xff",
		{Name: "\xed\xa0\x80"}:                      `\xed\xa0\x80`,     // a surrogate
		{Name: "\xc0\xaf"}:                          `\xc0\xaf`,         // an overlong slash
		{Name: "\xf4\x90\x80\x80"}:                  `\xf4\x90\x80\x80`, // beyond U+10FFFF
		{Name: "\xe2\x82"}:                          `\xe2\x82`,         // a euro sign cut short
		{Name: "\x01\n\r\x1b\x7f\u202e\u0085\"{}="}: `\x01\x0a\x0d\x1b\x7f\xe2\x80\xae\xc2\x85"{}=`,
		{Name: "a\u200bb\u00a0c\ufe0f"}:             `a\xe2\x80\x8bb\xc2\xa0c\xef\xb8\x8f`,
		{Name: "memfd:\xff"}:                        `memfd:\xff`,
	}
	for process, want := range tests {
		if got := Process(process); got != want {
			t.Errorf("Process(%#v) = %q, want %q", process, got, want)
		}
	}
}

func TestWorkload(t *testing.T) {
	tests := map[bpf.Cgroup]string{
		{ID: 1, Path: "/"}:                                    "/",
		{ID: 9, Path: "/system.slice/sshd.service"}:           "sshd.service",
		{ID: 9, Path: `/system.slice/dev-disk\x2d1.swap`}:     `dev-disk\x2d1.swap`,
		{ID: 9, Path: `/system.slice/dev-caf\xc3\xa9.swap`}:   `dev-caf\xc3\xa9.swap`,
		{ID: 9, Path: "/system.slice/dev-café.swap"}:          "/system.slice/dev-café.swap",
		{ID: 9, Path: "/system.slice/dev-caf\xc3.swap"}:       `/system.slice/dev-caf\xc3.swap`,
		{ID: 9, Path: `/foo/dev-caf\xc3.swap`}:                `/foo/dev-caf\\xc3.swap`,
		{ID: 9, Path: "/system.slice/__other.service"}:        "_other.service",
		{ID: 9, Path: inPod("1")}:                             "pod/12fdc709-933e-41d0-917f-cd84de9afa94",
		{ID: 9, Path: inPod("1"), Truncated: true}:            "[cgroup:9]" + inPod("1"),
		{ID: 9, Path: "/docker/" + digits("1")}:               "container/111111111111",
		{ID: 9, Path: "/lxc.payload.a\nb"}:                    `machine/a\x0ab`,
		{ID: 9, Path: `/lxc.payload.a\x0ab`}:                  `machine/a\\x0ab`,
		{ID: 9, Path: "/foo/" + digits("1")}:                  "/foo/*",
		{ID: 9, Path: "/a/_other/[b]"}:                        "/a/_other/[b]",
		{ID: 9, Path: "/\xff"}:                                `/\xff`,
		{ID: 9, Path: "_other"}:                               `\_other`, // not absolute: the kernel gives none such
		{ID: 9, Path: "[cgroup:9]/a"}:                         `\[cgroup:9]/a`,
		{ID: 9}:                                               "[cgroup:9]",
		{ID: 9, Truncated: true}:                              "[cgroup:9]",
		{ID: 9, Path: "/a", Truncated: true}:                  "[cgroup:9]/a",
		{ID: 9, Path: "ope/a\xff", Truncated: true}:           `[cgroup:9]ope/a\xff`,
		{ID: 1<<64 - 1, Path: "]/", Truncated: true}:          "[cgroup:18446744073709551615]]/",
		{ID: 9, Path: "/kubepods/pod\n1/c", Truncated: false}: `/kubepods/pod\x0a1/c`,
	}
	for cgroup, want := range tests {
		if got := Workload(cgroup); got != want {
			t.Errorf("Workload(%#v) = %q, want %q", cgroup, got, want)
		}
	}
}

func TestCallSite(t *testing.T) {
	tests := map[string]string{
		"path_mount":                      "path_mount",
		"packet_create [af_packet]":       "packet_create",
		"f.isra.0 [we\xffird]":            "f",
		"f [truncated":                    "f",
		"":                                "_unknown",
		" [mod]":                          "_unknown",
		"0xffffffff81234567":              "_unknown",
		"0xffffffffc0000000 [mod]":        "_unknown",
		"_other":                          `\_other`,
		"_unknown":                        `\_unknown`,
		"_other.cold":                     `\_other`,
		`\_other`:                         `\\_other`,
		"_others":                         "_others",
		"__ptrace_may_access":             "__ptrace_may_access",
		"__set_oom_adj.isra.0":            "__set_oom_adj",
		"f.constprop.0":                   "f",
		"f.part.12":                       "f",
		"f.cold":                          "f",
		"f.llvm.1234567890":               "f",
		"f.constprop.0.isra.0.cold":       "f",
		"io_uring_setup.cold":             "io_uring_setup",
		".f":                              ".f",
		".f.isra.0":                       ".f",
		"\xfff":                           `\xfff`,
		"__x64_sys_mount":                 "sys_mount",
		"__ia32_sys_mount":                "sys_mount",
		"__arm64_sys_mount":               "sys_mount",
		"__riscv_sys_mount":               "sys_mount",
		"__s390x_sys_mount":               "sys_mount",
		"__s390_sys_mount":                "sys_mount",
		"__x32_compat_sys_ioctl":          "compat_sys_ioctl",
		"__do_sys_mount.constprop.0":      "sys_mount",
		"__se_sys_mount":                  "sys_mount",
		"sys_mount":                       "sys_mount",
		"__do_compat_sys_ioctl":           "compat_sys_ioctl",
		"__se_compat_sys_ioctl":           "compat_sys_ioctl",
		"__ia32_compat_sys_ioctl":         "compat_sys_ioctl",
		"__x64_compat_sys_ioctl":          "compat_sys_ioctl",
		"__arm64_compat_sys_ioctl.part.0": "compat_sys_ioctl",
		"compat_sys_ioctl":                "compat_sys_ioctl",
		"__sys_bpf":                       "__sys_bpf", // a function of its own
		"ksys_unshare":                    "ksys_unshare",
		"__do_sysfs":                      "__do_sysfs",
		"____bpf_sys_bpf":                 "____bpf_sys_bpf",
		"__x64_sys":                       "__x64_sys",
		"x64_sys_call":                    "x64_sys_call",
	}
	for symbol, want := range tests {
		if got := CallSite(symbol, false); got != want {
			t.Errorf("CallSite(%q) = %q, want %q", symbol, got, want)
		}
		if got := CallSite(symbol, true); got != "_other" {
			t.Errorf("CallSite(%q) = %q when the table was full, want _other", symbol, got)
		}
	}
}
