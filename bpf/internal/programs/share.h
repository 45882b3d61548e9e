/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who may have a slot. Anybody can make names, cgroups and user namespaces, and is not to take the slots that others need.
 *
 * Slots are counted for the owner: the innermost cgroup above which, and which, all are root's. What a user made below what was
 * delegated to him is one owner, however many cgroups that is. An owner may have another slot as long as it has fewer than twice as
 * many as are free (a dynamic threshold, as switches share buffers by): one alone may take half the table and more, several leave
 * less to each, and there is always room for somebody who has few. */
#pragma once

#include "unwind.h"
#include "cgroup.h"

enum { OWNER_TOO_DEEP = ~0ull }; /* all that are too deep share one share */

/* find_owner tells whose share the scratch's cgroup draws on. */
GLOBAL int find_owner(u32 bank)
{
	struct scratch *s = my_scratch(bank & 1);
	struct cgroup *owner;

	if (!s)
		return 0;
	s->owner = OWNER_TOO_DEEP;
	owner = (void *)owner_of(s->cgroup_at);
	s->owner_at = (u64)owner;
	if (owner)
		READ(s->owner, owner->self.serial_nr);
	return 0;
}

static __always_inline u32 pool_of(u32 what) { return what & (WHAT_DENIED | WHAT_USERNS) ? POOL_ANYBODY : POOL_GRANTED; }

static __always_inline u32 left_of(u32 kept) { return taken[kept] < slots[kept] ? slots[kept] - taken[kept] : 0; }

/* share_of is an owner's. There is room for as many owners as there are slots. */
static __always_inline struct share *share_of(u64 owner)
{
	struct share none = {}, *share = bpf_map_lookup_elem(&shares, &owner);

	if (share)
		return share;
	bpf_map_update_elem(&shares, &owner, &none, BPF_NOEXIST);
	return bpf_map_lookup_elem(&shares, &owner);
}

/* pop_slot takes a slot for a check of the scratch's owner: 0 if there is none for it. One for all who found none asks for no share. */
static __noinline u32 pop_slot(struct scratch *s, u32 what, bool others)
{
	u32 pool = pool_of(what), left = left_of(0), slot;
	struct share *share = bpf_map_lookup_elem(&shares, &s->owner); /* none is made for who may get no slot: nobody would take it away */
	u32 used = share ? share->used[pool & 1] : 0;

	if (!others && used >= 2 * (left + (pool == POOL_GRANTED ? left_of(1) : 0)))
		return 0;
	if (pool == POOL_ANYBODY)
		return bpf_map_pop_elem(&free_whos, &slot) ? 0 : slot;
	/* The last ones that others could have, too, are left to them. */
	if (left > slots[0] / 8 && !bpf_map_pop_elem(&free_whos, &slot))
		return slot;
	if (!bpf_map_pop_elem(&free_kept, &slot))
		return slot;
	return bpf_map_pop_elem(&free_whos, &slot) ? 0 : slot;
}

static __always_inline u32 is_kept(u32 slot) { return slot >= WHO_FIXED + slots[0]; }

static __always_inline void push_slot(u32 slot)
{
	if (is_kept(slot))
		bpf_map_push_elem(&free_kept, &slot, 0);
	else
		bpf_map_push_elem(&free_whos, &slot, 0);
}

/* charge puts a slot down to its owner. */
static __noinline int charge(u64 owner, u32 pool, u32 slot)
{
	struct share *share = share_of(owner);

	if (share)
		__sync_fetch_and_add(&share->used[pool & 1], 1);
	__sync_fetch_and_add(&taken[is_kept(slot)], 1);
	return 0;
}

/* Run by user space for a slot that it has freed, with the owner and the pool of its last series, and the slot itself. */
SEC("raw_tp")
int release(u64 *ctx)
{
	u64 owner = ctx[0];
	u32 pool = ctx[1] & 1, slot = ctx[2];
	struct share *share = bpf_map_lookup_elem(&shares, &owner);

	__sync_fetch_and_add(&taken[is_kept(slot)], -1);
	if (!share || !share->used[pool])
		return 0;
	__sync_fetch_and_add(&share->used[pool], -1);
	if (!share->used[POOL_ANYBODY] && !share->used[POOL_GRANTED])
		bpf_map_delete_elem(&shares, &owner);
	return 0;
}
