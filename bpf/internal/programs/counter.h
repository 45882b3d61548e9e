/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The one body behind every source: count a check by who asked and by which kernel function asked. */
#pragma once

#include "read.h"

/* ---- what user space sets ---- */

volatile const u32 has_snprintf;	 /* %ps in the kernel: since 5.13 */
volatile const u32 has_pt_regs;		 /* bpf_task_pt_regs: since 5.15 */
volatile const u32 denial_burst = 5;
volatile const u32 slots[2]; /* for who slots: those for all, and those that are kept */
volatile const u64 harmless;		    /* capabilities without which the kernel goes on, wherever it asks */
volatile const u64 name_mask = ~0ull; /* what tests leave of a name's hash, so that many names have one */

/* All of this changes while we run. It is only ever added to or replaced by user space, and everything in it is verified
 * against the stack at each use, so a half-written entry costs an unwind and nothing else.
 *
 * It is less than a page on purpose. After a system call nothing may be left in the TLB (page-table isolation without PCID),
 * and then the number of pages that a check touches is what it costs. */
struct setting_values settings = { .single = { .capable = ~0ull }, .multi = { .capable = ~0ull } };

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 128);
	__type(key, u8[SYMBOL_SIZE]);
	__type(value, u32);
} roles SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 128);
	__type(key, u8[SYMBOL_SIZE]);
	__type(value, struct probe);
} probes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct place);
	__type(value, struct fallback);
} fallbacks SEC(".maps");

/* By system call: capabilities after whose denial another function may ask for one in its place. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CALLS);
	__type(key, u32);
	__type(value, u64);
} calls SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 1);
	__type(value, u32);
} free_sites SEC(".maps"), free_whos SEC(".maps"), free_kept SEC(".maps");

volatile u32 taken[2]; /* of slots */
volatile u64 now; /* CLOCK_BOOTTIME, as of when clock ran */

/* ---- what is counted, and which slot a key has ---- */

enum {
	MODULE_TRUST = 30, /* ticks for which an address in a module is taken to mean the same */
	OTHER_TRUST = 1	   /* and for which a key that found no slot is taken to have none */
};

enum {
	CACHED_SET = 1 << 20, /* so that an empty entry is no key */
	CACHED_BORROWED = 1 << 21,
	CACHED_AFTER = 1 << 22 /* it came after a denial that is noted, and may be asked for that */
};

struct page {
	union {
		struct stat_values stats;
		struct cache_page cache;
		u64 count[PAGE_SLOTS];
	};
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, u32);
	__type(value, struct page);
} pages SEC(".maps");

/* The last denial of each task that it may be asked for another capability after, at a place by the task's address. Of two tasks of one
 * place who were denied at once, the one that is also preempted before its next check is not told: that check stands as one of its own. */
enum { DENIAL_BITS = 10 };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << DENIAL_BITS);
	__type(key, u32);
	__type(value, struct denial);
} denials SEC(".maps");

static __always_inline struct denial *last_denial(u64 task)
{
	u32 i = task * 0x9E3779B97F4A7C15ull >> (64 - DENIAL_BITS);

	return bpf_map_lookup_elem(&denials, &i);
}

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct site_key);
	__type(value, struct site_value);
} sites SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct who_key);
	__type(value, u32);
} whos SEC(".maps");

/* By the serial number of an owner. One has an entry as long as it has a slot. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, u64);
	__type(value, struct share);
} shares SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, u32);
	__type(value, struct site_record);
} site_records SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, u32);
	__type(value, struct who_record);
} who_records SEC(".maps");

/* By serial number. Not preallocated: a path may be long, and few cgroups ask for anything. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u64);
	__type(value, struct cgroup_record);
} cgroups SEC(".maps");

/* Functions already looked up by name, so that a kernel on which every check must be unwound pays for names once. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, u64);
	__type(value, u32);
} functions SEC(".maps");

struct lessons {
	u32 tick, given;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, u64);
	__type(value, struct lessons);
} taught SEC(".maps");

/* ---- what is told ---- */

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} samples SEC(".maps");

/* The serial numbers of cgroups that have a record and are gone, so that nobody need ask for each whether it still exists. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} gone SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SYSCALLS);
	__type(key, u32);
	__type(value, u8);
} path_arguments SEC(".maps");

/* bpf2go makes a Go type of it, which nothing else in the object's BTF would hold. */
struct announcement *unused_announcement __attribute__((unused));

/* ---- scratch, too large for the 512-byte stack ---- */

struct scratch {
	u64 ips[FRAMES];
	u8 symbol[SYMBOL_SIZE];
	struct sample sample;
	struct site_value site;
	/* Who asked; the name, in words with NULs behind it; the address of the cgroup. */
	struct who_key who;
	u64 name[NAME_SIZE / 8];
	u64 len;
	u64 cgroup_at;
	u64 owner, owner_at; /* whose share it is: serial number and address */
	struct who_key key; /* that wants a slot */
	struct denial denial; /* that the check came after */
	struct denial noted; /* that the next one may come after */
	struct place place;
	struct fallback fallback; /* that the kernel has there */
	u64 alias; /* what the cache has for the name: another one after each denial */
	u64 part;
	struct announcement announcement; /* and behind it, for one that is told with it, */
	struct cgroup_record cgroup;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

/* The current task, for READ. */
static __always_inline struct task_struct *current_task(void) { return (void *)bpf_get_current_task(); }

/* low_of is the lower half of a pointer as a number. */
static __always_inline u32 low_of(const void *p)
{
	u32 low;

	asm volatile("%0 = %1" : "=w"(low) : "w"((u32)(u64)p)); /* else the compiler would shift the pointer, which the verifier refuses */
	return low;
}

static __always_inline struct page *my_page(u32 bank, u32 page)
{
	u32 i = bpf_get_smp_processor_id() * settings.cpu_pages + bank * settings.bank_pages + page;

	return bpf_map_lookup_elem(&pages, &i);
}

static __always_inline struct stat_values *my_stats(u32 bank)
{
	struct page *p = my_page(bank, STAT_PAGE);

	return p ? &p->stats : NULL;
}

static __always_inline u64 *counter(u32 bank, u32 page, u32 slot)
{
	struct page *p = my_page(bank, page + slot / PAGE_SLOTS);

	return p ? &p->count[slot % PAGE_SLOTS] : NULL;
}

static __always_inline struct scratch *my_scratch(u32 bank)
{
	return bpf_map_lookup_elem(&scratches, &bank);
}

/* A return address, read off the stack. arm64 may sign each with PAC in the bits above 48, all ones in the kernel's half. */
static __always_inline u64 address(const void *ctx, u32 at, enum reading reading)
{
	u64 v = word(ctx, at, reading);

#if defined(__TARGET_ARCH_arm64)
	v |= 0xffffull << 48;
#endif
	return v;
}
