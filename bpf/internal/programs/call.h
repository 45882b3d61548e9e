/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which system call a check was made in, and with which path: what an announcement tells of it. */
#pragma once

#include "unwind.h"

enum { AF_UNIX = 1 };

#if defined(__TARGET_ARCH_x86)
#define REGISTERS struct pt_regs___x86
#elif defined(__TARGET_ARCH_arm64)
#define REGISTERS struct pt_regs___arm64
#endif

static __always_inline u64 argument(REGISTERS *regs, u32 n)
{
	u64 v = 0;

#if defined(__TARGET_ARCH_x86)
	switch (n) {
	case 0:
		READ(v, regs->di);
		break;
	case 1:
		READ(v, regs->si);
		break;
	case 2:
		READ(v, regs->dx);
		break;
	case 3:
		READ(v, regs->r10);
		break;
	case 4:
		READ(v, regs->r8);
		break;
	}
#elif defined(__TARGET_ARCH_arm64)
	if (n == 0)
		READ(v, regs->orig_x0);
	else
		bpf_probe_read_kernel(&v, sizeof(v), (void *)regs + FIELD_OFFSET(regs->regs) + (n & 7) * 8);
#endif
	return v;
}

/* path_given reads the path that the system call was given. It was read a moment ago, and so is at hand. */
static __always_inline void path_given(struct announcement *a, REGISTERS *regs)
{
	u32 number = a->syscall;
	u8 *known;
	u16 family = 0;
	u64 at;

	known = bpf_map_lookup_elem(&path_arguments, &number);
	if (!known || !*known || a->compat)
		return;
	at = argument(regs, (*known & PATH_ARGUMENT) - 1);
	if (!(*known & PATH_IN_SOCKADDR)) {
		bpf_probe_read_user_str(a->path, sizeof(a->path), (void *)at);
		return;
	}
	if (bpf_probe_read_user(&family, sizeof(family), (void *)at) || family != AF_UNIX)
		return;
	if (bpf_probe_read_user_str(a->path, sizeof(a->path), (void *)at + 2) == 1) /* an abstract one has a name after a NUL */
		bpf_probe_read_user_str(a->path + 1, sizeof(a->path) - 1, (void *)at + 3);
}

/* call_number tells the system call, or -1 where the check was made outside of one. */
static __always_inline s64 call_number(REGISTERS *regs, u32 *compat)
{
	struct task_struct *task = current_task();
	u32 flags = 0;
#if defined(__TARGET_ARCH_x86)
	s64 number = -1;

	READ(number, regs->orig_ax);
	READ(flags, task->thread_info.status);
	*compat = (flags & TS_COMPAT) != 0;
#elif defined(__TARGET_ARCH_arm64)
	s32 number = -1;

	READ(number, regs->syscallno);
	READ(flags, task->thread_info.flags);
	*compat = flags >> TIF_32BIT & 1;
#endif
	return number;
}

/* request_at tells which request of io_uring's a worker has in hand, by its key in calls: CALLS where that cannot be told. */
static __always_inline u32 request_at(struct task_struct *task, u64 *request)
{
	struct io_worker *worker = NULL;
	struct io_kiocb *none = NULL;
	u8 opcode = 0;

	if (!FIELD_EXISTS(task->worker_private) || !FIELD_EXISTS(worker->cur_work) || !FIELD_EXISTS(none->work))
		return CALLS;
	READ(worker, task->worker_private);
	READ(*request, worker->cur_work);
	if (!*request)
		return CALLS;
	bpf_probe_read_kernel(&opcode, sizeof(opcode), (void *)*request - FIELD_OFFSET(none->work) + FIELD_OFFSET(none->opcode));
	return CALLS_URING + opcode;
}

static __always_inline u64 mixed(u64 call, u64 with)
{
	call = (call ^ with) * settings.name_seed;
	return call ^ call >> 32;
}

/* call_of tells a system call from the one before it, by its number and by what it was given: 0 for one in which no function asks for
 * another capability in the place of this one, which another function was denied. What a worker of io_uring's has in hand is none, but
 * is told like one. */
GLOBAL u64 call_of(u32 cap)
{
	struct task_struct *task = current_task();
	u32 number, compat = 0, flags = 0, i;
	u64 call, given = 0, *caps;
	REGISTERS *regs;

	if (!has_pt_regs)
		return 0;
	regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	READ(flags, task->flags);
	if (flags & PF_IO_WORKER) {
		number = request_at(task, &given);
	} else {
		number = call_number(regs, &compat);
		if (number >= SYSCALLS)
			return 0;
		number += compat ? CALLS_COMPAT : 0;
	}
	caps = bpf_map_lookup_elem(&calls, &number);
	if (!caps || !(*caps >> (cap & (CAPABILITIES - 1)) & 1))
		return 0;
	call = mixed(number, given);
	if (flags & PF_IO_WORKER)
		return call | 1;
	for (i = 0; i < 4; i++)
		call = mixed(call, argument(regs, i));
	READ(given, regs->sp);
	call = mixed(call, given);
#if defined(__TARGET_ARCH_x86)
	READ(given, regs->ip);
	call = mixed(call, given);
	if (compat) { /* whose first two are elsewhere, and the others among those */
		READ(given, regs->bx);
		call = mixed(call, given);
		READ(given, regs->cx);
		call = mixed(call, given);
	}
#elif defined(__TARGET_ARCH_arm64)
	READ(given, regs->pc);
	call = mixed(call, given);
#endif
	return call | 1;
}

/* call_made tells the system call, or -1 where the check was made outside of one. */
GLOBAL int call_made(u32 bank)
{
	struct scratch *s = my_scratch(bank & 1);
	struct announcement *a;
	REGISTERS *regs;

	if (!s)
		return 0;
	a = &s->announcement;
	a->syscall = -1;
	a->compat = 0;
	a->path[0] = a->path[1] = 0;
	if (!has_pt_regs)
		return 0;
	regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	a->syscall = call_number(regs, &a->compat);
	path_given(a, regs);
	return 0;
}

/* process_made tells which process it was, as /proc and its user call it. */
static __always_inline void process_made(struct announcement *a, struct task_struct *task)
{
	const struct cred *cred = NULL;
	struct task_struct *leader;
	struct pid *pid;
	u32 level;

	READ(a->tgid, task->tgid);
	READ(a->tid, task->pid);
	READ(cred, task->real_cred);
	READ(a->uid, cred->uid.val);
	READ(a->euid, cred->euid.val);
	bpf_get_current_comm(a->comm, sizeof(a->comm));
	READ(leader, task->group_leader);
	READ(pid, leader->thread_pid);
	READ(level, pid->level);
	bpf_probe_read_kernel(&a->ns_tgid, sizeof(a->ns_tgid),
			      (void *)pid + FIELD_OFFSET(pid->numbers) + (u64)level * __builtin_preserve_type_info(*(struct upid *)0, BPF_TYPE_SIZE) +
				      FIELD_OFFSET(((struct upid *)0)->nr));
}
