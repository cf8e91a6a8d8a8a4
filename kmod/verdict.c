// SPDX-License-Identifier: GPL-2.0-only
/*
 * Labels and verdicts. A dentry's label follows from its parent's and its name; label and the
 * operations known to be allowed are kept beside the lower dentry, under a stamp: the policy's
 * generation plus the number of directories that were renamed on this mount. Whatever voids them
 * changes the stamp, or is noticed under d_lock before they are stored.
 */
#include <linux/rcupdate.h>
#include <linux/sched.h>

#include "boesfs.h"
#include "kfuncs.h"

/* Operations with two objects: a verdict beside one of them would say too much. */
#define BOESFS_ALWAYS_ASKED (BIT_ULL(BOESFS_OP_LINK) | BIT_ULL(BOESFS_OP_RENAME))

/*
 * Once is not always: their arguments matter too much to be kept unless the program says so in
 * ctx->allow.
 */
#define BOESFS_NOT_KEPT                                                                    \
	(BIT_ULL(BOESFS_OP_SETATTR) | BIT_ULL(BOESFS_OP_IOCTL) | BIT_ULL(BOESFS_OP_LOCK) | \
	 BIT_ULL(BOESFS_OP_ACCESS) | BIT_ULL(BOESFS_OP_SYMLINK))

enum { LABEL_TRIES = 64 }; /* renames that one lookup of a label may meet */

/* What one judgement goes by. */
struct boesfs_view {
	const struct boesfs_sb *sbi;
	const struct boesfs_epoch *epoch;
	u64 stamp;
};

/* Epoch and moves of one time: a sum of terms from two times may be that of another state. */
static void get_view(struct boesfs_view *view)
{
	const struct boesfs_policy *policy = view->sbi->policy;

	do {
		view->epoch = rcu_dereference(policy->epoch);
		/* the moves are read after the epoch */
		smp_rmb();
		view->stamp = boesfs_stamp(view->sbi, view->epoch->generation);
		/* and the epoch once more after the moves */
		smp_rmb();
	} while (unlikely(view->epoch != rcu_access_pointer(policy->epoch)));
}

static bool label_known(const struct dentry *dentry, u64 stamp, u32 *label)
{
	const struct boesfs_dentry *bd = boesfs_dentry(dentry);

	/* pairs with label_store(): the label is read after the stamp */
	if (smp_load_acquire(&bd->stamp) != stamp)
		return false;
	*label = READ_ONCE(bd->label);
	smp_rmb(); /* the label was that of the stamp, if the stamp is still there */
	return READ_ONCE(bd->stamp) == stamp;
}

static bool label_store(struct dentry *dentry, unsigned int seq, u64 stamp, u32 label, u64 allowed)
{
	struct boesfs_dentry *bd = boesfs_dentry(dentry);
	bool stored = false;

	spin_lock(&dentry->d_lock);
	if (dentry->d_seq.seqcount.sequence == seq && !boesfs_is_moving(dentry)) {
		bd->changing = false;
		/* stamps only grow: one that is newer than what was judged by stays */
		if (bd->stamp < stamp) {
			WRITE_ONCE(bd->stamp, 0);
			smp_wmb(); /* see boesfs_allowed() */
			WRITE_ONCE(bd->allowed, allowed);
			WRITE_ONCE(bd->label, label);
			/* pairs with boesfs_allowed() and label_known() */
			smp_store_release(&bd->stamp, stamp);
		}
		stored = bd->stamp == stamp;
	}
	spin_unlock(&dentry->d_lock);
	return stored;
}

/*
 * A name of up to NAME_MAX bytes into BUF, with a final NUL. Under RCU nobody needs to hold the
 * dentry, unlike for a snapshot, which takes a reference of the name.
 */
bool boesfs_read_name(struct dentry *dentry, struct qstr *name, char *buf)
{
	spin_lock(&dentry->d_lock);
	name->hash_len = dentry->d_name.hash_len;
	name->name = buf;
	if (name->len <= NAME_MAX)
		memcpy(buf, dentry->d_name.name, name->len + 1);
	spin_unlock(&dentry->d_lock);
	return name->len <= NAME_MAX;
}

/* *ALLOWED: what the program lets everybody do with what has this name, for it to be kept. */
static int ask_label(const struct boesfs_view *view, u32 parent_label, const struct qstr *name,
		     u64 *allowed)
{
	const struct boesfs_epoch *epoch = view->epoch;
	struct boesfs_naming naming = {
		.call.ctx = {
			.label = parent_label,
			.table = epoch->table,
			.policy_id = view->sbi->policy->id,
			.instance = view->sbi->instance,
			.generation = epoch->generation,
		},
		.call.name = name,
	};
	int label;

	*allowed = 0;
	if (!epoch->ops->label)
		return 0;
	label = epoch->ops->label(&naming.call.ctx);
	if (epoch->ops->flags & BOESFS_CACHE)
		*allowed = naming.call.ctx.allow & ~BOESFS_ALWAYS_ASKED;
	return label < 0 ? -EPERM : label;
}

/* The label of the mount's root: at= is walked from the sandbox's root, which has label 0. */
static int root_label(const struct boesfs_view *view, u64 *allowed)
{
	const char *at = view->sbi->at;
	int label = 0;

	*allowed = 0;
	for (;;) {
		char component[NAME_MAX + 1];
		struct qstr name = { .name = component };

		at += strspn(at, "/");
		name.len = strcspn(at, "/");
		if (!name.len)
			return label;
		/* parse_at() has seen to its length */
		memcpy(component, at, name.len);
		component[name.len] = '\0';
		label = ask_label(view, label, &name, allowed);
		if (label < 0)
			return label;
		at += name.len;
	}
}

/* The ancestor so many generations up. */
static struct dentry *ancestor(struct dentry *dentry, unsigned int up)
{
	while (up--)
		dentry = READ_ONCE(dentry->d_parent);
	return dentry;
}

/*
 * find_label - A dentry's label, asked for from the nearest ancestor that has one down to it.
 *
 * Under RCU no dentry that is met goes away. Nothing recurses: a path may have two thousand
 * components.
 *
 * Return: the label; -EPERM: the program gave none; -EAGAIN: a rename moved what the label follows
 * from. *KEEP: nothing was moving, so what follows from the label may be kept.
 */
static int find_label(const struct boesfs_view *view, struct dentry *dentry, bool *keep)
{
	struct dentry *parent = NULL, *top = dentry;
	unsigned int up = 0;
	u64 allowed;
	u32 known;
	int label;

	*keep = true;
	while (!label_known(top, view->stamp, &known)) {
		if (IS_ROOT(top)) {
			label = root_label(view, &allowed);
			if (label < 0)
				return label;
			label_store(top, top->d_seq.seqcount.sequence, view->stamp, label, allowed);
			known = label;
			break;
		}
		top = READ_ONCE(top->d_parent);
		up++;
	}
	label = known;
	for (parent = top; up; up--) {
		struct dentry *child = ancestor(dentry, up - 1);
		unsigned int seq = raw_read_seqcount(&child->d_seq);
		char buf[NAME_MAX + 1] __uninitialized;
		struct qstr name;

		if (READ_ONCE(child->d_parent) != parent)
			return -EAGAIN;
		if (!boesfs_read_name(child, &name, buf))
			return -EPERM;
		label = ask_label(view, label, &name, &allowed);
		if (label < 0)
			return label;
		if (*keep && !label_store(child, seq, view->stamp, label, allowed))
			*keep = false;
		if (raw_read_seqcount(&child->d_seq) != seq)
			return -EAGAIN;
		parent = child;
	}
	return label;
}

static int find_label_again(struct boesfs_view *view, struct dentry *dentry, bool *keep)
{
	int tries = 0, label;

	do {
		label = find_label(view, dentry, keep);
	} while (label == -EAGAIN && ++tries < LABEL_TRIES);
	return label == -EAGAIN ? -EPERM : label;
}

static void fill_ctx(struct boesfs_call *call, const struct boesfs_view *view, u32 label)
{
	struct inode *inode = d_inode(call->dentry);
	struct boesfs_ctx *ctx = &call->ctx;

	call->name = NULL;
	ctx->label = label;
	ctx->table = view->epoch->table;
	ctx->policy_id = view->sbi->policy->id;
	ctx->instance = view->sbi->instance;
	ctx->generation = view->epoch->generation;
	if (inode) {
		ctx->mode = boesfs_lower_inode(inode)->i_mode;
		ctx->ino = boesfs_lower_inode(inode)->i_ino;
	}
	ctx->dev = view->sbi->lower->mnt_sb->s_dev;
	ctx->uid = from_kuid(&init_user_ns, current_uid());
	ctx->gid = from_kgid(&init_user_ns, current_gid());
	ctx->pid = task_tgid_nr(current);
	ctx->tid = task_pid_nr(current);
	ctx->flags = 0;
	ctx->allow = 0;
}

/*
 * SEQ is from before the label was looked for: a file that moved since may have a label of its new
 * name, and that stamp.
 */
static void keep_allowed(struct dentry *dentry, unsigned int seq, u64 stamp, u64 allowed)
{
	struct boesfs_dentry *bd = boesfs_dentry(dentry);

	spin_lock(&dentry->d_lock);
	if (bd->stamp == stamp && dentry->d_seq.seqcount.sequence == seq)
		WRITE_ONCE(bd->allowed, bd->allowed | allowed);
	spin_unlock(&dentry->d_lock);
}

/* A program may say anything; what is no errno is EPERM. */
static int clamp_verdict(int verdict)
{
	return verdict <= 0 && verdict >= -MAX_ERRNO ? verdict : -EPERM;
}

/**
 * boesfs_judge - Ask the policy about an operation.
 * @call: ctx.op, ctx.access, ctx.arg, dentry, and what else the operation has; the rest is filled
 *	in
 *
 * Return: 0 or -errno.
 */
int boesfs_judge(struct boesfs_call *call)
{
	struct boesfs_view view = { .sbi = boesfs_sb(call->dentry->d_sb) };
	const struct boesfs_policy_ops *ops;
	bool keep, keep_other;
	unsigned int seq;
	u64 allowed = 0;
	int label, verdict;

	if (!view.sbi->policy)
		return 0;
	rcu_read_lock();
	get_view(&view);
	ops = view.epoch->ops;
	verdict = -EPERM;
	if (!ops)
		goto out;
	seq = raw_read_seqcount(&call->dentry->d_seq);
	label = find_label_again(&view, call->dentry, &keep);
	if (label < 0)
		goto out;
	if (boesfs_allowed(call->dentry, call->ctx.op)) { /* label() has said so */
		verdict = 0;
		goto out;
	}
	fill_ctx(call, &view, label);
	if (call->other) {
		label = find_label_again(&view, call->other, &keep_other);
		if (label < 0)
			goto out;
		call->ctx.other_label = label;
	}
	verdict = clamp_verdict(ops->check(&call->ctx));
	if (verdict) {
		if (call->ctx.flags & BOESFS_KILL && !call->possible)
			boesfs_kill_caller();
	} else if (!(call->ctx.flags & BOESFS_NOCACHE)) {
		allowed = BIT_ULL(call->ctx.op) & ~BOESFS_NOT_KEPT;
	}
	allowed = (allowed | call->ctx.allow) & ~BOESFS_ALWAYS_ASKED;
	if (keep && allowed && ops->flags & BOESFS_CACHE)
		keep_allowed(call->dentry, seq, view.stamp, allowed);
out:
	rcu_read_unlock();
	return verdict;
}

noinline int boesfs_check_slow(struct dentry *dentry, enum boesfs_op op, u32 access, u64 arg0,
			       u64 arg1, u64 arg2)
{
	struct boesfs_call call = {
		.ctx = { .op = op, .access = access, .arg = { arg0, arg1, arg2 } },
		.dentry = dentry,
	};

	return boesfs_judge(&call);
}

/**
 * boesfs_generation - Of the policy that judges now.
 *
 * For operations that are judged more than once: if it is the same before and after, one policy
 * has judged them all. A program that denies does so by itself.
 */
u64 boesfs_generation(const struct super_block *sb)
{
	const struct boesfs_policy *policy = boesfs_sb(sb)->policy;
	u64 generation;

	if (!policy)
		return 0;
	rcu_read_lock();
	smp_rmb(); /* what was known to be allowed was read before */
	generation = rcu_dereference(policy->epoch)->generation;
	smp_rmb(); /* and what is going to be, is read after */
	rcu_read_unlock();
	return generation;
}

/*
 * Judge access(2), which comes without a dentry.
 *
 * Of a file with several names on this mount, one that is in use is judged: the answer is advice,
 * as access(2)'s always is.
 */
int boesfs_check_access(struct inode *inode, int mask)
{
	struct dentry *dentry;
	int err;

	if (!boesfs_sb(inode->i_sb)->policy)
		return 0;
	if (mask & MAY_NOT_BLOCK)
		return -ECHILD;
	dentry = d_find_alias(inode);
	if (!dentry) /* it has been unlinked, or never had a name */
		dentry = d_find_any_alias(inode);
	if (!dentry)
		return -EPERM;
	err = boesfs_check(dentry, BOESFS_OP_ACCESS, mask & (MAY_READ | MAY_WRITE | MAY_EXEC), 0, 0,
			   0);
	dput(dentry);
	return err;
}

/*
 * The lower name is going to change by our own doing, and ours soon after: until it does, or
 * boesfs_end_change() says that nothing changed, this dentry is what it was.
 */
void boesfs_begin_change(struct dentry *dentry)
{
	struct boesfs_dentry *bd = boesfs_dentry(dentry);

	spin_lock(&dentry->d_lock);
	bd->changing = true;
	bd->changing_seq = dentry->d_seq.seqcount.sequence;
	spin_unlock(&dentry->d_lock);
}

void boesfs_end_change(struct dentry *dentry)
{
	spin_lock(&dentry->d_lock);
	boesfs_dentry(dentry)->changing = false;
	spin_unlock(&dentry->d_lock);
}

bool boesfs_changing(struct dentry *dentry)
{
	bool changing;

	spin_lock(&dentry->d_lock);
	changing = boesfs_is_changing(dentry);
	spin_unlock(&dentry->d_lock);
	return changing;
}

/* Label and verdicts of this name are void; of a directory's, those of all names below it too. */
static void void_label(struct dentry *dentry)
{
	struct boesfs_sb *sbi = boesfs_sb(dentry->d_sb);

	WRITE_ONCE(boesfs_dentry(dentry)->stamp, 0);
	if (!d_is_dir(dentry))
		return;
	spin_lock(&sbi->moves_lock);
	WRITE_ONCE(sbi->moves, sbi->moves + 1);
	spin_unlock(&sbi->moves_lock);
}

/*
 * The VFS is going to move this dentry: its label is void, and none that follows from its present
 * name is kept.
 */
void boesfs_begin_move(struct dentry *dentry)
{
	boesfs_begin_change(dentry);
	void_label(dentry);
}

/* A directory that was moved behind us has been found, and its dentry is going to be moved. */
void boesfs_begin_splice(struct dentry *dentry)
{
	spin_lock(&dentry->d_lock);
	boesfs_dentry(dentry)->splicing = true;
	WRITE_ONCE(boesfs_dentry(dentry)->lower_seq, BOESFS_NOT_COMPARED);
	spin_unlock(&dentry->d_lock);
	void_label(dentry);
}

void boesfs_end_splice(struct dentry *dentry)
{
	spin_lock(&dentry->d_lock);
	boesfs_dentry(dentry)->splicing = false;
	spin_unlock(&dentry->d_lock);
}
