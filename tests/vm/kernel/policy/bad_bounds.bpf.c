// SPDX-License-Identifier: GPL-2.0-only
/* Reads behind the end of the context. */
#include "bad.h"

SEC("struct_ops/check")
int BPF_PROG(check, struct boesfs_ctx *bc)
{
	return ((volatile __u64 *)(void *)bc)[15] ? 0 : -1;
}

SEC(".struct_ops.link")
struct boesfs_policy_ops policy = {
	.check = (void *)check,
	.name = "least",
};
