#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# probe.sh INCLUDE/LINUX: -D flags for what the kernel headers there offer. Versions do not tell: such things change within
# stable series. compat.h is the only file that looks at the flags.
include=$1

has() {	# FILE EXTENDED_REGULAR_EXPRESSION FLAG; white space of any length is one blank
	tr '\n\t' '  ' < "$include/$1" 2>/dev/null | tr -s ' ' | grep -qE "$2" && printf ' -DBOESFS_%s' "$3"
}

has backing-file.h 'backing_file_open\(const struct file \*' OPEN_BY_FILE
has backing-file.h 'struct file \*user_file; void' CTX_USER_FILE
has backing-file.h 'end_write\) ?\(struct kiocb' END_WRITE_KIOCB
has backing-file.h 'end_write\) ?\(struct file \*, loff_t, ssize_t\)' END_WRITE_RANGE
has bpf.h 'int \(\*reg\)\(void \*kdata, struct bpf_link' STRUCT_OPS_LINK
has backing-file.h 'backing_file_splice_read\(struct file \*in, struct kiocb' SPLICE_KIOCB
has dcache.h 'd_revalidate\) ?\(struct inode \*' D_REVALIDATE_DIR
has namei.h 'lookup_one_unlocked\(struct mnt_idmap \*idmap, struct qstr' LOOKUP_QSTR
has namei.h 'struct dentry \*start_creating_dentry\(' START_CREATING
has fs.h 'struct dentry \* ?\(\*mkdir\)' MKDIR_DENTRY
has fs.h 'int \(\*create\) \(struct mnt_idmap \*, struct inode \*, ?struct dentry \*, umode_t\)' CREATE_NO_EXCL
has fs.h 'vfs_create\(struct mnt_idmap \*, struct dentry' CREATE_DELEGATED
has namei.h 'int start_renaming_two_dentries\(' START_RENAMING
has fs.h 'inode_state_read_once\(struct inode' INODE_STATE_READ
has dcache.h 'set_default_d_op\(' SET_DEFAULT_D_OP
has fileattr.h 'struct file_kattr' FILE_KATTR
has module.h 'MODULE_IMPORT_NS\(ns\) MODULE_INFO\(import_ns, ns\)' IMPORT_NS_STRING
has fs.h 'simple_nosetlease\(' NOSETLEASE
exit 0
