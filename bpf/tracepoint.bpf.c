//go:build ignore
// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The source `tracepoint`: capability:cap_capable, since 6.14 (d48da4d5ed7b). It does not carry opts, so the stack tells the
// class. The third argument is always cred->user_ns here, whatever the header's comment says, and so of no use.

#include "body.h"

static __always_inline u32 what_of(u64 *ctx) { return what((void *)ctx[1], ctx[3], ctx[4]); }

static __always_inline u32 told_of(u64 *ctx) { return CLASS_UNKNOWN; }

OTHER_PATHS(cast, 0, CAST)

SEC("tp_btf/cap_capable")
int tracepoint(u64 *ctx)
{
	return CHECK(ctx, cast, 0, CAST);
}

// For a kernel without bpf_rdonly_cast (a kfunc since 6.2).
OTHER_PATHS(probe, 0, PROBE)

SEC("tp_btf/cap_capable")
int tracepoint_probe(u64 *ctx)
{
	return CHECK(ctx, probe, 0, PROBE);
}

// Since 7.0 a tracepoint's programs can be preempted (its guard is srcu_fast_notrace in place of preempt_disable_notrace), and
// the kernel skips a program that somebody preempted is still in on the same CPU: until he goes on, all checks there are missed
// (bpf_prog_get_recursion_context). So there are two programs. The first counts, and leaves a mark with the task; the second
// counts where it finds none. Both must have been preempted on one CPU for a check to be missed.
struct mark {
	u32 counted;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct mark);
} marks SEC(".maps");

SEC("tp_btf/cap_capable")
int tracepoint_first(u64 *ctx)
{
	struct mark *m = bpf_task_storage_get(&marks, bpf_get_current_task_btf(), 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	struct stat_values *st;

	if (!m) {
		st = my_stats(0);
		if (st)
			st->declined++;
		return 0;
	}
	CHECK(ctx, cast, 0, CAST);
	m->counted = 1; // last: an interrupt that asks in between is then counted, and by the second
	return 0;
}

OTHER_PATHS(second, 1, CAST)

SEC("tp_btf/cap_capable")
int tracepoint_second(u64 *ctx)
{
	struct mark *m = bpf_task_storage_get(&marks, bpf_get_current_task_btf(), 0, 0);
	struct stat_values *st;

	if (m && m->counted) {
		m->counted = 0;
		return 0;
	}
	st = my_stats(1);
	if (st)
		st->second++;
	return CHECK(ctx, second, 1, CAST);
}
