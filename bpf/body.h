/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The one body behind every source. Each check adds one to one site slot, and, when audited, to one who slot. */
#pragma once

#include "site.h"
#include "who.h"

static __always_inline bool same_who(const struct who_key *x, const struct who_key *y)
{
	const u64 *a = (const u64 *)x, *b = (const u64 *)y;

	return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]));
}

/* cache_entry is where a check's slots are cached, if they are. */
static __always_inline struct cached *cache_entry(const struct site_key *site, const struct who_key *who, u32 mark, u32 bank)
{
	const u64 *w = (const u64 *)who;
	u64 hash = site->asker * 0x9E3779B97F4A7C15ull ^ mark * 0xC2B2AE3D27D4EB4Full ^ w[0] * 0x165667B19E3779F9ull ^
		   w[1] * 0x27D4EB2F165667C5ull ^ w[2] * 0x85EBCA77C2B2AE63ull;
	u32 i = hash >> 56;
	struct page *p = my_page(bank, CACHE_PAGE + i / CACHED_PER_PAGE);

	return p ? &p->cached[i % CACHED_PER_PAGE] : NULL;
}

static __always_inline bool cached(const struct cached *c, const struct site_key *site, const struct who_key *who, u32 mark)
{
	if (c->asker != site->asker || c->what != mark || (c->module && settings.tick - c->tick > MODULE_TRUST))
		return false;
	return mark >> WHAT_CLASS_SHIFT != (CACHED_SET >> WHAT_CLASS_SHIFT | CLASS_AUDITED) ||
	       (c->epoch == settings.epoch && same_who(&c->who, who));
}

/* fill_cache finds or makes a check's slots. FRESH is set in what it returns when this is the who key's first check. */
static __noinline u32 fill_cache(struct cached *c, struct site_key *site, struct who_key *who, u32 mark, u32 bank)
{
	struct scratch *s = my_scratch(bank);
	u32 epoch = settings.epoch, slot = 0; /* before any look-up: a slot that is freed after it is looked up again */
	struct site_value *v;

	c->what = 0;
	if (!s)
		return 0;
	v = site_slot(s, site, bank);
	c->asker = site->asker;
	c->site_slot = v->slot;
	c->module = v->module;
	c->tick = settings.tick;
	if (mark & CACHED_BORROWED)
		slot = WHO_BORROWED + (mark & WHAT_WHO);
	else if ((mark & WHAT_SITE) >> WHAT_CLASS_SHIFT == CLASS_AUDITED)
		slot = who_slot(who, bank);
	c->who_slot = slot & ~FRESH;
	note_site(c->who_slot, c->site_slot);
	c->who = *who;
	c->epoch = epoch;
	c->what = mark;
	return slot & FRESH;
}

/* unconfirmed tells whether what was peeked has to be held against an unwind: a site is made only of what one has shown, and
 * each is looked at again from time to time. */
static __always_inline bool unconfirmed(const struct site_key *site, u32 bank)
{
	struct site_value *v = bpf_map_lookup_elem(&sites, site);
	u64 *n;

	if (!v)
		return true;
	n = counter(bank, SITE_PAGE, v->slot);
	return !n || !(*n & (settings.confirm_every - 1));
}

/* count adds one to a check's slots; n is its site's counter. */
static __always_inline int count(u64 *n, struct cached *c, struct who_key *who, u32 what, u32 class, u32 fresh, u32 bank)
{
	(*n)++;
	if (class != CLASS_AUDITED)
		return 0;
	n = counter(bank, settings.who_page, c->who_slot);
	if (!n)
		return 0;
	(*n)++;
	if (fresh || what & WHAT_DENIED)
		announce(who, c->who_slot, c->site_slot, !!fresh, bank);
	return 0;
}

/* slowly counts any check: one that has to be unwound, one that the cache does not hold, one that is due to be confirmed. */
static __always_inline int slowly(void *ctx, const struct cred *cred, u32 what, u32 told, u32 bank, bool cast)
{
	struct task_struct *task = bpf_get_current_task_btf();
	const struct cred *own = task->real_cred;
	struct scratch *s = my_scratch(bank);
	struct site_key site = {};
	struct who_key who = {};
	u32 class, mark, fresh = 0;
	struct cached *c;
	u64 *n;

	if (!s)
		return 0;
	class = peek(ctx, &site.asker, cast);
	if (class != CLASS_UNKNOWN && told)
		class = told;
	site.what = what | class << WHAT_CLASS_SHIFT;
	if (class == CLASS_UNKNOWN || unconfirmed(&site, bank)) {
		class = look(ctx, s, told, bank, cast);
		site.asker = s->sample.asker;
		site.what = what | class << WHAT_CLASS_SHIFT;
	}
	mark = site.what | CACHED_SET;
	if (class == CLASS_AUDITED) {
		fill_key(&who, task, what, cast);
		if (cred != own && borrowed(cred, own))
			mark |= CACHED_BORROWED;
	}
	c = cache_entry(&site, &who, mark, bank);
	if (!c)
		return 0;
	if (!cached(c, &site, &who, mark))
		fresh = fill_cache(c, &site, &who, mark, bank);
	n = counter(bank, SITE_PAGE, c->site_slot);
	return n ? count(n, c, &who, what, class, fresh, bank) : 0;
}

typedef int slow_path(void *ctx, const struct cred *cred, u32 what, u32 told);

/* SLOW_PATH puts slowly in a function of its own, out of the way of the fast path: that is to be short, for the same reason for
 * which settings are few. */
#define SLOW_PATH(name, bank, cast)                                                                \
	static __noinline int name(void *ctx, const struct cred *cred, u32 what, u32 told)           \
	{                                                                                            \
		return slowly(ctx, cred, what, told, bank, cast);                                    \
	}

/* check counts one check. told is the class where the source has it from opts; else CLASS_UNKNOWN. */
static __always_inline int check(void *ctx, const struct cred *cred, struct user_namespace *target, int cap, int ret, u32 told,
				 u32 bank, bool cast, slow_path *slow)
{
	u32 what = cap & (CAPABILITIES - 1), class, mark;
	struct task_struct *task;
	struct site_key site = {};
	struct who_key who = {};
	struct cached *c;
	u64 *n;

	if (ret)
		what |= WHAT_DENIED;
	if (target->level)
		what |= WHAT_USERNS;
	class = peek(ctx, &site.asker, cast);
	if (class == CLASS_UNKNOWN)
		goto slow;
	if (told)
		class = told;
	mark = what | class << WHAT_CLASS_SHIFT | CACHED_SET;
	if (class == CLASS_AUDITED) {
		task = bpf_get_current_task_btf();
		if (cred != task->real_cred)
			goto slow; /* which sees whether they are borrowed */
		fill_key(&who, task, what, cast);
	}
	c = cache_entry(&site, &who, mark, bank);
	if (!c || !cached(c, &site, &who, mark))
		goto slow;
	n = counter(bank, SITE_PAGE, c->site_slot);
	if (!n || !(*n & (settings.confirm_every - 1)))
		goto slow;
	return count(n, c, &who, what, class, 0, bank);
slow:
	return slow(ctx, cred, what, told);
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
