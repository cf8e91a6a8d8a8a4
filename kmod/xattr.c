// SPDX-License-Identifier: GPL-2.0-only
/* Extended attributes and ACLs: always through the VFS's checked entry points. */
#include <linux/fs.h>
#include <linux/mount.h>
#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>
#include <linux/xattr.h>

#include "boesfs.h"

static noinline int ask_xattr(struct dentry *dentry, enum boesfs_op op, const char *name, u64 size,
			      u64 flags)
{
	struct boesfs_call call = { .ctx = { .op = op, .arg = { size, flags } },
				    .dentry = dentry,
				    .string = name };

	return boesfs_judge(&call);
}

static int check_xattr(struct dentry *dentry, enum boesfs_op op, const char *name, u64 size,
		       u64 flags)
{
	return boesfs_allowed(dentry, op) ? 0 : ask_xattr(dentry, op, name, size, flags);
}

static int boesfs_xattr_get(const struct xattr_handler *handler, struct dentry *dentry,
			    struct inode *inode, const char *name, void *buffer, size_t size)
{
	int err = check_xattr(dentry, BOESFS_OP_GETXATTR, name, 0, 0);

	return err ? err : vfs_getxattr(boesfs_lower_idmap(dentry->d_sb), boesfs_lower_dentry(dentry),
					name, buffer, size);
}

static int set_lower(struct dentry *dentry, const char *name, const void *value, size_t size,
		     int flags, bool translated)
{
	struct mnt_idmap *idmap = boesfs_lower_idmap(dentry->d_sb);
	struct vfsmount *mnt = boesfs_sb(dentry->d_sb)->lower;
	struct dentry *lower = boesfs_lower_dentry(dentry);
	int err = check_xattr(dentry, value ? BOESFS_OP_SETXATTR : BOESFS_OP_REMOVEXATTR, name,
			      size, flags);

	/* __vfs_setxattr_noperm() took it */
	inode_set_flags(d_inode(dentry), S_NOSEC, S_NOSEC);
	if (err)
		return err;
	err = mnt_want_write(mnt);
	if (err)
		return err;
	if (value && translated) {
		inode_lock(d_inode(lower));
		err = __vfs_setxattr_locked(idmap, lower, name, value, size, flags, NULL);
		inode_unlock(d_inode(lower));
	} else if (value) {
		err = vfs_setxattr(idmap, lower, name, value, size, flags);
	} else {
		err = vfs_removexattr(idmap, lower, name);
	}
	mnt_drop_write(mnt);
	boesfs_copy_attr(d_inode(dentry));
	return err;
}

static int boesfs_xattr_set(const struct xattr_handler *handler, struct mnt_idmap *idmap,
			    struct dentry *dentry, struct inode *inode, const char *name,
			    const void *value, size_t size, int flags)
{
	return set_lower(dentry, name, value, size, flags, false);
}

/*
 * File capabilities belong to a user namespace. The VFS has translated ours between the caller's
 * and that of our superblock; a lower filesystem of the same one takes them as they are.
 */
static bool caps_translated(const struct super_block *sb)
{
	return boesfs_lower_idmap(sb) == &nop_mnt_idmap &&
	       sb->s_user_ns == boesfs_sb(sb)->lower->mnt_sb->s_user_ns;
}

/* They are set-id bits of another kind; execve(2) and chown(2) ask for them, not their callers. */
static int boesfs_caps_get(const struct xattr_handler *handler, struct dentry *dentry,
			   struct inode *inode, const char *rest, void *buffer, size_t size)
{
	struct dentry *lower = boesfs_lower_dentry(dentry);
	const struct super_block *sb = dentry->d_sb;

	if (boesfs_sb(sb)->lower->mnt_flags & MNT_NOSUID)
		return -ENODATA;
	if (caps_translated(sb))
		return __vfs_getxattr(lower, d_inode(lower), XATTR_NAME_CAPS, buffer, size);
	return vfs_getxattr(boesfs_lower_idmap(sb), lower, XATTR_NAME_CAPS, buffer, size);
}

static int boesfs_caps_set(const struct xattr_handler *handler, struct mnt_idmap *idmap,
			   struct dentry *dentry, struct inode *inode, const char *rest,
			   const void *value, size_t size, int flags)
{
	return set_lower(dentry, XATTR_NAME_CAPS, value, size, flags,
			 caps_translated(dentry->d_sb));
}

ssize_t boesfs_listxattr(struct dentry *dentry, char *list, size_t size)
{
	int err = boesfs_check(dentry, BOESFS_OP_LISTXATTR, 0, 0, 0, 0);

	return err ? err : vfs_listxattr(boesfs_lower_dentry(dentry), list, size);
}

static const struct xattr_handler boesfs_caps_handler = {
	.name = XATTR_NAME_CAPS,
	.get = boesfs_caps_get,
	.set = boesfs_caps_set,
};

static const struct xattr_handler boesfs_xattr_handler = {
	.prefix = "", /* all other names; ACLs do not come here */
	.get = boesfs_xattr_get,
	.set = boesfs_xattr_set,
};

const struct xattr_handler *const boesfs_xattr_handlers[] = { &boesfs_caps_handler,
							      &boesfs_xattr_handler, NULL };

/*
 * The VFS shows an ACL's ids as they are; those of an idmapped lower mount are translated here, on
 * a copy.
 */
static struct posix_acl *translate_acl(struct mnt_idmap *idmap, const struct posix_acl *acl)
{
	struct posix_acl *copy = posix_acl_alloc(acl->a_count, GFP_KERNEL);
	struct user_namespace *ns = &init_user_ns;
	unsigned int i;

	if (!copy)
		return ERR_PTR(-ENOMEM);
	for (i = 0; i < acl->a_count; i++) {
		const struct posix_acl_entry *from = &acl->a_entries[i];
		struct posix_acl_entry *to = &copy->a_entries[i];

		*to = *from;
		if (from->e_tag == ACL_USER)
			to->e_uid = vfsuid_into_kuid(make_vfsuid(idmap, ns, from->e_uid));
		else if (from->e_tag == ACL_GROUP)
			to->e_gid = vfsgid_into_kgid(make_vfsgid(idmap, ns, from->e_gid));
	}
	return copy;
}

struct posix_acl *boesfs_get_acl(struct mnt_idmap *idmap, struct dentry *dentry, int type)
{
	struct mnt_idmap *lower_idmap = boesfs_lower_idmap(dentry->d_sb);
	const char *name = posix_acl_xattr_name(type);
	struct posix_acl *acl, *copy;
	int err = check_xattr(dentry, BOESFS_OP_GETXATTR, name, 0, 0);

	if (err)
		return ERR_PTR(err);
	acl = vfs_get_acl(lower_idmap, boesfs_lower_dentry(dentry), name);
	if (IS_ERR_OR_NULL(acl)) {
		/* that there is none has two spellings */
		return acl == ERR_PTR(-ENODATA) ? NULL : acl;
	}
	if (lower_idmap == &nop_mnt_idmap)
		return acl;
	copy = translate_acl(lower_idmap, acl);
	posix_acl_release(acl);
	return copy;
}

int boesfs_set_acl(struct mnt_idmap *idmap, struct dentry *dentry, struct posix_acl *acl, int type)
{
	struct vfsmount *mnt = boesfs_sb(dentry->d_sb)->lower;
	const char *name = posix_acl_xattr_name(type);
	int err = check_xattr(dentry, acl ? BOESFS_OP_SETXATTR : BOESFS_OP_REMOVEXATTR, name, 0, 0);

	if (err)
		return err;
	err = mnt_want_write(mnt);
	if (err)
		return err;
	if (acl)
		err = vfs_set_acl(boesfs_lower_idmap(dentry->d_sb), boesfs_lower_dentry(dentry),
				  name, acl);
	else
		err = vfs_remove_acl(boesfs_lower_idmap(dentry->d_sb), boesfs_lower_dentry(dentry),
				     name);
	mnt_drop_write(mnt);
	boesfs_copy_attr(d_inode(dentry));
	return err;
}
