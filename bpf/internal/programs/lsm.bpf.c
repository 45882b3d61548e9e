//go:build ignore
// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The final word: what another security module refuses of what the capability module (commoncap) has granted. The kernel asks
// commoncap first and the others only if it grants, so all that comes here was granted there, and is counted there as granted.
//
// This object stands beside that of a source, and is loaded once for each module that is active: with slots, names and records of
// its own, so that nothing here can take any from what is counted there. In its slots' whats nothing is denied, as by commoncap.

#include "who.h"

/* By slot. Refusals are few: all CPUs count in one place. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, u32);
	__type(value, u64);
} refusals SEC(".maps");

/* refused counts one for the current task. */
static __noinline int refused(u32 what)
{
	struct scratch *s = my_scratch(0);
	u32 found, slot;
	u64 *n;

	if (!s)
		return 0;
	who_helper(0);
	s->part = 0;
	found = who_slot(what, 0);
	slot = found & SLOT;
	n = bpf_map_lookup_elem(&refusals, &slot);
	if (n)
		__sync_fetch_and_add(n, 1);
	announce(what | WHAT_DENIED, slot, 0, found >> 31, 0);
	return 0;
}

#define IS(class, name) (!__builtin_memcmp(class, name, sizeof(name)))

/* SELinux's own tracepoint comes for what it audits, at the audit's record: not for checks without audit, and not for what a dontaudit
 * rule covers or the audit subsystem drops. Where a domain or all is permissive it answers 0 for what it would have denied. */
SEC("raw_tp/selinux_audited")
int selinux(u64 *ctx)
{
	struct selinux_audit_data *data = (void *)ctx[0];
	char class[16] = {}; /* the name of what was asked for: of 32 capabilities, or of the rest */
	u32 denied = 0, cap, what = 0;
	int result = 0;

	READ(result, data->result);
	READ(denied, data->denied);
	if (!result || !denied)
		return 0;
	bpf_probe_read_kernel_str(class, sizeof(class), (void *)ctx[3]);
	if (IS(class, "capability2") || IS(class, "cap2_userns"))
		what = 32;
	else if (!IS(class, "capability") && !IS(class, "cap_userns"))
		return 0;
	if (class[3] == '_')
		what |= WHAT_USERNS;
	for (cap = 0; cap < 31; cap++)
		if (denied >> cap & 1)
			break;
	return refused(what | cap);
}

/* apparmor_ended looks at an end of aa_capable, which AppArmor calls for tasks that are confined, and only for those: others pay
 * nothing. Nearer to a refusal the kernel has no place that it comes to each time: it audits one of those that are alike, and none that
 * a profile denies outright. */
static __always_inline int apparmor_ended(u32 cap, u32 opts, int result)
{
	struct user_namespace *ns = NULL;
	const struct cred *cred = NULL;
	int level = 0;

	if (!result || opts & CAP_OPT_NOAUDIT) /* complain mode answers 0 */
		return 0;
	/* Which one was asked about is not told. What a task is granted that is in another than the initial one is something there. */
	READ(cred, current_task()->real_cred);
	READ(ns, cred->user_ns);
	READ(level, ns->level);
	return refused((cap & (CAPABILITIES - 1)) | (level ? WHAT_USERNS : 0));
}

SEC("fexit/aa_capable")
int apparmor(u64 *ctx)
{
	return apparmor_ended(ctx[2], ctx[3], ctx[4]);
}

/* Up to 6.6 it is not given the credentials. */
SEC("fexit/aa_capable")
int apparmor_label(u64 *ctx)
{
	return apparmor_ended(ctx[1], ctx[2], ctx[3]);
}
