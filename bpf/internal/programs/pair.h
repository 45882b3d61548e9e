/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Two programs in the place of one, for where programs can be preempted: on a tracepoint since 7.0 (its guard is
 * srcu_fast_notrace in place of preempt_disable_notrace), in a trampoline since 5.11 on a kernel that is fully preemptible.
 *
 * The kernel skips a program that somebody preempted is still in on the same CPU: until he goes on, all checks there would be
 * missed (bpf_prog_get_recursion_context). So the first program counts, and leaves a mark with the task; the second counts where
 * it finds none. Both must have been preempted on one CPU for a check to be missed. */
#pragma once

#include "body.h"

/* What tells a check from others of the same task: where its arguments stand on the stack, and how often the task had given up
 * the CPU of its own accord. Neither changes between the two programs. The first leaves it where it has counted one, the second
 * takes it; if that is skipped, it means nothing once the task has given up the CPU. */
struct mark {
	u64 turn;
	u64 task, interrupt; /* addresses: of the task's own check, and of one that an interrupt makes in the middle of that */
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct mark);
} marks SEC(".maps");

static __noinline u64 turn_of(void) { return bpf_get_current_task_btf()->nvcsw; }

/* address_of makes a number of a pointer. The verifier has them from the difference of two alone. */
static __noinline u64 address_of(u64 *ctx)
{
	u64 n = (u64)ctx;

	asm volatile("%0 -= %1" : "+r"(n) : "r"(bpf_get_current_task_btf()));
	return n + bpf_get_current_task();
}

/* mark_of is where in a mark a check has its place. Interrupts have stacks of their own. */
static __always_inline u64 *mark_of(struct mark *m, u64 at)
{
	return at - (u64)bpf_get_current_task_btf()->stack < THREAD_SIZE ? &m->task : &m->interrupt;
}

static __always_inline int first_of_two(u64 *ctx)
{
	struct mark *m = bpf_task_storage_get(&marks, bpf_get_current_task_btf(), 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	struct stat_values *st;
	u64 turn, at;

	if (!m) {
		st = my_stats(0);
		if (st)
			st->declined++;
		return 0;
	}
	check_cast(ctx);
	turn = turn_of();
	if (m->turn != turn) {
		m->turn = turn;
		m->task = m->interrupt = 0;
	}
	at = address_of(ctx);
	*mark_of(m, at) = at;
	return 0;
}

static __always_inline int second_of_two(u64 *ctx)
{
	struct mark *m = bpf_task_storage_get(&marks, bpf_get_current_task_btf(), 0, 0);
	struct stat_values *st;
	u64 at, *mark;

	if (m && m->turn == turn_of()) {
		at = address_of(ctx);
		mark = mark_of(m, at);
		if (*mark == at) {
			*mark = 0;
			return 0;
		}
	}
	st = my_stats(1);
	if (st)
		st->second++;
	return check_second(ctx);
}
