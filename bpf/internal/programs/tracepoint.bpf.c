//go:build ignore
// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The source `tracepoint`: capability:cap_capable, since 6.14 (d48da4d5ed7b). It does not carry opts, so the stack tells the
// class. The third argument is always cred->user_ns here, whatever the header's comment says, and so of no use.

#if defined(__TARGET_ARCH_x86)
#include "entry.h"
#else
#include "pair.h"
#endif

static __always_inline u32 what_of(u64 *ctx, enum reading reading)
{
#if defined(__TARGET_ARCH_x86)
	if (reading == REGS)
		return what(CAST_TO(struct user_namespace, ctx[REGS_DX]), ctx[REGS_R8], ctx[REGS_R9]);
#endif
	return what((void *)ctx[1], ctx[3], ctx[4]);
}

static __always_inline u32 told_of(u64 *ctx) { return CLASS_UNKNOWN; }

SEC("tp_btf/cap_capable")
int tracepoint(u64 *ctx)
{
	return check_cast(ctx);
}

SEC("tp_btf/cap_capable")
int tracepoint_probe(u64 *ctx)
{
	return check_probe(ctx);
}

SEC("tp_btf/cap_capable")
int tracepoint_first(u64 *ctx)
{
	return first_of_two(ctx);
}

SEC("tp_btf/cap_capable")
int tracepoint_second(u64 *ctx)
{
	return second_of_two(ctx);
}

#if defined(__TARGET_ARCH_x86)
SEC("kprobe.multi/__traceiter_cap_capable")
int entry_first(u64 *ctx)
{
	return first_at_entry(ctx);
}

SEC("tp_btf/cap_capable")
int entry_second(u64 *ctx)
{
	return second_of_entry(ctx);
}

SEC("tp_btf/cap_capable")
int entry_beside(u64 *ctx)
{
	return 0;
}
#endif
