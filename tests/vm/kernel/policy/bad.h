/* SPDX-License-Identifier: GPL-2.0-only */
/* What the small programs begin with that the verifier is shown; each is wrong in one way, good_least.bpf.c in none. */
#ifndef BAD_H
#define BAD_H

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

extern int boesfs_ctx_string(struct boesfs_ctx *ctx, u32 which, char *buf, u32 buf__sz) __ksym;
extern char *boesfs_name_key(struct boesfs_ctx *ctx, u32 label, u32 chunk, const int rdwr_buf_size) __ksym;
extern int boesfs_ctx_program(struct boesfs_ctx *ctx, struct boesfs_program_id *id) __ksym;
extern int boesfs_policy_replace(const char *name, u32 name__sz, u32 id, u64 table, u32 flags) __ksym;

char _license[] SEC("license") = "GPL";

#endif
