/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* For the tracepoint, a better first of two programs than pair.h's: a kprobe.multi program at the entry of __traceiter_cap_capable.
 * ftrace has disabled preemption there (ftrace_test_recursion_trylock): nobody is ever preempted in it, so nothing that threads ask
 * is missed, however many they are. The kernel skips it for what an interrupt asks in the middle of another check, and while somebody
 * on the CPU, who may have been preempted, is at a map by bpf(2) (bpf_prog_active, bpf_disable_instrumentation). That the second
 * counts, which is on the tracepoint as before.
 *
 * The kernel calls that function only where the tracepoint has several others to call, so a third program there does nothing. */
#pragma once

#include "pair.h"

CHECK(entry, 0, REGS, who_cast)

/* entry_mark is the mark of a task's check.
 *
 * The two programs see no one place on the stack, so the mark says which task's the check is, and no more. On its own stack a task
 * makes one check at a time: x86's interrupts have others, but for those that come from user mode, where the task makes none. So what
 * the first has counted has its mark there when the second comes, and nothing is counted twice.
 *
 * A mark for which the second was skipped is left over, and is as good as that of the task's next check. If the first is skipped for
 * that, the second takes it to be counted. It is missed then, and told: a miss of the first for which the second has not stood in. */
static __always_inline u64 entry_mark(u64 task) { return mark_of(task, 0); }

/* spill_entry is spill. Interrupts' checks nest, so the number of their marks will do: one that comes between two programs of another
 * takes what it has left before that one's second looks, or leaves one too many, as above. */
static __noinline bool spill_entry(struct mark *m, u64 mark, u64 other)
{
	struct spilled *s;

	if (take_over(m, mark, other))
		return true;
	s = spilled_in(bpf_get_current_task_btf());
	if (!s)
		return false;
	if (mark)
		s->task = 1;
	else
		s->interrupt++;
	return true;
}

static __always_inline int first_at_entry(u64 *ctx)
{
	struct mark *m = place_of(ctx[REGS_SP]);
	u64 mark = entry_mark(runs_on(m, ctx[REGS_SP])), other = leave(m, mark);

	return !other || spill_entry(m, mark, other) ? check_entry(ctx) : decline();
}

static __noinline int unmarked_entry(u64 *ctx, u64 mark)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct spilled *s = bpf_task_storage_get(&spilled, task, 0, 0);
	u64 *left;

	if (s && s->turn == task->nvcsw) {
		left = mark ? &s->task : &s->interrupt;
		if (*left) {
			--*left;
			return 0;
		}
	}
	return count_second(ctx);
}

static __always_inline int second_of_entry(u64 *ctx)
{
	u64 address = address_of(ctx), mark;
	struct mark *m = place_of(address);

	mark = entry_mark(runs_on(m, address));
	return take(m, mark) ? 0 : unmarked_entry(ctx, mark);
}
