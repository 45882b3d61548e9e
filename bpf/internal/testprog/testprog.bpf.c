//go:build ignore
// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Programs that only tests and benchmarks attach. They share nothing with the product, so that they can be held against it.

#include "common.h"
#include "bpf_tracing.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

enum { FRAMES = 24, CAP_DAC_READ_SEARCH = 2 };

// The floor: what any program on the tracepoint costs. It is the second program, too, where a test wants two.
SEC("tp_btf/cap_capable")
int empty(unsigned long long *ctx)
{
	return 0;
}

// Somebody else's program on the same function: its trampoline stands on the stack where the caller stood.
SEC("fexit/cap_capable")
int foreign_fexit(unsigned long long *ctx)
{
	return 0;
}

// One that stands on the stack only until the function begins.
SEC("fentry/cap_capable")
int foreign_fentry(unsigned long long *ctx)
{
	return 0;
}

// Somebody else's programs on those that ask cap_capable, and on those whom it is asked for.
SEC("fexit/security_capable")
int foreign_security(unsigned long long *ctx)
{
	return 0;
}

SEC("fexit/ns_capable")
int foreign_wrapper(unsigned long long *ctx)
{
	return 0;
}

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 22);
} records SEC(".maps");

__u64 records_lost;

struct record {
	__u64 time, pid_tgid, uid_gid, cgroup;
	__s32 cap, ret;
	char comm[16];
};

struct record *unused_record __attribute__((unused));

// What tools for this job do: a record for each check.
SEC("tp_btf/cap_capable")
int BPF_PROG(record_each, const void *cred, const void *target, const void *capable_ns, int cap, int ret)
{
	struct record *r = bpf_ringbuf_reserve(&records, sizeof(*r), 0);

	if (!r) {
		__sync_fetch_and_add(&records_lost, 1);
		return 0;
	}
	r->time = bpf_ktime_get_ns();
	r->pid_tgid = bpf_get_current_pid_tgid();
	r->uid_gid = bpf_get_current_uid_gid();
	r->cgroup = bpf_get_current_cgroup_id();
	r->cap = cap;
	r->ret = ret;
	bpf_get_current_comm(r->comm, sizeof(r->comm));
	bpf_ringbuf_submit(r, 0);
	return 0;
}

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 26);
} sightings SEC(".maps");

__u64 sightings_lost, sightings_made;

struct user_namespace {
	int level;
} __attribute__((preserve_access_index));

struct sighting {
	__u64 tgid;
	__s32 cap, ret, level, depth;
	__u32 opts; // only of the programs `opts` and `both`
	__u32 tid;
	__u64 call; // how many system calls the thread had begun, where `calls_begun` counts them
	__u64 stack[FRAMES];
};

struct sighting *unused_sighting __attribute__((unused));

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u64);
} calls SEC(".maps");

volatile const __u32 watched_only; // leaves out the threads whose calls are not counted

// watched tells the threads that a test looks at, by how their names begin.
static __always_inline int watched(void)
{
	static const char begins[] = "aside-";
	char comm[16];
	int i;

	bpf_get_current_comm(comm, sizeof(comm));
	for (i = 0; i < sizeof(begins) - 1; i++)
		if (comm[i] != begins[i])
			return 0;
	return 1;
}

static __always_inline int sight(void *ctx, struct user_namespace *target, int cap, __u32 opts, int ret)
{
	__u32 tid = bpf_get_current_pid_tgid();
	__u64 *call = bpf_map_lookup_elem(&calls, &tid);
	struct sighting *s;
	long n;

	if (watched_only && (!call || !watched()))
		return 0;
	s = bpf_ringbuf_reserve(&sightings, sizeof(*s), 0);
	__sync_fetch_and_add(&sightings_made, 1);
	if (!s) {
		__sync_fetch_and_add(&sightings_lost, 1);
		return 0;
	}
	s->call = call ? *call : 0;
	s->tid = tid;
	s->tgid = bpf_get_current_pid_tgid() >> 32;
	s->cap = cap;
	s->ret = ret;
	s->level = target->level;
	s->opts = opts;
	n = bpf_get_stack(ctx, s->stack, sizeof(s->stack), 0);
	s->depth = n > 0 ? n / 8 : 0;
	bpf_ringbuf_submit(s, 0);
	return 0;
}

// The independent witness: each check with its whole stack. What it means is told in Go, with the names of /proc/kallsyms.
SEC("tp_btf/cap_capable")
int BPF_PROG(witness, const void *cred, struct user_namespace *target, const void *capable_ns, int cap, int ret)
{
	return sight(ctx, target, cap, 0, ret);
}

// A witness that is told whether a check is audited. It stands before the function, so it leaves the tracepoint's stack alone
// and does not know the answer.
SEC("fentry/cap_capable")
int BPF_PROG(opts, const void *cred, struct user_namespace *target, int cap, unsigned int opts)
{
	return sight(ctx, target, cap, opts, 0);
}

// One that is told both, for a kernel without the tracepoint.
SEC("fexit/cap_capable")
int BPF_PROG(both, const void *cred, struct user_namespace *target, int cap, unsigned int opts, int ret)
{
	return sight(ctx, target, cap, opts, ret);
}

// Which checks were made in one system call: threads that are watched count theirs.
SEC("tp_btf/sys_enter")
int calls_begun(void *ctx)
{
	__u32 tid = bpf_get_current_pid_tgid();
	__u64 *call, first = 1;

	if (!watched())
		return 0;
	call = bpf_map_lookup_elem(&calls, &tid);
	if (call)
		++*call;
	else
		bpf_map_update_elem(&calls, &tid, &first, 0);
	return 0;
}

// linger holds up a thread that is watched, so that interrupts come between two of its checks.
static __always_inline int linger(void)
{
	__u64 begun = bpf_ktime_get_ns();
	int i, j;

	if (!watched())
		return 0;
	for (i = 0; i < 256 && bpf_ktime_get_ns() - begun < 200000; i++)
		for (j = 0; j < 16; j++) /* each way out of a loop is one more for the verifier to go */
			bpf_ktime_get_ns();
	return 0;
}

// After each denial of CAP_DAC_READ_SEARCH.
SEC("tp_btf/cap_capable")
int BPF_PROG(linger_after, const void *cred, const void *target, const void *capable_ns, int cap, int ret)
{
	return ret && cap == CAP_DAC_READ_SEARCH ? linger() : 0;
}

SEC("fexit/cap_capable")
int BPF_PROG(linger_fexit, const void *cred, const void *target, int cap, unsigned int opts, int ret)
{
	return ret && cap == CAP_DAC_READ_SEARCH ? linger() : 0;
}
