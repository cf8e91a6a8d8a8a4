// SPDX-License-Identifier: GPL-2.0-only
/* Mounting: options, what can be stacked upon and what cannot, and the superblock. */
#include <linux/bpf.h>
#include <linux/fs_context.h>
#include <linux/fs_parser.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <linux/namei.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/statfs.h>
#include <linux/user_namespace.h>
#include <linux/xattr.h>

#include "boesfs.h"

enum { BOESFS_SUPER_MAGIC = 0x424f4553 };	/* "BOES" */
static const char default_program[] = "boesfs"; /* whose policy policy_id= names alone */

static struct kmem_cache *inode_cache;

/* ------------------------------------------------------------- options */

struct boesfs_options {
	struct path source;
	char *program;
	struct bpf_link *link; /* policy_fd= */
	u32 id;
	bool nopolicy;
	char *at;
	u64 instance;
};

enum boesfs_param {
	Opt_at,
	Opt_instance,
	Opt_nopolicy,
	Opt_policy,
	Opt_policy_fd,
	Opt_policy_id,
	Opt_source
};

static const struct fs_parameter_spec boesfs_params[] = {
	fsparam_string("at", Opt_at),
	fsparam_u64("instance", Opt_instance),
	fsparam_flag("nopolicy", Opt_nopolicy),
	fsparam_string("policy", Opt_policy),
	fsparam_fd("policy_fd", Opt_policy_fd),
	fsparam_u32("policy_id", Opt_policy_id),
	fsparam_string("source", Opt_source),
	{}
};

/*
 * An absolute, plain path: each component gets a label, and what is shown in mountinfo can be given
 * again.
 */
static int parse_at(struct fs_context *fc, const char *at)
{
	const char *component = at;

	if (at[0] != '/' || strlen(at) >= PATH_MAX)
		return invalf(fc, "boesfs: at=%s: not an absolute path", at);
	while (*component) {
		size_t length;

		component++;
		length = strcspn(component, "/");
		if (length > NAME_MAX)
			return invalf(fc, "boesfs: at=%s: a component is longer than %d bytes", at,
				      NAME_MAX);
		if ((!length && at[1]) || (length == 1 && component[0] == '.') ||
		    (length == 2 && !strncmp(component, "..", 2)))
			return invalf(fc, "boesfs: at=%s: //, a final /, . and .. are not allowed",
				      at);
		component += length;
	}
	return 0;
}

static int parse_source(struct fs_context *fc, struct boesfs_options *options,
			struct fs_parameter *param)
{
	int err;

	if (options->source.dentry)
		return invalf(fc, "boesfs: more than one source");
	err = kern_path(param->string, LOOKUP_FOLLOW | LOOKUP_DIRECTORY, &options->source);
	if (err) {
		errorf(fc, "boesfs: source %s: error %d", param->string, -err);
		return err;
	}
	fc->source = param->string;
	param->string = NULL;
	return 0;
}

static int parse_policy_fd(struct fs_context *fc, struct boesfs_options *options, unsigned int fd)
{
	struct bpf_link *link;

	if (!BOESFS_LINKS_ARE_TOLD)
		return invalf(fc, "boesfs: policy_fd= needs Linux 6.11 or later");
	link = bpf_link_get_from_fd(fd);
	if (IS_ERR(link)) {
		errorf(fc, "boesfs: policy_fd=%u: not a BPF link", fd);
		return PTR_ERR(link);
	}
	if (options->link)
		bpf_link_put(options->link);
	options->link = link;
	return 0;
}

static void take_string(char **to, struct fs_parameter *param)
{
	kfree(*to);
	*to = param->string;
	param->string = NULL;
}

static int boesfs_parse_param(struct fs_context *fc, struct fs_parameter *param)
{
	struct boesfs_options *options = fc->fs_private;
	struct fs_parse_result result;
	int opt = fs_parse(fc, boesfs_params, param, &result), err = 0;

	if (opt < 0)
		return opt;
	switch (opt) {
	case Opt_at:
		err = parse_at(fc, param->string);
		if (!err)
			take_string(&options->at, param);
		break;
	case Opt_instance:
		options->instance = result.uint_64;
		break;
	case Opt_nopolicy:
		options->nopolicy = true;
		break;
	case Opt_policy:
		take_string(&options->program, param);
		break;
	case Opt_policy_fd:
		err = parse_policy_fd(fc, options, result.uint_32);
		break;
	case Opt_policy_id:
		if (!result.uint_32)
			return invalf(fc, "boesfs: policy_id=0: policies are numbered from 1");
		options->id = result.uint_32;
		break;
	case Opt_source:
		err = parse_source(fc, options, param);
		break;
	}
	return err;
}

/*
 * Options may come in any order, so who names the policy is seen at the end. No policy, no mount.
 */
static struct boesfs_policy *find_policy(struct fs_context *fc,
					 const struct boesfs_options *options)
{
	const char *name = options->program;
	struct boesfs_policy *policy;

	if (options->nopolicy) {
		if (name || options->link || options->id)
			return ERR_PTR(invalf(fc, "boesfs: nopolicy and a policy"));
		if (fc->user_ns != &init_user_ns)
			return ERR_PTR(invalf(
				fc, "boesfs: nopolicy is for the initial user namespace alone"));
		return NULL;
	}
	if (name && options->link)
		return ERR_PTR(invalf(fc, "boesfs: policy= and policy_fd= exclude each other"));
	if (fc->user_ns != &init_user_ns && !options->link)
		return ERR_PTR(invalf(
			fc, "boesfs: in a user namespace a policy is named by policy_fd= alone"));
	if (!name && !options->link && !options->id)
		return ERR_PTR(invalf(
			fc,
			"boesfs: no policy: say policy=NAME, policy_id=N, policy_fd=FD or nopolicy"));
	if (!name && !options->link)
		name = default_program;
	policy = boesfs_policy_get(name, options->link, options->id);
	if (policy == ERR_PTR(-ENOENT) && name)
		errorf(fc, "boesfs: policy=%s: no such program is attached", name);
	else if (policy == ERR_PTR(-ENOENT))
		errorf(fc, "boesfs: policy_fd=: not the link of a boesfs policy program");
	else if (policy == ERR_PTR(-ESRCH))
		errorf(fc, "boesfs: policy_id=%u: the program has no such policy", options->id);
	return policy;
}

/* ------------------------------------------------------------- what can be below */

/* Views of the kernel, not files: links that are no paths, contents that depend on who looks. */
static bool is_kernel_view(const struct super_block *sb)
{
	switch (sb->s_magic) {
	case BPF_FS_MAGIC:
	case CGROUP_SUPER_MAGIC:
	case CGROUP2_SUPER_MAGIC:
	case DEBUGFS_MAGIC:
	case PROC_SUPER_MAGIC:
	case SECURITYFS_MAGIC:
	case SYSFS_MAGIC:
	case TRACEFS_MAGIC:
		return true;
	}
	return false;
}

static int check_source(struct fs_context *fc, const struct path *source)
{
	struct super_block *lower = source->dentry->d_sb;

	if (lower->s_stack_depth >= FILESYSTEM_MAX_STACK_DEPTH || is_kernel_view(lower))
		return invalf(
			fc,
			"boesfs: %s cannot be stacked upon, or is as deep a stack as the kernel allows",
			lower->s_type->name);
	if (source->dentry->d_flags & (DCACHE_OP_HASH | DCACHE_OP_COMPARE))
		return invalf(
			fc,
			"boesfs: %s compares names in a way of its own, labels could not follow",
			lower->s_type->name);
	return 0;
}

/* ------------------------------------------------------------- superblock */

static struct inode *boesfs_alloc_inode(struct super_block *sb)
{
	struct boesfs_inode *inode = alloc_inode_sb(sb, inode_cache, GFP_KERNEL);

	if (!inode)
		return NULL;
	inode->lower = NULL;
	inode->special = NULL;
	return &inode->vfs;
}

static void boesfs_free_inode(struct inode *inode)
{
	kmem_cache_free(inode_cache, boesfs_inode(inode));
}

static void boesfs_evict_inode(struct inode *inode)
{
	truncate_inode_pages_final(&inode->i_data);
	clear_inode(inode);
	iput(boesfs_lower_inode(inode));
}

/*
 * Nothing is worth keeping in an inode that no name holds, and it would keep a deleted lower file
 * alive.
 */
static int boesfs_drop_inode(struct inode *inode)
{
	return 1;
}

static int boesfs_sync_fs(struct super_block *sb, int wait)
{
	struct super_block *lower = boesfs_sb(sb)->lower->mnt_sb;
	int err;

	if (!wait)
		return 0;
	down_read_nested(&lower->s_umount, sb->s_stack_depth); /* it may be boesfs as well */
	err = sync_filesystem(lower);
	up_read(&lower->s_umount);
	return err;
}

static int boesfs_statfs(struct dentry *dentry, struct kstatfs *stat)
{
	struct path lower = boesfs_lower_path(dentry);
	int err = boesfs_check(dentry, BOESFS_OP_STATFS, 0, 0, 0, 0);

	if (err)
		return err;
	err = vfs_statfs(&lower, stat);
	if (!err)
		stat->f_type = BOESFS_SUPER_MAGIC;
	return err;
}

static int boesfs_show_options(struct seq_file *seq, struct dentry *root)
{
	const struct boesfs_sb *sbi = boesfs_sb(root->d_sb);

	if (!sbi->policy) {
		seq_puts(seq, ",nopolicy");
	} else {
		seq_show_option(seq, "policy", boesfs_policy_name(sbi->policy));
		if (sbi->policy->id)
			seq_printf(seq, ",policy_id=%u", sbi->policy->id);
	}
	seq_show_option(seq, "at", sbi->at);
	if (sbi->instance)
		seq_printf(seq, ",instance=%llu", sbi->instance);
	return 0;
}

const struct super_operations boesfs_super_ops = {
	.alloc_inode = boesfs_alloc_inode,
	.free_inode = boesfs_free_inode,
	.evict_inode = boesfs_evict_inode,
	.drop_inode = boesfs_drop_inode,
	.sync_fs = boesfs_sync_fs,
	.statfs = boesfs_statfs,
	.show_options = boesfs_show_options,
};

/*
 * Who writes to boesfs on boesfs is a writer of both, and a rename is one of both: with the classes
 * of the filesystem's type that would look like a deadlock.
 */
static void set_lock_classes(struct super_block *sb)
{
#ifdef CONFIG_LOCKDEP
	static struct lock_class_key writer_keys[FILESYSTEM_MAX_STACK_DEPTH][SB_FREEZE_LEVELS];
	static struct lock_class_key rename_keys[FILESYSTEM_MAX_STACK_DEPTH];
	int depth = sb->s_stack_depth - 1, level;

	for (level = 0; level < SB_FREEZE_LEVELS; level++)
		lockdep_set_class(&sb->s_writers.rw_sem[level], &writer_keys[depth][level]);
	lockdep_set_class(&sb->s_vfs_rename_mutex, &rename_keys[depth]);
#endif
}

static int boesfs_fill_super(struct super_block *sb, struct fs_context *fc)
{
	struct boesfs_options *options = fc->fs_private;
	struct boesfs_sb *sbi = boesfs_sb(sb);
	struct super_block *lower = options->source.dentry->d_sb;
	struct boesfs_policy *policy;
	struct vfsmount *mnt;
	struct inode *root;
	int err;

	policy = find_policy(fc, options);
	if (IS_ERR(policy))
		return PTR_ERR(policy);
	sbi->policy = policy;
	if (policy)
		boesfs_policy_add_mount(policy, &sbi->policy_node);
	mnt = clone_private_mount(&options->source);
	if (IS_ERR(mnt)) {
		errorf(fc, "boesfs: source %s cannot be used from here", fc->source);
		return PTR_ERR(mnt);
	}
	sbi->lower = mnt;
	sbi->cred = get_current_cred();
	sbi->instance = options->instance;
	sbi->at = options->at ? options->at : kstrdup("/", GFP_KERNEL);
	options->at = NULL;
	if (!sbi->at)
		return -ENOMEM;

	sb->s_stack_depth = lower->s_stack_depth + 1;
	set_lock_classes(sb);
	sb->s_op = &boesfs_super_ops;
	sb->s_xattr = boesfs_xattr_handlers;
	boesfs_set_dentry_ops(sb, &boesfs_dentry_ops);
	sb->s_magic = BOESFS_SUPER_MAGIC;
	sb->s_maxbytes = lower->s_maxbytes;
	sb->s_blocksize = lower->s_blocksize;
	sb->s_blocksize_bits = lower->s_blocksize_bits;
	sb->s_time_gran = lower->s_time_gran;
	sb->s_time_min = lower->s_time_min;
	sb->s_time_max = lower->s_time_max;
	/* who has ACLs applies the umask itself; who has no access times does not tell them */
	sb->s_flags |= lower->s_flags & (SB_POSIXACL | SB_NOATIME);
	if (mnt->mnt_flags & MNT_READONLY || sb_rdonly(lower))
		sb->s_flags |= SB_RDONLY;
	if (mnt->mnt_flags & MNT_NODEV || lower->s_iflags & SB_I_NODEV)
		sb->s_iflags |= SB_I_NODEV;
	if (mnt->mnt_flags & MNT_NOEXEC || lower->s_iflags & SB_I_NOEXEC)
		sb->s_iflags |= SB_I_NOEXEC;

	root = boesfs_iget(sb, d_inode(options->source.dentry));
	if (IS_ERR(root))
		return PTR_ERR(root);
	sb->s_root = d_make_root(root);
	if (!sb->s_root)
		return -ENOMEM;
	err = boesfs_dentry_alloc(sb->s_root, dget(options->source.dentry));
	return err;
}

static void boesfs_free_sb(struct boesfs_sb *sbi)
{
	if (!sbi)
		return;
	if (sbi->policy)
		boesfs_policy_remove_mount(&sbi->policy_node);
	if (sbi->lower)
		/* waits for RCU-walks, which may still look at policy and sbi */
		kern_unmount(sbi->lower);
	if (sbi->policy)
		boesfs_policy_put(sbi->policy);
	put_cred(sbi->cred);
	kfree(sbi->at);
	kfree(sbi);
}

static int boesfs_get_tree(struct fs_context *fc)
{
	struct boesfs_options *options = fc->fs_private;
	int err;

	if (!options->source.dentry)
		return invalf(fc, "boesfs: no source");
	err = check_source(fc, &options->source);
	return err ? err : get_tree_nodev(fc, boesfs_fill_super);
}

/*
 * Only ro and rw change on a remount. Options that are given again, as mount(8) does, have to be
 * valid but count nothing.
 */
static int boesfs_reconfigure(struct fs_context *fc)
{
	const struct boesfs_sb *sbi = boesfs_sb(fc->root->d_sb);

	if (!(fc->sb_flags & SB_RDONLY) && sbi->lower->mnt_flags & MNT_READONLY)
		return invalf(fc, "boesfs: the source is mounted read-only");
	return 0;
}

static void boesfs_free_fc(struct fs_context *fc)
{
	struct boesfs_options *options = fc->fs_private;

	if (options) {
		path_put(&options->source);
		if (options->link)
			bpf_link_put(options->link);
		kfree(options->program);
		kfree(options->at);
		kfree(options);
	}
	boesfs_free_sb(fc->s_fs_info);
}

static const struct fs_context_operations boesfs_context_ops = {
	.parse_param = boesfs_parse_param,
	.get_tree = boesfs_get_tree,
	.reconfigure = boesfs_reconfigure,
	.free = boesfs_free_fc,
};

static int boesfs_init_fs_context(struct fs_context *fc)
{
	struct boesfs_options *options = kzalloc(sizeof(*options), GFP_KERNEL);
	struct boesfs_sb *sbi;

	if (!options)
		return -ENOMEM;
	fc->fs_private = options;
	fc->ops = &boesfs_context_ops;
	if (fc->purpose == FS_CONTEXT_FOR_RECONFIGURE)
		return 0;
	sbi = kzalloc(sizeof(*sbi), GFP_KERNEL); /* moves to the superblock */
	if (!sbi) {
		kfree(options);
		fc->fs_private = NULL;
		return -ENOMEM;
	}
	spin_lock_init(&sbi->moves_lock);
	INIT_LIST_HEAD(&sbi->policy_node);
	fc->s_fs_info = sbi;
	return 0;
}

static void boesfs_kill_sb(struct super_block *sb)
{
	struct boesfs_sb *sbi = boesfs_sb(sb);

	kill_anon_super(sb);
	boesfs_free_sb(sbi);
}

struct file_system_type boesfs_type = {
	.owner = THIS_MODULE,
	.name = "boesfs",
	.init_fs_context = boesfs_init_fs_context,
	.parameters = boesfs_params,
	.kill_sb = boesfs_kill_sb,
};

static void inode_init_once_cb(void *object)
{
	struct boesfs_inode *inode = object;

	inode_init_once(&inode->vfs);
	mutex_init(&inode->aliasing);
}

int __init boesfs_super_init(void)
{
	inode_cache = kmem_cache_create("boesfs_inode", sizeof(struct boesfs_inode), 0,
					SLAB_RECLAIM_ACCOUNT | SLAB_ACCOUNT, inode_init_once_cb);
	return inode_cache ? 0 : -ENOMEM;
}

void boesfs_super_exit(void)
{
	rcu_barrier(); /* inodes are freed after a grace period */
	kmem_cache_destroy(inode_cache);
}
