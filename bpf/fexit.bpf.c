//go:build ignore
// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The source `fexit`: for kernels without the tracepoint. opts tells the class; the stack, only who asked.

#include "body.h"

static __always_inline u32 what_of(u64 *ctx) { return what((void *)ctx[1], ctx[2], ctx[4]); }

static __always_inline u32 told_of(u64 *ctx) { return ctx[3] & CAP_OPT_NOAUDIT ? CLASS_NOAUDIT : CLASS_AUDITED; }

OTHER_PATHS(cast, 0, true)

SEC("fexit/cap_capable")
int fexit(u64 *ctx)
{
	return CHECK(ctx, cast, 0, true);
}

// For a kernel without bpf_rdonly_cast (a kfunc since 6.2).
OTHER_PATHS(probe, 0, false)

SEC("fexit/cap_capable")
int fexit_probe(u64 *ctx)
{
	return CHECK(ctx, probe, 0, false);
}
