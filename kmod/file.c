// SPDX-License-Identifier: GPL-2.0-only
/*
 * Open files. Each holds the lower file it was opened with, and data goes through the kernel's
 * backing-file helpers: the page cache is the lower file's alone. Every operation is judged when it
 * is called, by the label of the name that the file was opened by, so a new policy holds for open
 * descriptors too.
 */
#include <linux/backing-file.h>
#include <linux/filelock.h>
#include <linux/mman.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/splice.h>

#include "boesfs.h"

/*
 * What F_SETFL may change after the lower file was opened. Not O_APPEND: the lower file never has
 * it, whether a write appends is said with each (RWF_APPEND), and RWF_NOAPPEND could not be passed
 * on otherwise.
 */
#define BOESFS_SETFL_MASK (O_NONBLOCK | O_NDELAY | O_DIRECT | O_NOATIME)

static void follow_flags(struct file *file, struct file *lower)
{
	unsigned int flags = READ_ONCE(file->f_flags) & BOESFS_SETFL_MASK;

	spin_lock(&lower->f_lock);
	lower->f_flags = (lower->f_flags & ~BOESFS_SETFL_MASK) | flags;
	lower->f_iocb_flags = iocb_flags(lower);
	spin_unlock(&lower->f_lock);
}

static inline struct file *lower_file(struct file *file)
{
	struct file *lower = file->private_data;

	if (unlikely((file->f_flags ^ lower->f_flags) & BOESFS_SETFL_MASK))
		follow_flags(file, lower);
	return lower;
}

static int check_file(struct file *file, enum boesfs_op op, u64 arg0, u64 arg1, u64 arg2)
{
	return boesfs_check(file->f_path.dentry, op, 0, arg0, arg1, arg2);
}

/* Who asks more than once for one operation asks again if this has changed meanwhile. */
static u64 generation_of(const struct file *file)
{
	return boesfs_generation(file_inode(file)->i_sb);
}

/* ------------------------------------------------------------- open and close */

static int check_open(struct file *file)
{
	u64 generation;
	int err;

	if (likely(!(file->f_flags & __FMODE_EXEC)))
		return check_file(file, BOESFS_OP_OPEN, file->f_flags, 0, 0);
	do {
		generation = generation_of(file);
		err = check_file(file, BOESFS_OP_OPEN, file->f_flags, 0, 0);
		if (!err)
			err = check_file(file, BOESFS_OP_EXEC, 0, 0, 0);
	} while (!err && generation_of(file) != generation);
	return err;
}

static int boesfs_open(struct inode *inode, struct file *file)
{
	struct path path = boesfs_lower_path(file->f_path.dentry);
	struct file *lower;
	int err = check_open(file);

	if (err)
		return err;
	if (unlikely(i_size_read(inode) != i_size_read(d_inode(path.dentry)) ||
		     boesfs_attr_stale(inode)))
		boesfs_copy_attr(inode);
	lower = backing_file_open(boesfs_user_of(file), file->f_flags & ~BOESFS_NOT_BELOW, &path,
				  boesfs_sb(inode->i_sb)->cred);
	if (IS_ERR(lower))
		return PTR_ERR(lower);
	file->private_data = lower;
	if (lower->f_mode & FMODE_CAN_ODIRECT)
		file->f_mode |= FMODE_CAN_ODIRECT;
	return 0;
}

static int boesfs_flush(struct file *file, fl_owner_t owner)
{
	struct file *lower = file->private_data;

	if (locks_inode_context(file_inode(lower)))
		locks_remove_posix(lower, owner);
	return lower->f_op->flush ? lower->f_op->flush(lower, owner) : 0;
}

static bool find_lock(struct file_lock_context *ctx, const struct file *file, fl_owner_t *owner)
{
	struct file_lock *lock;
	bool found = false;

	spin_lock(&ctx->flc_lock);
	list_for_each_entry(lock, &ctx->flc_posix, c.flc_list) {
		if (lock->c.flc_file == file) {
			*owner = lock->c.flc_owner;
			found = true;
			break;
		}
	}
	spin_unlock(&ctx->flc_lock);
	return found;
}

/*
 * Those of F_OFD_SETLK, whose owner is our file, and one that fcntl(2) took while another thread
 * closed the descriptor: the VFS looks for that at our inode, which has none. flock(2)'s go with
 * the lower file.
 */
static void drop_locks(struct file *lower)
{
	struct file_lock_context *ctx = locks_inode_context(file_inode(lower));
	fl_owner_t owner;

	while (ctx && find_lock(ctx, lower, &owner))
		locks_remove_posix(lower, owner);
}

static int boesfs_release(struct inode *inode, struct file *file)
{
	struct file *lower = file->private_data;

	drop_locks(lower);
	/* nothing is held here, and nothing below waits for us: no detour over another task work */
	__fput_sync(lower);
	return 0;
}

/* A device or FIFO is judged when it is opened, and is itself from then on. */
static int boesfs_special_open(struct inode *inode, struct file *file)
{
	const struct file_operations *ops;
	int err = check_open(file);

	if (err)
		return err;
	ops = fops_get(boesfs_inode(inode)->special);
	if (!ops)
		return -ENXIO;
	replace_fops(file, ops);
	return ops->open ? ops->open(inode, file) : 0;
}

/* ------------------------------------------------------------- data */

static ssize_t boesfs_read_iter(struct kiocb *iocb, struct iov_iter *iter)
{
	struct file *file = iocb->ki_filp;
	struct backing_file_ctx ctx = boesfs_backing_ctx(file);
	int err = check_file(file, BOESFS_OP_READ, iov_iter_count(iter), iocb->ki_pos, 0);

	if (unlikely(err))
		return err;
	return backing_file_read_iter(lower_file(file), iter, iocb, iocb->ki_flags, &ctx);
}

/*
 * The helpers remove set-id bits and capabilities from our inode, without its lock, unless it is
 * S_NOSEC, as ours are: the lower filesystem removes its own. chmod(2) and setxattr(2) take the
 * flag away until we give it back, under the inode's lock, so who writes holds it shared.
 */
static int lock_for_writing(struct inode *inode, bool nowait)
{
	if (!nowait)
		inode_lock_shared(inode);
	else if (!inode_trylock_shared(inode))
		return -EAGAIN;
	return 0;
}

static ssize_t boesfs_write_iter(struct kiocb *iocb, struct iov_iter *iter)
{
	struct file *file = iocb->ki_filp;
	struct backing_file_ctx ctx = boesfs_backing_ctx(file);
	ssize_t ret = check_file(file, BOESFS_OP_WRITE, iov_iter_count(iter), iocb->ki_pos, 0);

	if (!ret)
		ret = lock_for_writing(file_inode(file), iocb->ki_flags & IOCB_NOWAIT);
	if (unlikely(ret))
		return ret;
	ctx.end_write = boesfs_end_write;
	ret = backing_file_write_iter(lower_file(file), iter, iocb, iocb->ki_flags, &ctx);
	inode_unlock_shared(file_inode(file));
	return ret;
}

static ssize_t boesfs_splice_read(struct file *in, loff_t *pos, struct pipe_inode_info *pipe,
				  size_t len, unsigned int flags)
{
	struct backing_file_ctx ctx = boesfs_backing_ctx(in);
	int err = check_file(in, BOESFS_OP_READ, len, *pos, 0);

	if (err)
		return err;
	return boesfs_backing_splice_read(in, lower_file(in), pos, pipe, len, flags, &ctx);
}

static ssize_t boesfs_splice_write(struct pipe_inode_info *pipe, struct file *out, loff_t *pos,
				   size_t len, unsigned int flags)
{
	struct backing_file_ctx ctx = boesfs_backing_ctx(out);
	ssize_t ret = check_file(out, BOESFS_OP_WRITE, len, *pos, 0);

	if (ret)
		return ret;
	inode_lock_shared(file_inode(out));
	ctx.end_write = boesfs_end_write;
	ret = boesfs_backing_splice_write(pipe, out, lower_file(out), pos, len, flags, &ctx);
	inode_unlock_shared(file_inode(out));
	return ret;
}

/*
 * FLAGS as of ->remap_file_range. Both are ours, the VFS has seen to it; each file is judged by its
 * own mount's policy.
 */
static int check_two(struct file *in, loff_t pos_in, struct file *out, loff_t pos_out, u64 len,
		     unsigned int flags)
{
	u64 generation;
	int err;

	do {
		generation = generation_of(out);
		err = check_file(in, BOESFS_OP_READ, len, pos_in, 0);
		if (!err)
			err = check_file(out, BOESFS_OP_WRITE, len, pos_out, 0);
		if (!err && flags & REMAP_FILE_DEDUP) /* the answer tells what is there */
			err = check_file(out, BOESFS_OP_READ, len, pos_out, 0);
	} while (!err && generation_of(out) != generation);
	return err;
}

static ssize_t boesfs_copy_file_range(struct file *in, loff_t pos_in, struct file *out,
				      loff_t pos_out, size_t len, unsigned int flags)
{
	ssize_t ret = check_two(in, pos_in, out, pos_out, len, 0);

	if (ret)
		return ret;
	ret = vfs_copy_file_range(lower_file(in), pos_in, lower_file(out), pos_out, len, flags);
	boesfs_copy_attr(file_inode(out));
	return ret;
}

static loff_t boesfs_remap_file_range(struct file *in, loff_t pos_in, struct file *out,
				      loff_t pos_out, loff_t len, unsigned int flags)
{
	loff_t ret;

	if (flags & ~(REMAP_FILE_DEDUP | REMAP_FILE_ADVISORY))
		return -EINVAL;
	ret = check_two(in, pos_in, out, pos_out, len, flags);
	if (ret)
		return ret;
	if (flags & REMAP_FILE_DEDUP)
		return vfs_dedupe_file_range_one(lower_file(in), pos_in, lower_file(out), pos_out,
						 len, flags);
	ret = vfs_clone_file_range(lower_file(in), pos_in, lower_file(out), pos_out, len, flags);
	boesfs_copy_attr(file_inode(out));
	return ret;
}

static long boesfs_fallocate(struct file *file, int mode, loff_t offset, loff_t len)
{
	int ret = check_file(file, BOESFS_OP_FALLOCATE, mode, offset, len);

	if (ret)
		return ret;
	ret = vfs_fallocate(lower_file(file), mode, offset, len);
	boesfs_copy_attr(file_inode(file));
	return ret;
}

/*
 * A mapping lets its owner read, and write if it is shared, for as long as it lives; mprotect(2)
 * asks nobody. So READ and WRITE are asked for what it may become, and what may not be written
 * cannot be made writable later.
 */
static int check_mmap(struct file *file, const struct vm_area_struct *vma, bool *writable)
{
	struct dentry *dentry = file->f_path.dentry;
	bool shared = vma->vm_flags & VM_SHARED;
	u64 generation;
	u32 access = 0;
	int err;

	if (vma->vm_flags & VM_READ)
		access |= PROT_READ;
	if (vma->vm_flags & VM_WRITE)
		access |= PROT_WRITE;
	if (vma->vm_flags & VM_EXEC)
		access |= PROT_EXEC;
	if (shared)
		access |= MAP_SHARED << 8;
	do {
		generation = generation_of(file);
		*writable = true;
		err = boesfs_check(dentry, BOESFS_OP_MMAP, access, vma->vm_start, vma->vm_end, 0);
		if (!err)
			err = check_file(file, BOESFS_OP_READ, 0, 0, 0);
		if (!err && shared && vma->vm_flags & VM_MAYWRITE) {
			struct boesfs_call may = {
				.ctx = { .op = BOESFS_OP_WRITE },
				.dentry = dentry,
				.possible = !(vma->vm_flags & VM_WRITE),
			};

			err = boesfs_allowed(dentry, BOESFS_OP_WRITE) ? 0 : boesfs_judge(&may);
			if (err && may.possible) {
				*writable = false;
				err = 0;
			}
		}
	} while (!err && generation_of(file) != generation);
	return err;
}

static int boesfs_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct backing_file_ctx ctx = boesfs_backing_ctx(file);
	bool writable;
	int err = check_mmap(file, vma, &writable);

	if (err)
		return err;
	if (!writable)
		vm_flags_clear(vma, VM_MAYWRITE);
	return backing_file_mmap(lower_file(file), vma, &ctx);
}

static loff_t boesfs_llseek(struct file *file, loff_t offset, int whence)
{
	struct inode *inode = file_inode(file);
	struct file *lower;
	loff_t ret = check_file(file, BOESFS_OP_LLSEEK, offset, whence, 0);

	if (ret)
		return ret;
	if (whence == SEEK_CUR && !offset)
		return file->f_pos;
	lower = lower_file(file);
	inode_lock(inode); /* the lower file's position is used */
	lower->f_pos = file->f_pos;
	ret = vfs_llseek(lower, offset, whence);
	file->f_pos = lower->f_pos;
	inode_unlock(inode);
	return ret;
}

static int boesfs_fsync(struct file *file, loff_t start, loff_t end, int datasync)
{
	int err = check_file(file, BOESFS_OP_FSYNC, datasync, 0, 0);

	return err ? err : vfs_fsync_range(lower_file(file), start, end, datasync);
}

static int boesfs_fadvise(struct file *file, loff_t offset, loff_t len, int advice)
{
	return vfs_fadvise(lower_file(file), offset, len, advice);
}

/*
 * What an ioctl does depends on the lower filesystem, and some take or make descriptors. Those go
 * down that only tell about the file; the VFS serves the usual others (attributes, FIONREAD,
 * FICLONE …) by the operations above.
 */
static long boesfs_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct file *lower = lower_file(file);
	int err = check_file(file, BOESFS_OP_IOCTL, cmd, 0, 0);

	if (err)
		return err;
	if (cmd == FS_IOC_GETVERSION && lower->f_op->unlocked_ioctl)
		return lower->f_op->unlocked_ioctl(lower, cmd, arg);
	return -ENOTTY;
}

/* ------------------------------------------------------------- locks: the lower file's own */

static int check_lock(struct file *file, const struct file_lock *lock)
{
	return check_file(file, BOESFS_OP_LOCK, lock->c.flc_type, lock->fl_start, lock->fl_end);
}

static int boesfs_lock(struct file *file, int cmd, struct file_lock *lock)
{
	struct file *lower = lower_file(file), *locked = lock->c.flc_file;
	int err = lock->c.flc_type == F_UNLCK ? 0 : check_lock(file, lock);

	if (err)
		return err;
	lock->c.flc_file = lower;
	if (cmd == F_GETLK)
		err = vfs_test_lock(lower, lock);
	else
		err = vfs_lock_file(lower, cmd, lock, NULL);
	lock->c.flc_file = locked; /* who waits comes again */
	return err;
}

static int boesfs_flock(struct file *file, int cmd, struct file_lock *lock)
{
	struct file *lower = lower_file(file);
	int err = lock->c.flc_type == F_UNLCK ? 0 : check_lock(file, lock);

	if (err)
		return err;
	lock->c.flc_file = lower;
	lock->c.flc_owner = lower;
	if (lower->f_op->flock)
		return lower->f_op->flock(lower, cmd, lock);
	return locks_lock_file_wait(lower, lock);
}

/* ------------------------------------------------------------- directories */

static int boesfs_iterate(struct file *file, struct dir_context *ctx)
{
	struct file *lower = file->private_data;
	int err = check_file(file, BOESFS_OP_ITERATE, 0, 0, 0);

	if (err)
		return err;
	lower->f_pos = ctx->pos;
	err = iterate_dir(lower, ctx);
	ctx->pos = lower->f_pos;
	return err;
}

const struct file_operations boesfs_file_ops = {
	.owner = THIS_MODULE,
	.open = boesfs_open,
	.flush = boesfs_flush,
	.release = boesfs_release,
	.llseek = boesfs_llseek,
	.read_iter = boesfs_read_iter,
	.write_iter = boesfs_write_iter,
	.splice_read = boesfs_splice_read,
	.splice_write = boesfs_splice_write,
	.copy_file_range = boesfs_copy_file_range,
	.remap_file_range = boesfs_remap_file_range,
	.mmap = boesfs_mmap,
	.fsync = boesfs_fsync,
	.fallocate = boesfs_fallocate,
	.fadvise = boesfs_fadvise,
	.unlocked_ioctl = boesfs_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.lock = boesfs_lock,
	.flock = boesfs_flock,
	BOESFS_NO_LEASES
};

const struct file_operations boesfs_dir_ops = {
	.owner = THIS_MODULE,
	.open = boesfs_open,
	.flush = boesfs_flush,
	.release = boesfs_release,
	.llseek = boesfs_llseek,
	.read = generic_read_dir,
	.iterate_shared = boesfs_iterate,
	.fsync = boesfs_fsync,
	.unlocked_ioctl = boesfs_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.flock = boesfs_flock,
	.lock = boesfs_lock,
	BOESFS_NO_LEASES
};

const struct file_operations boesfs_special_ops = {
	.owner = THIS_MODULE,
	.open = boesfs_special_open,
	.llseek = noop_llseek,
};
