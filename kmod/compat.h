/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What differs between kernels, by what probe.sh found in their headers. No other file looks at
 * versions.
 */
#ifndef BOESFS_COMPAT_H
#define BOESFS_COMPAT_H

#include <linux/backing-file.h>
#include <linux/dcache.h>
#include <linux/fileattr.h>
#include <linux/fs.h>
#include <linux/namei.h>

#ifdef BOESFS_OPEN_BY_FILE
#define boesfs_user_of(file) (file)
#else
#define boesfs_user_of(file) (&(file)->f_path)
#endif

/*
 * The lower file is used with the caller's credentials, not with those of whoever opened the file:
 * set-id bits go by them.
 */
static inline struct backing_file_ctx boesfs_backing_ctx(struct file *file)
{
	return (struct backing_file_ctx){
		.cred = current_cred(),
#ifdef BOESFS_CTX_USER_FILE
		.user_file = file,
#endif
	};
}

/* A buffer that is filled in anyway. */
#ifndef __uninitialized
#define __uninitialized
#endif

#ifdef BOESFS_FILE_KATTR
#define boesfs_fileattr file_kattr
#else
#define boesfs_fileattr fileattr
#endif

#ifdef BOESFS_INODE_STATE_READ
#define boesfs_inode_state(inode) inode_state_read_once(inode)
#else
#define boesfs_inode_state(inode) READ_ONCE((inode)->i_state)
#endif

/* A lease could not be broken by who opens the lower file. */
#ifdef BOESFS_NOSETLEASE
#define BOESFS_NO_LEASES .setlease = simple_nosetlease,
#else
#define BOESFS_NO_LEASES /* no ->setlease, no leases */
#endif

static inline ssize_t boesfs_backing_splice_read(struct file *in, struct file *lower, loff_t *pos,
						 struct pipe_inode_info *pipe, size_t len,
						 unsigned int flags, struct backing_file_ctx *ctx)
{
#ifdef BOESFS_SPLICE_KIOCB
	struct kiocb iocb;
	ssize_t ret;

	init_sync_kiocb(&iocb, in);
	iocb.ki_pos = *pos;
	ret = backing_file_splice_read(lower, &iocb, pipe, len, flags, ctx);
	*pos = iocb.ki_pos;
	return ret;
#else
	return backing_file_splice_read(lower, pos, pipe, len, flags, ctx);
#endif
}

static inline ssize_t boesfs_backing_splice_write(struct pipe_inode_info *pipe, struct file *out,
						  struct file *lower, loff_t *pos, size_t len,
						  unsigned int flags, struct backing_file_ctx *ctx)
{
#ifdef BOESFS_SPLICE_KIOCB
	struct kiocb iocb;
	ssize_t ret;

	init_sync_kiocb(&iocb, out);
	iocb.ki_pos = *pos;
	ret = backing_file_splice_write(pipe, lower, &iocb, len, flags, ctx);
	*pos = iocb.ki_pos;
	return ret;
#else
	return backing_file_splice_write(pipe, lower, pos, len, flags, ctx);
#endif
}

bool boesfs_read_name(struct dentry *dentry, struct qstr *name, char *buf);

/* Also in RCU-walk, when dentry and directory may be going away. */
static inline int boesfs_call_revalidate(struct dentry *dentry, unsigned int flags)
{
#ifdef BOESFS_D_REVALIDATE_DIR
	struct dentry *parent;
	char buf[NAME_MAX + 1];
	struct inode *dir;
	struct qstr name;
	int ret = -ECHILD;

	rcu_read_lock();
	parent = flags & LOOKUP_RCU ? READ_ONCE(dentry->d_parent) : dget_parent(dentry);
	dir = d_inode_rcu(parent);
	rcu_read_unlock();
	if (dir && boesfs_read_name(dentry, &name, buf))
		ret = dentry->d_op->d_revalidate(dir, &name, dentry, flags);
	if (!(flags & LOOKUP_RCU))
		dput(parent);
	return ret;
#else
	return dentry->d_op->d_revalidate(dentry, flags);
#endif
}

static inline struct dentry *boesfs_lookup_lower(struct mnt_idmap *idmap, const struct qstr *name,
						 struct dentry *parent)
{
#ifdef BOESFS_LOOKUP_QSTR
	return lookup_one_unlocked(idmap, &QSTR_LEN(name->name, name->len), parent);
#else
	return lookup_one_unlocked(idmap, name->name, parent, name->len);
#endif
}

static inline int boesfs_vfs_create(struct mnt_idmap *idmap, struct inode *dir,
				    struct dentry *dentry, umode_t mode)
{
#ifdef BOESFS_CREATE_DELEGATED
	return vfs_create(idmap, dentry, mode, NULL);
#else
	return vfs_create(idmap, dir, dentry, mode, true);
#endif
}

static inline int boesfs_vfs_mknod(struct mnt_idmap *idmap, struct inode *dir,
				   struct dentry *dentry, umode_t mode, dev_t dev)
{
#ifdef BOESFS_CREATE_DELEGATED
	return vfs_mknod(idmap, dir, dentry, mode, dev, NULL);
#else
	return vfs_mknod(idmap, dir, dentry, mode, dev);
#endif
}

static inline int boesfs_vfs_symlink(struct mnt_idmap *idmap, struct inode *dir,
				     struct dentry *dentry, const char *target)
{
#ifdef BOESFS_CREATE_DELEGATED
	return vfs_symlink(idmap, dir, dentry, target, NULL);
#else
	return vfs_symlink(idmap, dir, dentry, target);
#endif
}

static inline int boesfs_vfs_rmdir(struct mnt_idmap *idmap, struct inode *dir,
				   struct dentry *dentry)
{
#ifdef BOESFS_CREATE_DELEGATED
	return vfs_rmdir(idmap, dir, dentry, NULL);
#else
	return vfs_rmdir(idmap, dir, dentry);
#endif
}

/*
 * A directory that is made may get another dentry than the one that was looked up (NFS): then
 * *DENTRY is not hashed, and the next lookup finds the right one. Takes the parent's lock and gives
 * it back.
 */
static inline int boesfs_vfs_mkdir(struct mnt_idmap *idmap, struct dentry *parent,
				   struct dentry *dentry, umode_t mode)
{
	struct inode *dir = d_inode(parent);
#ifdef BOESFS_START_CREATING
	struct dentry *made = start_creating_dentry(parent, dentry);

	if (IS_ERR(made))
		return PTR_ERR(made);
	made = vfs_mkdir(idmap, dir, made, mode, NULL); /* an error has unlocked the parent */
	if (IS_ERR(made))
		return PTR_ERR(made);
	end_creating(made);
	return 0;
#else
	int err;

	inode_lock_nested(dir, I_MUTEX_PARENT);
	if (dentry->d_parent != parent || d_unhashed(dentry)) {
		err = -ESTALE;
	} else {
#ifdef BOESFS_MKDIR_DENTRY
		struct dentry *made = vfs_mkdir(idmap, dir, dget(dentry), mode);

		err = PTR_ERR_OR_ZERO(made);
		if (!err)
			dput(made);
#else
		err = vfs_mkdir(idmap, dir, dentry, mode);
#endif
	}
	inode_unlock(dir);
	return err;
#endif
}

/*
 * Takes the parents' locks, for vfs_rename(). -ESTALE: something was moved or removed meanwhile.
 */
static inline int boesfs_start_renaming(struct renamedata *rd, struct mnt_idmap *idmap,
					struct dentry *old_parent, struct dentry *old,
					struct dentry *new_parent, struct dentry *new,
					unsigned int flags)
{
#ifdef BOESFS_START_RENAMING
	*rd = (struct renamedata){
		.mnt_idmap = idmap,
		.old_parent = old_parent,
		.new_parent = new_parent,
		.flags = flags,
	};
	return start_renaming_two_dentries(rd, old, new);
#else
	struct dentry *trap = lock_rename(old_parent, new_parent);
	int err = 0;

	if (IS_ERR(trap))
		return PTR_ERR(trap);
	*rd = (struct renamedata){
		.old_mnt_idmap = idmap,
		.old_dir = d_inode(old_parent),
		.old_dentry = old,
		.new_mnt_idmap = idmap,
		.new_dir = d_inode(new_parent),
		.new_dentry = new,
		.flags = flags,
	};
	if (old->d_parent != old_parent || d_unhashed(old) || new->d_parent != new_parent ||
	    d_unhashed(new))
		err = -ESTALE;
	else if (trap == old)
		err = -EINVAL;
	else if (trap == new)
		err = flags & RENAME_EXCHANGE ? -EINVAL : -ENOTEMPTY;
	if (err)
		unlock_rename(old_parent, new_parent);
	return err;
#endif
}

static inline void boesfs_end_renaming(struct renamedata *rd, struct dentry *old_parent,
				       struct dentry *new_parent)
{
#ifdef BOESFS_START_RENAMING
	end_renaming(rd);
#else
	unlock_rename(old_parent, new_parent);
#endif
}

static inline void boesfs_set_dentry_ops(struct super_block *sb,
					 const struct dentry_operations *ops)
{
#ifdef BOESFS_SET_DEFAULT_D_OP
	set_default_d_op(sb, ops);
#else
	sb->s_d_op = ops;
#endif
}

/* ------------------------------------------------------------- callbacks, and what they call */

int boesfs_revalidate(struct dentry *dentry, unsigned int flags);
int boesfs_make_file(struct inode *dir, struct dentry *dentry, umode_t mode);
int boesfs_make_dir(struct inode *dir, struct dentry *dentry, umode_t mode);
void boesfs_copy_attr(struct inode *inode);

#ifdef BOESFS_D_REVALIDATE_DIR
static inline int boesfs_d_revalidate(struct inode *dir, const struct qstr *name,
				      struct dentry *dentry, unsigned int flags)
#else
static inline int boesfs_d_revalidate(struct dentry *dentry, unsigned int flags)
#endif
{
	return boesfs_revalidate(dentry, flags);
}

#ifdef BOESFS_CREATE_NO_EXCL
static inline int boesfs_create(struct mnt_idmap *idmap, struct inode *dir, struct dentry *dentry,
				umode_t mode)
#else
static inline int boesfs_create(struct mnt_idmap *idmap, struct inode *dir, struct dentry *dentry,
				umode_t mode, bool excl)
#endif
{
	return boesfs_make_file(dir, dentry, mode);
}

#ifdef BOESFS_MKDIR_DENTRY
static inline struct dentry *boesfs_mkdir(struct mnt_idmap *idmap, struct inode *dir,
					  struct dentry *dentry, umode_t mode)
{
	return ERR_PTR(boesfs_make_dir(dir, dentry, mode));
}
#else
static inline int boesfs_mkdir(struct mnt_idmap *idmap, struct inode *dir, struct dentry *dentry,
			       umode_t mode)
{
	return boesfs_make_dir(dir, dentry, mode);
}
#endif

struct boesfs_policy_ops;
struct bpf_link;

int boesfs_program_attach(const struct boesfs_policy_ops *ops, struct bpf_link *link);
void boesfs_program_detach(const struct boesfs_policy_ops *ops);
int boesfs_program_update(const struct boesfs_policy_ops *ops, const struct boesfs_policy_ops *old);

/* Without a link nobody can tell which program a descriptor means. */
#ifdef BOESFS_STRUCT_OPS_LINK
#define BOESFS_LINKS_ARE_TOLD true
static inline int boesfs_reg(void *kdata, struct bpf_link *link)
{
	return boesfs_program_attach(kdata, link);
}

static inline void boesfs_unreg(void *kdata, struct bpf_link *link)
{
	boesfs_program_detach(kdata);
}

static inline int boesfs_update(void *kdata, void *old_kdata, struct bpf_link *link)
{
	return boesfs_program_update(kdata, old_kdata);
}
#else
#define BOESFS_LINKS_ARE_TOLD false
static inline int boesfs_reg(void *kdata)
{
	return boesfs_program_attach(kdata, NULL);
}

static inline void boesfs_unreg(void *kdata)
{
	boesfs_program_detach(kdata);
}

static inline int boesfs_update(void *kdata, void *old_kdata)
{
	return boesfs_program_update(kdata, old_kdata);
}
#endif

#if defined(BOESFS_END_WRITE_KIOCB)
static inline void boesfs_end_write(struct kiocb *iocb, ssize_t written)
{
	boesfs_copy_attr(file_inode(iocb->ki_filp));
}
#elif defined(BOESFS_END_WRITE_RANGE)
static inline void boesfs_end_write(struct file *file, loff_t pos, ssize_t written)
{
	boesfs_copy_attr(file_inode(file));
}
#else
static inline void boesfs_end_write(struct file *file)
{
	boesfs_copy_attr(file_inode(file));
}
#endif

#ifdef BOESFS_IMPORT_NS_STRING
#define BOESFS_BPF_NAMESPACE "BPF_INTERNAL"
#else
#define BOESFS_BPF_NAMESPACE BPF_INTERNAL
#endif

#endif /* BOESFS_COMPAT_H */
