// SPDX-License-Identifier: GPL-2.0-only
/*
 * The policy program: one for all functions.
 *
 * A policy is compiled by boesfsd into a table of states. A name that is looked up below a state leads to the next one
 * (label()), and the state says, by its class, what may be done with what has that name (check()). So what is asked costs
 * the same for a hundred rules and for a hundred thousand, however deep the path, and no path is ever put together but to
 * tell of a denial. Most names say at once all that is allowed there, and check() is asked for the rest only: what is
 * denied, and what depends on arguments, on the program or on the user.
 *
 * A new version of a policy is a new table; boesfs_policy_replace() makes it the one that judges, at once and for all.
 */
#include "boesfs.bpf.h"
#include "boesfs_maps.h"

#define EPERM 1
#define ENOENT 2
#define EEXIST 17
#define BIT(op) (1ULL << (op))

/* ------------------------------------------------------------- maps */

struct rows {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_INNER_MAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__uint(value_size, sizeof(union boesfs_row));
};

struct short_names {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(key_size, BOESFS_SHORT_KEY);
	__uint(value_size, sizeof(struct boesfs_step));
};

struct long_names {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(key_size, BOESFS_KEY_SIZE);
	__uint(value_size, sizeof(struct boesfs_step));
};

/* By number of the table; a table without long names has no map for them. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, BOESFS_TABLES);
	__type(key, __u32);
	__array(values, struct rows);
} table_rows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, BOESFS_TABLES);
	__type(key, __u32);
	__array(values, struct short_names);
} table_names SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, BOESFS_TABLES);
	__type(key, __u32);
	__array(values, struct long_names);
} table_long_names SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, BOESFS_TABLES);
	__type(key, __u32);
	__type(value, struct boesfs_table);
} tables SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, BOESFS_PROGRAMS);
	__type(key, struct boesfs_program_key);
	__type(value, __u64);
} programs SEC(".maps");

/* Of instances that are long gone nothing is kept: those that denied last stay. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, BOESFS_INSTANCES);
	__type(key, struct boesfs_count_key);
	__type(value, struct boesfs_count);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, BOESFS_KILLS);
	__type(key, __u64);
	__type(value, struct boesfs_kill);
} kills SEC(".maps");

/* Who learns asks what is done, and not how often. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, BOESFS_TOLD);
	__type(key, struct boesfs_told_key);
	__type(value, __u32);
} told SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 << 20);
} records SEC(".maps");

/* Room for the longest record; what is told is as long as it has to be. */
struct report {
	struct boesfs_record record;
	char strings[5 * BOESFS_TEXT]; /* three are used; with a mask the verifier sees that they fit */
};

/*
 * Room for strings: the stack is too small, and what is per CPU could be taken over by who comes when
 * its user is preempted.
 */
struct room {
	__u64 busy;
	struct boesfs_kill kill;
	struct report report;
};

enum { ROOMS = 64 };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, ROOMS);
	__type(key, __u32);
	__type(value, struct room);
} rooms SEC(".maps");

/* One object as the rules see it: its label, that of the second path, and the table of both. */
struct view {
	void *rows;
	void *names;
	__u32 label;
	__u32 other;
};

/* ------------------------------------------------------------- rooms */

static struct room *take_room(void)
{
	__u32 first = bpf_get_smp_processor_id(), i;

	bpf_for(i, 0, ROOMS) {
		__u32 number = (first + i) % ROOMS;
		struct room *room = bpf_map_lookup_elem(&rooms, &number);

		if (room && !__sync_val_compare_and_swap(&room->busy, 0, 1))
			return room;
	}
	return NULL;
}

static void leave_room(struct room *room)
{
	__sync_lock_test_and_set(&room->busy, 0);
}

/* ------------------------------------------------------------- rows */

static union boesfs_row *row_of(void *rows, __u32 number)
{
	return bpf_map_lookup_elem(rows, &number);
}

static struct boesfs_class *class_of(void *rows, __u32 label)
{
	union boesfs_row *state = row_of(rows, label), *class;

	class = state ? row_of(rows, state->state.class) : NULL;
	return class ? &class->class : NULL;
}

/* One byte further in an automaton. */
static __u32 machine_step(void *rows, void *names, __u32 machine, __u8 byte)
{
	char key[BOESFS_SHORT_KEY] = {};
	struct boesfs_key *head = (struct boesfs_key *)key;
	struct boesfs_step *step;
	union boesfs_row *row;

	head->label = machine;
	head->length = 1;
	head->name[0] = byte;
	step = bpf_map_lookup_elem(names, key);
	if (step)
		return step->state;
	row = row_of(rows, machine);
	return row ? row->machine.otherwise : 0;
}

/* ------------------------------------------------------------- label */

/* Where a name leads that has no step of its own. */
static __u32 by_machine(struct boesfs_ctx *bc, void *rows, void *names, __u32 machine)
{
	union boesfs_row *row;
	int chunk, i;

	bpf_for(chunk, 0, BOESFS_NAME_CHUNKS) {
		struct boesfs_key *key = (void *)boesfs_name_key(bc, 0, chunk, BOESFS_KEY_SIZE);

		if (!key)
			break;
		bpf_for(i, 0, BOESFS_KEY_NAME) {
			if (chunk * BOESFS_KEY_NAME + i >= key->length)
				break;
			machine = machine_step(rows, names, machine, key->name[i]);
		}
	}
	row = row_of(rows, machine);
	return row ? row->machine.end : BOESFS_LABEL_MAX;
}

static struct boesfs_step *step_of(struct boesfs_ctx *bc, void *names, void *long_names)
{
	struct boesfs_step *step = NULL;
	__u32 label = bc->label;
	int chunk;

	bpf_for(chunk, 0, BOESFS_NAME_CHUNKS) {
		char *key = boesfs_name_key(bc, label, chunk, BOESFS_KEY_SIZE);

		if (!key)
			break;
		if (((struct boesfs_key *)key)->length <= BOESFS_SHORT_NAME)
			return bpf_map_lookup_elem(names, key);
		step = long_names ? bpf_map_lookup_elem(long_names, key) : NULL;
		if (!step)
			break;
		label = step->state;
	}
	return step;
}

SEC("struct_ops/label")
int BPF_PROG(policy_label, struct boesfs_ctx *bc)
{
	__u32 table = bc->table, next;
	void *rows = bpf_map_lookup_elem(&table_rows, &table);
	void *names = bpf_map_lookup_elem(&table_names, &table);
	union boesfs_row *state;
	struct boesfs_step *step;

	if (!rows || !names)
		return -EPERM;
	step = step_of(bc, names, bpf_map_lookup_elem(&table_long_names, &table));
	if (step) {
		bc->allow = step->allow;
		return step->state;
	}
	state = row_of(rows, bc->label);
	if (!state)
		return -EPERM;
	next = state->state.otherwise;
	if (state->state.machine)
		next = by_machine(bc, rows, names, state->state.machine);
	state = row_of(rows, next);
	if (!state)
		return -EPERM;
	bc->allow = state->state.allow;
	return next;
}

/* ------------------------------------------------------------- conditions */

static __s64 argument(struct boesfs_ctx *bc, __u32 which)
{
	/* the context is read at fixed offsets only */
	__u64 args[BOESFS_ARGS] = { bc->arg[0], bc->arg[1], bc->arg[2], bc->arg[3] };

	barrier_var(which);
	return which == 0 ? args[0] : which == 1 ? args[1] : which == 2 ? args[2] : args[3];
}

static bool in_range(__s64 value, const struct boesfs_test *test)
{
	return value >= test->low && value <= test->high;
}

/* 1, 0, or below 0: it cannot be told. */
static int text_matches(struct boesfs_ctx *bc, struct view *view, __u32 machine, __u32 which)
{
	struct room *room = take_room();
	union boesfs_row *row;
	int length, i;
	char *text;

	if (!room)
		return -1;
	text = room->report.strings;
	length = boesfs_ctx_string(bc, which, text, BOESFS_TEXT);
	bpf_for(i, 0, BOESFS_TEXT) {
		if (i >= length)
			break;
		machine = machine_step(view->rows, view->names, machine, text[i]);
	}
	leave_room(room);
	row = row_of(view->rows, machine);
	return length < 0 || !row ? -1 : row->machine.end;
}

static bool is_marked(void *rows, __u32 label, __u32 mark)
{
	struct boesfs_class *class = class_of(rows, label);
	union boesfs_row *row;

	if (!class || mark / 256 >= class->mark_rows)
		return false;
	row = row_of(rows, class->marks + mark / 256);
	return row && row->marks.bits[mark / 64 % 4] >> mark % 64 & 1;
}

static bool caller_runs(struct boesfs_ctx *bc, __u64 slots)
{
	struct boesfs_program_key key = { .table = bc->table };
	__u64 *known;

	if (boesfs_ctx_program(bc, &key.id))
		return false;
	known = bpf_map_lookup_elem(&programs, &key);
	return known && *known & slots;
}

static int holds(struct boesfs_ctx *bc, struct view *view, const struct boesfs_test *test)
{
	switch (test->kind) {
	case BOESFS_TEST_NUMBER:
		return in_range(argument(bc, test->which) & test->mask, test);
	case BOESFS_TEST_XATTR:
		return text_matches(bc, view, test->row, BOESFS_STRING_XATTR);
	case BOESFS_TEST_TARGET:
		return text_matches(bc, view, test->row, BOESFS_STRING_TARGET);
	case BOESFS_TEST_OTHER:
		return is_marked(view->rows, view->other, test->row);
	case BOESFS_TEST_PROGRAM:
		return caller_runs(bc, test->mask);
	case BOESFS_TEST_UID:
		return in_range(bc->uid, test);
	case BOESFS_TEST_ACCESS:
		return in_range(bc->access & test->mask, test);
	}
	return -1;
}

/* What is decided, and by which condition; NULL: by the class. */
struct decision {
	struct boesfs_condition *condition;
	bool allow;
	bool asked;
};

static void decide(struct boesfs_ctx *bc, struct view *view, __u64 bit, struct decision *decision)
{
	struct boesfs_class *class = class_of(view->rows, view->label);
	int i, t;

	decision->condition = NULL;
	decision->allow = class && class->allow & bit;
	decision->asked = class && class->asked & bit;
	if (!class || !decision->asked)
		return;
	bpf_for(i, 0, BOESFS_CONDITIONS) {
		union boesfs_row *row = i < class->conditions ? row_of(view->rows, class->first + i) : NULL;
		int all = 1;

		if (!row)
			break;
		if (!(row->condition.ops & bit))
			continue;
		bpf_for(t, 0, BOESFS_TESTS) {
			union boesfs_row *test;

			if (t >= row->condition.tests)
				break;
			test = row_of(view->rows, row->condition.first + t);
			all = test ? holds(bc, view, &test->test) : -1;
			if (all <= 0)
				break;
		}
		if (all < 0) { /* nobody knows what it would have said */
			decision->allow = false;
			return;
		}
		if (all) {
			decision->condition = &row->condition;
			decision->allow = row->condition.flags & BOESFS_CONDITION_ALLOW;
			return;
		}
	}
}

/* ------------------------------------------------------------- records */

enum { NS_PER_S = 1000000000, RECORDS_PER_S = 1000, LEARNED_PER_S = 20000 }; /* of one instance */

static struct boesfs_count *count_of(struct boesfs_ctx *bc, __u32 rule, __u32 table)
{
	struct boesfs_count_key key = { .instance = bc->instance, .rule = rule, .table = table };
	struct boesfs_count none = {}, *count = bpf_map_lookup_elem(&counts, &key);

	if (count)
		return count;
	bpf_map_update_elem(&counts, &key, &none, BPF_NOEXIST);
	return bpf_map_lookup_elem(&counts, &key);
}

static bool too_fast(struct boesfs_count *count, __u64 now, __u32 most)
{
	__u64 second = now / NS_PER_S;

	if (count->second != second) { /* one more or less is no matter, so nothing is locked */
		count->second = second;
		count->told = 0;
	}
	return __sync_fetch_and_add(&count->told, 1) >= most;
}

static __u32 append(struct boesfs_ctx *bc, __u32 which, struct report *report, __u32 at)
{
	int length;

	at &= 4 * BOESFS_TEXT - 1;
	length = boesfs_ctx_string(bc, which, report->strings + at, BOESFS_TEXT);
	if (length < 0) {
		report->strings[at] = 0;
		return 0;
	}
	return length;
}

/* The key of what a report says. Two that have the same one would be told as one, which is why it is a long hash (FNV-1a). */
static struct boesfs_told_key key_of(const struct report *report, __u32 end, __u32 learn)
{
	struct boesfs_told_key key = { .hash = 0xcbf29ce484222325ULL, .learn = learn, .op = report->record.op };
	__u32 i;

	key.hash ^= report->record.access;
	bpf_for(i, 0, 4 * BOESFS_TEXT) {
		if (i >= end)
			break;
		key.hash = (key.hash ^ (__u8)report->strings[i]) * 0x100000001b3ULL;
	}
	return key;
}

/* LEARN as in struct boesfs_table; with it nothing is told twice, and all may be told faster. */
static void tell(struct boesfs_ctx *bc, const struct boesfs_record *said, struct boesfs_count *count, __u32 learn)
{
	__u64 now = bpf_ktime_get_boot_ns(), size;
	struct boesfs_told_key key;
	struct boesfs_record *r;
	struct report *report;
	struct room *room;
	__u32 end;
	long lost;

	room = count && !learn && too_fast(count, now, RECORDS_PER_S) ? NULL : take_room();
	if (!room)
		goto untold;
	report = &room->report;
	r = &report->record;
	*r = *said;
	r->time = now;
	r->instance = bc->instance;
	r->table = bc->table;
	r->generation = bc->generation;
	r->arg[0] = bc->arg[0];
	r->arg[1] = bc->arg[1];
	r->arg[2] = bc->arg[2];
	r->arg[3] = bc->arg[3];
	r->policy_id = bc->policy_id;
	r->op = bc->op;
	r->access = bc->access;
	r->label = bc->label;
	r->other_label = bc->other_label;
	r->pid = bc->pid;
	r->tid = bc->tid;
	r->uid = bc->uid;
	if (boesfs_ctx_program(bc, &r->program))
		__builtin_memset(&r->program, 0, sizeof(r->program));
	bpf_probe_read_kernel_str(r->comm, sizeof(r->comm), bpf_get_current_task_btf()->comm);
	r->path_length = append(bc, BOESFS_STRING_PATH, report, 0);
	end = r->path_length + 1;
	r->other_length = append(bc, BOESFS_STRING_OTHER_PATH, report, end);
	end += r->other_length + 1;
	r->string_length = append(bc, bc->op == BOESFS_OP_SYMLINK ? BOESFS_STRING_TARGET : BOESFS_STRING_XATTR, report, end);
	end += r->string_length + 1;
	if (learn) {
		key = key_of(report, end, learn);
		if (bpf_map_update_elem(&told, &key, &learn, BPF_NOEXIST) == -EEXIST) {
			leave_room(room);
			return;
		}
		if (count && too_fast(count, now, LEARNED_PER_S)) {
			leave_room(room);
			goto again;
		}
	}
	r->untold = count ? count->untold : 0;
	size = sizeof(*r) + end;
	if (size > sizeof(*report))
		size = sizeof(*report);
	lost = bpf_ringbuf_output(&records, report, size, 0);
	leave_room(room);
	if (!lost)
		return;
again:
	if (learn)
		bpf_map_delete_elem(&told, &key);
untold:
	if (count)
		__sync_fetch_and_add(&count->untold, 1);
}

/* ------------------------------------------------------------- check */

/* The agent reads it when its sandbox has ended. */
static void say_why(struct boesfs_ctx *bc, __u32 rule)
{
	struct room *room = take_room();
	__u64 instance = bc->instance;

	if (!room)
		return;
	room->kill.op = bc->op;
	room->kill.rule = rule;
	room->kill.path[0] = 0;
	if (boesfs_ctx_string(bc, BOESFS_STRING_PATH, room->report.strings, BOESFS_TEXT) >= 0)
		bpf_probe_read_kernel_str(room->kill.path, sizeof(room->kill.path), room->report.strings);
	bpf_map_update_elem(&kills, &instance, &room->kill, BPF_NOEXIST); /* the first is why */
	leave_room(room);
}

/* A denial is counted, told, and ends the instance when there were too many; it is allowed where somebody learns. */
static int deny(struct boesfs_ctx *bc, const struct decision *decision)
{
	__u32 number = bc->table, rule = decision->condition ? decision->condition->rule : BOESFS_RULE_CLASS;
	struct boesfs_table *table = bpf_map_lookup_elem(&tables, &number);
	struct boesfs_count *all = count_of(bc, BOESFS_RULE_ANY, 0), *one;
	struct boesfs_record said = { .rule = rule, .verdict = -EPERM };
	__u64 mine;

	if (table && table->learn && bpf_ktime_get_boot_ns() / NS_PER_S < table->until) {
		tell(bc, &said, all, table->learn);
		bc->flags = BOESFS_NOCACHE;
		return 0;
	}
	if (all)
		said.denials = __sync_fetch_and_add(&all->denials, 1) + 1;
	if (table && table->kill && (!all || said.denials > table->kill))
		said.killed = 1;
	if (decision->condition && decision->condition->kill) {
		one = count_of(bc, rule, number);
		mine = one ? __sync_fetch_and_add(&one->denials, 1) + 1 : ~0ULL;
		if (mine > decision->condition->kill)
			said.killed = 1;
	}
	tell(bc, &said, all, 0);
	if (said.killed) {
		say_why(bc, rule);
		bc->flags = BOESFS_KILL;
	}
	return said.verdict;
}

static int judge(struct boesfs_ctx *bc, struct view *view, __u64 bit)
{
	struct decision decision = {};

	decide(bc, view, bit, &decision);
	if (!decision.allow)
		return deny(bc, &decision);
	if (decision.asked)
		bc->flags = BOESFS_NOCACHE;
	if (decision.condition && decision.condition->flags & BOESFS_CONDITION_AUDIT) {
		struct boesfs_record said = { .rule = decision.condition->rule };

		tell(bc, &said, count_of(bc, BOESFS_RULE_ANY, 0), 0);
	}
	return 0;
}

/* Which of the rules' operations a setattr is. */
static __u64 changed(struct boesfs_ctx *bc)
{
	__u64 ops = 0;

	if (bc->access & BOESFS_ATTR_MODE)
		ops |= BIT(BOESFS_RULE_CHMOD);
	if (bc->access & (BOESFS_ATTR_UID | BOESFS_ATTR_GID))
		ops |= BIT(BOESFS_RULE_CHOWN);
	if (bc->access & BOESFS_ATTR_SIZE)
		ops |= BIT(BOESFS_RULE_TRUNCATE);
	else if (bc->access & (BOESFS_ATTR_ATIME | BOESFS_ATTR_MTIME)) /* who truncates sets the time too */
		ops |= BIT(BOESFS_RULE_UTIMES);
	if (bc->access & BOESFS_ATTR_FLAGS)
		ops |= BIT(BOESFS_RULE_CHATTR);
	return ops;
}

SEC("struct_ops/check")
int BPF_PROG(policy_check, struct boesfs_ctx *bc)
{
	struct view view = { .label = bc->label, .other = bc->other_label };
	__u32 table = bc->table;
	__u64 ops;
	int op, verdict;

	view.rows = bpf_map_lookup_elem(&table_rows, &table);
	view.names = bpf_map_lookup_elem(&table_names, &table);
	if (!view.rows || !view.names || bc->op >= BOESFS_OP_NR)
		return -EPERM;
	if (bc->op != BOESFS_OP_SETATTR) {
		verdict = judge(bc, &view, BIT(bc->op));
		if (verdict || (bc->op != BOESFS_OP_LINK && bc->op != BOESFS_OP_RENAME))
			return verdict;
		view.label = bc->other_label; /* the new name, to which the old one is the other */
		view.other = bc->label;
		return judge(bc, &view, bc->op == BOESFS_OP_LINK ? BIT(BOESFS_RULE_LINK_TO) : BIT(BOESFS_RULE_RENAME_TO));
	}
	ops = changed(bc);
	if (!ops)
		return -EPERM;
	bpf_for(op, BOESFS_RULE_CHMOD, BOESFS_RULE_CHATTR + 1) {
		if (!(ops & BIT(op)))
			continue;
		verdict = judge(bc, &view, BIT(op));
		if (verdict)
			return verdict;
	}
	return 0;
}

SEC(".struct_ops.link")
struct boesfs_policy_ops boesfs = {
	.label = (void *)policy_label,
	.check = (void *)policy_check,
	.flags = BOESFS_CACHE,
	.name = "boesfsd",
};

/* ------------------------------------------------------------- the loader's calls */

SEC("syscall")
int replace(struct boesfs_call *call)
{
	char name[BOESFS_PROGRAM_NAME_MAX] = "boesfsd";

	if (call->forget)
		call->answer = boesfs_policy_forget(name, sizeof(name), call->policy_id);
	else
		call->answer = boesfs_policy_replace(name, sizeof(name), call->policy_id, call->table, call->flags);
	return 0;
}

static int look_at_row(struct boesfs_look *asked)
{
	__u32 table = asked->table;
	void *rows = bpf_map_lookup_elem(&table_rows, &table);
	__u64 *row = rows ? (__u64 *)row_of(rows, asked->row) : NULL;

	if (!row)
		return -ENOENT;
	asked->value[0] = row[0];
	asked->value[1] = row[1];
	asked->value[2] = row[2];
	asked->value[3] = row[3];
	return 0;
}

static int look_at_name(struct boesfs_look *asked, void *names)
{
	__u64 key[8] = { asked->key[0], asked->key[1], asked->key[2], asked->key[3],
			 asked->key[4], asked->key[5], asked->key[6], asked->key[7] };
	__u64 *step = names ? bpf_map_lookup_elem(names, key) : NULL;

	if (!step)
		return -ENOENT;
	asked->value[0] = step[0];
	asked->value[1] = step[1];
	return 0;
}

SEC("syscall")
int look(struct boesfs_look *asked)
{
	__u32 table = asked->table;

	if (asked->kind == BOESFS_LOOK_ROW)
		asked->answer = look_at_row(asked);
	else if (asked->kind == BOESFS_LOOK_NAME)
		asked->answer = look_at_name(asked, bpf_map_lookup_elem(&table_names, &table));
	else
		asked->answer = look_at_name(asked, bpf_map_lookup_elem(&table_long_names, &table));
	return 0;
}

char _license[] SEC("license") = "GPL";
