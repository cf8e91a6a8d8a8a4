// SPDX-License-Identifier: GPL-2.0-only
/*
 * Each instance may write so many bytes in all; then it is EDQUOT. The limit of an instance's life is what no rule can say:
 * rules look at one operation at a time.
 */
#include "boesfs.bpf.h"

#define EDQUOT 122
#define MIB (1ULL << 20)
#ifndef MOST
#define MOST (16 * MIB)
#endif

/* Of instances that are long gone nothing is kept: those that wrote last stay. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u64);
} written SEC(".maps");

SEC("struct_ops/check")
int BPF_PROG(check, struct boesfs_ctx *bc)
{
	__u64 instance = bc->instance, length = bc->arg[0], none = 0, *sum;

	if (bc->op != BOESFS_OP_WRITE)
		return 0;
	bc->flags = BOESFS_NOCACHE; /* ask again for the next one */
	bpf_map_update_elem(&written, &instance, &none, BPF_NOEXIST);
	sum = bpf_map_lookup_elem(&written, &instance);
	if (!sum || length > MOST)
		return -EDQUOT;
	if (__sync_fetch_and_add(sum, length) + length <= MOST)
		return 0;
	__sync_fetch_and_add(sum, -length); /* it is not written */
	return -EDQUOT;
}

SEC(".struct_ops.link")
struct boesfs_policy_ops quota = {
	.check = (void *)check,
	.flags = BOESFS_CACHE, /* everything else is asked for once */
};

char _license[] SEC("license") = "GPL";
