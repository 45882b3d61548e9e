/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which cgroup tells a task's workload, what it is called and who made it. */
#pragma once

#include "read.h"

#define CAST_TO(type, from) ((type *)bpf_rdonly_cast((void *)(from), __builtin_btf_type_id(*(type *)0, BPF_TYPE_ID_TARGET)))

/* in_subsystem finds the cgroup of a subsystem, whose place in struct css_set is AT. */
static __always_inline struct cgroup *in_subsystem(struct css_set *set, u32 at, enum reading reading)
{
	struct cgroup_subsys_state *css = (void *)word(set, at, reading);
	struct cgroup *cgroup = NULL;

	if (reading == CAST)
		return CAST_TO(struct cgroup_subsys_state, css)->cgroup;
	READ(cgroup, css->cgroup);
	return cgroup;
}

#define TRY(subsystem)                                                                                                \
	if (ENUM_EXISTS(enum cgroup_subsys_id, subsystem)) {                                                          \
		at = FIELD_OFFSET(set->subsys) + ENUM_VALUE(enum cgroup_subsys_id, subsystem) * sizeof(void *);       \
		cgroup = in_subsystem(set, at, reading);                                                              \
		if (LOAD(reading, cgroup->level))                                                                     \
			return cgroup;                                                                                \
	}

/* cgroup_of decides which of a task's cgroups tells its workload: v2's unless it is the root; else that of the first of these v1
 * hierarchies in which the task is not at the root; else the root. A subsystem that no v1 hierarchy has stands in v2, and says again
 * what v2 says. What it returns is for LOAD by the same reading, which is CAST or HELPER. */
static __always_inline struct cgroup *cgroup_of(struct css_set *set, enum reading reading)
{
	struct cgroup *v2 = LOAD(reading, set->dfl_cgrp), *cgroup;
	u32 at;

	if (reading == CAST)
		v2 = CAST_TO(struct cgroup, v2); /* of one type with the others, to the verifier */
	if (LOAD(reading, v2->level))
		return v2;
	TRY(memory_cgrp_id);
	TRY(pids_cgrp_id);
	TRY(devices_cgrp_id);
	TRY(freezer_cgrp_id);
	TRY(cpu_cgrp_id);
	return v2;
}

static __always_inline u32 online(struct cgroup *cgroup)
{
	u32 flags = 0;

	READ(flags, cgroup->self.flags);
	return flags & CSS_ONLINE;
}

/* path_of writes the record of a cgroup. */
static __always_inline void path_of(struct cgroup_record *r, struct cgroup *cgroup)
{
	struct kernfs_node *kn = NULL, *parent;
	struct cgroup_root *root = NULL;
	const char *name;
	int hierarchy = 0;
	u32 i;
	long n;

	r->serial = r->id = 0;
	READ(r->serial, cgroup->self.serial_nr);
	READ(root, cgroup->root);
	READ(hierarchy, root->hierarchy_id);
	READ(kn, cgroup->kn);
	READ(r->id, kn->id);
	r->v1 = hierarchy != 0;
	r->len = 0;
	r->truncated = 1;
	r->offline = online(cgroup) ? 0 : bpf_ktime_get_boot_ns();
	for (i = 0; i < 64; i++) {
		parent = NULL;
		if (FIELD_EXISTS(kn->__parent))
			READ(parent, kn->__parent);
		else
			READ(parent, ((struct kernfs_node___old *)kn)->parent);
		if (!parent) {
			r->truncated = 0;
			break;
		}
		if (r->len >= PATH_SIZE)
			break;
		name = NULL;
		READ(name, kn->name);
		n = bpf_probe_read_kernel_str(&r->names[r->len & (PATH_SIZE - 1)], NAME_SIZE, name);
		if (n <= 0)
			break;
		r->len += n;
		kn = parent;
	}
}

enum { TOO_DEEP = 64 }; /* cgroups within each other */

/* owner_of is the innermost cgroup above which, and which, all are root's: what a user made below what was delegated to him is all his.
 * 0 where that is too deep. */
static __always_inline u64 owner_of(u64 cgroup_at)
{
	struct cgroup *cgroup = (void *)cgroup_at;
	struct cgroup_subsys_state *css;
	struct kernfs_iattrs *iattr;
	struct kernfs_node *kn;
	u64 owner = cgroup_at, made;
	kuid_t uid;
	u32 i;

	for (i = 0; i < TOO_DEEP; i++) {
		/* What cannot be read is 0, as all behind a pointer that is NULL. */
		READ(kn, cgroup->kn);
		READ(iattr, kn->iattr);
		READ(uid, iattr->ia_uid);
		READ(css, cgroup->self.parent);
		if (!css)
			return owner;
		READ(cgroup, css->cgroup);
		/* Without a branch, each of which the verifier would follow in each round. */
		made = -(u64)uid.val;
		asm volatile("%0 s>>= 63" : "+r"(made));
		owner = (made & (u64)cgroup) | (~made & owner);
	}
	return 0;
}
