/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * What the policy program and its loader agree on: the layout of the maps. kmod/boesfs_abi.h is read
 * before this; user space reads both with -DBOESFS_CDEF (cffi).
 *
 * A table is one version of one policy. Its names lead from state to state; a state's number is the
 * label of what has that name. Rows of all kinds are in one array: the states' come first, so a
 * label is a row.
 */
#ifndef BOESFS_MAPS_H
#define BOESFS_MAPS_H

enum boesfs_maps_limits {
	BOESFS_TABLES = 65536,	   /* at a time; the number of one is boesfs_ctx.table. 0: none */
	BOESFS_SHORT_KEY = 32,	   /* struct boesfs_key cut off: for names that fit */
	BOESFS_SHORT_NAME = 26,	   /* bytes */
	BOESFS_NAME_CHUNKS = 5,	   /* pieces of the longest name */
	BOESFS_CONDITIONS = 65536, /* of one class */
	BOESFS_TESTS = 16,	   /* of one condition */
	BOESFS_INSTANCES = 65536, /* that are counted, and their rules with a threshold */
	BOESFS_PROGRAMS = 65536,
	BOESFS_TEXT = 4096, /* with the final NUL */
	BOESFS_KILLS = 65536, /* remembered, those of the last instances */
	BOESFS_TOLD = 32768, /* operations that who learns need not be told of again */
	BOESFS_KILL_PATH = 248,
};

/*
 * What rules tell apart: operations by their own numbers, but for those that are several. In masks, a
 * bit each.
 */
enum boesfs_rule_op {
	BOESFS_RULE_CHMOD = 48, /* these are SETATTR's */
	BOESFS_RULE_CHOWN = 49,
	BOESFS_RULE_TRUNCATE = 50,
	BOESFS_RULE_UTIMES = 51,
	BOESFS_RULE_CHATTR = 52,
	BOESFS_RULE_LINK_TO = 53, /* the new name; the old one is LINK */
	BOESFS_RULE_RENAME_TO = 54,
};

/**
 * struct boesfs_step - Where a name leads, and what everybody may do there.
 * @state:	the next state; of a name with several pieces, where the next piece is looked up
 * @allow:	what is allowed at the state whatever the arguments, as for boesfs_ctx.allow
 */
struct boesfs_step {
	__u32 state;
	__u32 reserved;
	__u64 allow;
};

/**
 * struct boesfs_state - A state.
 * @allow:	as in struct boesfs_step
 * @class:	the row of its verdicts
 * @otherwise:	where names lead that have no step
 * @machine:	the row of an automaton that is asked instead of @otherwise; 0: none
 */
struct boesfs_state {
	__u64 allow;
	__u32 class;
	__u32 otherwise;
	__u32 machine;
	__u32 reserved[3];
};

/**
 * struct boesfs_class - The verdicts of states that are alike.
 * @allow:	what is allowed if no condition decides
 * @asked:	for which operations there are conditions
 * @first:	the row of the first condition; they are in order, and the first that holds decides
 * @conditions:	how many
 * @marks:	the row of the first of 256 marks each, a bit per place of Other tests
 * @mark_rows:	how many rows
 */
struct boesfs_class {
	__u64 allow;
	__u64 asked;
	__u32 first;
	__u32 conditions;
	__u32 marks;
	__u32 mark_rows;
};

enum boesfs_condition_flag {
	BOESFS_CONDITION_ALLOW = 1 << 0,
	BOESFS_CONDITION_AUDIT = 1 << 1, /* tell of what is allowed too */
};

/**
 * struct boesfs_condition - Decides operations if its tests hold.
 * @ops:	which
 * @first:	the row of its first test
 * @tests:	how many
 * @flags:	enum boesfs_condition_flag
 * @kill:	with the denial after so many of this rule the instance ends; 0: never
 * @rule:	the rule's number, for records
 */
struct boesfs_condition {
	__u64 ops;
	__u32 first;
	__u16 tests;
	__u16 flags;
	__u32 kill;
	__u32 rule;
	__u64 reserved;
};

enum boesfs_test_kind {
	BOESFS_TEST_NUMBER = 1,	 /* arg[which] & mask, signed, is from low to high */
	BOESFS_TEST_XATTR = 2,	 /* the automaton at @row ends with 1 for the attribute's name */
	BOESFS_TEST_TARGET = 3,	 /* ditto for the symlink's target */
	BOESFS_TEST_OTHER = 4,	 /* the second path's class has mark @row */
	BOESFS_TEST_PROGRAM = 5, /* the caller's program has the bit low of its policy's programs */
	BOESFS_TEST_UID = 6,	 /* the caller's user id is from low to high */
	BOESFS_TEST_ACCESS = 7,	 /* access & mask, signed, is from low to high */
};

struct boesfs_test {
	__u16 kind;
	__u16 which;
	__u32 row;
	__s64 low;
	__s64 high;
	__u64 mask;
};

/* An automaton's state: bytes that have no step lead to @otherwise; @end is what the end means. */
struct boesfs_machine {
	__u32 otherwise;
	__u32 end;
	__u64 reserved[3];
};

struct boesfs_marks {
	__u64 bits[4];
};

union boesfs_row {
	struct boesfs_state state;
	struct boesfs_class class;
	struct boesfs_condition condition;
	struct boesfs_test test;
	struct boesfs_machine machine;
	struct boesfs_marks marks;
};

/**
 * struct boesfs_table - What is said of a table as a whole.
 * @kill:	the instance ends with the denial after so many; 0: never
 * @learn:	not 0: denials are allowed, and each is told once (of one path) for this number
 * @until:	seconds since boot after which it denies like any other, whatever @learn says
 * @policy_id:	whose it is; 0: nobody's. This and what follows is for the loader
 * @digest:	of what it was made from
 */
struct boesfs_table {
	__u32 kill;
	__u32 learn;
	__u32 policy_id;
	__u32 until;
	__u64 digest[2];
};

/* The programs that a table's rules name: which of them this executable is, as a mask. */
struct boesfs_program_key {
	struct boesfs_program_id id;
	__u32 table;
	__u32 reserved;
};

/*
 * Denials are counted for each instance (rule BOESFS_RULE_ANY, table 0), and for each rule of a table
 * with a threshold.
 */
struct boesfs_count_key {
	__u64 instance;
	__u32 rule;
	__u32 table;
};

struct boesfs_count {
	__u64 denials;
	__u64 untold; /* for want of room in the ring buffer, or because they came too fast */
	__u64 second; /* of boot time, of the last record */
	__u64 told;   /* records in that second */
};

/* What has been told to who learns: an operation, and its paths by their hash. */
struct boesfs_told_key {
	__u64 hash;
	__u32 learn;
	__u32 op;
};

/**
 * struct boesfs_kill - Why an instance was ended: its last denial, for who answers for it.
 * @op:	the operation
 * @rule:	as in struct boesfs_record
 * @path:	where, with its NUL; if it is long, as much of its beginning as fits
 */
struct boesfs_kill {
	__u32 op;
	__u32 rule;
	char path[BOESFS_KILL_PATH];
};

enum boesfs_rule_number {
	BOESFS_RULE_ANY = 0xffffffff,	/* in a count: all of an instance */
	BOESFS_RULE_CLASS = 0xfffffffe, /* in a record: what the label says, there is no condition */
};

/**
 * struct boesfs_record - A denial, or an operation that is to be told of. The strings follow, each with its NUL: path,
 * other path, attribute or target.
 */
struct boesfs_record {
	__u64 time; /* ns since boot, as CLOCK_BOOTTIME */
	__u64 instance;
	__u64 table;
	__u64 generation;
	__u64 arg[BOESFS_ARGS];
	__u64 denials; /* of this instance, with this one */
	__u64 untold;  /* before it */
	struct boesfs_program_id program;
	char comm[16]; /* the thread's name, which it may have given itself */
	__u32 policy_id;
	__u32 op;
	__u32 access;
	__u32 label;
	__u32 other_label;
	__u32 rule;
	__s32 verdict;
	__u32 pid;
	__u32 tid;
	__u32 uid;
	__u32 killed;
	__u32 path_length; /* without the NUL, as the others */
	__u32 other_length;
	__u32 string_length;
};

/**
 * struct boesfs_call - What the loader tells the program replace().
 * @table:	judges from now on what is under the policy
 * @policy_id:	which policy
 * @flags:	enum boesfs_replace_flag
 * @answer:	of the module: 0 or a negative errno
 * @forget:	the policy is not replaced but forgotten
 */
struct boesfs_call {
	__u64 table;
	__u32 policy_id;
	__u32 flags;
	__s32 answer;
	__u32 forget;
};

enum boesfs_look_kind {
	BOESFS_LOOK_ROW = 0,
	BOESFS_LOOK_NAME = 1, /* a key cut off to BOESFS_SHORT_KEY */
	BOESFS_LOOK_LONG_NAME = 2,
};

/**
 * struct boesfs_look - What the loader asks the program look() about a table.
 * @table:	which
 * @kind:	enum boesfs_look_kind
 * @row:	which row
 * @answer:	0, or -ENOENT: there is no such thing
 * @key:	which name
 * @value:	the row; of a name struct boesfs_step
 */
struct boesfs_look {
	__u32 table;
	__u32 kind;
	__u32 row;
	__s32 answer;
	__u64 key[8];
	__u64 value[4];
};

#endif /* BOESFS_MAPS_H */
