// SPDX-License-Identifier: GPL-2.0-only
/* Keeps the context in a map and uses it in another call. */
#include "bad.h"

struct kept {
	struct boesfs_ctx __kptr_untrusted *bc;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct kept);
} kept SEC(".maps");

SEC("struct_ops/check")
int BPF_PROG(check, struct boesfs_ctx *bc)
{
	struct boesfs_ctx *old;
	char path[64];
	__u32 zero = 0;
	struct kept *place = bpf_map_lookup_elem(&kept, &zero);

	if (!place)
		return 0;
	old = place->bc;
	place->bc = bc;
	return old ? boesfs_ctx_string(old, BOESFS_STRING_PATH, path, sizeof(path)) : 0;
}

SEC(".struct_ops.link")
struct boesfs_policy_ops policy = {
	.check = (void *)check,
	.name = "least",
};
