/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which kernel function asked: the peek at the stack, and the site slots. */
#pragma once

#include "unwind.h"

/* base_of is what offsets on the stack count from: ctx, which stands there itself. At a function's entry it is the word below the
 * return address, as an offset is never 0. */
static __always_inline void *base_of(u64 *ctx, enum reading reading)
{
#if defined(__TARGET_ARCH_x86)
	if (reading == REGS)
		return (void *)(ctx[REGS_SP] - 8);
#endif
	return ctx;
}

/* pair_at reads the caller and the wrapper off the stack, at being where cap_capable's return address stands, and returns what is
 * known of the two. */
static __always_inline struct pair *pair_at(void *ctx, u32 at, u64 *caller, enum reading reading)
{
	u64 wrapper = 0;
	struct pair *p;

	*caller = address(ctx, at + settings.caller_after, reading);
	if (*caller == settings.security)
		wrapper = address(ctx, at + settings.wrapper_after, reading);
	p = &settings.pairs[((*caller ^ wrapper << 1) * settings.pair_seed) >> (64 - PAIR_BITS)];
	return p->caller == *caller && p->wrapper == wrapper ? p : NULL;
}

/* beyond is pair_at beyond somebody's trampoline, out of the fast path's way. It returns the pair's number plus one. */
static __always_inline u32 beyond(void *ctx, u32 at, enum reading reading)
{
	struct pair *p;
	u64 caller;

	p = pair_at(ctx, at + settings.detour.shift, &caller, reading);
	return p ? p - settings.pairs + 1 : 0;
}

static __noinline u32 beyond_cast(void *ctx, u32 at) { return beyond(ctx, at, CAST); }
static __noinline u32 beyond_probe(void *ctx, u32 at) { return beyond(ctx, at, PROBE); }

/* peek reads the caller, the wrapper and the asker off the stack and returns the class that goes with them, or CLASS_UNKNOWN
 * where the stack does not look as an unwind has confirmed it before.
 *
 * With one program on the tracepoint, bpf_trace_run5's frame lies straight on cap_capable's; with several,
 * __traceiter_cap_capable's stands between and all offsets differ. That may change at any time while we run, so both are tried
 * at each check, and each must show the return addresses that belong there. The same holds for somebody's fexit on cap_capable.
 * At __traceiter_cap_capable's entry nothing stands between, and that place is learned as that of one program. */
static __always_inline u32 peek(u64 *regs, u64 *asker, enum reading kind)
{
	u32 at = settings.single.capable_at;
	void *ctx = base_of(regs, kind);
	enum reading reading = WORDS_BY(kind);
	struct pair *p;
	u64 caller;
	u32 i;

	if (address(ctx, at, reading) != settings.single.capable) {
		at = settings.multi.capable_at;
		if (kind == REGS || address(ctx, at, reading) != settings.multi.capable ||
		    address(ctx, settings.multi.iterator_at, reading) != settings.multi.iterator)
			return CLASS_UNKNOWN;
	}
	p = pair_at(ctx, at, &caller, reading);
	if (!p) {
		if (caller != settings.detour.trampoline)
			return CLASS_UNKNOWN;
		i = reading == PROBE ? beyond_probe(ctx, at) : beyond_cast(ctx, at);
		if (!i)
			return CLASS_UNKNOWN;
		at += settings.detour.shift;
		p = &settings.pairs[(i - 1) & (PAIRS - 1)];
	}
	asm volatile("" : "+r"(p)); /* else its number is kept in its place, and multiplied again */
	*asker = address(ctx, at + p->asker_after, reading);
	return p->class;
}

/* look unwinds, and shows the learner why that was necessary. told is the class where the source has it from opts. */
static __always_inline u32 look(u64 *ctx, struct scratch *s, u32 told, u32 bank, enum reading reading)
{
	unwind(ctx, s, bank);
	if (told)
		s->sample.class = told;
	if (reading == REGS)
		s->sample.iterator = 0; /* nobody is to return to it yet */
	teach(base_of(ctx, reading), s, WORDS_BY(reading));
	return s->sample.class;
}

static __always_inline bool same_symbol(const u8 *a, const u8 *b)
{
	const u64 *x = (const u64 *)a, *y = (const u64 *)b;
	int i;

	for (i = 0; i < SYMBOL_SIZE / 8; i++)
		if (x[i] != y[i])
			return false;
	return true;
}

/* cut takes the compiler's suffixes and a module's name off a function's. */
GLOBAL u32 cut(u32 bank)
{
	struct scratch *s = my_scratch(bank & 1);
	u32 i, end = 0;

	if (!s)
		return 0;
	for (i = 0; i < SYMBOL_SIZE; i++) {
		if (s->symbol[i] == '.' || s->symbol[i] == ' ')
			end = 1;
		if (end)
			s->symbol[i] = 0;
	}
	return 0;
}

/* probed tells whether a check was denied, and the kernel goes on all the same: by the function in the scratch, which it cuts, and by
 * the wrapper that the unwind has found, which it puts in its place. */
GLOBAL u32 probed(u32 what, u32 bank)
{
	struct scratch *s = my_scratch(bank & 1);
	u64 all = harmless, plain = 0;
	struct probe *p;

	if (!s || !(what & WHAT_DENIED))
		return 0;
	cut(bank);
	p = bpf_map_lookup_elem(&probes, s->symbol);
	if (p) {
		all |= p->caps;
		plain = p->plain;
	}
	if (plain) {
		symbol(s->sample.wrapper, bank);
		if (*(u64 *)s->symbol == *(u64 *)"ns_capab" && *(u64 *)(s->symbol + 8) == *(u64 *)"le\0\0\0\0\0")
			all |= plain;
	}
	return all >> (what & (CAPABILITIES - 1)) & 1;
}

/* same_function tells whether two site slots are of one kernel function, in however many parts the compiler has it. */
GLOBAL u32 same_function(u32 slot, u32 other)
{
	struct site_record *a = bpf_map_lookup_elem(&site_records, &slot);
	struct site_record *b = bpf_map_lookup_elem(&site_records, &other);
	u32 i;
	u8 x, y;

	if (!a || !b || !a->symbol[0])
		return 0;
	for (i = 0; i < SYMBOL_SIZE; i++) {
		x = a->symbol[i];
		y = b->symbol[i];
		if (x == '.' || x == ' ')
			x = 0;
		if (y == '.' || y == ' ')
			y = 0;
		if (x != y)
			return 0;
		if (!x)
			break;
	}
	return 1;
}

/* fallback_at writes to the scratch what the kernel asks for where a capability is denied at a site, and returns who asks: LEADS_. */
GLOBAL u32 fallback_at(u32 slot, u32 cap, u32 bank)
{
	struct site_record *r = bpf_map_lookup_elem(&site_records, &slot);
	struct scratch *s = my_scratch(bank & 1);
	struct fallback *f;
	u64 *words;
	u32 i;

	if (!r || !s)
		return 0;
	s->fallback.same = s->fallback.elsewhere = s->fallback.interrupt = 0;
	if (!r->symbol[0])
		return 0;
	__builtin_memcpy(s->symbol, r->symbol, SYMBOL_SIZE);
	cut(bank);
	__builtin_memcpy(s->place.function, s->symbol, SYMBOL_SIZE);
	s->place.cap = cap;
	f = bpf_map_lookup_elem(&fallbacks, &s->place);
	if (f)
		s->fallback = *f;
	words = (u64 *)s->place.function;
	for (i = 0; i < SYMBOL_SIZE / 8; i++)
		words[i] = 0;
	f = bpf_map_lookup_elem(&fallbacks, &s->place);
	if (f) {
		s->fallback.same |= f->same;
		s->fallback.elsewhere |= f->elsewhere;
	}
	return (s->fallback.same ? LEADS_SAME : 0) | (s->fallback.elsewhere ? LEADS_ELSEWHERE : 0) | (s->fallback.interrupt ? LEADS_INTERRUPT : 0);
}

/* asked_for tells whether a check at a site was made for want of what the scratch's denial is of. */
GLOBAL u32 asked_for(u32 slot, u32 cap, u32 bank)
{
	struct scratch *s = my_scratch(bank & 1);
	u64 caps;

	if (!s)
		return 0;
	fallback_at(s->denial.site, s->denial.cap, bank);
	caps = s->denial.call ? s->fallback.elsewhere : 0;
	if (same_function(s->denial.site, slot))
		caps |= s->fallback.same;
	return caps >> (cap & (CAPABILITIES - 1)) & 1;
}

/* site_slot finds or makes the slot of a key that the cache does not hold. Where no slot is free, the key's fixed one. */
static __noinline struct site_value *site_slot(struct scratch *s, struct site_key *key, u32 bank)
{
	struct site_value *known = bpf_map_lookup_elem(&sites, key), *v = &s->site;
	struct site_record *r;
	u32 slot, module;

	if (known && !known->module) {
		*v = *known;
		return v;
	}
	module = symbol(key->asker, bank);
	v->probe = 0;
	if (known) {
		/* Modules are unloaded, and others take their place: is this still the same function? */
		slot = known->slot;
		r = bpf_map_lookup_elem(&site_records, &slot);
		if (r && same_symbol(r->symbol, s->symbol)) {
			*v = *known;
			return v;
		}
	}
	v->slot = key->what & WHAT_SITE;
	v->module = 0;
	if (bpf_map_pop_elem(&free_sites, &slot)) {
		v->probe = probed(key->what, bank);
		return v;
	}
	r = bpf_map_lookup_elem(&site_records, &slot);
	if (!r)
		return v;
	r->asker = key->asker;
	r->what = key->what;
	r->created = bpf_ktime_get_boot_ns();
	__builtin_memcpy(r->symbol, s->symbol, SYMBOL_SIZE);
	v->slot = slot;
	v->module = module;
	v->probe = probed(key->what, bank);
	if (!bpf_map_update_elem(&sites, key, v, known ? BPF_ANY : BPF_NOEXIST))
		return v;
	/* Another CPU was faster: its slot counts. */
	bpf_map_push_elem(&free_sites, &slot, 0);
	known = bpf_map_lookup_elem(&sites, key);
	if (known) {
		*v = *known;
	} else {
		v->slot = key->what & WHAT_SITE;
		v->module = 0;
	}
	return v;
}
