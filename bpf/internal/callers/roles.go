package callers

import "capability_exporter/bpf/internal/programs"

// Roles says what part a kernel function plays on the way to cap_capable, by its name without the compiler's suffixes. Where
// the kernel's source gives one and the same function both classes, as it does with has_cap_mac_admin, the function above it
// decides. A function that is not named here decides nothing: the check's class is then unknown.
//
// The names are those of Linux 5.10 to 7.3; one that a kernel lacks does no harm.
func Roles() map[string]uint32 {
	r := map[string]uint32{
		"cap_capable":             programs.RoleCapable,
		"__traceiter_cap_capable": programs.RoleIterator,
		"security_capable":        programs.RoleSecurity,
		// security/selinux/hooks.c; the second argument, audit, is opts.
		"has_cap_mac_admin": programs.RoleByCaller,
	}
	for _, name := range []string{
		// kernel/capability.c: CAP_OPT_NONE, or CAP_OPT_INSETID.
		"capable", "ns_capable", "ns_capable_setid", "file_ns_capable", "capable_wrt_inode_uidgid",
		"has_capability", "has_ns_capability",
		// fs/proc/proc_net.c, from 7.3 on.
		"get_proc_task_net",
		// Linux security modules that ask cap_capable themselves (security/commoncap.c, AppArmor, Smack).
		"cap_capset", "cap_inh_is_capped", "cap_task_prctl", "cap_mmap_addr",
		"policy_ns_capable", "aa_policy_admin_capable", "smack_privileged_cred",
	} {
		r[name] = programs.RoleAudited
	}
	for _, name := range []string{
		// kernel/capability.c; capable_noaudit from 7.3 on.
		"ns_capable_noaudit", "capable_noaudit", "has_capability_noaudit", "has_ns_capability_noaudit", "ptracer_capable",
		// kernel/kallsyms.c, since 6.12 kernel/ksyms_common.c.
		"kallsyms_show_value",
		// security/commoncap.c; the second where the compiler turned the call into a jump.
		"cap_vm_enough_memory", "security_vm_enough_memory_mm",
		// AppArmor; each is the one before it, inlined into its caller (Debian's 7.3, and 6.18).
		"is_profile_priv_restricted_to_stack", "priv_restricted_transition", "aa_change_profile",
	} {
		r[name] = programs.RoleNoAudit
	}
	for _, name := range []string{"selinux_inode_setxattr", "selinux_setprocattr", "selinux_lsm_setattr"} {
		r[name] = programs.RoleCallerAudited
	}
	r["selinux_inode_getsecurity"] = programs.RoleCallerNoAudit
	return r
}
