//go:build ignore
// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The source `fexit`: for kernels without the tracepoint. opts tells the class; the stack, only who asked.

#include "pair.h"

static __always_inline u32 what_of(u64 *ctx, enum reading reading) { return what((void *)ctx[1], ctx[2], ctx[4]); }

static __always_inline u32 told_of(u64 *ctx) { return ctx[3] & CAP_OPT_NOAUDIT ? CLASS_NOAUDIT : CLASS_AUDITED; }

SEC("fexit/cap_capable")
int fexit(u64 *ctx)
{
	return check_cast(ctx);
}

SEC("fexit/cap_capable")
int fexit_probe(u64 *ctx)
{
	return check_probe(ctx);
}

// For a kernel that names no functions (bpf_snprintf came with 5.13): which one asked cannot be told. Nor has it, up to 5.10,
// bpf_get_current_task_btf; nor, up to 5.11, does it keep an interrupt's check out of a program that was interrupted.
SEC("fexit/cap_capable")
int fexit_unnamed(u64 *ctx)
{
	struct stat_values *st = my_stats(0);

	if (!st)
		return 0;
	if (st->busy) {
		st->declined++;
		return 0;
	}
	*(volatile u64 *)&st->busy = 1;
	slowly(ctx, false, 0, HELPER, who_helper, NULL);
	*(volatile u64 *)&st->busy = 0;
	return 0;
}

SEC("fexit/cap_capable")
int fexit_first(u64 *ctx)
{
	return first_of_two(ctx);
}

SEC("fexit/cap_capable")
int fexit_second(u64 *ctx)
{
	return second_of_two(ctx);
}
