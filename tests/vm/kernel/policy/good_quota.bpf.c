// SPDX-License-Identifier: GPL-2.0-only
/* Each instance may open as many files as its policy's table says, through all of its mounts; then it is EDQUOT. */
#include "bad.h"

#define EDQUOT 122

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u64);
	__type(value, __u64);
} opened SEC(".maps");

SEC("struct_ops/check")
int BPF_PROG(check, struct boesfs_ctx *bc)
{
	__u64 instance = bc->instance, none = 0, *count;

	if (bc->op != BOESFS_OP_OPEN)
		return 0;
	bc->flags = BOESFS_NOCACHE;
	bpf_map_update_elem(&opened, &instance, &none, BPF_NOEXIST);
	count = bpf_map_lookup_elem(&opened, &instance);
	return count && __sync_fetch_and_add(count, 1) < bc->table ? 0 : -EDQUOT;
}

SEC(".struct_ops.link")
struct boesfs_policy_ops policy = {
	.check = (void *)check,
	.flags = BOESFS_CACHE,
	.name = "quota",
};
