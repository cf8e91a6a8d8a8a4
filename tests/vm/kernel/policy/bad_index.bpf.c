// SPDX-License-Identifier: GPL-2.0-only
/* Reads an argument by a number that it does not know. */
#include "bad.h"

SEC("struct_ops/check")
int BPF_PROG(check, struct boesfs_ctx *bc)
{
	__u32 which = bc->access;

	return *(volatile __u64 *)((char *)(void *)bc + 80 + 8 * (which & 3)) ? 0 : -1;
}

SEC(".struct_ops.link")
struct boesfs_policy_ops policy = {
	.check = (void *)check,
	.name = "least",
};
