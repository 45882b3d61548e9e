//go:build ignore
// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Which capabilities processes hold. User space runs this now and then, and again until the look is done.
//
// It goes along the kernel's own list of processes, from init_task on, and along the threads of each. That list knows no PID
// namespace (an iterator of tasks shows only its opener's) and is there on every kernel, and nothing of /proc is needed. What stands
// on it is freed only after a grace period of RCU, in a reader of which the kernel runs the program, and all is read by
// bpf_probe_read_kernel, so that a list that changes meanwhile can make it miss somebody, and no more.
//
// The kernel does not preempt it, so a run makes HELD_STEPS steps at most. Nothing holds its place between two runs: see resume.

#include "cgroup.h"

enum {
	HELD_TRIES = 32,	   /* slots that a cgroup may have */
	HELD_NEW = 1 << 31,	   /* of what slot_of returns: it is nobody's */
	HELD_NONE = HELD_NEW - 1u, /* there is none */
	ANCESTORS = 1024,
	RESTARTS = 16,
	ENDED_FIRST = 16 /* threads */
};

volatile const u64 seed = 1;	     /* odd, and another at each start: nobody can choose cgroups that fall together */
volatile const u32 most = HELD_MOST; /* slots that may be in use */
volatile const u64 full;	     /* all capabilities that the kernel knows */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, u32);
	__type(value, struct held_look);
} looks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, HELD_SLOTS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, u32);
	__type(value, struct held_slot);
} held_slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, HELD_NAMES);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, u32);
	__type(value, struct held_name);
} held_names SEC(".maps");

static __always_inline struct held_look *my_look(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&looks, &zero);
}

static __always_inline u64 next_of(u64 at)
{
	struct list_head *node = (void *)at;
	u64 next;

	READ(next, node->next);
	return next;
}

/* linked tells whether a node is on its list: what is taken off has no way back (list_del_rcu poisons it). */
static __always_inline bool linked(u64 at)
{
	struct list_head *node = (void *)at;
	u64 before;

	READ(before, node->prev);
	return next_of(before) == at;
}

static __always_inline u64 tasks_of(u64 at)
{
	struct task_struct *task = (void *)at;

	return at + FIELD_OFFSET(task->tasks);
}

static __always_inline struct task_struct *thread_of(u64 node)
{
	struct task_struct *none = NULL;

	return (void *)(node - FIELD_OFFSET(none->thread_node));
}

/* is_there tells whether a process that was looked at before is on the list still, and still the same. */
static __always_inline bool is_there(u64 task_at, u32 tgid, u64 start)
{
	struct task_struct *task = (void *)task_at;
	u64 its_start;
	u32 its_tgid;

	READ(its_tgid, task->tgid);
	READ(its_start, task->start_time);
	return linked(tasks_of(task_at)) && its_tgid == tgid && its_start == start;
}

/* begin finds init_task, which is everybody's ancestor, whatever namespace he is in. */
static __noinline int begin(struct held_look *l)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	u32 pid, i;

	for (i = 0; i < ANCESTORS; i++) {
		READ(pid, task->pid);
		if (!pid)
			break;
		READ(task, task->real_parent);
	}
	if (!task || i == ANCESTORS)
		return 0;
	l->init = l->last = (u64)task;
	READ(l->last_tgid, task->tgid);
	READ(l->last_start, task->start_time);
	return 0;
}

/* resume goes on where the run before ended, if that is still there. If not, a process is begun again, which changes nothing: what its
 * threads hold is put together. Where the process before it is gone, too, all are passed again, and those that began no later than it
 * are taken to have been looked at: they stand in that order, but for those that begin at one moment. */
static __noinline int resume(struct held_look *l)
{
	struct task_struct *thread;
	bool there;
	u32 tid;

	if (l->node) {
		thread = thread_of(l->node);
		READ(tid, thread->pid);
		there = is_there(l->process, l->tgid, l->start);
		if (there && linked(l->node) && (l->node == l->head || tid == l->tid))
			return 0;
		l->node = 0;
		l->lost++;
		if (there && ++l->restarts == RESTARTS) { /* somebody ends his threads all the time: what was seen must do */
			l->unseen++;
			l->node = l->head;
			return 0;
		}
	}
	if (is_there(l->last, l->last_tgid, l->last_start))
		return 0;
	l->lost++;
	l->skip = l->last_start;
	l->last = l->init;
	return 0;
}

/* slot_of finds the slot of a cgroup, or a free one: one that was not counted in by the look before is nobody's. */
GLOBAL u32 slot_of(u64 cgroup, u32 userns)
{
	u64 hash = (cgroup << 1 | (userns & 1)) * seed;
	u32 found = HELD_NONE, at, i;
	struct held_look *l = my_look();
	struct held_slot *s;

	if (!l)
		return HELD_NONE;
	for (i = 0; i < HELD_TRIES; i++) {
		at = ((hash >> 32) + i) & (HELD_SLOTS - 1);
		s = bpf_map_lookup_elem(&held_slots, &at);
		if (!s)
			break;
		if (!s->look || l->number - s->look > 1) {
			if (found == HELD_NONE)
				found = HELD_NEW | at;
		} else if (s->cgroup == cgroup && s->userns == userns) {
			return at;
		}
	}
	return found;
}

GLOBAL u64 owner_at(u64 cgroup) { return owner_of(cgroup); }

/* take makes a free slot that of a cgroup. */
GLOBAL int take(u32 slot, u64 cgroup_at, u64 serial, u32 userns)
{
	struct held_slot *s = bpf_map_lookup_elem(&held_slots, &slot);
	struct held_look *l = my_look();
	struct held_name *name;
	u32 n;

	if (!s || !l)
		return 0;
	s->cgroup = serial;
	s->userns = userns;
	s->look = 0;
	n = l->names;
	name = bpf_map_lookup_elem(&held_names, &n);
	if (!name)
		return 0;
	name->slot = slot;
	path_of(&name->cgroup, (void *)cgroup_at);
	l->names = n + 1;
	return 0;
}

/* room finds the slot to count a process of the look in, HELD_NONE if there is none. With more than half of them in use all cgroups
 * that one user made are one. User namespaces, which anybody can make, have half of them at most; and those who were there first, which
 * stand first on the list, are counted first. */
static __noinline u32 room(struct held_look *l, u32 userns)
{
	u32 used = l->used[0] + l->used[1], slot = slot_of(l->serial, userns);
	u64 at = l->cgroup, serial = l->serial;
	struct cgroup *owner;

	if (slot < HELD_SLOTS)
		return slot;
	if (used >= most / 2) {
		owner = (void *)owner_at(at);
		if (owner && (u64)owner != at) {
			at = (u64)owner;
			READ(serial, owner->self.serial_nr);
			slot = slot_of(serial, userns);
		}
		if (slot < HELD_SLOTS)
			return slot;
		if (used >= most || (userns && l->used[1] >= most / 2))
			return HELD_NONE;
	}
	if (slot == HELD_NONE)
		return HELD_NONE;
	slot &= HELD_SLOTS - 1;
	take(slot, at, serial, userns);
	return slot;
}

/* add counts a process that holds a set. */
static __always_inline void add(u32 *processes, u64 set)
{
	u32 i;

	if ((set & full) == full) {
		processes[HELD_ALL]++;
		return;
	}
	for (i = 0; i < CAPABILITIES; i++)
		if (set >> i & 1)
			processes[i]++;
}

GLOBAL int count(u32 userns)
{
	struct held_look *l = my_look();
	struct held_slot *s;
	u32 slot, i;
	u64 set;

	if (!l)
		return 0;
	userns &= 1;
	set = l->sets[userns];
	if (!set)
		return 0;
	slot = room(l, userns);
	s = bpf_map_lookup_elem(&held_slots, &slot);
	if (!s) {
		add(l->others[userns], set);
		return 0;
	}
	if (s->look != l->number) {
		for (i = 0; i < HELD_COUNTS; i++)
			s->processes[i] = 0;
		s->look = l->number;
		s->place = l->used[0] + l->used[1];
		l->used[userns]++;
	}
	add(s->processes, set);
	return 0;
}

/* leave is done with a process. */
static __always_inline void leave(struct held_look *l, u64 process, u32 tgid, u64 start)
{
	l->last = process;
	l->last_tgid = tgid;
	l->last_start = start;
	l->node = 0;
	l->restarts = 0;
}

/* enter comes to the next process. */
static __noinline int enter(struct held_look *l)
{
	u64 process = next_of(tasks_of(l->last)), start;
	struct task_struct *task;
	struct signal_struct *signal;
	u32 flags, tgid;

	if (!process) { /* it cannot be read, and so there is no way on */
		l->unseen++;
		l->done = 1;
		return 0;
	}
	process -= tasks_of(0);
	if (process == l->init) {
		l->done = 1;
		return 0;
	}
	task = (void *)process;
	READ(flags, task->flags);
	READ(tgid, task->tgid);
	READ(start, task->start_time);
	READ(signal, task->signal);
	if (flags & PF_KTHREAD || (l->skip && start <= l->skip)) {
		leave(l, process, tgid, start);
		return 0;
	}
	l->skip = 0;
	if (l->tgid != tgid || l->start != start) {
		l->sets[0] = l->sets[1] = 0;
		l->restarts = 0;
	}
	l->process = process;
	l->tgid = tgid;
	l->start = start;
	l->head = (u64)signal + FIELD_OFFSET(signal->thread_head);
	l->node = next_of(l->head);
	return 0;
}

/* thread looks at one. Those that have ended hold nothing. What a process does by rights that it has borrowed is not what it holds, and
 * what is effective is always permitted, too. */
static __noinline int thread(struct held_look *l)
{
	struct task_struct *task = thread_of(l->node);
	const struct cred *cred;
	struct user_namespace *ns;
	kernel_cap_t permitted;
	int level, ended;

	READ(ended, task->exit_state);
	READ(cred, task->real_cred);
	READ(permitted, cred->cap_permitted);
	READ(ns, cred->user_ns);
	READ(level, ns->level);
	l->threads++;
	if (!ended)
		l->sets[level != 0] |= permitted.val;
	l->node = next_of(l->node);
	if (!l->node) {
		l->unseen++;
		l->node = l->head;
	}
	return 0;
}

/* cgroups_of are a process's: those of its first thread that has not ended, which is the leader mostly. One that has is not moved along
 * with the others. */
static __noinline struct css_set *cgroups_of(struct held_look *l)
{
	struct task_struct *task = (void *)l->process;
	u64 node = next_of(l->head);
	struct css_set *set;
	u32 i;
	int ended;

	READ(set, task->cgroups);
	for (i = 0; i < ENDED_FIRST; i++) {
		if (!node || node == l->head)
			break;
		task = thread_of(node);
		READ(ended, task->exit_state);
		if (!ended) {
			READ(set, task->cgroups);
			break;
		}
		node = next_of(node);
	}
	return set;
}

/* step looks at a thread, and counts its process if it was the last. It tells whether the run ends there. */
GLOBAL u32 step(u32 unused)
{
	struct held_look *l = my_look();
	struct cgroup *cgroup;

	if (!l)
		return 1;
	if (!l->node) {
		enter(l);
		if (!l->node)
			return l->done;
	}
	if (l->node != l->head)
		thread(l);
	if (l->node != l->head)
		return 0;
	if (l->names > HELD_NAMES - 2) /* which user space takes first */
		return 1;
	cgroup = cgroup_of(cgroups_of(l), HELPER);
	l->cgroup = (u64)cgroup;
	READ(l->serial, cgroup->self.serial_nr);
	count(0);
	count(1);
	l->processes++;
	leave(l, l->process, l->tgid, l->start);
	return 0;
}

SEC("raw_tp")
int look(u64 *ctx)
{
	struct held_look *l = my_look();
	struct task_struct *next;
	u32 i;

	if (!l || l->done)
		return 0;
	l->names = 0;
	if (l->init)
		resume(l);
	else
		begin(l);
	if (!l->init)
		return 0;
	for (i = 0; i < HELD_STEPS; i++)
		if (step(i))
			break;
	next = thread_of(l->node);
	READ(l->tid, next->pid);
	return 0;
}
