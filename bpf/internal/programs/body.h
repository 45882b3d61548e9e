/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The one body behind every source. Each check adds one to one site slot, and, when audited, to one who slot. */
#pragma once

#include "site.h"
#include "who.h"

extern void bpf_preempt_disable(void) __ksym __weak;
extern void bpf_preempt_enable(void) __ksym __weak;
extern void bpf_local_irq_save(unsigned long *flags) __ksym __weak;
extern void bpf_local_irq_restore(unsigned long *flags) __ksym __weak;

volatile const u32 preemptible; /* programs are, and the kernel has all of these */

/* stay keeps the current task from being preempted until stayed. Who is in one of two programs for long is else the longer in the way of
 * others, see pair.h. */
static __always_inline void stay(void)
{
	if (preemptible)
		bpf_preempt_disable();
}

/* stayed lets it go. Who is to give up the CPU by then would do so right there, in the program still. With interrupts disabled he does
 * not, and comes to it as the kernel leaves the program (migrate_enable). */
static __always_inline void stayed(void)
{
	unsigned long flags;

	if (!preemptible)
		return;
	bpf_local_irq_save(&flags);
	bpf_preempt_enable();
	bpf_local_irq_restore(&flags);
}

/* A check has three places in the cache, of two entries each: two on one page, and one on another. So keys that take turns find room for
 * all of them: one that is put out of one place tries another, until nobody is put out any more.
 *
 * The pages must be known before who asked is: a page holds a turn of its own, so that a check touches no other. An audited check's
 * are its task's, all of whose checks then find its turn on the first, and as many keys fall on one page as on another; a no-audit
 * one has no turn, and its pages are its asker's. Half of the task's address will do, which the verifier lets a program have at once. */
static __always_inline u64 pages_of(u64 asker, u32 mark, u32 task)
{
	return (class_of(mark) == CLASS_AUDITED ? task : asker ^ (u64)(mark & WHAT_SITE) << 32) * settings.seed;
}

static __always_inline u64 places_of(u64 asker, u32 mark, u64 cgroup, u64 name)
{
	return ((asker ^ (u64)(mark & WHAT_SITE) << 32) * settings.seed ^ name ^ cgroup << 32) * settings.seed;
}

static __always_inline struct cache_page *cache_page(u64 pages, u32 bank)
{
	struct page *p = my_page(bank, CACHE_PAGE + (pages >> (64 - CACHE_PAGE_BITS)));

	return p ? &p->cache : NULL;
}

static __always_inline struct cached *cache_place(struct cache_page *p, u64 places)
{
	places >>= 64 - PLACE_BITS;
	asm volatile("" : "+r"(places)); /* else the comparison is made before the shift, and the verifier learns nothing */
	if (places >= CACHED_PER_PAGE / 2) /* the last one, of 32 */
		places = 0;
	return &p->cached[places * 2];
}

static __always_inline struct cache_page *other_page(u64 pages, u32 bank) { return cache_page(pages << CACHE_PAGE_BITS, bank); }

static __always_inline bool cached(const struct cached *c, u64 asker, u32 mark, bool audited, u64 cgroup, u64 name)
{
	if (c->asker != asker || c->what != mark || (c->trust && settings.tick - c->tick >= c->trust))
		return false;
	return !audited || (c->epoch == settings.epoch && c->cgroup == cgroup && c->name == name);
}

/* find_cached tells which of the two entries of a place holds a check's slots. */
static __always_inline struct cached *find_cached(struct cached *c, u64 asker, u32 mark, bool audited, u64 cgroup, u64 name)
{
	if (cached(c, asker, mark, audited, cgroup, name))
		return c;
	c++;
	return cached(c, asker, mark, audited, cgroup, name) ? c : NULL;
}

/* found marks an entry of an audited check: its task will want it in its next turn, too, and no other key should be put there. */
static __always_inline void found(struct cache_page *p, struct cached *c)
{
	p->turn.found[0] |= 1ull << ((void *)c - (void *)p->cached) / sizeof(*c);
}

static __always_inline u64 found_of_late(const struct turn *t) { return t->found[0] | t->found[1] | t->found[2]; }

/* elsewhere looks for a check in its other places. */
static __noinline struct cached *elsewhere(struct cache_page *p, u64 places, u64 asker, u32 mark, u32 bank)
{
	u64 cgroup = p->turn.who.cgroup, name = p->turn.who.name;
	bool audited = class_of(mark) == CLASS_AUDITED;
	struct cached *c;

	c = find_cached(cache_place(p, places << PLACE_BITS), asker, mark, audited, cgroup, name);
	if (!c) {
		p = other_page(pages_of(asker, mark, p->turn.task), bank);
		if (!p)
			return NULL;
		c = find_cached(cache_place(p, places << 2 * PLACE_BITS), asker, mark, audited, cgroup, name);
	}
	if (c)
		found(p, c);
	return c;
}

/* free_in tells which entry of a place has not been found of late. */
static __always_inline struct cached *free_in(struct cache_page *p, struct cached *c)
{
	u64 busy = found_of_late(&p->turn) >> ((void *)c - (void *)p->cached) / sizeof(*c);

	return (busy & 3) == 3 ? NULL : c + (busy & 1);
}

/* room is the entry that is given to a key which has none: on the page at hand, if one there has not been found of late. Else by chance:
 * no order in which keys take turns is then the worst. */
static __always_inline struct cached *room(struct cache_page *p, struct cache_page *other, u64 places)
{
	struct cached *first = cache_place(p, places), *second = cache_place(p, places << PLACE_BITS), *c;
	u32 chance = bpf_get_prandom_u32();

	c = free_in(p, first);
	if (!c)
		c = free_in(p, second);
	if (!c) {
		c = (chance & 2 ? first : second) + (chance & 1);
		if (chance & 4) {
			p = other;
			c = cache_place(p, places << 2 * PLACE_BITS) + (chance & 1);
		}
	}
	found(p, c);
	return c;
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

/* note_denial gives whatever comes next another name in the cache: one that is never found there, where it depends on the system call
 * what that is. */
static __always_inline void note_denial(struct turn *t, const struct denial *d)
{
	t->after = d->call ? ~d->alias : d->alias;
	t->told = d->told;
	t->who.what |= CACHED_AFTER;
	t->who.name ^= t->after;
}

static __always_inline void forget_denial(struct turn *t)
{
	if (!t->after)
		return;
	t->who.what &= ~(u64)CACHED_AFTER;
	t->who.name ^= t->after;
	t->after = 0;
}

/* after_denial finds the denial that the current task's next audited check may come after: the task may have been preempted since, and
 * go on elsewhere, or the other of two programs may have counted it. A turn that knows of it saves the fast path this look. */
static __always_inline struct denial *after_denial(struct task_struct *task, u64 number, enum reading reading)
{
	struct denial *d = last_denial(number);

	return d && d->alias && d->task == number && d->switches == LOAD(reading, task->nvcsw) ? d : NULL;
}

/* bits_below is the number of a bit that stands alone: how many there are below it. */
static __always_inline u32 bits_below(u64 bit)
{
	u64 n = bit - 1;

	n -= n >> 1 & 0x5555555555555555;
	n = (n & 0x3333333333333333) + (n >> 2 & 0x3333333333333333);
	n = (n + (n >> 4)) & 0x0f0f0f0f0f0f0f0f;
	return n * 0x0101010101010101 >> 56;
}

enum { AHEAD = CACHED_PER_PAGE / 2 }; /* more the verifier would follow, and hardly any task wants */

/* look_ahead reads what the task will want, to no end but that the CPU fetches it all at once: since its last turn others may have had
 * the caches to themselves, and then each check of the turn would wait for its own entry. A page may have several tasks' turns. */
static __always_inline void look_ahead(struct turn *t)
{
	const struct cached *entries = ((struct cache_page *)t)->cached;
	u64 all = found_of_late(t);
	u32 i, at;

	t->found[2] = t->found[1];
	t->found[1] = t->found[0];
	t->found[0] = 0;
	for (i = 0; i < AHEAD && all; i++) {
		at = bits_below(all & -all);
		asm volatile("" : "+r"(at)); /* else the comparison is made before the shift, and the verifier learns nothing */
		all &= all - 1;
		if (at < CACHED_PER_PAGE)
			*(const volatile u64 *)&entries[at].asker;
	}
}

/* number_in is the task of a turn as a number, which the compiler does not take for the pointer that it has just stored or compared. */
static __always_inline u64 number_in(const struct turn *t) { return *(const volatile u64 *)&t->task; }

typedef int who_path(u32 bank);

static __always_inline int take_turn(struct turn *t, struct task_struct *task, u32 bank, who_path *who)
{
	struct scratch *s = my_scratch(bank);
	struct denial *d;

	if (!s)
		return 0;
	/* First, and never the count of a turn that had not begun when the rest was read: where programs are preemptible, a turn
	 * may end right here. */
	t->switches = task->nvcsw + task->nivcsw;
	t->task = (u64)task;
	t->start = task->start_time;
	t->exec_id = task->self_exec_id;
	t->css_set = (u64)task->cgroups;
	look_ahead(t); /* before the ways part: the verifier follows its loop once for each */
	t->mm = (u64)task->mm;
	t->exe = exe_of(task);
	t->tick = settings.tick;
	who(bank);
	t->who = s->who;
	t->after = 0;
	d = after_denial(task, number_in(t), CAST);
	if (d)
		note_denial(t, d);
	return 0;
}

static __always_inline u32 site_of(u64 counted) { return counted >> PENDING_BITS & ((1 << SLOT_BITS) - 1); }

static __always_inline u32 who_of(u64 counted) { return counted >> (PENDING_BITS + SLOT_BITS); } /* plus one */

static __always_inline u32 pending(u64 counted) { return counted & ((1 << PENDING_BITS) - 1); }

/* settle moves what is pending in an entry to its slots' counters. User space reads the counters first and then the entries,
 * and so must never find the same checks in both: it may miss them once, and then waits for them (counters.read). */
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
		s->part = v->probe ? WHAT_PROBE : 0;
		c->leads = mark & (WHAT_DENIED | CACHED_AFTER) ? fallback_at(v->slot, mark & (CAPABILITIES - 1), bank) : 0;
		c->after = 0;
		if (mark & CACHED_AFTER && asked_for(v->slot, mark & (CAPABILITIES - 1), bank)) {
			c->after = s->denial.cap + 1;
			s->part |= (u64)c->after << WHAT_AFTER_SHIFT | (u64)s->denial.before << WHAT_BEFORE_SHIFT;
		}
		slot = mark & CACHED_BORROWED ? WHO_BORROWED + (mark & WHAT_WHO) : who_slot(mark, bank);
		note_site(slot & SLOT, v->slot);
		if ((slot & CROWDED) || slot < WHO_BORROWED) /* `_other`: there may be a slot by now */
			c->trust = OTHER_TRUST;
		counted |= (u64)((slot & SLOT) + 1) << (PENDING_BITS + SLOT_BITS);
	}
	settle(c, counted, bank);
	c->cgroup = s->who.cgroup;
	c->name = s->alias;
	c->epoch = epoch;
	c->what = mark;
	return slot & FRESH;
}

/* unconfirmed tells whether what was peeked has to be held against an unwind, although no entry that is due says so: a site is
 * made only of what one has shown, and those that are seldom found in the cache are looked at again from time to time, too. */
static __noinline bool unconfirmed(const struct site_key *site, u32 bank)
{
	struct stat_values *st = my_stats(bank);

	return !st || !(++st->slow & (settings.confirm_every - 1)) || !bpf_map_lookup_elem(&sites, site);
}

/* follow notes a denial that the kernel may ask for another capability after: `capable(A) || capable(B)`. The second of the two is a
 * check of its own, and stands at a place that nobody comes to but after the first. So whatever the task is asked next has a key of its
 * own in the cache; what that means is found out once, when its slots are (fill_cache). The key says which capability was denied: one
 * place may ask for several (bpf_token_capable).
 *
 * Where the second is asked for by another function, which asks for it for other reasons as well, it must be made in the same system call.
 * So that is looked at each time, by the slow path.
 *
 * The fast path pays nothing for it: it takes the mark, and the other name, with who asked.
 *
 * Before that it has the check announced, if it is to be, with the denial that it came after. */
static __noinline int follow(struct cached *c, u32 mark, u32 fresh, u32 bank)
{
	u64 after = 0, task = bpf_get_current_task();
	struct cache_page *p = cache_page(pages_of(0, mark, task), bank);
	struct denial *last = last_denial(task), *d;
	struct scratch *s = my_scratch(bank);
	bool awaits = mark & WHAT_DENIED && !(mark & CACHED_BORROWED) && c->asker && !(c->leads & LEADS_INTERRUPT);

	if (!p || !last || !s)
		return 0;
	d = &s->noted; /* there is no room for it on the stack */
	d->task = task;
	d->call = d->told = 0;
	d->site = site_of(c->counted);
	d->cap = mark & (CAPABILITIES - 1);
	d->before = c->after;
	if (awaits && c->leads & LEADS_ELSEWHERE)
		d->call = call_of(d->cap);
	awaits = awaits && (d->call || c->leads & LEADS_SAME);
	if (mark & CACHED_AFTER && last->task == task)
		after = last->alias ? last->told : 0;
	else if (mark & CACHED_AFTER && p->turn.after) /* another task has taken its place */
		after = p->turn.told;
	if (fresh || mark & WHAT_DENIED || after) {
		s->announcement.after = after;
		s->announcement.awaits = awaits;
		d->told = announce(mark, who_of(c->counted) - 1, d->site, !!fresh, bank);
	}
	if (c->leads & LEADS_INTERRUPT)
		return 0;
	forget_denial(&p->turn);
	if (last->task == task)
		last->alias = 0;
	if (!awaits)
		return 0;
	/* An address of the kernel's begins with ones: no alias is another's turned round, nor 0. */
	d->alias = c->asker ^ (u64)(d->cap | d->before << 6) << 48;
	READ(d->switches, ((struct task_struct *)task)->nvcsw);
	note_denial(&p->turn, d);
	*last = *d;
	return 0;
}

/* count adds one to a check's slots. */
static __always_inline int count(struct cached *c, u32 mark, u32 fresh, u32 bank)
{
	u64 counted = ++c->counted;

	if (fresh || (who_of(counted) && mark & (WHAT_DENIED | CACHED_AFTER)))
		follow(c, mark, fresh, bank);
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

typedef int turn_path(struct turn *t, struct task_struct *task, u32 bank);

/* slowly counts any check: one that has to be unwound, one that the cache does not hold, one that is due to be confirmed. */
static __always_inline int slowly(u64 *ctx, bool due, u32 bank, enum reading reading, who_path *who, turn_path *turn)
{
	struct task_struct *task = reading == HELPER ? current_task() : bpf_get_current_task_btf();
	u64 pages, places, number = bpf_get_current_task();
	const struct cred *cred = cred_of(ctx, reading), *own = LOAD(reading, task->real_cred);
	u32 what = what_of(ctx, reading), told = told_of(ctx), class, mark, fresh = 0;
	struct scratch *s = my_scratch(bank);
	struct site_key site = {};
	struct cache_page *p, *other;
	struct cached *c;
	struct denial *d;

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
	pages = pages_of(site.asker, mark, number);
	p = cache_page(pages, bank);
	if (!p)
		return 0;
	s->who.cgroup = s->alias = 0;
	if (class == CLASS_AUDITED) {
		if (reading != HELPER && !same_turn(&p->turn, task))
			turn(&p->turn, task, bank);
		else
			who(bank);
		s->alias = s->who.name;
		mark |= s->who.what;
		d = after_denial(task, number, reading);
		if (cred != own && borrowed(cred, own)) {
			mark |= CACHED_BORROWED;
		} else if (d && (!d->call || d->call == call_of(d->cap))) {
			s->denial = *d;
			s->alias ^= s->denial.alias;
			mark |= CACHED_AFTER;
		} else {
			if (d)
				d->alias = 0; /* its system call is over */
			forget_denial(&p->turn); /* or what came after it was counted elsewhere */
		}
	}
	places = places_of(site.asker, mark, s->who.cgroup, s->alias);
	other = other_page(pages, bank);
	if (!other)
		return 0;
	c = find_cached(cache_place(p, places), site.asker, mark, class_of(mark) == CLASS_AUDITED, s->who.cgroup, s->alias);
	if (!c)
		c = find_cached(cache_place(p, places << PLACE_BITS), site.asker, mark, class_of(mark) == CLASS_AUDITED, s->who.cgroup, s->alias);
	if (!c)
		c = find_cached(cache_place(other, places << 2 * PLACE_BITS), site.asker, mark, class_of(mark) == CLASS_AUDITED, s->who.cgroup, s->alias);
	if (!c) {
		c = room(p, other, places);
		fresh = fill_cache(c, &site, mark, bank);
	} else if (pending(c->counted) >= settings.confirm_every) {
		settle(c, c->counted - pending(c->counted), bank);
	}
	return count(c, mark, fresh, bank);
}

typedef int slow_path(u64 *ctx, bool due);

/* How a check goes on. */
enum how { COUNTED, SLOWLY, DUE };

/* held_in counts a check that the cache holds. */
static __always_inline enum how held_in(struct cache_page *p, u64 asker, u32 mark, u32 bank, bool audited)
{
	u64 cgroup = audited ? p->turn.who.cgroup : 0, name = audited ? p->turn.who.name : 0;
	u64 places = places_of(asker, mark, cgroup, name);
	struct cached *c = find_cached(cache_place(p, places), asker, mark, audited, cgroup, name);

	if (!c)
		c = elsewhere(p, places, asker, mark, bank);
	else if (audited)
		found(p, c);
	if (!c)
		return SLOWLY;
	if (pending(c->counted) >= settings.confirm_every)
		return DUE;
	if (audited)
		count(c, mark, 0, bank);
	else
		c->counted++; /* nobody is told of it, nor does it follow anything */
	return COUNTED;
}

/* quickly counts one check.
 *
 * It is the fast path, and is to keep less than 64 bytes on its stack. From there on the kernel gives a function a stack of its
 * own, in one more page (bpf_enable_priv_stack, since 6.13). TestFastPathStack looks. */
static __always_inline enum how quickly(u64 *ctx, u32 bank, enum reading reading, turn_path *turn)
{
	u32 mark = what_of(ctx, reading) | CACHED_SET, class;
	struct task_struct *task;
	struct cache_page *p;
	u64 asker;

	class = peek(ctx, &asker, reading);
	if (class == CLASS_UNKNOWN)
		return SLOWLY;
	if (told_of(ctx))
		class = told_of(ctx);
	mark |= class << WHAT_CLASS_SHIFT;
	if (class != CLASS_AUDITED) {
		p = cache_page(pages_of(asker, mark, 0), bank);
		return p ? held_in(p, asker, mark, bank, false) : SLOWLY;
	}
	task = bpf_get_current_task_btf();
	p = cache_page(pages_of(asker, mark, low_of(task)), bank);
	if (!p || cred_of(ctx, reading) != task->real_cred)
		return SLOWLY; /* which sees whether they are borrowed */
	if (!same_turn(&p->turn, task))
		turn(&p->turn, task, bank);
	if (bank && after_denial(task, number_in(&p->turn), reading))
		return SLOWLY; /* it may be the first of two programs that counted that */
	return held_in(p, asker, mark | p->turn.who.what, bank, true);
}

/* check counts one check. There is one call of the slow path, and not one for each way there: the verifier would follow each. */
static __always_inline int check(u64 *ctx, u32 bank, enum reading reading, slow_path *slow, turn_path *turn)
{
	enum how how = quickly(ctx, bank, reading, turn);

	return how == COUNTED ? 0 : slow(ctx, how == DUE);
}

/* What is not the fast path stands in functions of its own, out of its way. Of two programs' the second is not preempted anyway where it
 * counts, nor is a first at an entry. */
#define CHECK(kind, bank, reading, who)                                                                          \
	static __noinline int turn_##kind(struct turn *t, struct task_struct *task, u32 b) { return take_turn(t, task, b, who); } \
	static __noinline int slowly_##kind(u64 *ctx, bool due)                                                  \
	{                                                                                                        \
		if (!(bank) && (reading) == CAST)                                                                \
			stay();                                                                                  \
		slowly(ctx, due, bank, reading, who, turn_##kind);                                               \
		if (!(bank) && (reading) == CAST)                                                                \
			stayed();                                                                                \
		return 0;                                                                                        \
	}                                                                                                        \
	static __always_inline int check_##kind(u64 *ctx) { return check(ctx, bank, reading, slowly_##kind, turn_##kind); }

CHECK(cast, 0, CAST, who_cast)
CHECK(probe, 0, PROBE, who_probe) /* for a kernel without bpf_rdonly_cast (a kfunc since 6.2) */
CHECK(second, 1, CAST, who_cast)

/* Tells user space the kernel's own time, which its own may differ from: a time namespace has another boot (time_namespaces(7)). */
SEC("raw_tp")
int clock(void *ctx)
{
	now = bpf_ktime_get_boot_ns();
	return 0;
}
