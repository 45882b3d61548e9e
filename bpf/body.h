/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The one body behind every source. Each check adds one to one site slot, and, when audited, to one who slot. */
#pragma once

#include "site.h"
#include "who.h"

static __always_inline int check(void *ctx, const struct cred *cred, struct user_namespace *target, int cap, int ret, u32 told,
				 u32 bank, bool cast)
{
	u32 what = cap & (CAPABILITIES - 1), site = 0;

	if (ret)
		what |= WHAT_DENIED;
	if (target->level)
		what |= WHAT_USERNS;
	if (count_site(ctx, what, told, &site, bank, cast) == CLASS_AUDITED)
		count_who(cred, what, site, bank, cast);
	return 0;
}

/* Marks a cgroup that asked for something and is gone, so that its series can end. Any hierarchy may remove one with the same
 * id, hence the look at its root. */
SEC("tp_btf/cgroup_rmdir")
int BPF_PROG(cgroup_gone, struct cgroup *cgroup)
{
	struct cgroup_key key = { .id = cgroup->kn->id, .hierarchy = settings.hierarchy };
	struct cgroup_record *r;

	if (settings.hierarchy ? !(cgroup->root->subsys_mask >> (settings.hierarchy - 1) & 1) : cgroup->root->hierarchy_id != 0)
		return 0;
	r = bpf_map_lookup_elem(&cgroups, &key);
	if (r && !r->offline)
		r->offline = bpf_ktime_get_boot_ns();
	return 0;
}
