// SPDX-License-Identifier: GPL-2.0-only
/*
 * Holds the functions for programs to their promises, whatever they are called with: an operation is denied with the
 * number of the line of the first promise that was not kept. Names of one letter have a label of their own.
 */
#include "bad.h"

#define PROMISED(what) do { if (!(what)) return -__LINE__; } while (0)
#define ENOENT 2
#define EINVAL 22
#define ENAMETOOLONG 36
#define ENODATA 61

static int broken;	/* what label() found; its own answer says no more than EPERM */
static char name[512], buf[256];

static char letter(unsigned int at)
{
	barrier_var(at);	/* the verifier has to see that it is inside */
	return name[at & 511];
}

/* A piece of a name, as documented, if it has that many; name[] is the whole. */
static __noinline int try_key(struct boesfs_ctx *bc, int chunk, int length)
{
	char *bytes = boesfs_name_key(bc, 4711, chunk, 64);
	struct boesfs_key *key = (void *)bytes;
	int i;

	PROMISED(!bytes == (chunk * BOESFS_KEY_NAME >= length));
	if (!bytes)
		return 0;
	PROMISED(key->label == 4711 && key->chunk == chunk && key->length == length);
	bpf_for(i, 0, BOESFS_KEY_NAME) {
		int at = chunk * BOESFS_KEY_NAME + i;

		PROMISED(bytes[6 + i] == (at < length ? letter(at) : 0));
	}
	return 0;
}

static int try_keys(struct boesfs_ctx *bc)
{
	int length = boesfs_ctx_string(bc, BOESFS_STRING_NAME, name, 256), chunk;

	PROMISED(length > 0 && length < 256);
	for (chunk = 0; chunk < 5; chunk++) {
		int line = try_key(bc, chunk, length);

		if (line)
			return line;
	}
	PROMISED(!boesfs_name_key(bc, 0, 5, 64));
	PROMISED(!boesfs_name_key(bc, 0, 1U << 31, 64));	/* times BOESFS_KEY_NAME it is 0 */
	PROMISED(!boesfs_name_key(bc, 0, ~0U, 64));
	PROMISED(!boesfs_name_key(bc, 0, 0, 65));
	PROMISED(!boesfs_name_key(bc, 0, 0, 128));
	PROMISED(boesfs_name_key(bc, 0, 0, 6));
	return 0;
}

static int try_in_label(struct boesfs_ctx *bc)
{
	int length = boesfs_ctx_string(bc, BOESFS_STRING_NAME, buf, sizeof(buf));

	PROMISED(boesfs_ctx_string(bc, BOESFS_STRING_PATH, buf, sizeof(buf)) == -ENODATA);
	PROMISED(boesfs_ctx_string(bc, BOESFS_STRING_OTHER_PATH, buf, sizeof(buf)) == -ENODATA);
	PROMISED(boesfs_ctx_string(bc, BOESFS_STRING_XATTR, buf, sizeof(buf)) == -ENODATA);
	PROMISED(boesfs_ctx_string(bc, BOESFS_STRING_TARGET, buf, sizeof(buf)) == -ENODATA);
	PROMISED(boesfs_ctx_string(bc, 5, buf, sizeof(buf)) == -EINVAL);
	PROMISED(boesfs_ctx_string(bc, BOESFS_STRING_NAME, buf, 1) == -ENAMETOOLONG);
	PROMISED(boesfs_ctx_string(bc, BOESFS_STRING_NAME, buf, 2) == (length == 1 ? 1 : -ENAMETOOLONG));
	return try_keys(bc);
}

SEC("struct_ops/label")
int BPF_PROG(label, struct boesfs_ctx *bc)
{
	int line = try_in_label(bc);
	char *key = boesfs_name_key(bc, 0, 0, 64);

	if (line)
		broken = line;
	return key && key[5] == 1 ? key[6] : 0;
}

/* PATH in buffers of all sizes near its length: whole with its NUL and not a byte beyond, or ENAMETOOLONG. */
static int try_path(struct boesfs_ctx *bc)
{
	int length = boesfs_ctx_string(bc, BOESFS_STRING_PATH, name, sizeof(name)), i;

	PROMISED(length > 0 && length < 512 && name[0] == '/' && !letter(length));
	PROMISED(length == 1 || letter(length - 1) != '/');
	if (length != 4)
		return 0;
	__builtin_memset(buf, 'x', sizeof(buf));
	PROMISED(boesfs_ctx_string(bc, BOESFS_STRING_PATH, buf, 0) == -ENAMETOOLONG);
	PROMISED(boesfs_ctx_string(bc, BOESFS_STRING_PATH, buf, 1) == -ENAMETOOLONG);
	PROMISED(boesfs_ctx_string(bc, BOESFS_STRING_PATH, buf, 3) == -ENAMETOOLONG);
	PROMISED(boesfs_ctx_string(bc, BOESFS_STRING_PATH, buf, 4) == -ENAMETOOLONG);
	PROMISED(buf[4] == 'x');
	PROMISED(boesfs_ctx_string(bc, BOESFS_STRING_PATH, buf, 5) == 4);
	PROMISED(buf[5] == 'x' && !buf[4]);
	bpf_for(i, 0, 4)
		PROMISED(buf[i & 3] == letter(i));
	return 0;
}

static int try_in_check(struct boesfs_ctx *bc)
{
	bool two = bc->op == BOESFS_OP_LINK || bc->op == BOESFS_OP_RENAME;
	bool attribute = bc->op == BOESFS_OP_GETXATTR || bc->op == BOESFS_OP_SETXATTR || bc->op == BOESFS_OP_REMOVEXATTR;
	bool target = bc->op == BOESFS_OP_SYMLINK;
	struct boesfs_program_id id = {};

	PROMISED(!boesfs_name_key(bc, 0, 0, 64));
	PROMISED(!boesfs_name_key(bc, bc->label, 1, 64));
	PROMISED(boesfs_ctx_string(bc, BOESFS_STRING_NAME, buf, sizeof(buf)) > 0);
	PROMISED((boesfs_ctx_string(bc, BOESFS_STRING_OTHER_PATH, buf, sizeof(buf)) > 0) == two);
	PROMISED(two || boesfs_ctx_string(bc, BOESFS_STRING_OTHER_PATH, buf, sizeof(buf)) == -ENODATA);
	PROMISED((boesfs_ctx_string(bc, BOESFS_STRING_XATTR, buf, sizeof(buf)) > 0) == attribute);
	PROMISED(attribute || boesfs_ctx_string(bc, BOESFS_STRING_XATTR, buf, sizeof(buf)) == -ENODATA);
	PROMISED(!attribute || boesfs_ctx_string(bc, BOESFS_STRING_XATTR, buf, 2) == -ENAMETOOLONG);
	PROMISED((boesfs_ctx_string(bc, BOESFS_STRING_TARGET, buf, sizeof(buf)) > 0) == target);
	PROMISED(target || boesfs_ctx_string(bc, BOESFS_STRING_TARGET, buf, sizeof(buf)) == -ENODATA);
	PROMISED(boesfs_ctx_string(bc, 5, buf, sizeof(buf)) == -EINVAL);
	PROMISED(boesfs_ctx_string(bc, ~0U, buf, sizeof(buf)) == -EINVAL);
	PROMISED(!boesfs_ctx_program(bc, &id) && id.ino && id.dev);
	return try_path(bc);
}

SEC("struct_ops/check")
int BPF_PROG(check, struct boesfs_ctx *bc)
{
	return broken ? broken : try_in_check(bc);
}

SEC(".struct_ops.link")
struct boesfs_policy_ops policy = {
	.label = (void *)label,
	.check = (void *)check,
	.name = "kfuncs",
};
