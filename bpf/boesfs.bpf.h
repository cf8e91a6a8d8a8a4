/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What every policy program begins with: the context it is asked with, the struct_ops type that it is, and the functions
 * that the module boesfs has for it. vmlinux.h comes from `bpftool btf dump file /sys/kernel/btf/vmlinux format c`. The
 * contract is the kernel-doc in kmod/boesfs.h and kmod/kfuncs.c; docs/programs.md is the guide.
 */
#ifndef BOESFS_BPF_H
#define BOESFS_BPF_H

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
#include "boesfs_abi.h"
struct boesfs_policy_ops {
	int (*label)(struct boesfs_ctx *ctx);
	int (*check)(struct boesfs_ctx *ctx);
	__u32 flags;
	char name[BOESFS_PROGRAM_NAME_MAX];
};
#pragma clang attribute pop

/* for label() and check() */
extern int boesfs_ctx_string(struct boesfs_ctx *ctx, u32 which, char *buf, u32 buf__sz) __ksym;
extern char *boesfs_name_key(struct boesfs_ctx *ctx, u32 label, u32 chunk, const int rdwr_buf_size) __ksym;
extern int boesfs_ctx_program(struct boesfs_ctx *ctx, struct boesfs_program_id *id) __ksym;
/* for SEC("syscall") */
extern int boesfs_policy_replace(const char *name, u32 name__sz, u32 id, u64 table, u32 flags) __ksym;
extern int boesfs_policy_forget(const char *name, u32 name__sz, u32 id) __ksym;

#endif /* BOESFS_BPF_H */
