// SPDX-License-Identifier: GPL-2.0-only
/* Uses 32 bytes of a name as a key of 64. */
#include "bad.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__uint(key_size, 64);
	__uint(value_size, 4);
} names SEC(".maps");

SEC("struct_ops/label")
int BPF_PROG(label, struct boesfs_ctx *bc)
{
	char *key = boesfs_name_key(bc, 0, 0, 32);
	__u32 *next = key ? bpf_map_lookup_elem(&names, key) : NULL;

	return next ? *next : 0;
}

SEC("struct_ops/check")
int BPF_PROG(check, struct boesfs_ctx *bc)
{
	return bc->op == BOESFS_OP_STATFS ? -1 : 0;
}

SEC(".struct_ops.link")
struct boesfs_policy_ops policy = {
	.label = (void *)label,
	.check = (void *)check,
	.name = "least",
};
