// SPDX-License-Identifier: GPL-2.0-only
/* Has no check(). */
#include "bad.h"

SEC("struct_ops/label")
int BPF_PROG(label, struct boesfs_ctx *bc)
{
	return 0;
}

SEC(".struct_ops.link")
struct boesfs_policy_ops policy = {
	.label = (void *)label,
	.name = "least",
};
