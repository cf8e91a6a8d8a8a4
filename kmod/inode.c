// SPDX-License-Identifier: GPL-2.0-only
/*
 * Inodes: names made, moved and removed in the lower tree, and attributes. The caller's credentials
 * are used throughout; the lower filesystem decides about permissions as if it had been asked
 * directly, and the policy can only take away.
 */
#include <linux/mount.h>
#include <linux/namei.h>
#include <linux/posix_acl.h>
#include <linux/security.h>
#include <linux/slab.h>

#include "boesfs.h"

/* The VFS decides by these before we are asked; the lower filesystem keeps the others. */
#define BOESFS_COPIED_FLAGS (S_APPEND | S_IMMUTABLE)

static const struct inode_operations boesfs_dir_inode_ops, boesfs_file_inode_ops,
	boesfs_link_inode_ops;

/* ------------------------------------------------------------- attributes */

/* Set-id bits that nobody may run with are not shown to the VFS. */
static umode_t mode_of(const struct inode *lower, const struct vfsmount *mnt)
{
	umode_t mode = READ_ONCE(lower->i_mode);

	return mnt->mnt_flags & MNT_NOSUID && !S_ISDIR(mode) ? mode & ~(S_ISUID | S_ISGID) : mode;
}

/* Owner and group as the lower mount shows them: those of the lower file, unless it is idmapped. */
static kuid_t uid_of(const struct inode *lower, struct mnt_idmap *idmap)
{
	if (likely(idmap == &nop_mnt_idmap))
		return lower->i_uid;
	return vfsuid_into_kuid(i_uid_into_vfsuid(idmap, lower));
}

static kgid_t gid_of(const struct inode *lower, struct mnt_idmap *idmap)
{
	if (likely(idmap == &nop_mnt_idmap))
		return lower->i_gid;
	return vfsgid_into_kgid(i_gid_into_vfsgid(idmap, lower));
}

/* Did anything that the VFS decides by change behind us? */
bool boesfs_attr_stale(const struct inode *inode)
{
	const struct inode *lower = boesfs_lower_inode(inode);
	struct mnt_idmap *idmap = boesfs_lower_idmap(inode->i_sb);

	return READ_ONCE(inode->i_mode) != mode_of(lower, boesfs_sb(inode->i_sb)->lower) ||
	       (lower->i_flags ^ inode->i_flags) & BOESFS_COPIED_FLAGS ||
	       !uid_eq(uid_of(lower, idmap), inode->i_uid) ||
	       !gid_eq(gid_of(lower, idmap), inode->i_gid);
}

/*
 * What the VFS looks at before it asks us follows the lower inode.
 *
 * On a nosuid lower mount there are no set-id bits to run with.
 */
void boesfs_copy_attr(struct inode *inode)
{
	struct inode *lower = boesfs_lower_inode(inode);
	struct mnt_idmap *idmap = boesfs_lower_idmap(inode->i_sb);
	umode_t mode = mode_of(lower, boesfs_sb(inode->i_sb)->lower);
	loff_t size;

	if (unlikely((lower->i_flags ^ inode->i_flags) & BOESFS_COPIED_FLAGS || !IS_NOSEC(inode)))
		inode_set_flags(inode, (lower->i_flags & BOESFS_COPIED_FLAGS) | S_NOSEC,
				BOESFS_COPIED_FLAGS | S_NOSEC);
	WRITE_ONCE(inode->i_mode, mode);
	inode->i_uid = uid_of(lower, idmap);
	inode->i_gid = gid_of(lower, idmap);
	inode_set_atime_to_ts(inode, inode_get_atime(lower));
	inode_set_mtime_to_ts(inode, inode_get_mtime(lower));
	inode_set_ctime_to_ts(inode, inode_get_ctime(lower));
	if (unlikely(inode->i_nlink != lower->i_nlink)) {
		/* the superblock's count of unlinked inodes has to be right */
		spin_lock(&inode->i_lock);
		if (inode->i_nlink != lower->i_nlink)
			set_nlink(inode, lower->i_nlink);
		spin_unlock(&inode->i_lock);
	}
	do { /* nobody who writes meanwhile leaves an older size behind */
		size = i_size_read(lower);
		i_size_write(inode, size);
		/* the size is looked at again after ours is there to be seen */
		smp_mb();
	} while (unlikely(i_size_read(lower) != size));
}

static int boesfs_test(struct inode *inode, void *lower)
{
	return boesfs_lower_inode(inode) == lower;
}

static int boesfs_set(struct inode *inode, void *lower)
{
	ihold(lower);
	boesfs_inode(inode)->lower = lower;
	return 0;
}

/*
 * A lock class per depth: an inode of boesfs on boesfs is locked while the upper one's lock is
 * held.
 */
static void set_lock_classes(struct inode *inode)
{
#ifdef CONFIG_LOCKDEP
	static struct lock_class_key mutex_keys[FILESYSTEM_MAX_STACK_DEPTH];
	static struct lock_class_key dir_keys[FILESYSTEM_MAX_STACK_DEPTH];
	int depth = inode->i_sb->s_stack_depth - 1;

	if (S_ISDIR(inode->i_mode))
		lockdep_set_class(&inode->i_rwsem, &dir_keys[depth]);
	else
		lockdep_set_class(&inode->i_rwsem, &mutex_keys[depth]);
#endif
}

/*
 * The inode that stands for LOWER, of which the caller has a reference, on this superblock.
 *
 * Return: a reference; -ENOMEM; -EREMOTE: boesfs cannot carry such a file.
 */
struct inode *boesfs_iget(struct super_block *sb, struct inode *lower)
{
	struct inode *new, *inode;

	if (lower->i_flags & S_AUTOMOUNT)
		return ERR_PTR(-EREMOTE);
	/* nearly always there is none yet, so nobody looks for it first */
	new = new_inode(sb);
	if (!new)
		return ERR_PTR(-ENOMEM);
	inode = inode_insert5(new, (unsigned long)lower, boesfs_test, boesfs_set, lower);
	if (inode != new)
		iput(new);
	if (!(boesfs_inode_state(inode) & I_NEW))
		return inode;
	inode->i_ino = lower->i_ino;
	inode->i_generation = lower->i_generation;
	inode->i_blkbits = lower->i_blkbits;
	/*
	 * The lower inode has the times, and loses its set-id bits and capabilities when the lower
	 * file is written.
	 */
	inode->i_flags |= S_NOATIME | S_NOCMTIME | S_NOSEC;
	inode->i_acl = inode->i_default_acl = ACL_DONT_CACHE;
	boesfs_copy_attr(inode);
	set_lock_classes(inode);
	switch (inode->i_mode & S_IFMT) {
	case S_IFDIR:
		inode->i_op = &boesfs_dir_inode_ops;
		inode->i_fop = &boesfs_dir_ops;
		break;
	case S_IFLNK:
		inode->i_op = &boesfs_link_inode_ops;
		break;
	case S_IFREG:
		inode->i_op = &boesfs_file_inode_ops;
		inode->i_fop = &boesfs_file_ops;
		break;
	default:
		inode->i_op = &boesfs_file_inode_ops;
		init_special_inode(inode, inode->i_mode, lower->i_rdev);
		boesfs_inode(inode)->special = inode->i_fop;
		inode->i_fop = &boesfs_special_ops;
	}
	unlock_new_inode(inode);
	return inode;
}

static int boesfs_permission(struct mnt_idmap *idmap, struct inode *inode, int mask)
{
	struct inode *lower = boesfs_lower_inode(inode);
	int err;

	if (mask & MAY_WRITE && unlikely((lower->i_flags ^ inode->i_flags) & BOESFS_COPIED_FLAGS))
		inode_set_flags(inode, lower->i_flags & BOESFS_COPIED_FLAGS, BOESFS_COPIED_FLAGS);
	if (unlikely(mask & MAY_ACCESS)) {
		err = boesfs_check_access(inode, mask);
		if (err)
			return err;
	}
	return inode_permission(boesfs_lower_idmap(inode->i_sb), lower, mask);
}

static int boesfs_getattr(struct mnt_idmap *idmap, const struct path *path, struct kstat *stat,
			  u32 request, unsigned int flags)
{
	struct dentry *dentry = path->dentry;
	struct path lower_path = boesfs_lower_path(dentry);
	struct inode *lower = d_inode(lower_path.dentry);
	struct mnt_idmap *lower_idmap = boesfs_lower_idmap(dentry->d_sb);
	int err = boesfs_check(dentry, BOESFS_OP_GETATTR, 0, 0, 0, 0);

	if (err)
		return err;
	/*
	 * vfs_getattr_nosec() has prepared *stat for ours; what it would say of the lower inode
	 * itself is said here and by the superblock's flags.
	 */
	if (lower->i_op->getattr)
		err = lower->i_op->getattr(lower_idmap, &lower_path, stat, request, flags);
	else
		generic_fillattr(lower_idmap, request, lower, stat);
	if (err)
		return err;
	if (IS_DAX(lower))
		stat->attributes |= STATX_ATTR_DAX;
	stat->dev = dentry->d_sb->s_dev;
	if (unlikely(i_size_read(d_inode(dentry)) != stat->size))
		boesfs_copy_attr(d_inode(dentry));
	return 0;
}

static u32 attr_access(const struct iattr *attr)
{
	u32 access = 0;

	/* also if chown() drops set-id bits that are there */
	if (attr->ia_valid & ATTR_MODE)
		access |= BOESFS_ATTR_MODE;
	if (attr->ia_valid & ATTR_UID)
		access |= BOESFS_ATTR_UID;
	if (attr->ia_valid & ATTR_GID)
		access |= BOESFS_ATTR_GID;
	if (attr->ia_valid & ATTR_SIZE)
		access |= BOESFS_ATTR_SIZE;
	if (attr->ia_valid & ATTR_ATIME)
		access |= BOESFS_ATTR_ATIME;
	if (attr->ia_valid & ATTR_MTIME)
		access |= BOESFS_ATTR_MTIME;
	return access;
}

static noinline int ask_setattr(struct dentry *dentry, const struct iattr *attr)
{
	struct boesfs_call call = {
		.ctx = { .op = BOESFS_OP_SETATTR, .access = attr_access(attr) },
		.dentry = dentry,
	};
	const struct inode *inode = d_inode(dentry);

	if (!call.ctx.access) {
		/*
		 * Dropping set-id bits and capabilities after a write is the kernel's doing, and no
		 * request. chown(2) to nobody in particular is one: it drops them too.
		 */
		if (attr->ia_valid & ATTR_FORCE)
			return 0;
		call.ctx.access = BOESFS_ATTR_UID | BOESFS_ATTR_GID;
		call.ctx.arg[1] = from_kuid(&init_user_ns, inode->i_uid);
		call.ctx.arg[2] = from_kgid(&init_user_ns, inode->i_gid);
	}
	if (attr->ia_valid & ATTR_MODE)
		call.ctx.arg[0] = attr->ia_mode & S_IALLUGO;
	if (attr->ia_valid & ATTR_UID)
		call.ctx.arg[1] = from_kuid(&init_user_ns, vfsuid_into_kuid(attr->ia_vfsuid));
	if (attr->ia_valid & ATTR_GID)
		call.ctx.arg[2] = from_kgid(&init_user_ns, vfsgid_into_kgid(attr->ia_vfsgid));
	if (attr->ia_valid & ATTR_SIZE)
		call.ctx.arg[3] = attr->ia_size;
	return boesfs_judge(&call);
}

static int check_setattr(struct dentry *dentry, const struct iattr *attr)
{
	return boesfs_allowed(dentry, BOESFS_OP_SETATTR) ? 0 : ask_setattr(dentry, attr);
}

/*
 * What a chown or a truncation takes along is the lower file's: our inodes have S_NOSEC, so the VFS
 * looks for nothing on a truncation, and what it finds on a chown depends on whether GETXATTR is
 * allowed.
 */
static void drop_privileges(struct dentry *dentry, struct iattr *below)
{
	struct inode *lower = d_inode(boesfs_lower_dentry(dentry));
	int drop = 0;

	if (S_ISDIR(lower->i_mode) || !(below->ia_valid & (ATTR_SIZE | ATTR_UID | ATTR_GID |
							   ATTR_KILL_SUID | ATTR_KILL_SGID)))
		return;
	if (below->ia_valid & ATTR_SIZE)
		drop = setattr_should_drop_suidgid(boesfs_lower_idmap(dentry->d_sb), lower);
	below->ia_valid |= ATTR_KILL_PRIV | drop;
	if (drop && !(below->ia_valid & (ATTR_MODE | ATTR_UID | ATTR_GID)))
		/* as in do_truncate(): whoever may write, not the owner alone */
		below->ia_valid |= ATTR_FORCE;
}

static int boesfs_setattr(struct mnt_idmap *idmap, struct dentry *dentry, struct iattr *attr)
{
	struct dentry *lower = boesfs_lower_dentry(dentry);
	struct vfsmount *mnt = boesfs_sb(dentry->d_sb)->lower;
	struct iattr below = *attr;
	int err = check_setattr(dentry, attr);

	inode_set_flags(d_inode(dentry), S_NOSEC, S_NOSEC); /* notify_change() took it */
	if (err)
		return err;
	below.ia_valid &= ~ATTR_OPEN;
	if (below.ia_valid & ATTR_FILE)
		below.ia_file = attr->ia_file->private_data;
	drop_privileges(dentry, &below);
	if (below.ia_valid & (ATTR_KILL_SUID | ATTR_KILL_SGID))
		below.ia_valid &= ~ATTR_MODE; /* notify_change() makes it from them again */
	if (below.ia_valid & ATTR_SIZE) {
		if (IS_APPEND(d_inode(lower))) /* ftruncate(2) looked at our flag alone */
			return -EPERM;
		err = get_write_access(d_inode(lower)); /* no file that is being executed */
		if (err)
			return err;
	}
	err = mnt_want_write(mnt);
	if (!err) {
		inode_lock(d_inode(lower));
		err = notify_change(boesfs_lower_idmap(dentry->d_sb), lower, &below, NULL);
		inode_unlock(d_inode(lower));
		mnt_drop_write(mnt);
	}
	if (below.ia_valid & ATTR_SIZE)
		put_write_access(d_inode(lower));
	boesfs_copy_attr(d_inode(dentry));
	return err;
}

static int boesfs_fileattr_get(struct dentry *dentry, struct boesfs_fileattr *attr)
{
	int err = boesfs_check(dentry, BOESFS_OP_GETATTR, 0, 0, 0, 0);

	return err ? err : vfs_fileattr_get(boesfs_lower_dentry(dentry), attr);
}

static int boesfs_fileattr_set(struct mnt_idmap *idmap, struct dentry *dentry,
			       struct boesfs_fileattr *attr)
{
	struct vfsmount *mnt = boesfs_sb(dentry->d_sb)->lower;
	int err = boesfs_check(dentry, BOESFS_OP_SETATTR, BOESFS_ATTR_FLAGS, 0, 0, 0);

	if (err)
		return err;
	err = mnt_want_write(mnt);
	if (err)
		return err;
	err = vfs_fileattr_set(boesfs_lower_idmap(dentry->d_sb), boesfs_lower_dentry(dentry), attr);
	mnt_drop_write(mnt);
	boesfs_copy_attr(d_inode(dentry));
	return err;
}

/* ------------------------------------------------------------- names */

/* A directory that was moved in the lower tree takes its dentry along, but no label. */
static struct dentry *splice_dir(struct inode *inode, struct dentry *dentry)
{
	struct dentry *alias, *found;

	ihold(inode); /* d_splice_alias() takes ours */
	mutex_lock(&boesfs_inode(inode)->aliasing);
	alias = d_find_any_alias(inode);
	if (alias)
		boesfs_begin_splice(alias);
	found = d_splice_alias(inode, dentry);
	if (alias)
		boesfs_end_splice(alias);
	mutex_unlock(&boesfs_inode(inode)->aliasing);
	dput(alias);
	iput(inode);
	return found;
}

static struct dentry *boesfs_lookup(struct inode *dir, struct dentry *dentry, unsigned int flags)
{
	struct dentry *parent = boesfs_lower_dentry(dentry->d_parent), *lower, *found;
	struct inode *inode = NULL;
	int err;

	if (dentry->d_name.len > NAME_MAX)
		return ERR_PTR(-ENAMETOOLONG);
	lower = boesfs_lookup_lower(boesfs_lower_idmap(dir->i_sb), &dentry->d_name, parent);
	if (IS_ERR(lower))
		return lower;
	/* Names that are equal to the lower filesystem alone would have labels of their own. */
	if (lower->d_flags &
	    (DCACHE_OP_HASH | DCACHE_OP_COMPARE | DCACHE_NEED_AUTOMOUNT | DCACHE_MANAGE_TRANSIT)) {
		dput(lower);
		return ERR_PTR(-EREMOTE);
	}
	err = boesfs_dentry_alloc(dentry, lower);
	if (err)
		return ERR_PTR(err);
	if (d_is_positive(lower)) {
		inode = boesfs_iget(dir->i_sb, d_inode(lower));
		if (IS_ERR(inode))
			return ERR_CAST(inode);
	}
	if (inode && S_ISDIR(inode->i_mode))
		found = splice_dir(inode, dentry);
	else
		found = d_splice_alias(inode, dentry);
	if (IS_ERR(found))
		return found;
	boesfs_compare(found ? found : dentry); /* if it is another already, the next walk says so */
	if (inode)
		err = boesfs_check(found ? found : dentry, BOESFS_OP_LOOKUP, 0, flags, 0, 0);
	else if (!(flags & (LOOKUP_CREATE | LOOKUP_RENAME_TARGET)))
		err = boesfs_check(dentry, BOESFS_OP_PROBE, 0, flags, 0, 0);
	if (err) {
		dput(found);
		return ERR_PTR(err);
	}
	return found;
}

/*
 * Lock the lower directory that holds the lower dentry of DENTRY. -ESTALE: it was moved, renamed or
 * removed behind us.
 */
static struct dentry *lock_lower_parent(struct dentry *dentry)
{
	struct dentry *lower = boesfs_lower_dentry(dentry),
		      *parent = boesfs_lower_dentry(dentry->d_parent);

	inode_lock_nested(d_inode(parent), I_MUTEX_PARENT);
	if (lower->d_parent == parent && !d_unhashed(lower) && boesfs_same_name(dentry, lower))
		return parent;
	inode_unlock(d_inode(parent));
	return ERR_PTR(-ESTALE);
}

static void unlock_lower_parent(struct dentry *parent)
{
	inode_unlock(d_inode(parent));
}

/* False: a directory that was just made has been moved to and fro, and found: it has its dentry. */
static bool instantiate_dir(struct dentry *dentry, struct inode *inode)
{
	struct dentry *alias;

	mutex_lock(&boesfs_inode(inode)->aliasing);
	alias = d_find_any_alias(inode);
	if (!alias)
		d_instantiate(dentry, inode);
	mutex_unlock(&boesfs_inode(inode)->aliasing);
	dput(alias);
	return !alias;
}

/*
 * The lower dentry has become positive: so does ours. With the lower directory locked nobody removes
 * it before; who does so later removes what was made. OTHER: the inode that it is one more name of,
 * or NULL.
 */
static int instantiate(struct inode *dir, struct dentry *dentry, struct inode *other)
{
	struct boesfs_dentry *bd = boesfs_dentry(dentry);
	struct inode *inode;

	boesfs_copy_attr(dir);
	if (d_is_negative(bd->lower) || d_unhashed(bd->lower)) {
		/* the lower filesystem took another dentry; the next lookup finds it */
		d_drop(dentry);
		return 0;
	}
	if (other && boesfs_lower_inode(other) == d_inode(bd->lower)) {
		ihold(other);
		inode = other;
	} else {
		inode = boesfs_iget(dir->i_sb, d_inode(bd->lower));
		if (IS_ERR(inode))
			return PTR_ERR(inode);
	}
	WRITE_ONCE(bd->lower_seq, BOESFS_NOT_COMPARED);
	if (!S_ISDIR(inode->i_mode)) {
		d_instantiate(dentry, inode);
	} else if (!instantiate_dir(dentry, inode)) {
		iput(inode);
		d_drop(dentry);
		return 0;
	}
	boesfs_compare(dentry);
	return 0;
}

enum boesfs_kind { MAKE_FILE, MAKE_NODE, MAKE_SYMLINK };

static int make(struct inode *dir, struct dentry *dentry, enum boesfs_kind kind, umode_t mode,
		dev_t dev, const char *target)
{
	struct mnt_idmap *idmap = boesfs_lower_idmap(dir->i_sb);
	struct vfsmount *mnt = boesfs_sb(dir->i_sb)->lower;
	struct dentry *lower = boesfs_lower_dentry(dentry), *parent;
	int err = mnt_want_write(mnt);

	if (err)
		return err;
	parent = lock_lower_parent(dentry);
	if (IS_ERR(parent)) {
		err = PTR_ERR(parent);
		goto out;
	}
	/* made behind us: it is to be opened, and only with O_EXCL EEXIST; the VFS tries again */
	if (d_is_positive(lower)) {
		err = -ESTALE;
		unlock_lower_parent(parent);
		goto out;
	}
	boesfs_begin_change(dentry);
	switch (kind) {
	case MAKE_FILE:
		err = boesfs_vfs_create(idmap, d_inode(parent), lower, mode);
		break;
	case MAKE_NODE:
		err = boesfs_vfs_mknod(idmap, d_inode(parent), lower, mode, dev);
		break;
	case MAKE_SYMLINK:
		err = boesfs_vfs_symlink(idmap, d_inode(parent), lower, target);
		break;
	}
	if (!err)
		err = instantiate(dir, dentry, NULL);
	boesfs_end_change(dentry);
	unlock_lower_parent(parent);
out:
	mnt_drop_write(mnt);
	return err;
}

int boesfs_make_file(struct inode *dir, struct dentry *dentry, umode_t mode)
{
	int err = boesfs_check(dentry, BOESFS_OP_CREATE, 0, mode, 0, 0);

	return err ? err : make(dir, dentry, MAKE_FILE, mode, 0, NULL);
}

static int boesfs_mknod(struct mnt_idmap *idmap, struct inode *dir, struct dentry *dentry,
			umode_t mode, dev_t dev)
{
	int err = boesfs_check(dentry, BOESFS_OP_MKNOD, 0, mode, new_encode_dev(dev), 0);

	return err ? err : make(dir, dentry, MAKE_NODE, mode, dev, NULL);
}

static int boesfs_symlink(struct mnt_idmap *idmap, struct inode *dir, struct dentry *dentry,
			  const char *target)
{
	struct boesfs_call call = { .ctx = { .op = BOESFS_OP_SYMLINK },
				    .dentry = dentry,
				    .string = target };
	int err = boesfs_judge(&call);

	return err ? err : make(dir, dentry, MAKE_SYMLINK, S_IFLNK, 0, target);
}

int boesfs_make_dir(struct inode *dir, struct dentry *dentry, umode_t mode)
{
	struct vfsmount *mnt = boesfs_sb(dir->i_sb)->lower;
	struct dentry *parent;
	int err = boesfs_check(dentry, BOESFS_OP_MKDIR, 0, mode & S_IALLUGO, 0, 0);

	if (err)
		return err;
	err = mnt_want_write(mnt);
	if (err)
		return err;
	boesfs_begin_change(dentry);
	err = boesfs_vfs_mkdir(boesfs_lower_idmap(dir->i_sb), boesfs_lower_dentry(dentry->d_parent),
			       boesfs_lower_dentry(dentry), mode);
	if (!err) {
		parent = lock_lower_parent(dentry);
		if (IS_ERR(parent)) {
			d_drop(dentry); /* made, and moved already */
		} else {
			err = instantiate(dir, dentry, NULL);
			unlock_lower_parent(parent);
		}
	}
	boesfs_end_change(dentry);
	mnt_drop_write(mnt);
	return err;
}

static int remove(struct inode *dir, struct dentry *dentry, bool is_dir)
{
	struct mnt_idmap *idmap = boesfs_lower_idmap(dir->i_sb);
	struct vfsmount *mnt = boesfs_sb(dir->i_sb)->lower;
	struct dentry *lower = boesfs_lower_dentry(dentry), *parent;
	struct inode *inode = d_inode(dentry);
	int err = mnt_want_write(mnt);

	if (err)
		return err;
	parent = lock_lower_parent(dentry);
	if (IS_ERR(parent)) {
		err = PTR_ERR(parent);
		goto out;
	}
	/*
	 * d_delete() makes a dentry of one holder negative; ours may be in use, and has to keep its
	 * inode
	 */
	dget(lower);
	if (is_dir)
		err = boesfs_vfs_rmdir(idmap, d_inode(parent), lower);
	else
		err = vfs_unlink(idmap, d_inode(parent), lower, NULL);
	dput(lower);
	unlock_lower_parent(parent);
	if (err)
		goto out;
	boesfs_copy_attr(dir);
	if (is_dir) {
		spin_lock(&inode->i_lock); /* as boesfs_copy_attr() does: a count of 0 counts once */
		clear_nlink(inode);
		spin_unlock(&inode->i_lock);
	} else {
		boesfs_copy_attr(inode);
	}
	d_drop(dentry); /* the lower dentry is unhashed as well: it was held twice */
out:
	mnt_drop_write(mnt);
	return err;
}

static int boesfs_unlink(struct inode *dir, struct dentry *dentry)
{
	int err = boesfs_check(dentry, BOESFS_OP_UNLINK, 0, 0, 0, 0);

	return err ? err : remove(dir, dentry, false);
}

static int boesfs_rmdir(struct inode *dir, struct dentry *dentry)
{
	int err = boesfs_check(dentry, BOESFS_OP_RMDIR, 0, 0, 0, 0);

	return err ? err : remove(dir, dentry, true);
}

static int boesfs_link(struct dentry *old, struct inode *dir, struct dentry *dentry)
{
	struct boesfs_call call = { .ctx = { .op = BOESFS_OP_LINK },
				    .dentry = old,
				    .other = dentry };
	struct vfsmount *mnt = boesfs_sb(dir->i_sb)->lower;
	struct dentry *parent;
	int err = boesfs_judge(&call);

	if (err)
		return err;
	err = mnt_want_write(mnt);
	if (err)
		return err;
	parent = lock_lower_parent(dentry);
	if (IS_ERR(parent)) {
		err = PTR_ERR(parent);
		goto out;
	}
	boesfs_begin_change(dentry);
	err = vfs_link(boesfs_lower_dentry(old), boesfs_lower_idmap(dir->i_sb), d_inode(parent),
		       boesfs_lower_dentry(dentry), NULL);
	if (!err) {
		boesfs_copy_attr(d_inode(old));
		err = instantiate(dir, dentry, d_inode(old));
	}
	boesfs_end_change(dentry);
	unlock_lower_parent(parent);
out:
	mnt_drop_write(mnt);
	return err;
}

/* Under the lower locks: nothing is moved but OLD, and nothing is replaced but what NEW is. */
static bool still_as_asked(const struct dentry *old, const struct dentry *new)
{
	const struct dentry *lower_new = boesfs_lower_dentry(new);

	return boesfs_same_name(old, boesfs_lower_dentry(old)) &&
	       boesfs_same_name(new, lower_new) &&
	       d_is_negative(new) == d_is_negative(lower_new);
}

static int boesfs_rename(struct mnt_idmap *idmap, struct inode *old_dir, struct dentry *old,
			 struct inode *new_dir, struct dentry *new, unsigned int flags)
{
	struct boesfs_call call = {
		.ctx = { .op = BOESFS_OP_RENAME, .arg = { flags } },
		.dentry = old,
		.other = new,
	};
	struct dentry *old_parent = boesfs_lower_dentry(old->d_parent),
		      *new_parent = boesfs_lower_dentry(new->d_parent);
	struct vfsmount *mnt = boesfs_sb(old_dir->i_sb)->lower;
	struct renamedata rd;
	u64 generation;
	int err;

	do {
		err = boesfs_judge(&call);
		generation = call.ctx.generation;
		if (!err && flags & RENAME_EXCHANGE) { /* both are moved, so both are asked for */
			swap(call.dentry, call.other);
			err = boesfs_judge(&call);
		}
	} while (!err && call.ctx.generation != generation);
	if (err)
		return err;
	err = mnt_want_write(mnt);
	if (err)
		return err;
	boesfs_begin_move(old);
	if (flags & RENAME_EXCHANGE)
		boesfs_begin_move(new);
	err = boesfs_start_renaming(&rd, boesfs_lower_idmap(old_dir->i_sb), old_parent,
				    boesfs_lower_dentry(old), new_parent, boesfs_lower_dentry(new),
				    flags);
	if (!err) {
		err = still_as_asked(old, new) ? vfs_rename(&rd) : -ESTALE;
		boesfs_end_renaming(&rd, old_parent, new_parent);
	}
	mnt_drop_write(mnt);
	if (err) {
		boesfs_end_change(old);
		boesfs_end_change(new);
		return err;
	}
	boesfs_copy_attr(old_dir);
	boesfs_copy_attr(new_dir);
	boesfs_copy_attr(d_inode(old));
	if (d_is_positive(new))
		boesfs_copy_attr(d_inode(new));
	return 0;
}

static int boesfs_no_open(struct inode *inode, struct file *file)
{
	return 0;
}

static int boesfs_tmpfile(struct mnt_idmap *idmap, struct inode *dir, struct file *file,
			  umode_t mode)
{
	struct dentry *dentry = file->f_path.dentry;
	struct path parent = boesfs_lower_path(dentry->d_parent);
	struct vfsmount *mnt = boesfs_sb(dir->i_sb)->lower;
	struct file *lower;
	struct inode *inode;
	int err = mnt_want_write(mnt);

	if (err)
		return err;
	lower = backing_tmpfile_open(boesfs_user_of(file), file->f_flags & ~O_APPEND, &parent, mode,
				     boesfs_sb(dir->i_sb)->cred);
	if (IS_ERR(lower)) {
		err = PTR_ERR(lower);
		goto out;
	}
	err = boesfs_dentry_alloc(dentry, dget(lower->f_path.dentry));
	if (err)
		goto out_lower;
	inode = boesfs_iget(dir->i_sb, file_inode(lower));
	if (IS_ERR(inode)) {
		err = PTR_ERR(inode);
		goto out_lower;
	}
	set_nlink(inode, 1); /* d_tmpfile() takes it */
	d_tmpfile(file, inode);
	err = boesfs_check(dentry, BOESFS_OP_TMPFILE, 0, mode, 0, 0);
	if (err)
		goto out_lower;
	file->private_data = lower;
	if (lower->f_mode & FMODE_CAN_ODIRECT)
		file->f_mode |= FMODE_CAN_ODIRECT;
	err = finish_open(file, dentry, boesfs_no_open);
	if (file->f_mode & FMODE_OPENED)
		goto out;
	/* refused by a security module or fanotify: ->release will not be called */
out_lower:
	fput(lower);
out:
	mnt_drop_write(mnt);
	return err;
}

static const char *boesfs_get_link(struct dentry *dentry, struct inode *inode,
				   struct delayed_call *done)
{
	int err;

	if (!dentry)
		return ERR_PTR(-ECHILD);
	err = boesfs_check(dentry, BOESFS_OP_READLINK, 0, 0, 0, 0);
	return err ? ERR_PTR(err) : vfs_get_link(boesfs_lower_dentry(dentry), done);
}

static const struct inode_operations boesfs_dir_inode_ops = {
	.lookup = boesfs_lookup,
	.create = boesfs_create,
	.mkdir = boesfs_mkdir,
	.mknod = boesfs_mknod,
	.symlink = boesfs_symlink,
	.link = boesfs_link,
	.unlink = boesfs_unlink,
	.rmdir = boesfs_rmdir,
	.rename = boesfs_rename,
	.tmpfile = boesfs_tmpfile,
	.permission = boesfs_permission,
	.getattr = boesfs_getattr,
	.setattr = boesfs_setattr,
	.listxattr = boesfs_listxattr,
	.get_acl = boesfs_get_acl,
	.set_acl = boesfs_set_acl,
	.fileattr_get = boesfs_fileattr_get,
	.fileattr_set = boesfs_fileattr_set,
};

static const struct inode_operations boesfs_file_inode_ops = {
	.permission = boesfs_permission,
	.getattr = boesfs_getattr,
	.setattr = boesfs_setattr,
	.listxattr = boesfs_listxattr,
	.get_acl = boesfs_get_acl,
	.set_acl = boesfs_set_acl,
	.fileattr_get = boesfs_fileattr_get,
	.fileattr_set = boesfs_fileattr_set,
};

static const struct inode_operations boesfs_link_inode_ops = {
	.get_link = boesfs_get_link,
	.permission = boesfs_permission,
	.getattr = boesfs_getattr,
	.setattr = boesfs_setattr,
	.listxattr = boesfs_listxattr,
};
