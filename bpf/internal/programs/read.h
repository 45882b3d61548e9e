/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How kernel objects are read, whatever for. */
#pragma once

#include <stdbool.h>

#include "common.h"
#include "bpf_tracing.h"

#include "kernel.h"
#include "abi.h"

enum {
	BPF_F_NO_PREALLOC = 1 << 0, /* linux/bpf.h */
	BPF_F_MMAPABLE = 1 << 10,
	BPF_MAP_TYPE_TASK_STORAGE = 29,
	BPF_LOCAL_STORAGE_GET_F_CREATE = 1 << 0,
	BPF_RB_AVAIL_DATA = 0,
	BPF_RB_RING_SIZE = 1,
	BPF_TYPE_ID_TARGET = 1, /* arguments of the compiler's CO-RE builtins */
	BPF_FIELD_BYTE_OFFSET = 0,
	BPF_FIELD_EXISTS = 2,
	BPF_TYPE_SIZE = 1,
	BPF_ENUMVAL_EXISTS = 0,
	BPF_ENUMVAL_VALUE = 1
};

char LICENSE[] SEC("license") = "Dual BSD/GPL";

extern void *bpf_rdonly_cast(const void *obj, u32 btf_id) __ksym __weak;

/* Global functions are verified once, and not again for each way that leads to them. */
#define GLOBAL __noinline __attribute__((visibility("default")))

/* READ copies one field of a kernel object. The hot path loads through BTF pointers instead. */
#define READ(dst, src) bpf_probe_read_kernel(&(dst), sizeof(dst), __builtin_preserve_access_index(&(src)))

/* How the hot path reads. Each program is compiled for one of them. */
enum reading {
	CAST,  /* plain loads, also of words that no BTF pointer leads to, by bpf_rdonly_cast */
	PROBE, /* plain loads through BTF pointers, and bpf_probe_read_kernel for other words */
	HELPER, /* bpf_probe_read_kernel for all, and no look at the stack */
	REGS	/* as CAST, at a function's entry: ctx is the registers, and the arguments are numbers in them */
};

/* How it reads words. */
#define WORDS_BY(reading) ((reading) == REGS ? CAST : (reading))

#define LOAD(reading, field)                \
	({                                  \
		typeof(field) value;        \
		if ((reading) == HELPER)    \
			READ(value, field); \
		else                        \
			value = field;      \
		value;                      \
	})

#define FIELD_OFFSET(field) __builtin_preserve_field_info(field, BPF_FIELD_BYTE_OFFSET)
#define FIELD_EXISTS(field) __builtin_preserve_field_info(field, BPF_FIELD_EXISTS)
#define ENUM_EXISTS(type, value) __builtin_preserve_enum_value(*(type *)value, BPF_ENUMVAL_EXISTS)
#define ENUM_VALUE(type, value) __builtin_preserve_enum_value(*(type *)value, BPF_ENUMVAL_VALUE)

enum { MAX_WORD = 0xff8 };

/* word reads 8 bytes at base + at, MAX_WORD at most, with one plain load; an address that cannot be read gives 0. The offset is added
 * before the cast: after it the verifier refuses a variable one. */
static __always_inline u64 word(const void *base, u32 at, enum reading reading)
{
	const void *from = (void *)((u64)base + (at & MAX_WORD));
	struct bpf_raw_tracepoint_args *p;
	u64 v = 0;

	if (reading == CAST) {
		p = bpf_rdonly_cast(from, __builtin_btf_type_id(*(struct bpf_raw_tracepoint_args *)0, BPF_TYPE_ID_TARGET));
		return p->args[0];
	}
	bpf_probe_read_kernel(&v, sizeof(v), from);
	return v;
}
