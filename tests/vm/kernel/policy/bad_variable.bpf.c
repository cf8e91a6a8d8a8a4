// SPDX-License-Identifier: GPL-2.0-only
/* Asks for a key of a size that is known at run time only. */
#include "bad.h"

SEC("struct_ops/label")
int BPF_PROG(label, struct boesfs_ctx *bc)
{
	char *key = boesfs_name_key(bc, 0, 0, bc->label & 63);

	return key ? *key : 0;
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
