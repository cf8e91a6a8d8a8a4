// SPDX-License-Identifier: GPL-2.0-only
/* Writes one byte of flags. */
#include "bad.h"

SEC("struct_ops/check")
int BPF_PROG(check, struct boesfs_ctx *bc)
{
	*(volatile char *)&bc->flags = BOESFS_KILL;
	return 0;
}

SEC(".struct_ops.link")
struct boesfs_policy_ops policy = {
	.check = (void *)check,
	.name = "least",
};
