// SPDX-License-Identifier: GPL-2.0-only
/* label() writes the answer into the context. */
#include "bad.h"

SEC("struct_ops/label")
int BPF_PROG(label, struct boesfs_ctx *bc)
{
	bc->label = 7;
	return 0;
}

SEC("struct_ops/check")
int BPF_PROG(check, struct boesfs_ctx *bc)
{
	return bc->op == BOESFS_OP_STATFS ? -1 : 0;
}

SEC(".struct_ops.link")
struct boesfs_policy_ops policy = {
	.label = (void *)label,
	.check = (void *)check,
	.name = "least",
};
