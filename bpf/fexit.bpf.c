//go:build ignore
// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The source `fexit`: for kernels without the tracepoint. opts tells the class; the stack, only who asked.

#include "body.h"

SLOW_PATH(slowly_cast, 0, true)

SEC("fexit/cap_capable")
int BPF_PROG(fexit, const struct cred *cred, struct user_namespace *target, int cap, unsigned int opts, int ret)
{
	return check(ctx, cred, target, cap, ret, opts & CAP_OPT_NOAUDIT ? CLASS_NOAUDIT : CLASS_AUDITED, 0, true, slowly_cast);
}

// For a kernel without bpf_rdonly_cast (a kfunc since 6.2).
SLOW_PATH(slowly_probe, 0, false)

SEC("fexit/cap_capable")
int BPF_PROG(fexit_probe, const struct cred *cred, struct user_namespace *target, int cap, unsigned int opts, int ret)
{
	return check(ctx, cred, target, cap, ret, opts & CAP_OPT_NOAUDIT ? CLASS_NOAUDIT : CLASS_AUDITED, 0, false, slowly_probe);
}
