// SPDX-License-Identifier: GPL-2.0-only
/* What a policy program may ask about the call it judges, beside the fields of its context. */
#include <linux/bpf.h>
#include <linux/btf.h>
#include <linux/btf_ids.h>
#include <linux/dcache.h>
#include <linux/module.h>
#include <linux/sched.h>

#include "boesfs.h"
#include "kfuncs.h"

/*
 * The path in the sandbox: the mount's at= and the path below the mount. Returns its length without
 * the NUL.
 */
static int sandbox_path(const struct dentry *dentry, char *buf, u32 size)
{
	const char *at = boesfs_sb(dentry->d_sb)->at;
	size_t prefix = strlen(at), length;
	char *path = dentry_path_raw((struct dentry *)dentry, buf, size);

	if (IS_ERR(path))
		return PTR_ERR(path);
	if (prefix == 1) /* at=/ */
		prefix = 0;
	if (prefix && !path[1]) /* the mount's root */
		*path = '\0';
	length = strlen(path);
	if (prefix + length + 1 > size)
		return -ENAMETOOLONG;
	memmove(buf + prefix, path, length + 1);
	memcpy(buf, at, prefix);
	return prefix + length;
}

static int copy_string(const char *string, char *buf, u32 size)
{
	ssize_t length;

	if (!string)
		return -ENODATA;
	length = strscpy(buf, string, size);
	return length < 0 ? -ENAMETOOLONG : length;
}

static int copy_name(struct dentry *dentry, char *buf, u32 size)
{
	struct name_snapshot name;
	int length;

	take_dentry_name_snapshot(&name, dentry);
	length = copy_string(name.name.name, buf, size);
	release_dentry_name_snapshot(&name);
	return length;
}

__bpf_kfunc_start_defs();

/**
 * boesfs_ctx_string - A string of the operation that is judged.
 * @ctx: what the callback was given
 * @which: enum boesfs_string; label() has only BOESFS_STRING_NAME
 * @buf: where it goes, with a final NUL
 * @buf__sz: bytes there; a path needs up to PATH_MAX
 *
 * Return: its length; -ENODATA: this operation has no such string; -ENAMETOOLONG: it does not fit;
 * -EINVAL: no such string.
 */
__bpf_kfunc int boesfs_ctx_string(struct boesfs_ctx *ctx, u32 which, char *buf, u32 buf__sz)
{
	struct boesfs_call *call = container_of(ctx, struct boesfs_call, ctx);

	switch (which) {
	case BOESFS_STRING_NAME:
		if (call->name)
			return copy_string(call->name->name, buf, buf__sz);
		return copy_name(call->dentry, buf, buf__sz);
	case BOESFS_STRING_PATH:
		return call->dentry ? sandbox_path(call->dentry, buf, buf__sz) : -ENODATA;
	case BOESFS_STRING_OTHER_PATH:
		return call->other ? sandbox_path(call->other, buf, buf__sz) : -ENODATA;
	case BOESFS_STRING_XATTR:
		return copy_string(ctx->op == BOESFS_OP_SYMLINK ? NULL : call->string, buf,
				   buf__sz);
	case BOESFS_STRING_TARGET:
		return copy_string(ctx->op == BOESFS_OP_SYMLINK ? call->string : NULL, buf,
				   buf__sz);
	}
	return -EINVAL;
}

/**
 * boesfs_name_key - In label(): a piece of the name, as a key for a map without copying it.
 * @ctx: what label() was given
 * @label: the label that goes into the key
 * @chunk: which piece, from 0
 * @rdwr_buf_size: BOESFS_KEY_SIZE
 *
 * Return: a struct boesfs_key, valid until the next call; NULL: not in label(), or the name has no
 * such piece.
 */
__bpf_kfunc char *boesfs_name_key(struct boesfs_ctx *ctx, u32 label, u32 chunk,
				  const int rdwr_buf_size)
{
	struct boesfs_call *call = container_of(ctx, struct boesfs_call, ctx);
	const struct qstr *name = call->name;
	u32 from = chunk * BOESFS_KEY_NAME;
	struct boesfs_key *key;

	if (!name || chunk > NAME_MAX / BOESFS_KEY_NAME || from >= name->len ||
	    rdwr_buf_size > BOESFS_KEY_SIZE)
		return NULL;
	key = &container_of(call, struct boesfs_naming, call)->key;
	key->label = label;
	key->chunk = chunk;
	key->length = name->len;
	memset(key->name, 0, sizeof(key->name));
	memcpy(key->name, name->name + from, min_t(u32, name->len - from, sizeof(key->name)));
	return (char *)key;
}

/**
 * boesfs_ctx_program - Which program the caller runs.
 * @ctx: what check() was given
 * @id: where it goes
 *
 * The answer does not follow from the object, so whoever decides by it sets BOESFS_NOCACHE.
 *
 * Return: 0; -ENOENT: the caller is a kernel thread, or has just exited.
 */
__bpf_kfunc int boesfs_ctx_program(struct boesfs_ctx *ctx, struct boesfs_program_id *id)
{
	struct mm_struct *mm = current->mm;
	struct inode *inode;
	struct file *file;

	file = mm ? get_file_rcu(&mm->exe_file) : NULL;
	if (!file)
		return -ENOENT;
	inode = file_inode(file);
	while (inode->i_sb->s_type == &boesfs_type)
		inode = boesfs_lower_inode(inode);
	id->ino = inode->i_ino;
	id->dev = inode->i_sb->s_dev;
	id->generation = inode->i_generation;
	fput(file);
	return 0;
}

__bpf_kfunc_end_defs();

BTF_KFUNCS_START(boesfs_ctx_kfuncs)
BTF_ID_FLAGS(func, boesfs_ctx_string, KF_TRUSTED_ARGS)
BTF_ID_FLAGS(func, boesfs_name_key, KF_TRUSTED_ARGS | KF_RET_NULL)
BTF_ID_FLAGS(func, boesfs_ctx_program, KF_TRUSTED_ARGS)
BTF_KFUNCS_END(boesfs_ctx_kfuncs)

static const struct btf_kfunc_id_set ctx_kfunc_set = { .owner = THIS_MODULE,
						       .set = &boesfs_ctx_kfuncs };

int __init boesfs_kfuncs_register(void)
{
	return register_btf_kfunc_id_set(BPF_PROG_TYPE_STRUCT_OPS, &ctx_kfunc_set);
}
