// SPDX-License-Identifier: GPL-2.0-only
/* Denies STATFS with ENOSPC and allows the rest; what test_policy.bpf.c is replaced by. */
#include "bad.h"

SEC("struct_ops/check")
int BPF_PROG(closed, struct boesfs_ctx *bc)
{
	return bc->op == BOESFS_OP_STATFS ? -28 : 0;
}

SEC(".struct_ops.link")
struct boesfs_policy_ops policy = {
	.check = (void *)closed,
	.flags = BOESFS_CACHE,
	.name = "closed",
};
