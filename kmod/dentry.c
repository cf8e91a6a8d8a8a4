// SPDX-License-Identifier: GPL-2.0-only
/*
 * Names. Each dentry holds the lower dentry of the same name. The lower one's sequence count
 * changes with everything that can happen to it behind us (rename, unlink, creation, replacement),
 * so comparing it is the whole of revalidation as long as nothing did.
 */
#include <linux/namei.h>
#include <linux/slab.h>

#include "boesfs.h"

int boesfs_dentry_alloc(struct dentry *dentry, struct dentry *lower)
{
	struct boesfs_dentry *bd = kzalloc(sizeof(*bd), GFP_KERNEL_ACCOUNT);

	if (!bd) {
		dput(lower);
		return -ENOMEM;
	}
	bd->lower = lower;
	bd->lower_seq = BOESFS_NOT_COMPARED;
	dentry->d_fsdata = bd;
	return 0;
}

static void boesfs_d_release(struct dentry *dentry)
{
	struct boesfs_dentry *bd = boesfs_dentry(dentry);

	if (bd) {
		dput(bd->lower);
		kfree_rcu(bd, rcu); /* RCU-walk and find_label() may still look at it */
	}
}

/*
 * Is the lower dentry, to which something happened, still what this dentry stands for? Whatever
 * happens to either happens under its d_lock.
 */
bool boesfs_compare(struct dentry *dentry)
{
	struct boesfs_dentry *bd = boesfs_dentry(dentry);
	struct dentry *lower = bd->lower;
	const struct inode *inode;
	bool same;

	spin_lock(&dentry->d_lock);
	spin_lock_nested(&lower->d_lock, DENTRY_D_LOCK_NESTED);
	inode = d_inode(dentry);
	same = !d_unhashed(lower) &&
	       d_inode(lower) == (inode ? boesfs_lower_inode(inode) : NULL) &&
	       lower->d_parent == boesfs_lower_dentry(dentry->d_parent) &&
	       boesfs_same_name(dentry, lower);
	WRITE_ONCE(bd->lower_seq, same && !boesfs_is_moving(dentry) ? lower->d_seq.seqcount.sequence :
								      BOESFS_NOT_COMPARED);
	spin_unlock(&lower->d_lock);
	spin_unlock(&dentry->d_lock);
	return same;
}

int boesfs_revalidate(struct dentry *dentry, unsigned int flags)
{
	struct boesfs_dentry *bd = boesfs_dentry(dentry);
	struct dentry *lower = bd->lower;
	struct inode *inode;
	enum boesfs_op op;
	int ret;

	if (unlikely(read_seqcount_retry(&lower->d_seq, READ_ONCE(bd->lower_seq)))) {
		if (flags & LOOKUP_RCU)
			return -ECHILD;
		if (!boesfs_compare(dentry) && !boesfs_changing(dentry) &&
		    !boesfs_compare(dentry)) /* perhaps the change was over just now */
			return 0;
	}
	if (unlikely(lower->d_flags & DCACHE_OP_REVALIDATE)) {
		/* the lower filesystem, which may be boesfs as well, has its own say */
		ret = boesfs_call_revalidate(lower, flags);
		if (ret <= 0)
			return ret;
	}
	inode = d_inode_rcu(dentry);
	if (inode && unlikely(boesfs_attr_stale(inode))) {
		if (flags & LOOKUP_RCU)
			return -ECHILD;
		boesfs_copy_attr(inode);
	}
	op = d_is_negative(dentry) ? BOESFS_OP_PROBE : BOESFS_OP_LOOKUP;
	if (likely(boesfs_allowed(dentry, op)))
		return 1;
	if (flags & LOOKUP_RCU)
		return -ECHILD;
	if (flags & (LOOKUP_CREATE | LOOKUP_RENAME_TARGET) && op == BOESFS_OP_PROBE)
		return 1; /* CREATE, MKDIR, RENAME … are asked instead */
	ret = boesfs_check_slow(dentry, op, 0, flags, 0, 0);
	return ret ? ret : 1;
}

const struct dentry_operations boesfs_dentry_ops = {
	.d_revalidate = boesfs_d_revalidate,
	.d_release = boesfs_d_release,
};
