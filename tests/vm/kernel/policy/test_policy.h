/* SPDX-License-Identifier: GPL-2.0-only */
/* The tests' policy: what loader.c and test_policy.bpf.c share. Rules are by label; everything else is allowed. */
#ifndef TEST_POLICY_H
#define TEST_POLICY_H

enum test_limits { TEST_NAMES = 200000, TEST_LABELS = 200000, TEST_TABLE_SHIFT = 20, TEST_PATH = 256 };
/* Which of the two callbacks allows an object's operations all at once. */
enum test_in_advance { TEST_BY_LABEL = 1, TEST_BY_CHECK = 2 };
/* The longest name that fits into a key of 32 bytes. */
enum test_short { TEST_SHORT_KEY = 32, TEST_SHORT_NAME = TEST_SHORT_KEY - 6 };

/* Bits of test_rule.deny and its like are operations. */
struct test_rule {
	__u64 deny;
	__u64 nocache;		/* allowed, but asked for each time */
	__u64 kill;		/* of those that are denied */
	__u64 record;		/* even if allowed */
	__u64 by_argument;	/* denied only if arg[argument] has one of these bits */
	__u64 mask;
	__u32 argument;
	__s32 verdict;		/* what a denial says; 0: -EPERM */
	__u32 access;		/* if not 0, denied only if ctx.access has one of these bits */
	__u32 program;		/* 1: what is denied is allowed to the program in `trusted` */
	__u64 slow;		/* operations for which */
	__u32 slow_check;	/* so many microseconds pass before check() answers */
	__u32 slow_label;	/* … before label() does */
};

struct test_record {
	__u32 op, access, label, other_label;
	__u32 uid, pid, policy_id, mode;
	__u64 instance, table, generation, ino;
	__u64 arg[4];
	__s32 verdict;
	__u32 dev;
	char path[TEST_PATH], other[TEST_PATH], string[TEST_PATH];
};

enum test_counter { TEST_LABELS_ASKED, TEST_CHECKS_ASKED, TEST_MIXED, TEST_COUNTERS };

#endif
