// SPDX-License-Identifier: GPL-2.0-only
/* Nothing is wrong here: what the others would be without their one fault. */
#include "bad.h"

SEC("struct_ops/check")
int BPF_PROG(check, struct boesfs_ctx *bc)
{
	char path[64];

	if (boesfs_ctx_string(bc, BOESFS_STRING_PATH, path, sizeof(path)) < 0)
		bc->flags = BOESFS_NOCACHE;
	return 0;
}

SEC(".struct_ops.link")
struct boesfs_policy_ops policy = {
	.check = (void *)check,
	.name = "least",
};
