// SPDX-License-Identifier: GPL-2.0-only
/* Hands a task to boesfs_ctx_string(), a pointer as good as the context but of another type. */
#include "bad.h"

SEC("struct_ops/check")
int BPF_PROG(check, struct boesfs_ctx *bc)
{
	char path[64];

	return boesfs_ctx_string((void *)bpf_get_current_task_btf(), BOESFS_STRING_PATH, path, sizeof(path));
}

SEC(".struct_ops.link")
struct boesfs_policy_ops policy = {
	.check = (void *)check,
	.name = "least",
};
