/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which workload and process asked: the key, its slot, its names, and what is announced of it. */
#pragma once

#include "unwind.h"

/* node_of finds the current task's cgroup in the chosen hierarchy. */
static __noinline struct kernfs_node *node_of(struct css_set *set, u32 *flags)
{
	struct cgroup_subsys_state *css = NULL;
	struct cgroup *cgroup = NULL;
	struct kernfs_node *kn = NULL;

	if (settings.hierarchy) {
		bpf_probe_read_kernel(&css, sizeof(css), (void *)set + settings.cgroup_at);
		READ(cgroup, css->cgroup);
	} else {
		READ(cgroup, set->dfl_cgrp);
	}
	READ(kn, cgroup->kn);
	READ(*flags, cgroup->self.flags);
	return kn;
}

static __noinline u64 serial_slowly(struct css_set *set)
{
	struct cgroup_subsys_state *css = NULL;
	u64 serial = 0;

	bpf_probe_read_kernel(&css, sizeof(css), (void *)set + settings.cgroup_at);
	READ(serial, css->serial_nr);
	return serial;
}

static __always_inline u64 serial_of(struct css_set *set, enum reading reading)
{
	struct cgroup_subsys_state *css;
	struct cgroup *cgroup;

	if (!settings.hierarchy) {
		cgroup = LOAD(reading, set->dfl_cgrp);
		return LOAD(reading, cgroup->self.serial_nr);
	}
	if (reading != CAST)
		return serial_slowly(set);
	css = bpf_rdonly_cast((void *)word(set, settings.cgroup_at, reading),
			      __builtin_btf_type_id(*(struct cgroup_subsys_state *)0, BPF_TYPE_ID_TARGET));
	return css->serial_nr;
}

static __always_inline u32 class_of(u32 what) { return (what & WHAT_SITE) >> WHAT_CLASS_SHIFT; }

static __always_inline u32 kind_of(u32 what) { return what >> WHAT_KIND_SHIFT & WHAT_KIND; }

static __always_inline u32 hierarchy_of(u32 what) { return what >> WHAT_HIERARCHY_SHIFT & WHAT_HIERARCHY; }

static __noinline u64 inode_of(struct file *exe)
{
	struct inode *inode = NULL;
	unsigned long number = 0;
	u32 generation = 0;

	READ(inode, exe->f_inode);
	READ(number, inode->i_ino);
	READ(generation, inode->i_generation);
	return number | (u64)generation << 32;
}

static __always_inline void fill_key(struct who_key *key, struct task_struct *task, u32 what, enum reading reading)
{
	struct mm_struct *mm = LOAD(reading, task->mm);
	struct dentry *dentry;
	struct file *exe;

	key->what = what | settings.hierarchy << WHAT_HIERARCHY_SHIFT;
	key->cgroup = serial_of(LOAD(reading, task->cgroups), reading);
	if (LOAD(reading, task->flags) & PF_KTHREAD) { /* even one that has borrowed a process's memory (kthread_use_mm) */
		key->what |= KIND_KERNEL << WHAT_KIND_SHIFT;
		return;
	}
	exe = mm ? LOAD(reading, mm->exe_file) : NULL;
	if (!exe) {
		key->what |= KIND_EXITING << WHAT_KIND_SHIFT;
		return;
	}
	dentry = LOAD(reading, exe->f_path.dentry);
	/* As numbers: the verifier lets no pointer be hashed, and up to 6.1 no union be read whole. */
	key->file = word(exe, FIELD_OFFSET(exe->f_path.dentry), reading);
	key->name = word(dentry, FIELD_OFFSET(dentry->d_name.hash_len), reading);
	if (!(u32)key->name) /* d_alloc_pseudo() is given a name without a hash */
		key->file = inode_of(exe);
}

/* borrowed tells whether a check is made with the rights of another than the task. A different pointer alone says nothing:
 * access(2) swaps in a copy of the task's own (fs/open.c, access_override_creds). */
static __noinline bool borrowed(const struct cred *cred, const struct cred *own)
{
	struct {
		kuid_t uid, euid, suid;
		u32 unused;
		kernel_cap_t permitted;
		struct user_namespace *user_ns;
	} a = {}, b = {};

	READ(a.uid, cred->uid);
	READ(a.euid, cred->euid);
	READ(a.suid, cred->suid);
	READ(a.permitted, cred->cap_permitted);
	READ(a.user_ns, cred->user_ns);
	READ(b.uid, own->uid);
	READ(b.euid, own->euid);
	READ(b.suid, own->suid);
	READ(b.permitted, own->cap_permitted);
	READ(b.user_ns, own->user_ns);
	return a.uid.val != b.uid.val || a.euid.val != b.euid.val || a.suid.val != b.suid.val ||
	       a.permitted.val != b.permitted.val || a.user_ns != b.user_ns;
}

/* name_process writes the file name of the current task's executable. */
static __always_inline void name_process(u8 *to, u32 kind)
{
	const unsigned char *name = NULL;
	struct mm_struct *mm = NULL;
	struct dentry *dentry = NULL;
	struct file *exe = NULL;

	to[0] = 0;
	if (kind != KIND_FILE)
		return;
	READ(mm, current_task()->mm);
	READ(exe, mm->exe_file);
	READ(dentry, exe->f_path.dentry);
	READ(name, dentry->d_name.name);
	bpf_probe_read_kernel_str(to, NAME_SIZE, name);
}

/* name_cgroup keeps the path of the current task's cgroup, once for each cgroup, and returns its id. */
GLOBAL u64 name_cgroup(u32 hierarchy, u32 bank)
{
	struct cgroup_key key = { .hierarchy = hierarchy };
	struct kernfs_node *kn, *parent;
	struct css_set *set = NULL;
	struct cgroup_record *r;
	struct scratch *s;
	const char *name;
	u32 i, flags = 0;
	long n;

	READ(set, current_task()->cgroups);
	kn = node_of(set, &flags);
	READ(key.id, kn->id);
	if (bpf_map_lookup_elem(&cgroups, &key))
		return key.id;
	s = my_scratch(bank & 1);
	if (!s)
		return key.id;
	r = &s->cgroup;
	r->len = 0;
	r->truncated = 1;
	r->offline = flags & CSS_ONLINE ? 0 : bpf_ktime_get_boot_ns();
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
	bpf_map_update_elem(&cgroups, &key, r, BPF_NOEXIST);
	return key.id;
}

/* announce tells user space of a new key or of a denial, the latter a few times in each window. A full ring is counted and
 * loses no name: those stand in the maps. */
static __noinline int announce(u32 what, u32 slot, u32 site, u32 fresh, u32 bank)
{
	struct who_record *r = bpf_map_lookup_elem(&who_records, &slot);
	struct task_struct *task = current_task();
	struct stat_values *st = my_stats(bank);
	const struct cred *cred = NULL;
	struct announcement *a;
	u32 window = settings.window;
	u64 cgroup;

	if (!r || !st)
		return 0;
	if (what & WHAT_DENIED) {
		if (r->burst_window != window) {
			r->burst_window = window;
			r->burst = 0;
		}
		if (r->burst >= denial_burst && !fresh) {
			st->withheld++;
			return 0;
		}
		r->burst++;
	}
	cgroup = name_cgroup(hierarchy_of(what), bank);
	a = bpf_ringbuf_reserve(&ring, sizeof(*a), 0);
	if (!a) {
		st->lost++;
		return 0;
	}
	a->time = bpf_ktime_get_boot_ns();
	a->cgroup = cgroup;
	a->hierarchy = hierarchy_of(what);
	a->syscall = -1;
	if (has_pt_regs) {
#if defined(__TARGET_ARCH_x86)
		struct pt_regs___x86 *regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());

		READ(a->syscall, regs->orig_ax);
#elif defined(__TARGET_ARCH_arm64)
		struct pt_regs___arm64 *regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
		s32 number = -1;

		READ(number, regs->syscallno);
		a->syscall = number;
#endif
	}
	READ(a->tgid, task->tgid);
	READ(a->tid, task->pid);
	READ(cred, task->real_cred);
	READ(a->uid, cred->uid.val);
	a->site = site;
	a->slot = slot;
	a->what = what & WHAT_WHO;
	a->kind = kind_of(what);
	a->fresh = fresh;
	name_process(a->name, kind_of(what));
	bpf_ringbuf_submit(a, 0);
	return 0;
}

/* note_site keeps the first few kernel functions that asked for a key. */
static __noinline int note_site(u32 slot, u32 site)
{
	struct who_record *r = bpf_map_lookup_elem(&who_records, &slot);
	u32 i;

	if (!r || slot < WHO_FIXED)
		return 0;
	for (i = 0; i < WHO_SITES; i++) {
		if (r->sites[i] == site + 1)
			break;
		if (!r->sites[i]) {
			r->sites[i] = site + 1;
			break;
		}
	}
	return 0;
}

enum { FRESH = 1u << 31 };

/* who_slot finds or makes the slot of a key that the cache does not hold: `_other` where none is free. FRESH is set in what it
 * returns when this is the key's first check. */
static __noinline u32 who_slot(struct who_key *key, u32 bank)
{
	u32 *known = bpf_map_lookup_elem(&whos, key), slot, i;
	struct who_record *r;

	if (known)
		return *known;
	if (bpf_map_pop_elem(&free_whos, &slot))
		return key->what & WHAT_WHO;
	r = bpf_map_lookup_elem(&who_records, &slot);
	if (!r)
		return key->what & WHAT_WHO;
	r->key = *key;
	r->created = bpf_ktime_get_boot_ns();
	for (i = 0; i < WHO_SITES; i++)
		r->sites[i] = 0;
	r->burst_window = r->burst = 0;
	name_process(r->name, kind_of(key->what));
	r->cgroup = name_cgroup(hierarchy_of(key->what), bank);
	if (!bpf_map_update_elem(&whos, key, &slot, BPF_NOEXIST))
		return slot | FRESH;
	/* Another CPU was faster: its slot counts. */
	bpf_map_push_elem(&free_whos, &slot, 0);
	known = bpf_map_lookup_elem(&whos, key);
	return known ? *known : key->what & WHAT_WHO;
}
