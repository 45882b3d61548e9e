//go:build ignore
// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The source `fexit`: for kernels without the tracepoint. opts tells the class; the stack, only who asked.

#include "body.h"

static __always_inline u32 what_of(u64 *ctx) { return what((void *)ctx[1], ctx[2], ctx[4]); }

static __always_inline u32 told_of(u64 *ctx) { return ctx[3] & CAP_OPT_NOAUDIT ? CLASS_NOAUDIT : CLASS_AUDITED; }

OTHER_PATHS(cast, 0, CAST)

SEC("fexit/cap_capable")
int fexit(u64 *ctx)
{
	return CHECK(ctx, cast, 0, CAST);
}

// For a kernel without bpf_rdonly_cast (a kfunc since 6.2).
OTHER_PATHS(probe, 0, PROBE)

SEC("fexit/cap_capable")
int fexit_probe(u64 *ctx)
{
	return CHECK(ctx, probe, 0, PROBE);
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
	slowly(ctx, false, 0, HELPER);
	*(volatile u64 *)&st->busy = 0;
	return 0;
}
