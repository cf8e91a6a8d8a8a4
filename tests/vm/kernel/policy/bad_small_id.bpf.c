// SPDX-License-Identifier: GPL-2.0-only
/* Has room for half of what boesfs_ctx_program() tells. */
#include "bad.h"

SEC("struct_ops/check")
int BPF_PROG(check, struct boesfs_ctx *bc)
{
	__u64 inode;

	return boesfs_ctx_program(bc, (void *)&inode);
}

SEC(".struct_ops.link")
struct boesfs_policy_ops policy = {
	.check = (void *)check,
	.name = "least",
};
