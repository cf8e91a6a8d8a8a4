// SPDX-License-Identifier: GPL-2.0-only
/*
 * The tests' policy. A label is (table << 20 | node); names without an entry take their directory's label, so a rule holds
 * for a whole subtree. What no rule denies is allowed.
 */
#include "boesfs.bpf.h"
#include "test_policy.h"

#define EPERM 1

const volatile __u32 in_advance;	/* enum test_in_advance */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, TEST_NAMES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(key_size, 64);
	__uint(value_size, 4);
} names SEC(".maps");

/* Most names fit into half a key, which is hashed in half the time. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, TEST_NAMES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(key_size, TEST_SHORT_KEY);
	__uint(value_size, 4);
} short_names SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, TEST_LABELS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct test_rule);
} rules SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} records SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TEST_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct boesfs_program_id);
} trusted SEC(".maps");

static void count(__u32 which)
{
	__u64 *counter = bpf_map_lookup_elem(&counters, &which);

	if (counter)
		__sync_fetch_and_add(counter, 1);
}

static long is_over(__u64 turn, __u64 *until)
{
	return bpf_ktime_get_ns() >= *until;
}

/* Widens the windows that races go through. */
static void pass_time(__u32 microseconds)
{
	__u64 until = bpf_ktime_get_ns() + microseconds * 1000ULL;

	if (microseconds)
		bpf_loop(1 << 23, is_over, &until, 0);
}

/* Operations on objects of this label that are allowed to everybody. */
static __u64 open_to_all(struct test_rule *rule)
{
	__u64 known = (1ULL << BOESFS_OP_NR) - 1;

	return rule ? known & ~(rule->deny | rule->nocache | rule->record) : known;
}

static int labelled(struct boesfs_ctx *bc, __u32 label)
{
	struct test_rule *rule = bpf_map_lookup_elem(&rules, &label);

	if (rule)
		pass_time(rule->slow_label);
	if (in_advance & TEST_BY_LABEL)
		bc->allow = open_to_all(rule);
	return label;
}

SEC("struct_ops/label")
int BPF_PROG(test_label, struct boesfs_ctx *bc)
{
	__u32 parent = bc->label, label, chunk;

	count(TEST_LABELS_ASKED);
	if (!parent)
		parent = (__u32)bc->table << TEST_TABLE_SHIFT;
	label = parent;
	for (chunk = 0; chunk < 5; chunk++) {	/* a long name has several pieces, each a step in the trie */
		char *key = boesfs_name_key(bc, label, chunk, 64);
		__u32 *next;

		if (!key)
			return labelled(bc, chunk ? label : parent);
		if (((struct boesfs_key *)key)->length <= TEST_SHORT_NAME)
			next = bpf_map_lookup_elem(&short_names, key);
		else
			next = bpf_map_lookup_elem(&names, key);
		if (!next)
			return labelled(bc, parent);
		label = *next;
		if (label == 0x7fffffff)	/* the tests' word for a name without a label */
			return -EPERM;
	}
	return labelled(bc, label);
}

static void record(struct boesfs_ctx *bc, int verdict)
{
	struct test_record *r = bpf_ringbuf_reserve(&records, sizeof(*r), 0);
	int i;

	if (!r)
		return;
	r->op = bc->op;
	r->access = bc->access;
	r->label = bc->label;
	r->other_label = bc->other_label;
	r->uid = bc->uid;
	r->pid = bc->pid;
	r->policy_id = bc->policy_id;
	r->mode = bc->mode;
	r->instance = bc->instance;
	r->table = bc->table;
	r->generation = bc->generation;
	r->ino = bc->ino;
	r->dev = bc->dev;
	for (i = 0; i < 4; i++)
		r->arg[i] = bc->arg[i];
	r->verdict = verdict;
	r->path[0] = r->other[0] = r->string[0] = 0;
	boesfs_ctx_string(bc, BOESFS_STRING_PATH, r->path, sizeof(r->path));
	boesfs_ctx_string(bc, BOESFS_STRING_OTHER_PATH, r->other, sizeof(r->other));
	if (boesfs_ctx_string(bc, BOESFS_STRING_XATTR, r->string, sizeof(r->string)) < 0)
		boesfs_ctx_string(bc, BOESFS_STRING_TARGET, r->string, sizeof(r->string));
	bpf_ringbuf_submit(r, 0);
}

/* The context is read at fixed offsets only. */
static __u64 argument(struct boesfs_ctx *bc, __u32 which)
{
	__u64 args[4] = { bc->arg[0], bc->arg[1], bc->arg[2], bc->arg[3] };

	barrier_var(which);
	return which == 0 ? args[0] : which == 1 ? args[1] : which == 2 ? args[2] : args[3];
}

static int is_trusted(struct boesfs_ctx *bc)
{
	struct boesfs_program_id id = {}, *wanted;
	__u32 zero = 0;

	wanted = bpf_map_lookup_elem(&trusted, &zero);
	if (!wanted || boesfs_ctx_program(bc, &id))
		return 0;
	return id.ino == wanted->ino && id.dev == wanted->dev && id.generation == wanted->generation;
}

/* A label of another table than the one that judges. */
static __always_inline bool is_of_another(__u32 label, struct boesfs_ctx *bc)
{
	return label && label >> TEST_TABLE_SHIFT != (bc->table & 0x7ff);
}

SEC("struct_ops/check")
int BPF_PROG(test_check, struct boesfs_ctx *bc)
{
	__u32 label = bc->label;
	struct test_rule *rule = bpf_map_lookup_elem(&rules, &label);
	__u64 bit = 1ULL << (bc->op & 63);
	int verdict = 0;

	count(TEST_CHECKS_ASKED);
	if (is_of_another(label, bc) || is_of_another(bc->other_label, bc))
		count(TEST_MIXED);
	if (in_advance & TEST_BY_CHECK)
		bc->allow = open_to_all(rule);
	if (!rule)
		return 0;
	if (rule->deny & bit) {
		verdict = rule->verdict ? rule->verdict : -EPERM;
		if (rule->by_argument & bit && !(argument(bc, rule->argument) & rule->mask))
			verdict = 0;
		if (rule->access && !(bc->access & rule->access))
			verdict = 0;
		if (rule->program && is_trusted(bc))
			verdict = 0;
	}
	if (rule->slow & bit)
		pass_time(rule->slow_check);
	if (verdict && rule->kill & bit)
		bc->flags = BOESFS_KILL;
	if (!verdict && (rule->nocache | rule->deny) & bit)
		bc->flags = BOESFS_NOCACHE;
	if (verdict || rule->record & bit)
		record(bc, verdict);
	return verdict;
}

SEC(".struct_ops.link")
struct boesfs_policy_ops policy = {
	.label = (void *)test_label,
	.check = (void *)test_check,
	.flags = BOESFS_CACHE,
	.name = "test",
};

/* The loader's calls: arguments and answer are in the context. */
struct call {
	char name[BOESFS_PROGRAM_NAME_MAX];
	__u64 table;
	__u32 id;
	__u32 flags;
	__u32 forget;
	__s32 answer;
};

SEC("syscall")
int replace(struct call *call)
{
	char name[BOESFS_PROGRAM_NAME_MAX];

	__builtin_memcpy(name, call->name, sizeof(name));
	if (call->forget)
		call->answer = boesfs_policy_forget(name, sizeof(name), call->id);
	else
		call->answer = boesfs_policy_replace(name, sizeof(name), call->id, call->table, call->flags);
	return 0;
}

char _license[] SEC("license") = "GPL";
