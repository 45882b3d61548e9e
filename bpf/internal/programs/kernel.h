/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The kernel types this project reads, cut by hand to the fields it reads. Names and shapes are the kernel's; offsets come
 * from the running kernel's BTF when the object is loaded (CO-RE), so the order here means nothing. */
#pragma once

#define __core __attribute__((preserve_access_index))

enum {
	PF_KTHREAD = 0x00200000, /* linux/sched.h */
	PF_IO_WORKER = 0x00000010, /* since 5.12 */
	CSS_ONLINE = 1 << 1,	 /* linux/cgroup-defs.h */
	THREAD_SIZE = 16384,	 /* of a task's stack: x86-64 and arm64, but for KASAN and 64 KiB pages */
	CAP_OPT_NOAUDIT = 1 << 1 /* linux/security.h; the same value in 5.10 to 7.3 */
};

typedef struct {
	u32 val;
} kuid_t;

struct user_namespace {
	int level; /* 0 for init_user_ns alone: create_user_ns() gives each child its parent's plus one */
} __core;

/* Since 6.3 kernel_cap_t is one u64, before it two u32, 4-byte aligned. On a little-endian machine the same 8 bytes are the
 * same mask, so it is read whole and its inside never named. */
typedef struct {
	u64 val;
} kernel_cap_t;

struct cred {
	kuid_t uid, suid, euid;
	kernel_cap_t cap_permitted;
	struct user_namespace *user_ns;
} __core;

struct list_head {
	struct list_head *next, *prev;
} __core;

struct kernfs_iattrs {
	kuid_t ia_uid;
} __core;

struct kernfs_node {
	struct kernfs_node *__parent; /* since 6.15 */
	struct kernfs_iattrs *iattr; /* NULL: nobody has changed them, and it is root's */
	const char *name;
	u64 id;
} __core;

struct kernfs_node___old {
	struct kernfs_node *parent; /* up to 6.14 */
} __core;

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
	u64 serial_nr; /* "monotonically increasing unique serial number" */
	unsigned int flags;
} __core;

struct cgroup_root {
	int hierarchy_id; /* 0: the default hierarchy, v2 (cgroup_init_root_id) */
} __core;

struct cgroup {
	struct cgroup_subsys_state self;
	int level; /* 0 for the root of a hierarchy alone */
	struct kernfs_node *kn;
	struct cgroup_root *root;
} __core;

/* Which of them there are, and their numbers, are the kernel configuration's. */
enum cgroup_subsys_id { cpu_cgrp_id, memory_cgrp_id, devices_cgrp_id, freezer_cgrp_id, pids_cgrp_id };

struct css_set {
	struct cgroup_subsys_state *subsys[1]; /* one for each subsystem, in whichever hierarchy that is */
	struct cgroup *dfl_cgrp;
} __core;

struct qstr {
	u64 hash_len; /* hash in the low half */
	const unsigned char *name;
} __core;

struct dentry {
	struct qstr d_name;
} __core;

struct path {
	struct dentry *dentry;
} __core;

struct file {
	struct path f_path;
} __core;

struct upid {
	int nr;
} __core;

struct pid {
	unsigned int level; /* how many PID namespaces it is in, less one */
	struct upid numbers[1];
} __core;

struct thread_info {
	unsigned long flags;
	u32 status; /* amd64 */
} __core;

struct mm_struct {
	struct file *exe_file;
} __core;

/* What SELinux tells of what it audits (security/selinux/include/avc.h): permissions, and what it answered. */
struct selinux_audit_data {
	u32 denied;
	int result;
} __core;

struct signal_struct {
	struct list_head thread_head; /* of a process's threads, by their thread_node */
} __core;

struct task_struct {
	struct thread_info thread_info;
	unsigned int flags;
	int exit_state; /* 0: it has not ended */
	void *stack;
	int pid, tgid;
	struct mm_struct *mm;
	struct task_struct *real_parent, *group_leader;
	struct list_head tasks; /* of all processes, by their leaders; init_task's is the head */
	struct list_head thread_node;
	struct signal_struct *signal;
	struct pid *thread_pid;
	struct css_set *cgroups;
	const struct cred *real_cred;
	unsigned long nvcsw, nivcsw; /* how often it gave up the CPU, and had to */
	u64 start_time;
	u64 self_exec_id; /* grows at each execve(2) */
	void *worker_private; /* since 5.17; of a worker of io_uring's, its struct io_worker */
} __core;

struct io_worker {
	struct io_wq_work *cur_work; /* of a struct io_kiocb */
} __core;

struct io_wq_work {
	unsigned int flags;
} __core;

struct io_kiocb {
	u8 opcode;
	struct io_wq_work work;
} __core;

/* Any array of words behind one pointer will do for the cast in word(); this one is in every kernel that has tp_btf. */
struct bpf_raw_tracepoint_args {
	u64 args[0];
};

#if defined(__TARGET_ARCH_x86)
/* struct pt_regs in words, as a program on a function's entry has it (uapi/asm/ptrace.h). */
enum { REGS_R9 = 8, REGS_R8 = 9, REGS_DX = 12, REGS_SI = 13, REGS_SP = 19 };

enum { TS_COMPAT = 0x0002 }; /* asm/thread_info.h */

struct pt_regs___x86 {
	unsigned long bx, cx, di, si, dx, r10, r8, orig_ax, ip, sp;
} __core;
#elif defined(__TARGET_ARCH_arm64)
enum { TIF_32BIT = 22 }; /* asm/thread_info.h */

struct pt_regs___arm64 {
	u64 regs[31];
	u64 sp, pc;
	u64 orig_x0; /* which regs[0] is no more once there is a result */
	int syscallno;
} __core;
#endif
