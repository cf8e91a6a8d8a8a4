// SPDX-License-Identifier: GPL-2.0-only
/*
 * BoesFS: a stackable filesystem that asks a BPF program about every operation.
 *
 *	boesfs_abi.h	what programs and user space see
 *	policy.c	programs, policies, their generations; the struct_ops type; the loader's calls
 *	kfuncs.c	what a program may ask beside its context
 *	verdict.c	labels, verdicts, and what is kept of them
 *	kill.c		who is ended
 *	super.c		mounting
 *	dentry.c	names: is a dentry still what it was?
 *	inode.c		names made, moved, removed; attributes
 *	xattr.c		extended attributes and ACLs
 *	file.c		open files and their data
 *	compat.h	what differs between kernels, found by probe.sh
 */
#include <linux/module.h>

#include "boesfs.h"

static int abi_set(const char *value, const struct kernel_param *param)
{
	return -EPERM;
}

static int abi_get(char *buffer, const struct kernel_param *param)
{
	return scnprintf(buffer, PAGE_SIZE, "%d.%d\n", BOESFS_ABI_MAJOR, BOESFS_ABI_MINOR);
}

static const struct kernel_param_ops abi_ops = {
	.set = abi_set,
	.get = abi_get,
};
module_param_cb(abi, &abi_ops, NULL, 0444);
MODULE_PARM_DESC(abi, "MAJOR.MINOR of the interface to programs and loaders (read-only)");

static bool userns_mount;
module_param(userns_mount, bool, 0444);
MODULE_PARM_DESC(userns_mount, "Allow mounting in user namespaces, by policy_fd= (default: no)");

static int __init boesfs_init(void)
{
	int err = boesfs_super_init();

	if (err)
		return err;
	if (userns_mount)
		boesfs_type.fs_flags |= FS_USERNS_MOUNT;
	err = boesfs_policy_register();
	if (!err)
		err = register_filesystem(&boesfs_type);
	if (err)
		boesfs_super_exit();
	return err;
}

static void __exit boesfs_exit(void)
{
	unregister_filesystem(&boesfs_type);
	boesfs_super_exit();
}

module_init(boesfs_init);
module_exit(boesfs_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Stackable filesystem with eBPF policies");
MODULE_ALIAS_FS("boesfs");
MODULE_IMPORT_NS(BOESFS_BPF_NAMESPACE);
