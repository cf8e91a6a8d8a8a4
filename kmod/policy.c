// SPDX-License-Identifier: GPL-2.0-only
/*
 * Programs and policies. A program is a struct_ops of type boesfs_policy_ops, found by its name. A
 * policy is a number of that program's: the mounts that name it share its table and its generation.
 *
 * What judges (program, table, generation) is one object, the epoch, which is exchanged under RCU.
 * An operation takes one epoch for all its labels and its verdict, so none is judged by two
 * policies. There is no wait for those who still use an old epoch: struct_ops maps outlive RCU
 * readers, and whoever began before the exchange may end after it.
 */
#include <linux/bpf.h>
#include <linux/bpf_verifier.h>
#include <linux/btf.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/slab.h>

#include "boesfs.h"
#include "kfuncs.h"

struct boesfs_program {
	struct list_head node; /* in programs */
	struct list_head policies;
	char name[BOESFS_PROGRAM_NAME_MAX];
	const struct boesfs_policy_ops *ops; /* NULL: detached */
	/* whose program it is; compared, never followed without the lock */
	struct bpf_link *link;
};

static LIST_HEAD(programs);
static DEFINE_MUTEX(programs_lock);
/* the module's own; set when the struct_ops is registered */
static struct btf *boesfs_btf;

static struct boesfs_program *program_find(const char *name)
{
	struct boesfs_program *program;

	list_for_each_entry(program, &programs, node)
		if (!strcmp(program->name, name))
			return program;
	return NULL;
}

static struct boesfs_program *program_find_link(const struct bpf_link *link)
{
	struct boesfs_program *program;

	list_for_each_entry(program, &programs, node)
		if (program->link == link)
			return program;
	return NULL;
}

static struct boesfs_program *program_find_ops(const struct boesfs_policy_ops *ops)
{
	struct boesfs_program *program;

	list_for_each_entry(program, &programs, node)
		if (program->ops == ops)
			return program;
	return NULL;
}

/* A program that is detached and has no policy any more is nobody's. */
static void program_free_unused(struct boesfs_program *program)
{
	if (program->ops || !list_empty(&program->policies))
		return;
	list_del(&program->node);
	kfree(program);
}

static struct boesfs_policy *policy_find(struct boesfs_program *program, u32 id)
{
	struct boesfs_policy *policy;

	list_for_each_entry(policy, &program->policies, node)
		if (policy->id == id)
			return policy;
	return NULL;
}

/* From now on OPS and TABLE judge, in a new generation. */
static void policy_publish(struct boesfs_policy *policy, const struct boesfs_policy_ops *ops,
			   u64 table)
{
	struct boesfs_epoch *old =
		rcu_dereference_protected(policy->epoch, lockdep_is_held(&programs_lock));
	struct boesfs_epoch *epoch = kzalloc(sizeof(*epoch), GFP_KERNEL | __GFP_NOFAIL);

	epoch->ops = ops;
	epoch->table = table;
	epoch->generation = policy->generation + 1;
	/* before the epoch: see boesfs_stamp() */
	WRITE_ONCE(policy->generation, epoch->generation);
	rcu_assign_pointer(policy->epoch, epoch);
	if (old)
		kfree_rcu(old, rcu);
}

static u64 policy_table(const struct boesfs_policy *policy)
{
	return rcu_dereference_protected(policy->epoch, lockdep_is_held(&programs_lock))->table;
}

static struct boesfs_policy *policy_create(struct boesfs_program *program, u32 id, u64 table)
{
	struct boesfs_policy *policy = kzalloc(sizeof(*policy), GFP_KERNEL);

	if (!policy)
		return NULL;
	refcount_set(&policy->refs, 1);
	policy->id = id;
	policy->program = program;
	INIT_LIST_HEAD(&policy->mounts);
	policy_publish(policy, program->ops, table);
	list_add(&policy->node, &program->policies);
	return policy;
}

static void policy_put_locked(struct boesfs_policy *policy)
{
	struct boesfs_program *program = policy->program;

	if (!refcount_dec_and_test(&policy->refs))
		return;
	list_del(&policy->node);
	kfree_rcu(rcu_dereference_protected(policy->epoch, lockdep_is_held(&programs_lock)), rcu);
	kfree(policy);
	program_free_unused(program);
}

/**
 * boesfs_policy_get - The policy that a mount names.
 * @name: the program's name, or NULL
 * @link: the program's link, if @name is NULL
 * @id: the policy's number; 0 is the program itself, without a table
 *
 * Return: a reference; -ENOENT: no such program, or it is detached; -ESRCH: it has no such policy.
 */
struct boesfs_policy *boesfs_policy_get(const char *name, struct bpf_link *link, u32 id)
{
	struct boesfs_program *program;
	struct boesfs_policy *policy;

	mutex_lock(&programs_lock);
	program = name ? program_find(name) : program_find_link(link);
	if (!program || !program->ops) {
		policy = ERR_PTR(-ENOENT);
		goto out;
	}
	policy = policy_find(program, id);
	if (policy && (policy->kept || !id)) {
		refcount_inc(&policy->refs);
	} else if (id) {
		policy = ERR_PTR(-ESRCH);
	} else {
		policy = policy_create(program, 0, 0);
		if (!policy)
			policy = ERR_PTR(-ENOMEM);
	}
out:
	mutex_unlock(&programs_lock);
	return policy;
}

void boesfs_policy_put(struct boesfs_policy *policy)
{
	mutex_lock(&programs_lock);
	policy_put_locked(policy);
	mutex_unlock(&programs_lock);
}

const char *boesfs_policy_name(const struct boesfs_policy *policy)
{
	return policy->program->name;
}

void boesfs_policy_add_mount(struct boesfs_policy *policy, struct list_head *node)
{
	mutex_lock(&programs_lock);
	list_add(node, &policy->mounts);
	mutex_unlock(&programs_lock);
}

void boesfs_policy_remove_mount(struct list_head *node)
{
	mutex_lock(&programs_lock);
	list_del_init(node);
	mutex_unlock(&programs_lock);
}

/* ------------------------------------------------------------- the loader's calls */

static struct boesfs_mounts *hold_mounts(struct boesfs_policy *policy)
{
	unsigned int count = list_count_nodes(&policy->mounts), next = 0;
	struct boesfs_mounts *held;
	const struct boesfs_sb *sbi;

	held = kvzalloc(struct_size(held, lower, count), GFP_KERNEL);
	if (!held)
		return NULL;
	held->count = count;
	list_for_each_entry(sbi, &policy->mounts, policy_node)
		held->lower[next++] = mntget(sbi->lower); /* NULL: is being mounted */
	return held;
}

static void release_mounts(struct boesfs_mounts *held)
{
	unsigned int i;

	for (i = 0; i < held->count; i++)
		mntput(held->lower[i]);
	kvfree(held);
}

static bool is_name(const char *name, u32 size)
{
	return size == BOESFS_PROGRAM_NAME_MAX && name[0] && strnlen(name, size) < size;
}

__bpf_kfunc_start_defs();

/**
 * boesfs_policy_replace - Give a policy another table; the policy is made if there is none of this
 * number.
 * @name: the program's name, padded with NULs
 * @name__sz: BOESFS_PROGRAM_NAME_MAX
 * @id: the policy's number, from 1
 * @table: what ctx->table says from now on
 * @flags: enum boesfs_replace_flag
 *
 * This is the call that begins a new generation of one policy; those of others stay as they are.
 * When it returns, every new operation is judged by the new table, on open files too; those that
 * are under way end as they began.
 *
 * Return: 0; -EINVAL: bad name, number or flag; -ENOENT: no such program; -ENOMEM: nothing was
 * replaced; -EINTR: it was, but not everybody who has files mapped was found.
 */
__bpf_kfunc int boesfs_policy_replace(const char *name, u32 name__sz, u32 id, u64 table, u32 flags)
{
	struct boesfs_program *program;
	struct boesfs_mounts *mounts = NULL;
	struct boesfs_policy *policy;
	int err = 0;

	if (!is_name(name, name__sz) || !id || flags & ~BOESFS_REPLACE_FLAGS)
		return -EINVAL;
	mutex_lock(&programs_lock);
	program = program_find(name);
	if (!program || !program->ops) {
		err = -ENOENT;
		goto out;
	}
	policy = policy_find(program, id);
	if (!policy) {
		/* with the reference that is kept */
		policy = policy_create(program, id, table);
		if (!policy) {
			err = -ENOMEM;
			goto out;
		}
	} else {
		if (flags & BOESFS_REPLACE_KILL_MAPPED) {
			mounts = hold_mounts(policy);
			if (!mounts) {
				err = -ENOMEM;
				goto out;
			}
		}
		policy_publish(policy, program->ops, table);
		if (!policy->kept)
			refcount_inc(&policy->refs);
	}
	policy->kept = true;
out:
	mutex_unlock(&programs_lock);
	if (mounts) {
		/* without the lock: it may have to wait for a process that has nothing to do with us */
		err = boesfs_kill_mapped(mounts);
		release_mounts(mounts);
	}
	return err;
}

/**
 * boesfs_policy_forget - The loader needs a policy no more. New mounts cannot name it; on those
 * that exist everything is denied.
 * @name: the program's name, padded with NULs
 * @name__sz: BOESFS_PROGRAM_NAME_MAX
 * @id: the policy's number
 *
 * Return: 0; -EINVAL: bad name; -ENOENT: no such program or policy.
 */
__bpf_kfunc int boesfs_policy_forget(const char *name, u32 name__sz, u32 id)
{
	struct boesfs_program *program;
	struct boesfs_policy *policy;
	int err = -ENOENT;

	if (!is_name(name, name__sz))
		return -EINVAL;
	mutex_lock(&programs_lock);
	program = program_find(name);
	policy = program ? policy_find(program, id) : NULL;
	if (policy && policy->kept) {
		policy->kept = false;
		policy_publish(policy, NULL, 0);
		policy_put_locked(policy);
		err = 0;
	}
	mutex_unlock(&programs_lock);
	return err;
}

__bpf_kfunc_end_defs();

BTF_KFUNCS_START(boesfs_loader_kfuncs)
BTF_ID_FLAGS(func, boesfs_policy_replace, KF_SLEEPABLE)
BTF_ID_FLAGS(func, boesfs_policy_forget, KF_SLEEPABLE)
BTF_KFUNCS_END(boesfs_loader_kfuncs)

static const struct btf_kfunc_id_set loader_kfunc_set = { .owner = THIS_MODULE,
							  .set = &boesfs_loader_kfuncs };

/* ------------------------------------------------------------- the struct_ops type */

static int ops_init(struct btf *btf)
{
	BTF_TYPE_EMIT_ENUM(BOESFS_ABI_MAJOR);
	BTF_TYPE_EMIT_ENUM(BOESFS_KEY_SIZE);
	BTF_TYPE_EMIT_ENUM(BOESFS_OP_NR);
	BTF_TYPE_EMIT_ENUM(BOESFS_ATTR_MODE);
	BTF_TYPE_EMIT_ENUM(BOESFS_KILL);
	BTF_TYPE_EMIT_ENUM(BOESFS_CACHE);
	BTF_TYPE_EMIT_ENUM(BOESFS_REPLACE_KILL_MAPPED);
	BTF_TYPE_EMIT_ENUM(BOESFS_STRING_PATH);
	boesfs_btf = btf;
	return 0;
}

static u32 member_offset(const struct btf_type *type, const struct btf_member *member)
{
	return __btf_member_bit_offset(type, member) / 8;
}

static int ops_init_member(const struct btf_type *type, const struct btf_member *member,
			   void *kdata, const void *udata)
{
	const struct boesfs_policy_ops *from = udata;
	struct boesfs_policy_ops *to = kdata;

	switch (member_offset(type, member)) {
	case offsetof(struct boesfs_policy_ops, flags):
		if (from->flags & ~BOESFS_PROGRAM_FLAGS)
			return -EINVAL;
		to->flags = from->flags;
		return 1;
	case offsetof(struct boesfs_policy_ops, name):
		if (!is_name(from->name, sizeof(from->name)) || strpbrk(from->name, ",\\ \t\n"))
			return -EINVAL;
		strscpy(to->name, from->name, sizeof(to->name));
		return 1;
	}
	return 0;
}

static int ops_check_member(const struct btf_type *type, const struct btf_member *member,
			    const struct bpf_prog *prog)
{
	return prog->sleepable ? -EINVAL : 0; /* called under RCU */
}

static int ops_validate(void *kdata)
{
	const struct boesfs_policy_ops *ops = kdata;

	return ops->check ? 0 : -EINVAL;
}

int boesfs_program_attach(const struct boesfs_policy_ops *ops, struct bpf_link *link)
{
	struct boesfs_program *program;
	struct boesfs_policy *policy;
	int err = 0;

	if (!link && BOESFS_LINKS_ARE_TOLD) /* there would be no replacing and no policy_fd= */
		return -EOPNOTSUPP;
	mutex_lock(&programs_lock);
	program = program_find(ops->name);
	if (program && program->ops) {
		err = -EEXIST;
		goto out;
	}
	if (!program) {
		program = kzalloc(sizeof(*program), GFP_KERNEL);
		if (!program) {
			err = -ENOMEM;
			goto out;
		}
		strscpy(program->name, ops->name, sizeof(program->name));
		INIT_LIST_HEAD(&program->policies);
		list_add(&program->node, &programs);
	}
	program->ops = ops;
	program->link = link;
	/* Policies with a table belonged to the program before this one, and so did its tables. */
	policy = policy_find(program, 0);
	if (policy)
		policy_publish(policy, ops, 0);
out:
	mutex_unlock(&programs_lock);
	return err;
}

void boesfs_program_detach(const struct boesfs_policy_ops *ops)
{
	struct boesfs_policy *policy, *next;
	struct boesfs_program *program;

	mutex_lock(&programs_lock);
	program = program_find_ops(ops);
	if (program) {
		list_for_each_entry_safe(policy, next, &program->policies, node) {
			policy_publish(policy, NULL, 0);
			if (policy->kept) {
				policy->kept = false;
				policy_put_locked(policy);
			}
		}
		program->ops = NULL;
		program->link = NULL;
		program_free_unused(program);
	}
	mutex_unlock(&programs_lock);
}

int boesfs_program_update(const struct boesfs_policy_ops *ops, const struct boesfs_policy_ops *old)
{
	struct boesfs_program *program;
	struct boesfs_policy *policy;
	int err = -ENOENT;

	mutex_lock(&programs_lock);
	program = program_find_ops(old);
	if (program && strcmp(program->name, ops->name)) {
		err = -EINVAL;
	} else if (program) {
		program->ops = ops;
		list_for_each_entry(policy, &program->policies, node)
			if (!policy->id || policy->kept)
				policy_publish(policy, ops, policy_table(policy));
		err = 0;
	}
	mutex_unlock(&programs_lock);
	return err;
}

static bool ops_is_valid_access(int off, int size, enum bpf_access_type type,
				const struct bpf_prog *prog, struct bpf_insn_access_aux *info)
{
	return bpf_tracing_btf_ctx_access(off, size, type, prog, info);
}

static int ops_btf_struct_access(struct bpf_verifier_log *log, const struct bpf_reg_state *reg,
				 int off, int size)
{
	const struct btf_type *type = btf_type_by_id(reg->btf, reg->btf_id);

	/* such as one from a map: the call that it belonged to is over */
	if (!(reg->type & PTR_TRUSTED)) {
		bpf_log(log, "boesfs: only the context that the program was given is writable\n");
		return -EACCES;
	}
	if (reg->btf == boesfs_btf && type && type->size == sizeof(struct boesfs_ctx)) {
		if (off == offsetof(struct boesfs_ctx, flags) &&
		    size == sizeof_field(struct boesfs_ctx, flags))
			return 0;
		if (off == offsetof(struct boesfs_ctx, allow) &&
		    size == sizeof_field(struct boesfs_ctx, allow))
			return 0;
	}
	bpf_log(log,
		"boesfs: only boesfs_ctx.flags and .allow are writable, each whole (offset %d, size %d)\n",
		off, size);
	return -EACCES;
}

static const struct bpf_verifier_ops ops_verifier_ops = {
	.get_func_proto = bpf_base_func_proto,
	.is_valid_access = ops_is_valid_access,
	.btf_struct_access = ops_btf_struct_access,
};

static int boesfs_label_stub(struct boesfs_ctx *ctx)
{
	return 0;
}

static int boesfs_check_stub(struct boesfs_ctx *ctx)
{
	return -EPERM;
}

static struct boesfs_policy_ops ops_stubs = { .label = boesfs_label_stub,
					      .check = boesfs_check_stub };

static struct bpf_struct_ops boesfs_struct_ops = {
	.verifier_ops = &ops_verifier_ops,
	.init = ops_init,
	.init_member = ops_init_member,
	.check_member = ops_check_member,
	.validate = ops_validate,
	.reg = boesfs_reg,
	.unreg = boesfs_unreg,
	.update = boesfs_update,
	.cfi_stubs = &ops_stubs,
	.name = "boesfs_policy_ops",
	.owner = THIS_MODULE,
};

/* Programs and loaders are built apart from the module: what they know of layouts stays so. */
#define BOESFS_FIELD(type, field, offset) static_assert(offsetof(struct type, field) == (offset))
BOESFS_FIELD(boesfs_ctx, op, 0);
BOESFS_FIELD(boesfs_ctx, access, 4);
BOESFS_FIELD(boesfs_ctx, label, 8);
BOESFS_FIELD(boesfs_ctx, other_label, 12);
BOESFS_FIELD(boesfs_ctx, table, 16);
BOESFS_FIELD(boesfs_ctx, policy_id, 24);
BOESFS_FIELD(boesfs_ctx, mode, 28);
BOESFS_FIELD(boesfs_ctx, instance, 32);
BOESFS_FIELD(boesfs_ctx, generation, 40);
BOESFS_FIELD(boesfs_ctx, ino, 48);
BOESFS_FIELD(boesfs_ctx, dev, 56);
BOESFS_FIELD(boesfs_ctx, uid, 60);
BOESFS_FIELD(boesfs_ctx, gid, 64);
BOESFS_FIELD(boesfs_ctx, pid, 68);
BOESFS_FIELD(boesfs_ctx, tid, 72);
BOESFS_FIELD(boesfs_ctx, flags, 76);
BOESFS_FIELD(boesfs_ctx, arg, 80);
BOESFS_FIELD(boesfs_ctx, allow, 112);
static_assert(sizeof(struct boesfs_ctx) == 120);
BOESFS_FIELD(boesfs_key, label, 0);
BOESFS_FIELD(boesfs_key, chunk, 4);
BOESFS_FIELD(boesfs_key, length, 5);
BOESFS_FIELD(boesfs_key, name, 6);
static_assert(sizeof(struct boesfs_key) == BOESFS_KEY_SIZE);
BOESFS_FIELD(boesfs_program_id, ino, 0);
BOESFS_FIELD(boesfs_program_id, dev, 8);
BOESFS_FIELD(boesfs_program_id, generation, 12);
static_assert(sizeof(struct boesfs_program_id) == 16);
BOESFS_FIELD(boesfs_policy_ops, label, 0);
BOESFS_FIELD(boesfs_policy_ops, check, 8);
BOESFS_FIELD(boesfs_policy_ops, flags, 16);
BOESFS_FIELD(boesfs_policy_ops, name, 20);
static_assert(sizeof(struct boesfs_policy_ops) == 56);
static_assert(BOESFS_OP_NR <= 64); /* a bit for each */

/* There is no unregistering: it goes with the module's BTF. */
int __init boesfs_policy_register(void)
{
	int err;

	err = boesfs_kfuncs_register();
	if (!err)
		err = register_btf_kfunc_id_set(BPF_PROG_TYPE_SYSCALL, &loader_kfunc_set);
	if (!err)
		err = register_bpf_struct_ops(&boesfs_struct_ops, boesfs_policy_ops);
	if (err)
		return err;
	if (!boesfs_btf) { /* registering says nothing of it */
		pr_err("this module was built without BTF, so no policy can be loaded: build it against kernel headers that have a vmlinux file with .BTF\n");
		return -ENOENT;
	}
	return 0;
}
