// SPDX-License-Identifier: GPL-2.0-only
/* May sleep. */
#include "bad.h"

SEC("struct_ops.s/check")
int BPF_PROG(check, struct boesfs_ctx *bc)
{
	return 0;
}

SEC(".struct_ops.link")
struct boesfs_policy_ops policy = {
	.check = (void *)check,
	.name = "least",
};
