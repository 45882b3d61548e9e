/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Two programs in the place of one, for where programs can be preempted: on a tracepoint since 7.0 (its guard is
 * srcu_fast_notrace in place of preempt_disable_notrace), in a trampoline since 5.11 on a kernel that is fully preemptible.
 *
 * The kernel skips a program that somebody preempted is still in on the same CPU: until he goes on, all checks there would be
 * missed (bpf_prog_get_recursion_context). So the first program counts, and leaves a mark with the task; the second counts where
 * it finds none. Of one CPU's tasks one must stand in each of the two for the checks of a third to be missed: by a storm of many threads
 * that is soon so, as since 7.3 a slice ends wherever the task stands in the kernel (HRTICK). Where the kernel lets it, nobody is
 * preempted in the second while it counts (stay), but only on the way to that. On the tracepoint entry.h has a better first. */
#pragma once

#include "body.h"

enum {
	MARK_BITS = 10,
	MARKS = 1 << MARK_BITS,
	MARK_CHECK_BITS = 22, /* of a mark: which check of its task */
	MARK_AT_BITS = 11     /* of these: where its arguments stand on the stack, in words of THREAD_SIZE */
};

/* A mark says of which task and which check it is: where its arguments stand on the stack, and how often the task had given up the
 * CPU of its own accord. Neither changes between the two programs. The first leaves it where it has counted one, the second takes
 * it; if that is skipped, it means nothing once the task has given up the CPU.
 *
 * Each task has a place by the address of its stack, wherever it runs: one line, which is at hand for the second when the first has been
 * there. Only the task itself takes a mark of its own that still means something, or replaces it. */
struct mark {
	u64 mark; /* 0: none */
	u64 task; /* that was met here last, by address */
	u64 unused[6];
};

/* A section is a map that is addressed directly, and begins with a page. This has one of its own, which one program does without. */
struct mark marks[MARKS] SEC(".data.marks");

/* A mark that found its place taken by another task's, or that is an interrupt's. */
struct spilled {
	u64 turn;
	u64 task, interrupt; /* addresses: of the task's own check, and of one that an interrupt makes in the middle of that */
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct spilled);
} spilled SEC(".maps");

/* address_of makes a number of ctx. The verifier has one from the difference of two pointers, and from a pointer that is read as one. */
static __always_inline u64 address_of(u64 *ctx)
{
	u64 n = (u64)ctx;

	asm volatile("%0 -= %1" : "+r"(n) : "r"(cred_of(ctx, CAST)));
	return n + word(ctx, 0, CAST);
}

static __always_inline struct mark *place_of(u64 address)
{
	struct mark *m = &marks[address / THREAD_SIZE * 0x9E3779B97F4A7C15ull >> (64 - MARK_BITS)];

	asm volatile("" : "+r"(m)); /* else it is made again wherever it is used */
	return m;
}

static __always_inline struct task_struct *task_at(u64 address)
{
	return bpf_rdonly_cast((void *)address, __builtin_btf_type_id(*(struct task_struct *)0, BPF_TYPE_ID_TARGET));
}

/* has tells whether an address is on a task's stack. That begins at a multiple of its size (alloc_thread_stack_node), and is one live task's
 * alone; one that has ended has none (free_thread_stack), and what is in its place by then is read as if it were a task. Nothing is read
 * where there is none: arm64 might take a fault at a user's address. */
static __always_inline bool has(u64 task, u64 address)
{
	return task && (u64)task_at(task)->stack == (address & ~(u64)(THREAD_SIZE - 1));
}

/* meet tells which task is the current one, and keeps it there; an interrupt, which has a stack of its own, is 0 and is not kept. */
static __noinline u64 meet(struct mark *m, u64 address)
{
	u64 task = bpf_get_current_task();

	if (!has(task, address))
		return 0;
	m->task = task;
	return task;
}

/* runs_on tells which task is the current one, by address: 0 for an interrupt, which has a stack of its own. A helper that tells it is a
 * call on amd64, up to 6.18 at least (7.3 compiles it in), and where the kernel guards returns (srso_safe_ret, retbleed) that costs much of
 * what the fast path does. So it first looks whether this is the stack of who was met here last. */
static __always_inline u64 runs_on(struct mark *m, u64 address)
{
	u64 task = m->task;

	return has(task, address) ? task : meet(m, address);
}

/* mark_of is the mark of a check, by where on the stack its arguments stand; 0 for an interrupt's. */
static __always_inline u64 mark_of(u64 task, u64 address)
{
	if (!task)
		return 0;
	return task >> 6 << MARK_CHECK_BITS | address % THREAD_SIZE / 8 << MARK_AT_BITS | (task_at(task)->nvcsw & ((1 << MARK_AT_BITS) - 1));
}

/* means_nothing tells whether the task of a mark has given up the CPU since, or ended: nobody will come to take it. A task_struct
 * that is freed may still look like one that has not; then the mark stays for a while longer. */
static __always_inline bool means_nothing(u64 mark)
{
	u64 task = bpf_get_current_task() >> 48 << 48 | mark >> MARK_CHECK_BITS << 6;
	unsigned long turns = 0;

	if (READ(turns, ((struct task_struct *)task)->nvcsw))
		return true;
	return (turns ^ mark) & ((1 << MARK_AT_BITS) - 1);
}

/* take_over gives a mark the place of another that means nothing any more. */
static __always_inline bool take_over(struct mark *m, u64 mark, u64 other)
{
	return mark && means_nothing(other) && __sync_val_compare_and_swap(&m->mark, other, mark) == other;
}

/* spilled_in is the current task's spilled marks, without those of an earlier turn. */
static __always_inline struct spilled *spilled_in(struct task_struct *task)
{
	struct spilled *s = bpf_task_storage_get(&spilled, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (s && s->turn != task->nvcsw) {
		s->turn = task->nvcsw;
		s->task = s->interrupt = 0;
	}
	return s;
}

/* spill finds another place for a mark. It returns false where there is none. */
static __noinline bool spill(struct mark *m, u64 mark, u64 other, u64 address)
{
	struct spilled *s;

	if (take_over(m, mark, other))
		return true;
	s = spilled_in(bpf_get_current_task_btf());
	if (!s)
		return false;
	if (mark)
		s->task = address;
	else
		s->interrupt = address;
	return true;
}

enum { NO_MARK = 1 }; /* which none ever is */

/* leave leaves a mark in its place, and returns 0; or else the other one that has it, or NO_MARK where there is none to
 * leave, or none was left. */
static __always_inline u64 leave(struct mark *m, u64 mark)
{
	u64 other;

	if (!mark)
		return NO_MARK;
	other = __sync_val_compare_and_swap(&m->mark, 0, mark);
	if (other >> MARK_CHECK_BITS != mark >> MARK_CHECK_BITS)
		return other;
	/* Its own, which the second was skipped for; if that means nothing any more, somebody may be taking it over. */
	return __sync_val_compare_and_swap(&m->mark, other, mark) == other ? 0 : NO_MARK;
}

static __noinline int decline(void)
{
	struct stat_values *st = my_stats(0);

	if (st)
		st->declined++;
	return 0;
}

static __always_inline int first_of_two(u64 *ctx)
{
	u64 address = address_of(ctx), mark, other;
	struct mark *m = place_of(address);

	mark = mark_of(runs_on(m, address), address);
	other = leave(m, mark);
	return !other || spill(m, mark, other, address) ? check_cast(ctx) : decline();
}

static __always_inline int count_second(u64 *ctx)
{
	struct stat_values *st = my_stats(1);

	if (st)
		st->second++;
	stay();
	check_second(ctx);
	stayed();
	return 0;
}

/* unmarked counts a check whose mark is not in its place, unless it has been spilled. */
static __noinline int unmarked(u64 *ctx, u64 mark, u64 address)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct spilled *s = bpf_task_storage_get(&spilled, task, 0, 0);
	u64 *left;

	if (s && s->turn == task->nvcsw) {
		left = mark ? &s->task : &s->interrupt;
		if (*left == address) {
			*left = 0;
			return 0;
		}
	}
	return count_second(ctx);
}

/* take takes a mark from its place. */
static __always_inline bool take(struct mark *m, u64 mark)
{
	if (!mark || m->mark != mark)
		return false;
	m->mark = 0;
	return true;
}

static __always_inline int second_of_two(u64 *ctx)
{
	u64 address = address_of(ctx), mark;
	struct mark *m = place_of(address);

	mark = mark_of(runs_on(m, address), address);
	return take(m, mark) ? 0 : unmarked(ctx, mark, address);
}
