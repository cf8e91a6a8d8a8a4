// SPDX-License-Identifier: GPL-2.0-only
/* May sleep while it gives a label. */
#include "bad.h"

SEC("struct_ops.s/label")
int BPF_PROG(label, struct boesfs_ctx *bc)
{
	return 0;
}

SEC("struct_ops/check")
int BPF_PROG(check, struct boesfs_ctx *bc)
{
	return 0;
}

SEC(".struct_ops.link")
struct boesfs_policy_ops policy = {
	.label = (void *)label,
	.check = (void *)check,
	.name = "least",
};
