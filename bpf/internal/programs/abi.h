/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the kernel side and the Go side both know: the shapes of map values and ring records. bpf2go makes the Go types. */
#pragma once

enum {
	CAPABILITIES = 64,
	NAME_SIZE = 256,   /* a file name (NAME_MAX) and its NUL */
	SYMBOL_SIZE = 128, /* a kernel symbol; longer ones are cut */
	PATH_SIZE = 4096,
	COMM_SIZE = 16,	   /* TASK_COMM_LEN */
	FRAMES = 16, /* how much of a stack is unwound */
	WORDS = 64,  /* how much of the stack above ctx the learner is shown */
	PAIR_BITS = 7,
	PAIRS = 1 << PAIR_BITS,
	PAGE_SLOTS = 512, /* counters in one value of the counter map */
	WHO_SITES = 4,
	WHO_TRIES = 4 /* names of one hash that each can have a slot */
};

/* What a check was, in one word: the capability's number (6 bits), then these, then the class (2 bits). It is the index of the
 * fixed slots too. */
enum {
	WHAT_DENIED = 1 << 6,
	WHAT_USERNS = 1 << 7,
	WHAT_CLASS_SHIFT = 8,
	WHAT_WHO = (1 << 8) - 1, /* without the class: a who slot is audited by definition */
	WHAT_SITE = (1 << 10) - 1,
	/* Of who asked: the kind (2 bits). */
	WHAT_KIND_SHIFT = 10,
	WHAT_KIND = 3,
	/* Of what became of it (15 bits): it was denied and the kernel went on all the same; plus one, the capability whose denial it was
	 * asked for (7 bits); and, of three that will do, plus one the one whose denial that had been asked for (7 bits). */
	WHAT_PROBE = 1 << 12,
	WHAT_AFTER_SHIFT = 13,
	WHAT_BEFORE_SHIFT = 20,
	WHAT_PART = (1 << 15) - 1
};

enum { CLASS_UNKNOWN, CLASS_NOAUDIT, CLASS_AUDITED };

/* The slots that always exist. The counter map holds the site slots first, then, from a page of their own on, the who slots. */
enum {
	SITE_FIXED = 1 << 10, /* `_other` of each what, class included */
	WHO_BORROWED = 1 << 8,
	WHO_FIXED = 1 << 9 /* `_other` of each what, then borrowed of each what */
};

enum {
	KIND_FILE,
	KIND_KERNEL,
	KIND_EXITING,
	KIND_OTHER /* those of a workload that found no slot of their own */
};

/* What anybody can bring about, denials and user namespaces, is held apart from what is granted on the host: the two have shares of
 * their own, and some slots are kept for the latter. */
enum { POOL_ANYBODY, POOL_GRANTED, POOLS };

/* The roles that functions near cap_capable play, by name; callers/roles.go says which. */
enum {
	ROLE_NONE,
	ROLE_CAPABLE,	      /* cap_capable itself */
	ROLE_ITERATOR,	      /* __traceiter_cap_capable */
	ROLE_SECURITY,	      /* security_capable: the wrapper is its caller */
	ROLE_AUDITED,	      /* asks without CAP_OPT_NOAUDIT */
	ROLE_NOAUDIT,	      /* asks with it */
	ROLE_BY_CALLER,	      /* asks as its own caller says */
	ROLE_CALLER_AUDITED,  /* a caller of ROLE_BY_CALLER */
	ROLE_CALLER_NOAUDIT,
	ROLE_TRAMPOLINE /* somebody's fexit on cap_capable */
};

/* Who asks, as people see it: the cgroup, and the name of the executable. */
struct who_key {
	u64 cgroup; /* its serial number, which no other cgroup of any hierarchy ever has; 0: the root of each */
	u64 name;   /* a hash of the executable's file name, seeded at each start; 0 where there is none */
	u64 what;   /* without the class */
};

/* A denial after which the kernel may ask for another capability in its place. The task's next audited check may be that, as long as
 * it has not slept in between. */
struct denial {
	u64 alias; /* by which the cache tells what comes after it; 0: there is none */
	u64 task, switches;
	u64 told; /* the time of the announcement by which user space knows it: see announce in who.h; 0: it does not */
	u64 call; /* what the check after it must be made in, where another function may ask for that; 0: this function alone */
	u32 site, cap;
	u32 before; /* plus one, the capability whose denial this one was asked for */
	u32 unused;
};

/* Where a capability is denied: the kernel function by name, without the compiler's suffixes; all NULs: anywhere. */
struct place {
	u8 function[SYMBOL_SIZE];
	u64 cap;
};

/* What the kernel then asks for in its place: the same function, or another one in the same system call. And whether it was an interrupt
 * that asked, which comes between no two checks of the task. */
struct fallback {
	u64 same, elsewhere;
	u32 interrupt;
	u32 unused;
};

/* Without which capabilities a kernel function goes on; and without which, if it asks for them by ns_capable itself. */
struct probe {
	u64 caps, plain;
};

struct site_key {
	u64 asker; /* return address into the kernel function that called the wrapper; 0: it could not be found */
	u64 what;
};

struct site_value {
	u32 slot;
	u16 module; /* 1: the asker lies in a module, whose address may come to mean something else */
	u16 probe;  /* 1: a denial there, and the kernel goes on all the same */
};

/* The names from the cgroup up to the root, each with its NUL. Its owners are the slots of its cgroup: the first brings it, and the
 * last takes it away. */
struct cgroup_record {
	u64 serial;
	u64 id;	     /* kernfs id */
	u64 offline; /* CLOCK_BOOTTIME of its rmdir(2), or of its first check if that came later; 0: it exists */
	u32 len;
	u16 truncated; /* the names nearest to the root are missing */
	u16 v1;	       /* it is in one of the v1 hierarchies */
	u8 names[PATH_SIZE + NAME_SIZE];
};

/* Written before the slot is first counted in, so a slot with a count has a record. */
struct who_record {
	struct who_key key; /* as it stands in the table: of several names of one hash, each but the first has another */
	u64 created; /* CLOCK_BOOTTIME */
	u64 owner;   /* of whose share it is, see share.h */
	u32 burst_window, burst; /* denials announced in this window */
	u32 sites[WHO_SITES];	 /* site slots plus one */
	u32 pool;
	u32 len; /* of the name */
	u8 name[NAME_SIZE];
};

/* How many slots the workloads of one owner have. */
struct share {
	u32 used[POOLS];
};

struct site_record {
	u64 asker;
	u64 created;
	u32 what;
	u32 unused;
	u8 symbol[SYMBOL_SIZE];
};

/* Where programs are preemptible there are two of them, and one may run while the other has been preempted on the same CPU.
 * So each has a bank of its own of all that belongs to a CPU: 0, or 1 for the second.
 *
 * What belongs to one CPU, and to one bank of it: a page of statistics, the cache, the site slots, the who slots. It is one
 * plain array over all CPUs, not a per-CPU one: the address of an element is then known without a load, and user space reads
 * the counters without a system call. */
enum {
	CACHED_PER_PAGE = 62, /* two for each place */
	PLACE_BITS = 5,
	PENDING_BITS = 20, /* of struct cached's counted */
	SLOT_BITS = 22,
	STAT_PAGE = 0,
	CACHE_PAGE = 1,
	CACHE_PAGE_BITS = 5,
	CACHE_PAGES = 1 << CACHE_PAGE_BITS,
	SITE_PAGE = CACHE_PAGE + CACHE_PAGES
};

struct stat_values {
	u64 lost, withheld;
	u64 unwinds;
	u64 slow; /* runs that took the slow path although the class was at hand */
	u64 declined; /* checks that a program did not count, for want of a mark to leave or because it was busy with another */
	u64 second;   /* checks that the second of two programs counted */
	u64 busy;     /* where the kernel does not guard a program against itself: it is running on this CPU */
	u64 gone_lost; /* cgroups that are gone, and found the ring `gone` full */
};

/* Both slots of a check in one cache line: which it has by the kernel function that asked, and by who asked.
 *
 * The checks that found it are counted here first, as one number for both slots, and go to the slots' own counters when the
 * entry is given to another key or is due to be confirmed. So a check touches no page but this one; a slot's count is what
 * its counters hold and what is pending for it. */
struct cached {
	u64 asker;
	u64 counted; /* from the low end: PENDING_BITS of checks, SLOT_BITS of site slot, and of who slot plus one (0: none) */
	u64 cgroup, name; /* of an audited check: as in its struct who_key */
	u64 what; /* with all that it can hold */
	u32 epoch, tick;
	u32 trust; /* ticks for which the entry is good; 0: for ever */
	u32 leads; /* of a denial, and of what comes after one: LEADS_ */
	u32 after; /* plus one, the capability whose denial it was asked for */
	u32 unused;
};

/* Who may ask for another capability after a denial: the same function, or another one. And a check that changes nothing about that. */
enum { LEADS_SAME = 1, LEADS_ELSEWHERE = 2, LEADS_INTERRUPT = 4 };

/* Who asked last on this CPU, by what stands in its struct task_struct and its struct mm_struct. As long as the same task goes on
 * without giving up the CPU, its key is the same, and the way to its cgroup and to its executable's name need not be gone again:
 * those are most of the pages that a check touches. A file that somebody renames under a task that is running shows its new name
 * at the task's next turn, or within a second. */
struct turn {
	u64 task, start, switches, exec_id;
	u64 mm, exe, css_set;
	struct who_key who; /* of what, who asked alone */
	u64 tick;
	u64 after; /* what who is marked and renamed by while a denial is noted, see follow in body.h; 0: none is */
	u64 told;  /* as that denial's */
	/* Bits, for the page's entries: those found in this turn, and in each of the two before it. */
	u64 found[3];
};

/* One page of a CPU's cache. */
struct cache_page {
	struct turn turn;
	struct cached cached[CACHED_PER_PAGE];
};

/* A layout says where cap_capable's return address stands above ctx, in bytes. */
struct layout {
	u64 capable;  /* return address into cap_capable; all ones while nothing is known */
	u64 iterator; /* return address into __traceiter_cap_capable; unused with one program on the tracepoint */
	u32 capable_at, iterator_at;
};

/* Somebody's fexit on cap_capable: it then returns to a trampoline, whose frame stands between it and its caller. */
struct detour {
	u64 trampoline; /* return address into it; 0 while none is known, as no word of a stack that is looked at is */
	u32 shift;	/* bytes by which it moves all that is beyond it */
	u32 unused;
};

/* A confirmed way to cap_capable. wrapper is 0 where the caller is not security_capable. */
struct pair {
	u64 caller, wrapper;
	u32 asker_after; /* bytes from cap_capable's return address to the asker's */
	u32 class;
};

struct setting_values {
	struct layout single, multi;
	struct detour detour;
	u64 security; /* return address into security_capable */
	u32 caller_after, wrapper_after; /* bytes from cap_capable's return address to its caller's and to the wrapper's */
	u64 pair_seed; /* makes the known pairs fall on different entries of pairs */
	/* Odd, and others at each start: nobody can choose names that fall together in the cache, or that have one hash. */
	u64 seed, name_seed;
	u32 epoch;     /* grows when a who slot is freed */
	u32 tick;      /* seconds */
	u32 window;    /* in which a key may announce denial_burst denials */
	/* These do not change; they stand here because this is the page that the hot path has at hand anyway. */
	u32 who_page;	   /* the first page of who slots in a bank */
	u32 bank_pages;	   /* pages of one bank */
	u32 cpu_pages;	   /* pages of one CPU: one bank or two */
	u32 confirm_every; /* a power of two: how often a confirmed pair is confirmed again */
	u32 unused;
	struct pair pairs[PAIRS];
};

struct announcement {
	u64 time;   /* CLOCK_BOOTTIME */
	u64 cgroup; /* serial number */
	u64 after;  /* the time of the announced denial in whose place the kernel asked; 0: of none */
	s64 syscall;
	u32 tgid, tid, uid, euid;
	u32 ns_tgid; /* in the innermost PID namespace */
	u32 compat;  /* the system call is one of 32-bit programs, which have other numbers */
	u32 site;
	u32 slot;
	u16 what;
	u8 kind;
	u8 told; /* 1: the cgroup's record comes behind, as much of it as there are names; it has no other owner */
	u8 fresh;
	u8 awaits; /* 1: a denial in whose place the kernel may ask for another capability */
	u16 part;  /* WHAT_PART */
	u8 comm[COMM_SIZE];
	u8 path[NAME_SIZE]; /* that the system call was given, cut; with a NUL before it where a socket's is abstract */
	u8 name[NAME_SIZE];
};

/* Which argument of a system call is a path: its number plus one, or 0 if none is. */
enum {
	SYSCALLS = 512,
	PATH_ARGUMENT = 7,
	PATH_IN_SOCKADDR = 8 /* it is the address of a socket, which may be a path */
};

/* The keys of calls: a system call's number, then that of one of 32-bit programs, then the opcode of a request of io_uring's. */
enum { CALLS_COMPAT = SYSCALLS, CALLS_URING = SYSCALLS * 2, CALLS = SYSCALLS * 2 + 256 };

/* One unwound stack beside the raw words it was found in: what the learner learns from. */
struct sample {
	u64 capable, iterator, trampoline, caller, wrapper, asker;
	u32 class;
	u32 by_caller; /* the class is the asker's, not the pair's */
	u64 words[WORDS];
};

/* What processes hold is looked at now and then, and counted by cgroup and by kind of user namespace. */
enum {
	HELD_ALL = CAPABILITIES, /* processes that hold every capability there is; they are in none of the others */
	HELD_COUNTS = CAPABILITIES + 1,
	HELD_SLOTS = 1 << 11,
	HELD_MOST = 3 << 9, /* of them that are in use */
	HELD_NAMES = 16,
	HELD_STEPS = 1024
};

struct held_slot {
	u64 cgroup; /* its serial number; 0: a root */
	u32 look;   /* in which it was last counted in; 0: none */
	u32 userns;
	u32 place; /* how many were counted in before it */
	u32 processes[HELD_COUNTS];
};

/* The name of a slot that is new. */
struct held_name {
	u64 slot;
	struct cgroup_record cgroup;
};

/* How far a look has come. User space begins one by setting all but its number to 0. */
struct held_look {
	u32 number;
	u32 done;
	u64 init;    /* init_task's address; 0: it has not begun */
	u64 last, last_start; /* the process that was looked at last: the address of its leader, and when it began */
	u64 process, start; /* the one that is being looked at */
	u32 last_tgid, tgid;
	u64 node, head; /* its next thread's thread_node, and the end of those; 0: none is being looked at */
	u64 sets[2]; /* what its threads hold, in the initial user namespace and in others */
	u64 skip;    /* those that began by then have been looked at */
	u64 cgroup, serial; /* of the process */
	u32 tid;     /* of the next thread */
	u32 restarts; /* of the process */
	u32 names;   /* since the last run */
	u32 used[2]; /* slots, by userns */
	u32 threads, processes;
	u32 lost;   /* how often its place was gone when it went on */
	u32 unseen; /* threads or more that were not looked at */
	u32 others[2][HELD_COUNTS]; /* of what found no slot */
};
