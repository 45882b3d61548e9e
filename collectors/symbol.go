package collectors

import "strings"

// CallSite returns the kernel function that asked for a check, under a name
// that is the same over kernel builds and architectures: without the module,
// without what the compiler appended to a part or copy of it, and as sys_mount
// whichever of a system call's wrappers was left after inlining. It is
// _unknown where the symbol is empty or a bare address, and _other where the
// table of call sites was full (overflow).
//
// Kernel functions are not chosen by attackers and many start with an
// underscore (__ptrace_may_access), so other than in escapeName only the two
// names that are the exporter's own get a backslash before them.
func CallSite(symbol string, overflow bool) string {
	if overflow {
		return Other
	}
	name, _, _ := strings.Cut(symbol, " [") // "packet_create [af_packet]"
	// The kernel prints an address it has no symbol for as 0x...
	if name == "" || strings.HasPrefix(name, "0x") {
		return Unknown
	}
	// No C identifier has a dot in it, so what follows one is the compiler's:
	// .isra.0, .constprop.0, .part.0, .cold, .llvm.123 and combinations. (A dot
	// at the start, as some assemblers write it, leaves a name to be had.)
	if dot := strings.IndexByte(name[1:], '.'); dot >= 0 {
		name = name[:1+dot]
	}
	name = systemCall(name)
	if name == Other || name == Unknown {
		return `\` + name
	}
	return Escape(name)
}

// systemCall turns the names that SYSCALL_DEFINE and COMPAT_SYSCALL_DEFINE
// give to a system call's wrappers (include/linux/syscalls.h, and
// asm/syscall_wrapper.h of x86, arm64, s390 and riscv) into sys_NAME and
// compat_sys_NAME. The latter stay apart: they are functions of their own.
func systemCall(name string) string {
	rest, found := strings.CutPrefix(name, "__")
	if !found {
		return name
	}
	wrapper, call, _ := strings.Cut(rest, "_")
	switch wrapper {
	case "do", "se", "x64", "x32", "ia32", "arm64", "s390", "s390x", "riscv":
		if strings.HasPrefix(call, "sys_") || strings.HasPrefix(call, "compat_sys_") {
			return call
		}
	}
	return name
}
