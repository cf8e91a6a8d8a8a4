// SPDX-License-Identifier: GPL-2.0-only
/* Hands a task to boesfs_ctx_string(), a pointer as good as the context but of another type. */
#include "bad.h"

extern struct task_struct *bpf_task_from_pid(s32 pid) __ksym;
extern void bpf_task_release(struct task_struct *p) __ksym;

SEC("struct_ops/check")
int BPF_PROG(check, struct boesfs_ctx *bc)
{
	struct task_struct *task = bpf_task_from_pid(1);
	char path[64];

	if (!task)
		return 0;
	boesfs_ctx_string((void *)task, BOESFS_STRING_PATH, path, sizeof(path));
	bpf_task_release(task);
	return 0;
}

SEC(".struct_ops.link")
struct boesfs_policy_ops policy = {
	.check = (void *)check,
	.name = "least",
};
