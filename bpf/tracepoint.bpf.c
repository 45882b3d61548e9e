//go:build ignore
// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The source `tracepoint`: capability:cap_capable, since 6.14 (d48da4d5ed7b). It does not carry opts, so the stack tells the
// class. The third argument is always cred->user_ns here, whatever the header's comment says, and so of no use.

#include "body.h"

SEC("tp_btf/cap_capable")
int BPF_PROG(tracepoint, const struct cred *cred, struct user_namespace *target, const void *capable_ns, int cap, int ret)
{
	return check(ctx, cred, target, cap, ret, CLASS_UNKNOWN, true);
}

// For a kernel without bpf_rdonly_cast (a kfunc since 6.2).
SEC("tp_btf/cap_capable")
int BPF_PROG(tracepoint_probe, const struct cred *cred, struct user_namespace *target, const void *capable_ns, int cap, int ret)
{
	return check(ctx, cred, target, cap, ret, CLASS_UNKNOWN, false);
}
