/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The one body behind every source. Each check adds one to one site slot, and, when audited, to one who slot. */
#pragma once

#include "site.h"
#include "who.h"

/* cache_of is the page of the cache that a check belongs to. It must be known before who asked is: a page holds a turn of its own, so
 * that a check touches no other. An audited check's is its task's, all of whose checks then find its turn there, and as many keys
 * fall on one page as on another; a no-audit one has no turn, and its page is its asker's. */
static __always_inline struct cache_page *cache_of(u64 asker, u32 mark, u64 task, u32 bank, u64 *hash)
{
	u64 page;
	struct page *p;

	*hash = (asker ^ (u64)mark << 32) * settings.seed;
	page = class_of(mark) == CLASS_AUDITED ? task * settings.seed : *hash;
	p = my_page(bank, CACHE_PAGE + (page >> (64 - CACHE_PAGE_BITS)));
	return p ? &p->cache : NULL;
}

/* cache_entry is where a check's slots are cached, if they are: there, or in the entry after it. */
static __always_inline struct cached *cache_entry(struct cache_page *p, u64 hash, u64 cgroup, u64 name)
{
	hash = (hash ^ name ^ cgroup << 32) * settings.seed >> 59;
	asm volatile("" : "+r"(hash)); /* else the comparison is made before the shift, and the verifier learns nothing */
	if (hash >= CACHED_PER_PAGE / 2) /* the last one, of 32 */
		hash = 0;
	return &p->cached[hash * 2];
}

static __always_inline bool cached(const struct cached *c, u64 asker, u32 mark, u64 cgroup, u64 name)
{
	if (c->asker != asker || c->what != mark || (c->trust && settings.tick - c->tick >= c->trust))
		return false;
	return class_of(mark) != CLASS_AUDITED || (c->epoch == settings.epoch && c->cgroup == cgroup && c->name == name);
}

/* find_cached tells which of the two entries of a place holds a check's slots. */
static __always_inline struct cached *find_cached(struct cached *c, u64 asker, u32 mark, u64 cgroup, u64 name)
{
	if (cached(c, asker, mark, cgroup, name))
		return c;
	c++;
	return cached(c, asker, mark, cgroup, name) ? c : NULL;
}

/* exe_of is what an executable is recognised by: prctl(2) gives a task another without an execve(2) (PR_SET_MM_EXE_FILE,
 * PR_SET_MM_MAP), and asks for a capability each time, so that no two go unnoticed at one address. */
static __always_inline u64 exe_of(struct task_struct *task)
{
	struct mm_struct *mm = task->mm;

	return mm ? (u64)mm->exe_file : 0;
}

static __always_inline bool same_turn(const struct turn *t, struct task_struct *task)
{
	return t->switches == task->nvcsw + task->nivcsw && t->task == (u64)task && t->start == task->start_time &&
	       t->exec_id == task->self_exec_id && t->mm == (u64)task->mm && t->css_set == (u64)task->cgroups &&
	       t->tick == settings.tick && t->exe == exe_of(task);
}

typedef int who_path(u32 bank);

static __always_inline int take_turn(struct turn *t, u32 bank, who_path *who)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct scratch *s = my_scratch(bank);

	if (!s)
		return 0;
	/* First, and never the count of a turn that had not begun when the rest was read: where programs are preemptible, a turn
	 * may end right here. */
	t->switches = task->nvcsw + task->nivcsw;
	t->task = (u64)task;
	t->start = task->start_time;
	t->exec_id = task->self_exec_id;
	t->mm = (u64)task->mm;
	t->exe = exe_of(task);
	t->css_set = (u64)task->cgroups;
	t->tick = settings.tick;
	who(bank);
	t->who = s->who;
	return 0;
}

static __always_inline u32 site_of(u64 counted) { return counted >> PENDING_BITS & ((1 << SLOT_BITS) - 1); }

static __always_inline u32 who_of(u64 counted) { return counted >> (PENDING_BITS + SLOT_BITS); } /* plus one */

static __always_inline u32 pending(u64 counted) { return counted & ((1 << PENDING_BITS) - 1); }

/* settle moves what is pending in an entry to its slots' counters. User space reads the counters first and then the entries,
 * and so must never find the same checks in both: it may miss them once, and then waits for them (see readCounters). */
static __noinline int settle(struct cached *c, u64 then, u32 bank)
{
	u64 counted, *n;

#if defined(__TARGET_ARCH_x86)
	/* What is stored first is seen first, and the kernel has an exchange only since 5.12. */
	counted = c->counted;
	*(volatile u64 *)&c->counted = then;
	asm volatile("" ::: "memory");
#else
	counted = __sync_lock_test_and_set(&c->counted, then);
#endif
	if (!pending(counted))
		return 0;
	n = counter(bank, SITE_PAGE, site_of(counted));
	if (n)
		*n += pending(counted);
	if (!who_of(counted))
		return 0;
	n = counter(bank, settings.who_page, who_of(counted) - 1);
	if (n)
		*n += pending(counted);
	return 0;
}

/* fill_cache finds or makes a check's slots. FRESH is set in what it returns when this is the who key's first check. */
static __noinline u32 fill_cache(struct cached *c, struct site_key *site, u32 mark, u32 bank)
{
	struct scratch *s = my_scratch(bank);
	u32 epoch = settings.epoch, slot = 0; /* before any look-up: a slot that is freed after it is looked up again */
	struct site_value *v;
	u64 counted;

	if (!s)
		return 0;
	v = site_slot(s, site, bank);
	c->asker = site->asker;
	c->trust = v->module ? MODULE_TRUST : 0;
	c->tick = settings.tick;
	counted = (u64)v->slot << PENDING_BITS;
	if (class_of(mark) == CLASS_AUDITED) {
		slot = mark & CACHED_BORROWED ? WHO_BORROWED + (mark & WHAT_WHO) : who_slot(mark, bank);
		note_site(slot & ~FRESH, v->slot);
		if (slot < WHO_BORROWED) /* `_other`: there may be a slot by now */
			c->trust = OTHER_TRUST;
		counted |= (u64)((slot & ~FRESH) + 1) << (PENDING_BITS + SLOT_BITS);
	}
	settle(c, counted, bank);
	c->cgroup = s->who.cgroup;
	c->name = s->who.name;
	c->epoch = epoch;
	c->what = mark;
	return slot & FRESH;
}

/* unconfirmed tells whether what was peeked has to be held against an unwind, although no entry that is due says so: a site is
 * made only of what one has shown, and those that are seldom found in the cache are looked at again from time to time, too. */
static __always_inline bool unconfirmed(const struct site_key *site, u32 bank)
{
	struct stat_values *st = my_stats(bank);

	return !st || !(++st->slow & (settings.confirm_every - 1)) || !bpf_map_lookup_elem(&sites, site);
}

/* count adds one to a check's slots. */
static __always_inline int count(struct cached *c, u32 mark, u32 fresh, u32 bank)
{
	u64 counted = ++c->counted;

	if (fresh || (who_of(counted) && mark & WHAT_DENIED))
		announce(mark, who_of(counted) - 1, site_of(counted), !!fresh, bank);
	return 0;
}

/* Each source says what its arguments tell: which check it was, and its class where it has that from opts (else
 * CLASS_UNKNOWN). They are read where they are needed: kept at hand, each would cost the fast path a place on its stack. */
static __always_inline u32 what_of(u64 *ctx, enum reading reading);
static __always_inline u32 told_of(u64 *ctx);

static __always_inline u32 what(struct user_namespace *target, u32 cap, u32 ret)
{
	return (cap & (CAPABILITIES - 1)) | (ret ? WHAT_DENIED : 0) | (target->level ? WHAT_USERNS : 0);
}

/* cred_of is the first argument of each source. */
static __always_inline const struct cred *cred_of(u64 *ctx, enum reading reading)
{
#if defined(__TARGET_ARCH_x86)
	if (reading == REGS)
		ctx += REGS_SI;
#endif
	return *(const struct cred *volatile *)ctx;
}

/* slowly counts any check: one that has to be unwound, one that the cache does not hold, one that is due to be confirmed. */
static __always_inline int slowly(u64 *ctx, bool due, u32 bank, enum reading reading, who_path *who)
{
	struct task_struct *task = reading == HELPER ? current_task() : bpf_get_current_task_btf();
	const struct cred *cred = cred_of(ctx, reading), *own = LOAD(reading, task->real_cred);
	u32 what = what_of(ctx, reading), told = told_of(ctx), class, mark, fresh = 0;
	struct scratch *s = my_scratch(bank);
	struct site_key site = {};
	struct cached *c, *place;
	struct cache_page *p;
	u64 hash;

	if (!s)
		return 0;
	class = reading == HELPER ? told : peek(ctx, &site.asker, reading);
	if (class != CLASS_UNKNOWN && told)
		class = told;
	site.what = what | class << WHAT_CLASS_SHIFT;
	if (reading != HELPER && (class == CLASS_UNKNOWN || due || unconfirmed(&site, bank))) {
		class = look(ctx, s, told, bank, reading);
		site.asker = s->sample.asker;
		site.what = what | class << WHAT_CLASS_SHIFT;
	}
	mark = site.what | CACHED_SET;
	s->who.cgroup = s->who.name = 0;
	if (class == CLASS_AUDITED) {
		who(bank);
		mark |= s->who.what;
		if (cred != own && borrowed(cred, own))
			mark |= CACHED_BORROWED;
	}
	p = cache_of(site.asker, site.what, bpf_get_current_task(), bank, &hash);
	if (!p)
		return 0;
	place = cache_entry(p, hash, s->who.cgroup, s->who.name);
	c = find_cached(place, site.asker, mark, s->who.cgroup, s->who.name);
	if (!c) {
		/* One of the two, by chance: no order in which keys take turns is then the worst. */
		c = bpf_get_prandom_u32() & 1 ? place + 1 : place;
		fresh = fill_cache(c, &site, mark, bank);
	} else if (pending(c->counted) >= settings.confirm_every) {
		settle(c, c->counted - pending(c->counted), bank);
	}
	return count(c, mark, fresh, bank);
}

typedef int slow_path(u64 *ctx, bool due);
typedef int turn_path(struct turn *t, u32 bank);

/* check counts one check.
 *
 * It is the fast path, and is to keep less than 64 bytes on its stack. From there on the kernel gives a function a stack of its
 * own, in one more page (bpf_enable_priv_stack, since 6.13). TestFastPathStack looks. */
static __always_inline int check(u64 *ctx, u32 bank, enum reading reading, slow_path *slow, turn_path *turn)
{
	u64 asker, hash, cgroup = 0, name = 0;
	u32 mark = what_of(ctx, reading), class;
	struct task_struct *task;
	struct cached *c;
	struct cache_page *p;

	class = peek(ctx, &asker, reading);
	if (class == CLASS_UNKNOWN)
		return slow(ctx, false);
	if (told_of(ctx))
		class = told_of(ctx);
	mark |= class << WHAT_CLASS_SHIFT;
	p = cache_of(asker, mark, bpf_get_current_task(), bank, &hash);
	if (!p)
		return 0;
	mark |= CACHED_SET;
	if (class == CLASS_AUDITED) {
		task = bpf_get_current_task_btf();
		if (cred_of(ctx, reading) != task->real_cred)
			return slow(ctx, false); /* which sees whether they are borrowed */
		if (!same_turn(&p->turn, task))
			turn(&p->turn, bank);
		cgroup = p->turn.who.cgroup;
		name = p->turn.who.name;
		mark |= p->turn.who.what;
	}
	c = find_cached(cache_entry(p, hash, cgroup, name), asker, mark, cgroup, name);
	if (!c)
		return slow(ctx, false);
	if (pending(c->counted) >= settings.confirm_every)
		return slow(ctx, true);
	return count(c, mark, 0, bank);
}

/* What is not the fast path stands in functions of its own, out of its way. */
#define CHECK(kind, bank, reading, who)                                                                          \
	static __noinline int slowly_##kind(u64 *ctx, bool due) { return slowly(ctx, due, bank, reading, who); } \
	static __noinline int turn_##kind(struct turn *t, u32 b) { return take_turn(t, b, who); }                \
	static __always_inline int check_##kind(u64 *ctx) { return check(ctx, bank, reading, slowly_##kind, turn_##kind); }

CHECK(cast, 0, CAST, who_cast)
CHECK(probe, 0, PROBE, who_probe) /* for a kernel without bpf_rdonly_cast (a kfunc since 6.2) */
CHECK(second, 1, CAST, who_cast)

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

/* Tells user space the kernel's own time, which its own may differ from: a time namespace has another boot (time_namespaces(7)). */
SEC("raw_tp")
int clock(void *ctx)
{
	now = bpf_ktime_get_boot_ns();
	return 0;
}
