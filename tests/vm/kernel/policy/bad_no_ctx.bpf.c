// SPDX-License-Identifier: GPL-2.0-only
/* Hands no context to boesfs_ctx_string(). */
#include "bad.h"

SEC("struct_ops/check")
int BPF_PROG(check, struct boesfs_ctx *bc)
{
	char path[64];

	return boesfs_ctx_string(NULL, BOESFS_STRING_PATH, path, sizeof(path));
}

SEC(".struct_ops.link")
struct boesfs_policy_ops policy = {
	.check = (void *)check,
	.name = "least",
};
