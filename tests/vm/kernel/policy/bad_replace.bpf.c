// SPDX-License-Identifier: GPL-2.0-only
/* Replaces a policy from inside a verdict. */
#include "bad.h"

SEC("struct_ops/check")
int BPF_PROG(check, struct boesfs_ctx *bc)
{
	char name[BOESFS_PROGRAM_NAME_MAX] = "least";

	return boesfs_policy_replace(name, sizeof(name), 1, 1, 0);
}

SEC(".struct_ops.link")
struct boesfs_policy_ops policy = {
	.check = (void *)check,
	.name = "least",
};
