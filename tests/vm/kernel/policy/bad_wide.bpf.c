// SPDX-License-Identifier: GPL-2.0-only
/* Writes flags and what follows. */
#include "bad.h"

SEC("struct_ops/check")
int BPF_PROG(check, struct boesfs_ctx *bc)
{
	*(volatile __u64 *)&bc->flags = BOESFS_KILL;
	return 0;
}

SEC(".struct_ops.link")
struct boesfs_policy_ops policy = {
	.check = (void *)check,
	.name = "least",
};
