// SPDX-License-Identifier: GPL-2.0-only
/* Says that its buffer is longer than it is. */
#include "bad.h"

SEC("struct_ops/check")
int BPF_PROG(check, struct boesfs_ctx *bc)
{
	char path[64];

	return boesfs_ctx_string(bc, BOESFS_STRING_PATH, path, 4096);
}

SEC(".struct_ops.link")
struct boesfs_policy_ops policy = {
	.check = (void *)check,
	.name = "least",
};
