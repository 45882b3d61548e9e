/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which workload and process asked: the key, its slot, its names, and what is announced of it. */
#pragma once

#include "call.h"
#include "cgroup.h"
#include "share.h"

static __always_inline u32 class_of(u32 what) { return (what & WHAT_SITE) >> WHAT_CLASS_SHIFT; }

static __always_inline u32 kind_of(u32 what) { return what >> WHAT_KIND_SHIFT & WHAT_KIND; }

/* Two multiplications for each word of a name: after one, the topmost bit of a word would move nothing but itself, and a second word
 * could undo it, whatever the seed. */
static __always_inline u64 mix(u64 hash, u64 w)
{
	hash = (hash ^ w) * settings.name_seed;
	hash ^= hash >> 32;
	hash *= settings.seed;
	return hash ^ hash >> 29;
}

/* spell hashes a name, and keeps it. The last word, of which there may be less, comes after the loop: within it the verifier would
 * follow both ways at each word. */
static __always_inline u64 spell(const void *name, u32 len, u64 *to, enum reading reading)
{
	u64 hash = len, w;
	u32 i;

	for (i = 0; i < NAME_SIZE / 8 - 1; i++) {
		if (i * 8 + 8 > len)
			break;
		w = word(name, i * 8, reading);
		to[i] = w;
		hash = mix(hash, w);
	}
	if (i * 8 >= len)
		return hash;
	w = word(name, i * 8, reading) & ((1ull << (len & 7) * 8) - 1);
	to[i] = w;
	return mix(hash, w);
}

/* name_who writes to the scratch what file a task runs, if any. */
static __always_inline void name_who(struct scratch *s, struct task_struct *task, enum reading reading)
{
	struct dentry *dentry;
	struct mm_struct *mm;
	struct file *exe;
	u64 name;
	u32 len;

	s->who.name = s->who.what = 0;
	s->len = 0;
	if (LOAD(reading, task->flags) & PF_KTHREAD) { /* even one that has borrowed a process's memory (kthread_use_mm) */
		s->who.what = KIND_KERNEL << WHAT_KIND_SHIFT;
		return;
	}
	mm = LOAD(reading, task->mm);
	exe = mm ? LOAD(reading, mm->exe_file) : NULL;
	if (!exe) {
		s->who.what = KIND_EXITING << WHAT_KIND_SHIFT;
		return;
	}
	dentry = LOAD(reading, exe->f_path.dentry);
	/* As numbers: up to 6.1 the verifier lets no union be read whole, and none of them a pointer be added to. */
	len = word(dentry, FIELD_OFFSET(dentry->d_name.hash_len), reading) >> 32;
	name = word(dentry, FIELD_OFFSET(dentry->d_name.name), reading);
	if (len > NAME_SIZE - 1)
		len = NAME_SIZE - 1;
	s->who.name = spell((void *)name, len, s->name, reading);
	s->len = len;
}

/* who writes to the scratch who the current task is to people, and what a slot would have to know of it. The name comes first: the
 * verifier follows its loop once for each way there, and there are several to the cgroup. */
static __always_inline int who(u32 bank, enum reading reading)
{
	struct task_struct *task = reading == HELPER ? current_task() : bpf_get_current_task_btf();
	struct scratch *s = my_scratch(bank & 1);
	enum reading far = reading == CAST ? CAST : HELPER;
	struct cgroup *cgroup;

	if (!s)
		return 0;
	name_who(s, task, reading);
	cgroup = cgroup_of(LOAD(reading, task->cgroups), far);
	s->cgroup_at = (u64)cgroup;
	/* A root's own is 0, of each hierarchy (cgroup_setup_root counts none). */
	s->who.cgroup = LOAD(far, cgroup->self.serial_nr);
	return 0;
}

GLOBAL int who_cast(u32 bank) { return who(bank, CAST); }
GLOBAL int who_probe(u32 bank) { return who(bank, PROBE); }
GLOBAL int who_helper(u32 bank) { return who(bank, HELPER); }

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

/* tell_gone tells user space that a cgroup which has a record is no more. */
static __always_inline void tell_gone(u64 serial)
{
	struct stat_values *st = my_stats(0);

	if (bpf_ringbuf_output(&gone, &serial, sizeof(serial), 0) && st)
		__sync_fetch_and_add(&st->gone_lost, 1); /* user space then asks for each */
}

/* name_cgroup writes the record of the scratch's cgroup. */
GLOBAL int name_cgroup(u32 bank)
{
	struct scratch *s = my_scratch(bank & 1);

	if (s)
		path_of(&s->cgroup, (void *)s->cgroup_at);
	return 0;
}

/* meet_cgroup keeps the record of a slot's cgroup, once for all its slots. A root needs none. */
static __noinline int meet_cgroup(u64 serial, u32 bank)
{
	struct scratch *s = my_scratch(bank & 1);
	struct cgroup_record *r;

	if (!s || !serial || bpf_map_lookup_elem(&cgroups, &serial))
		return 0;
	name_cgroup(bank);
	if (s->cgroup.serial != serial || bpf_map_update_elem(&cgroups, &serial, &s->cgroup, BPF_NOEXIST))
		return 0;
	/* Either its rmdir(2) has found the record, or it had begun by now and is seen here. */
	if (online((void *)s->cgroup_at))
		return 0;
	r = bpf_map_lookup_elem(&cgroups, &serial);
	if (r && !r->offline)
		r->offline = bpf_ktime_get_boot_ns();
	tell_gone(serial);
	return 0;
}

/* announce tells user space of a new key or of a denial, the latter a few times in each window, and of what was granted in the place of
 * a denial that it has been told of. A full ring is counted and loses no name: those stand in the maps. What the check came after, and
 * whether another may be asked for in its place, the caller has written to the scratch's announcement.
 *
 * It returns the time by which user space knows a denial: that of its own announcement, or else that of the denial before it in whose
 * place it was asked for. What is granted in its own place is then told to be so in the place of both. */
static __noinline u64 announce(u32 what, u32 slot, u32 site, u32 fresh, u32 bank)
{
	struct who_record *r = bpf_map_lookup_elem(&who_records, &slot);
	struct task_struct *task = current_task();
	struct stat_values *st = my_stats(bank);
	struct scratch *s = my_scratch(bank & 1);
	struct css_set *set = NULL;
	struct announcement *a;
	u32 window = settings.window;
	u32 size = sizeof(*a), len;

	if (!r || !st || !s)
		return 0;
	a = &s->announcement;
	a->part = r->key.what / WHAT_PROBE & WHAT_PART;
	if (!(a->part >> 1))
		a->after = 0; /* it came after that denial, and not in its place */
	if (!fresh && !(what & WHAT_DENIED) && !a->after)
		return 0;
	/* What anybody can bring about leaves half the ring to what is granted on the host. */
	if (pool_of(what) == POOL_ANYBODY && bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA) > bpf_ringbuf_query(&ring, BPF_RB_RING_SIZE) / 2) {
		st->withheld++;
		return a->after;
	}
	if (what & WHAT_DENIED) {
		if (r->burst_window != window) {
			r->burst_window = window;
			r->burst = 0;
		}
		if (r->burst >= denial_burst && !fresh) {
			st->withheld++;
			return a->after;
		}
		r->burst++;
	}
	a->cgroup = r->key.cgroup;
	a->told = slot < WHO_FIXED || kind_of(r->key.what) == KIND_OTHER;
	if (a->told) { /* the slot is not this cgroup's alone, so the record has no owner */
		READ(set, task->cgroups);
		s->cgroup_at = (u64)cgroup_of(set, HELPER);
		name_cgroup(bank);
		a->cgroup = s->cgroup.serial;
		len = s->cgroup.len;
		if (len > sizeof(s->cgroup.names))
			len = sizeof(s->cgroup.names);
		size = sizeof(*a) + __builtin_offsetof(struct cgroup_record, names) + len;
	}
	a->time = bpf_ktime_get_boot_ns();
	call_made(bank);
	process_made(a, task);
	a->site = site;
	a->slot = slot;
	a->what = what & WHAT_WHO;
	a->kind = kind_of(what);
	a->fresh = fresh;
	name_process(a->name, a->kind);
	if (bpf_ringbuf_output(&ring, a, size, 0)) {
		st->lost++;
		return a->after;
	}
	return a->time;
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

enum {
	FRESH = 1u << 31,
	CROWDED = 1 << 30, /* the slot is that of all who found none */
	SLOT = CROWDED - 1
};

/* named tells whether a slot's name is the scratch's. */
GLOBAL u32 named(u32 slot, u32 bank)
{
	struct who_record *r = bpf_map_lookup_elem(&who_records, &slot);
	struct scratch *s = my_scratch(bank & 1);
	u64 *name;
	u32 i;

	if (!r || !s || r->len != s->len)
		return false;
	name = (u64 *)r->name;
	for (i = 0; i < NAME_SIZE / 8; i++) {
		if (i * 8 >= s->len)
			break;
		if (name[i] != s->name[i])
			return false;
	}
	return true;
}

/* new_slot takes a free slot for the scratch's key, which has none: 0 if there is no free one. The record that it needs of a cgroup is
 * that of the scratch's cgroup_at. */
GLOBAL u32 new_slot(u32 bank)
{
	struct scratch *s = my_scratch(bank & 1);
	struct who_record *r;
	u64 *name, owner;
	bool others;
	u32 slot, i;

	if (!s)
		return 0;
	others = kind_of(s->key.what) == KIND_OTHER;
	slot = pop_slot(s, s->key.what, others);
	if (!slot)
		return 0;
	r = bpf_map_lookup_elem(&who_records, &slot);
	if (!r)
		return 0;
	owner = s->owner;
	r->key = s->key;
	r->created = bpf_ktime_get_boot_ns();
	r->owner = owner;
	r->pool = pool_of(s->key.what);
	for (i = 0; i < WHO_SITES; i++)
		r->sites[i] = 0;
	r->burst_window = r->burst = 0;
	r->len = s->len;
	name = (u64 *)r->name;
	for (i = 0; i < NAME_SIZE / 8; i++)
		name[i] = i * 8 < s->len ? s->name[i] : 0;
	if (others)
		r->len = 0;
	meet_cgroup(s->key.cgroup, bank);
	if (!bpf_map_update_elem(&whos, &s->key, &slot, BPF_NOEXIST)) {
		charge(owner, pool_of(s->key.what), slot);
		return slot;
	}
	/* Another CPU was faster: its slot counts. */
	push_slot(slot);
	return 0;
}

/* crowd finds or makes the slot of all of an owner's who found none of their own: `_other` if there is none for that either. */
static __always_inline u32 crowd(struct scratch *s, u32 what, u32 bank)
{
	u64 at = s->cgroup_at;
	u32 *known, slot;

	if (!s->owner_at)
		return what & WHAT_WHO;
	s->key.cgroup = s->owner;
	s->key.name = 0;
	s->key.what = KIND_OTHER << WHAT_KIND_SHIFT | (what & WHAT_WHO);
	known = bpf_map_lookup_elem(&whos, &s->key);
	if (!known) {
		s->cgroup_at = s->owner_at;
		slot = new_slot(bank);
		s->cgroup_at = at;
		if (slot)
			return slot | FRESH | CROWDED;
		known = bpf_map_lookup_elem(&whos, &s->key);
	}
	return known ? *known | CROWDED : what & WHAT_WHO;
}

/* who_slot finds or makes the slot of who asked, which the cache does not hold. Where there is none for it that is the one of its
 * workload's others, and `_other` in the end. FRESH is set in what it returns when this is the slot's first check. */
GLOBAL u32 who_slot(u32 what, u32 bank)
{
	struct scratch *s = my_scratch(bank & 1);
	u32 *known, slot, i;

	if (!s)
		return what & WHAT_WHO;
	s->key.cgroup = s->who.cgroup;
	s->key.name = s->who.name & name_mask;
	s->key.what = s->who.what | s->part | (what & WHAT_WHO);
	for (i = 0; i < WHO_TRIES; i++, s->key.name++) {
		known = bpf_map_lookup_elem(&whos, &s->key);
		if (!known) {
			find_owner(bank);
			slot = new_slot(bank);
			if (slot)
				return slot | FRESH;
			known = bpf_map_lookup_elem(&whos, &s->key);
			if (!known)
				break;
		}
		slot = *known;
		if (named(slot, bank))
			return slot;
	}
	/* After so many of one hash the owner may not have been looked for. */
	find_owner(bank);
	return crowd(s, what, bank);
}

/* Marks a cgroup that asked for something and is gone, so that its series can end. */
SEC("tp_btf/cgroup_rmdir")
int BPF_PROG(cgroup_gone, struct cgroup *cgroup)
{
	u64 serial = cgroup->self.serial_nr;
	struct cgroup_record *r = bpf_map_lookup_elem(&cgroups, &serial);

	if (!r || r->offline)
		return 0;
	r->offline = bpf_ktime_get_boot_ns();
	tell_gone(serial);
	return 0;
}
