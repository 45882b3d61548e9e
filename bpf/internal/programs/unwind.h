/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The slow and certain way: unwind the stack, name its functions, and tell from the names what the check was. It is taken for
 * what has not been seen before, for what the peek cannot verify, and from time to time for the rest. */
#pragma once

#include "counter.h"

/* symbol writes to the scratch the name of the function that holds the call before the return address ip, e.g. "capable" or
 * "packet_create [af_packet]", and fills the rest with NULs so that it can be a key. No name: all NULs. It returns whether the
 * function is a module's. */
GLOBAL u32 symbol(u64 ip, u32 bank)
{
	static const char format[] = "%ps";
	struct scratch *s = my_scratch(bank & 1);
	u64 call = ip - 1; /* after a call that does not return, ip is already the next function's */
	u32 i, module = 0;
	u64 *words;

	if (!s)
		return 0;
	words = (u64 *)s->symbol;
	for (i = 0; i < SYMBOL_SIZE / 8; i++)
		words[i] = 0;
	if (!has_snprintf || !ip)
		return 0;
	bpf_snprintf((char *)s->symbol, SYMBOL_SIZE, format, &call, sizeof(call));
	for (i = 0; i < SYMBOL_SIZE; i++)
		if (s->symbol[i] == '[')
			module = 1;
	return module;
}

/* role_of tells which of abi.h's roles the function of a return address plays. */
GLOBAL u32 role_of(u64 ip, u32 bank)
{
	u32 *known = bpf_map_lookup_elem(&functions, &ip), role, i, end = 0;
	struct scratch *s;

	if (known)
		return *known;
	s = my_scratch(bank & 1);
	if (!s)
		return ROLE_NONE;
	symbol(ip, bank);
	/* bpf_trampoline_%llu: comes and goes, so it is not remembered. */
	if (*(u64 *)s->symbol == *(u64 *)"bpf_tram")
		return ROLE_TRAMPOLINE;
	/* The compiler's suffixes vary by build: .isra.0, .constprop.0, .part.0, .cold. A module's function keeps its
	 * " [module]", so that it cannot pass for one of the kernel's own. */
	for (i = 0; i < SYMBOL_SIZE; i++) {
		if (s->symbol[i] == '.')
			end = 1;
		if (end)
			s->symbol[i] = 0;
	}
	known = bpf_map_lookup_elem(&roles, s->symbol);
	if (!known)
		return ROLE_NONE;
	role = *known;
	bpf_map_update_elem(&functions, &ip, &role, BPF_ANY);
	return role;
}

enum { SEEK, CALLER, WRAPPER, BY_CALLER, ASKER };

/* classify fills the scratch's sample, but for its words, from as many return addresses of its as there are frames. What cannot be told is
 * CLASS_UNKNOWN, and an asker that cannot be found is 0. */
GLOBAL int classify(u32 frames, u32 bank)
{
	struct scratch *s = my_scratch(bank & 1);
	u32 state = SEEK, above_trampoline = 0, role, i;
	struct sample *f;
	u64 ip;

	if (!s)
		return 0;
	f = &s->sample;
	f->capable = f->iterator = f->trampoline = f->caller = f->wrapper = f->asker = 0;
	f->class = CLASS_UNKNOWN;
	f->by_caller = 0;
	for (i = 0; i < FRAMES; i++) {
		if (i >= frames)
			break;
		ip = s->ips[i];
		role = role_of(ip, bank);
		if (state == ASKER) {
			/* Somebody's fexit on the wrapper: its trampoline, then the wrapper's own first bytes. */
			if (role == ROLE_TRAMPOLINE || (above_trampoline && role != ROLE_NONE)) {
				above_trampoline = 1;
				continue;
			}
			/* The same function in two parts: on arm64 cap_vm_enough_memory is not a part of its caller. */
			if (role == ROLE_NOAUDIT)
				continue;
			f->asker = ip;
			break;
		}
		if (state == SEEK) {
			if (role == ROLE_CAPABLE) {
				f->capable = ip;
				state = CALLER;
				continue;
			}
			if (role == ROLE_ITERATOR)
				f->iterator = ip;
			if (role != ROLE_AUDITED && role != ROLE_NOAUDIT && role != ROLE_BY_CALLER)
				continue;
			/* A compiler that put cap_capable's body into its caller. */
			state = CALLER;
		}
		if (state == BY_CALLER) {
			f->asker = ip;
			if (role == ROLE_CALLER_AUDITED)
				f->class = CLASS_AUDITED;
			else if (role == ROLE_CALLER_NOAUDIT)
				f->class = CLASS_NOAUDIT;
			break;
		}
		/* Somebody's fexit on security_capable, likewise. */
		if (state == WRAPPER && (role == ROLE_TRAMPOLINE || role == ROLE_SECURITY))
			continue;
		if (state == CALLER) {
			/* Somebody's fexit: its trampoline, then cap_capable's own first bytes. */
			if (role == ROLE_TRAMPOLINE && !f->trampoline)
				f->trampoline = ip;
			if (role == ROLE_TRAMPOLINE || role == ROLE_CAPABLE)
				continue;
			f->caller = ip;
			if (role == ROLE_SECURITY) {
				state = WRAPPER;
				continue;
			}
		} else {
			f->wrapper = ip;
		}
		state = ASKER;
		if (role == ROLE_AUDITED) {
			f->class = CLASS_AUDITED;
		} else if (role == ROLE_NOAUDIT) {
			f->class = CLASS_NOAUDIT;
		} else if (role == ROLE_BY_CALLER) {
			f->by_caller = 1;
			state = BY_CALLER;
		}
	}
	return 0;
}

static __always_inline void unwind(void *ctx, struct scratch *s, u32 bank)
{
	struct stat_values *st = my_stats(bank);
	long n;

	if (st)
		st->unwinds++;
	n = bpf_get_stack(ctx, s->ips, sizeof(s->ips), 0);
	classify(n > 0 ? n / 8 : 0, bank);
}

enum { LESSONS = 16 };

/* teach shows user space the stack just unwound: a few of each way to cap_capable in each second, so that a busy one leaves
 * room for the others. */
static __always_inline void teach(void *ctx, struct scratch *s, enum reading reading)
{
	u64 way = s->sample.caller ^ s->sample.wrapper << 1 ^ s->sample.trampoline << 2;
	struct lessons *l, first = { .tick = settings.tick };
	int i;

	if (!s->sample.capable)
		return;
	l = bpf_map_lookup_elem(&taught, &way);
	if (!l) {
		bpf_map_update_elem(&taught, &way, &first, BPF_NOEXIST);
		l = bpf_map_lookup_elem(&taught, &way);
		if (!l)
			return;
	}
	if (l->tick != settings.tick) {
		l->tick = settings.tick;
		l->given = 0;
	}
	if (l->given >= LESSONS)
		return;
	l->given++;
	for (i = 0; i < WORDS; i++)
		s->sample.words[i] = address(ctx, i * 8, reading);
	bpf_ringbuf_output(&samples, &s->sample, sizeof(s->sample), 0);
}
