// SPDX-License-Identifier: GPL-2.0-only
/* Has a flag that does not exist. */
#include "bad.h"

SEC("struct_ops/check")
int BPF_PROG(check, struct boesfs_ctx *bc)
{
	return 0;
}

SEC(".struct_ops.link")
struct boesfs_policy_ops policy = {
	.check = (void *)check,
	.name = "least",
	.flags = BOESFS_CACHE | 1 << 1,
};
