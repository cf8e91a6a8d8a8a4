/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef BOESFS_H
#define BOESFS_H

#include <linux/cred.h>
#include <linux/fs.h>
#include <linux/list.h>
#include <linux/mount.h>
#include <linux/mutex.h>
#include <linux/refcount.h>

#include "boesfs_abi.h"
#include "compat.h"

struct bpf_link;
struct boesfs_ctx;

/* ---------------------------------------------------------------- policy.c */

/**
 * struct boesfs_policy_ops - A policy program (struct_ops).
 *
 * Both callbacks run in the context of the calling task, under RCU, and may not sleep. Their
 * argument is trusted and may not be kept; only ctx->flags, by check(), and ctx->allow may be
 * written.
 *
 * @label: Give a name its label. @ctx->label is the label of the directory, BOESFS_STRING_NAME and
 *	boesfs_name_key() tell the name. Asked once per dentry and generation, so the answer may
 *	depend on nothing else but @ctx->table and @ctx->policy_id. The root of a sandbox has label
 *	0; the components of a mount's at= are asked for first. Optional: without it all labels are
 *	0.
 *	Return: the label, 0 to BOESFS_LABEL_MAX; below 0: everything at and below this name is
 *	denied. If @flags has BOESFS_CACHE, what it puts into ctx->allow is allowed to everybody:
 *	check() need not be asked for it, so a name that no rule restricts costs one call, and has
 *	to say the same when it is (while names move, or the policy is replaced).
 * @check: Decide an operation. @ctx tells operation, object and caller. Asked at each operation,
 *	but if @flags has BOESFS_CACHE, what was allowed is not asked for again on the same dentry
 *	in the same generation: the operation itself, unless check() sets BOESFS_NOCACHE or it is
 *	SETATTR, IOCTL, LOCK, ACCESS or SYMLINK; and whatever check() put into ctx->allow. LINK and
 *	RENAME are always asked.
 *	Return: 0 to allow, -errno to deny; what is neither denies with EPERM.
 * @flags: enum boesfs_program_flag.
 * @name: What the mount option policy= says. One program per name; BPF_LINK_UPDATE replaces it
 *	(and, with the same map, just raises the generation of all its policies). When it is
 *	detached, everything on its mounts is denied.
 */
struct boesfs_policy_ops {
	int (*label)(struct boesfs_ctx *ctx);
	int (*check)(struct boesfs_ctx *ctx);
	u32 flags;
	char name[BOESFS_PROGRAM_NAME_MAX];
};

/* What judges one operation from beginning to end; exchanged as a whole. */
struct boesfs_epoch {
	struct rcu_head rcu;
	const struct boesfs_policy_ops *ops; /* NULL: everything is denied */
	u64 generation;
	u64 table;
};

/* A policy: one table of one program. Shared by the mounts that name it. */
struct boesfs_policy {
	refcount_t refs;
	u32 id;
	struct boesfs_program *program;
	struct list_head node;	 /* in program->policies */
	struct list_head mounts; /* boesfs_sb.policy_node */
	/* the loader's reference, until it forgets the policy */
	bool kept;
	struct boesfs_epoch __rcu *epoch;
	u64 generation; /* what epoch says, without one more dereference */
};

struct boesfs_policy *boesfs_policy_get(const char *name, struct bpf_link *link, u32 id);
void boesfs_policy_put(struct boesfs_policy *policy);
void boesfs_policy_add_mount(struct boesfs_policy *policy, struct list_head *node);
void boesfs_policy_remove_mount(struct list_head *node);
const char *boesfs_policy_name(const struct boesfs_policy *policy);
int boesfs_policy_register(void);

/* ---------------------------------------------------------------- super.c */

struct boesfs_sb {
	struct vfsmount *lower;	      /* a private clone of the source's mount */
	/*
	 * The mounter's: whose lower files are, for security modules. That the caller may open them
	 * has been decided on our path; on the private mount's, Landlock would deny everything.
	 */
	const struct cred *cred;
	struct boesfs_policy *policy; /* NULL: mounted with nopolicy */
	struct list_head policy_node;
	/* directories renamed: labels below them are void */
	u64 moves;
	spinlock_t moves_lock;
	u64 instance;
	char *at;
};

struct boesfs_inode {
	struct inode *lower;
	const struct file_operations *special; /* what a device's or FIFO's inode is opened with */
	struct mutex aliasing; /* who gives a directory its dentry: it has one */
	struct inode vfs;
};

/*
 * What a lower dentry was when it was looked up may be over when its sequence count is read: the
 * count counts only after boesfs_compare(). None that is not being written is odd.
 */
#define BOESFS_NOT_COMPARED (~0U)

/*
 * The policy's view of a name. Fields are written under d_lock, but for a stamp that becomes void;
 * see boesfs_allowed() for how they are read.
 */
struct boesfs_dentry {
	struct rcu_head rcu;
	struct dentry *lower;
	unsigned int lower_seq;	   /* lower->d_seq when it was last compared */
	unsigned int changing_seq; /* our d_seq when a change began */
	/* the lower name is made or renamed by us, and our d_seq does not tell yet */
	bool changing;
	bool splicing; /* a lookup is about to move it */
	u32 label;
	/* generation + moves that label and allowed belong to; 0: none */
	u64 stamp;
	u64 allowed; /* a bit per operation */
};

extern const struct super_operations boesfs_super_ops;
extern struct file_system_type boesfs_type;
int boesfs_super_init(void);
void boesfs_super_exit(void);

static inline struct boesfs_sb *boesfs_sb(const struct super_block *sb)
{
	return sb->s_fs_info;
}

static inline struct mnt_idmap *boesfs_lower_idmap(const struct super_block *sb)
{
	return mnt_idmap(boesfs_sb(sb)->lower);
}

static inline struct boesfs_inode *boesfs_inode(const struct inode *inode)
{
	return container_of(inode, struct boesfs_inode, vfs);
}

static inline struct inode *boesfs_lower_inode(const struct inode *inode)
{
	return boesfs_inode(inode)->lower;
}

static inline struct boesfs_dentry *boesfs_dentry(const struct dentry *dentry)
{
	return dentry->d_fsdata;
}

/* Under d_lock: between ->rename and the VFS's d_move() the name is an old one. */
static inline bool boesfs_is_changing(const struct dentry *dentry)
{
	const struct boesfs_dentry *bd = boesfs_dentry(dentry);

	return bd->changing && bd->changing_seq == dentry->d_seq.seqcount.sequence;
}

/* Under d_lock: what follows from the name, or was compared with it, is not to be kept. */
static inline bool boesfs_is_moving(const struct dentry *dentry)
{
	return boesfs_dentry(dentry)->splicing || boesfs_is_changing(dentry);
}

static inline struct dentry *boesfs_lower_dentry(const struct dentry *dentry)
{
	return boesfs_dentry(dentry)->lower;
}

static inline struct path boesfs_lower_path(const struct dentry *dentry)
{
	return (struct path){ .mnt = boesfs_sb(dentry->d_sb)->lower,
			      .dentry = boesfs_lower_dentry(dentry) };
}

/* The names of both, which their d_locks or the locks of their directories keep. */
static inline bool boesfs_same_name(const struct dentry *dentry, const struct dentry *lower)
{
	return dentry->d_name.len == lower->d_name.len &&
	       !memcmp(dentry->d_name.name, lower->d_name.name, lower->d_name.len);
}

/* ---------------------------------------------------------------- dentry.c */

extern const struct dentry_operations boesfs_dentry_ops;
int boesfs_dentry_alloc(struct dentry *dentry, struct dentry *lower);
bool boesfs_compare(struct dentry *dentry);

/* ---------------------------------------------------------------- inode.c */

struct inode *boesfs_iget(struct super_block *sb, struct inode *lower);
bool boesfs_attr_stale(const struct inode *inode);

/* ---------------------------------------------------------------- xattr.c */

ssize_t boesfs_listxattr(struct dentry *dentry, char *list, size_t size);
extern const struct xattr_handler *const boesfs_xattr_handlers[];
struct posix_acl *boesfs_get_acl(struct mnt_idmap *idmap, struct dentry *dentry, int type);
int boesfs_set_acl(struct mnt_idmap *idmap, struct dentry *dentry, struct posix_acl *acl, int type);

/* ---------------------------------------------------------------- file.c */

/* open(2)'s flags that the lower file is not opened with */
#define BOESFS_NOT_BELOW (O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_APPEND)

extern const struct file_operations boesfs_file_ops;
extern const struct file_operations boesfs_dir_ops;
extern const struct file_operations boesfs_special_ops;

/* ---------------------------------------------------------------- verdict.c */

/* An operation that is being judged. */
struct boesfs_call {
	struct boesfs_ctx ctx; /* first: what the program sees */
	struct dentry *dentry;
	struct dentry *other;	 /* LINK, RENAME */
	const struct qstr *name; /* label() only */
	const char *string;	 /* XATTR, TARGET */
	bool possible;		 /* nobody tries it, so nobody is killed for it */
};

/* A name that is given its label. */
struct boesfs_naming {
	struct boesfs_call call;
	struct boesfs_key key;
};

int boesfs_judge(struct boesfs_call *call);
int boesfs_check_slow(struct dentry *dentry, enum boesfs_op op, u32 access, u64 arg0, u64 arg1,
		      u64 arg2);
int boesfs_check_access(struct inode *inode, int mask);
void boesfs_begin_change(struct dentry *dentry);
void boesfs_begin_move(struct dentry *dentry);
void boesfs_end_change(struct dentry *dentry);
void boesfs_begin_splice(struct dentry *dentry);
void boesfs_end_splice(struct dentry *dentry);
bool boesfs_changing(struct dentry *dentry);
u64 boesfs_generation(const struct super_block *sb);

/*
 * The generation that a verdict on this superblock has to belong to. Both terms only grow, so of
 * the states that there were no two have the same sum. Who stores a stamp has seen both terms at
 * one time (get_view()); who reads a stamp and then the terms finds neither smaller than it was for
 * the stamp, so an equal sum is the same state.
 */
static inline u64 boesfs_stamp(const struct boesfs_sb *sbi, u64 generation)
{
	return generation + READ_ONCE(sbi->moves);
}

/**
 * boesfs_allowed - Is it known that the operation is allowed? The fast path: a compare and a bit;
 * also in RCU-walk.
 *
 * A writer voids the stamp before it changes the bits and sets it after, so bits that are read
 * behind a stamp are of that stamp or of a later one.
 */
static inline bool boesfs_allowed(const struct dentry *dentry, enum boesfs_op op)
{
	const struct boesfs_sb *sbi = boesfs_sb(dentry->d_sb);
	const struct boesfs_dentry *bd = boesfs_dentry(dentry);

	if (!sbi->policy)
		return true;
	/* pairs with label_store(): the bits are read after the stamp */
	if (smp_load_acquire(&bd->stamp) != boesfs_stamp(sbi, READ_ONCE(sbi->policy->generation)))
		return false;
	return READ_ONCE(bd->allowed) & BIT_ULL(op);
}

/*
 * Judge an operation without arguments, or with those that decide nothing when the verdict is
 * cached. 0 or -errno.
 */
static inline int boesfs_check(struct dentry *dentry, enum boesfs_op op, u32 access, u64 arg0,
			       u64 arg1, u64 arg2)
{
	if (likely(boesfs_allowed(dentry, op)))
		return 0;
	return boesfs_check_slow(dentry, op, access, arg0, arg1, arg2);
}

#endif /* BOESFS_H */
