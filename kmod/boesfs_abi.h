/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * What the boesfs module, policy programs and user space agree on. This file is the only
 * definition: the module and BPF programs include it, user space reads it with -DBOESFS_CDEF (cffi)
 * or by the enums in /sys/kernel/btf/boesfs.
 *
 * Rules of change. Enumerators are appended, never renumbered or reused. A new operation, flag or
 * field in reserved space raises BOESFS_ABI_MINOR: an old program goes on working, for what it does
 * not know it is asked all the same, and it has to deny it. Anything else raises BOESFS_ABI_MAJOR,
 * and a loader refuses a module of another major number. The module tells its version in
 * /sys/module/boesfs/parameters/abi as "MAJOR.MINOR".
 */
#ifndef BOESFS_ABI_H
#define BOESFS_ABI_H

#if !defined(__VMLINUX_H__) && !defined(BOESFS_CDEF)
#include <linux/types.h>
#endif

enum boesfs_abi_version {
	BOESFS_ABI_MAJOR = 1,
	BOESFS_ABI_MINOR = 0,
};

enum boesfs_limits {
	BOESFS_PROGRAM_NAME_MAX = 32, /* with the final NUL */
	BOESFS_KEY_NAME = 58,	      /* bytes of a name in one key */
	BOESFS_KEY_SIZE = 64,
	BOESFS_ARGS = 4,
	BOESFS_LABEL_MAX = 0x7fffffff,
};

/*
 * Operations. 0 to 22 are those of the original BoesFS, with its numbers. The comment tells the
 * arguments in arg[]; an argument that is not told is 0.
 */
enum boesfs_op {
	BOESFS_OP_INIT = 0,    /* never asked: the original's mount */
	BOESFS_OP_DESTROY = 1, /* never asked: the original's umount */
	/* length, offset; also readv, AIO, splice, copy, and mappings (0, 0) */
	BOESFS_OP_READ = 2,
	BOESFS_OP_WRITE = 3,  /* length, offset; as READ */
	BOESFS_OP_LOOKUP = 4, /* a name that exists, at each walk over it */
	BOESFS_OP_OPEN = 5,   /* open(2)'s flags */
	BOESFS_OP_MKDIR = 6,  /* mode */
	BOESFS_OP_UNLINK = 7,
	BOESFS_OP_RMDIR = 8,
	BOESFS_OP_MKNOD = 9,	/* mode, device number */
	BOESFS_OP_CREATE = 10,	/* mode */
	BOESFS_OP_LINK = 11,	/* the object is the old name, other the new one */
	BOESFS_OP_SYMLINK = 12, /* the object is the new name; string TARGET */
	BOESFS_OP_RENAME = 13,	/* flags; the object is the old name, other the new one */
	/* mode, uid, gid, size; access tells which of them, enum boesfs_attr */
	BOESFS_OP_SETATTR = 14,
	BOESFS_OP_GETATTR = 15,
	BOESFS_OP_LLSEEK = 16,	/* offset, whence */
	BOESFS_OP_ITERATE = 17, /* reading a directory */
	BOESFS_OP_MMAP = 18,	/* start, end; access: PROT_ bits, and MAP_SHARED << 8 */
	BOESFS_OP_LOOKUP2 = 19, /* never asked: LOOKUP is asked at each walk */
	BOESFS_OP_STATFS = 20,
	BOESFS_OP_FSYNC = 21,	/* datasync */
	BOESFS_OP_DEFAULT = 22, /* never asked: the original's placeholder */
	/* ABI 1.0: what the original left open */
	BOESFS_OP_PROBE = 23,	 /* looking for a name that does not exist */
	BOESFS_OP_READLINK = 24, /* also following the link */
	BOESFS_OP_GETXATTR = 25, /* string XATTR; also ACLs */
	BOESFS_OP_SETXATTR = 26, /* size, flags; string XATTR; also ACLs */
	BOESFS_OP_LISTXATTR = 27,
	BOESFS_OP_REMOVEXATTR = 28, /* string XATTR; also ACLs */
	BOESFS_OP_IOCTL = 29,	    /* command */
	BOESFS_OP_FALLOCATE = 30,   /* mode, offset, length */
	BOESFS_OP_TMPFILE = 31,	    /* mode; the object is the new file, which has no name */
	BOESFS_OP_EXEC = 32,	    /* beside OPEN: execve(2), its interpreter and loader */
	BOESFS_OP_ACCESS = 33,	    /* access(2); access: R_OK, W_OK, X_OK */
	BOESFS_OP_LOCK = 34,	    /* type (F_RDLCK …), start, end */
	BOESFS_OP_NR,
};

/* What SETATTR is about to change: boesfs_ctx.access. */
enum boesfs_attr {
	BOESFS_ATTR_MODE = 1 << 0, /* chmod */
	BOESFS_ATTR_UID = 1 << 1,  /* chown */
	BOESFS_ATTR_GID = 1 << 2,
	BOESFS_ATTR_SIZE = 1 << 3,  /* truncate; with O_TRUNC too */
	BOESFS_ATTR_ATIME = 1 << 4, /* utimes */
	BOESFS_ATTR_MTIME = 1 << 5,
	BOESFS_ATTR_FLAGS = 1 << 6, /* chattr */
};

/* What a program may write into boesfs_ctx.flags. */
enum boesfs_verdict_flag {
	/* with a denial: SIGKILL to the caller's process and its PID namespace's init */
	BOESFS_KILL = 1 << 0,
	/* ask again next time: this answer depends on more than object and operation */
	BOESFS_NOCACHE = 1 << 1,
};

/* boesfs_policy_ops.flags */
enum boesfs_program_flag {
	/* what is allowed once is allowed until the policy is replaced */
	BOESFS_CACHE = 1 << 0,
	BOESFS_PROGRAM_FLAGS = BOESFS_CACHE,
};

/* The flags of boesfs_policy_replace(). */
enum boesfs_replace_flag {
	/* SIGKILL to whoever has a file of this policy's mounts mapped */
	BOESFS_REPLACE_KILL_MAPPED = 1 << 0,
	BOESFS_REPLACE_FLAGS = BOESFS_REPLACE_KILL_MAPPED,
};

/* The strings that boesfs_ctx_string() can tell. */
enum boesfs_string {
	BOESFS_STRING_NAME = 0,	      /* the object's last component */
	BOESFS_STRING_PATH = 1,	      /* the object's path in the sandbox */
	BOESFS_STRING_OTHER_PATH = 2, /* LINK, RENAME: the new path */
	BOESFS_STRING_XATTR = 3,      /* the attribute's name */
	BOESFS_STRING_TARGET = 4,     /* SYMLINK: what it points to */
};

/**
 * struct boesfs_ctx - What a policy program is asked, and where it answers.
 * @op:	enum boesfs_op; in label() undefined
 * @access:	finer than @op, for operations that say so
 * @label:	the object's label; in label() that of its parent
 * @other_label: LINK, RENAME: the label of the new name
 * @table:	the policy's current table, a number of the loader's
 * @policy_id:	the mount's policy_id=, else 0
 * @mode:	the object's type and permissions as in stat(2), 0 when it does not exist
 * @instance:	the mount's instance=, else 0
 * @generation:	counts replacements of the policy; the same in all calls of one operation
 * @ino:	the lower file's inode number, 0 when it does not exist
 * @dev:	the lower filesystem's device, in the kernel's encoding (20 bits of minor number)
 * @uid:	the caller's user id, in the initial user namespace
 * @gid:	the caller's group id, in the initial user namespace
 * @pid:	the caller's process id, in the initial PID namespace
 * @tid:	the caller's thread id, in the initial PID namespace
 * @flags:	written by the program: enum boesfs_verdict_flag
 * @arg:	the operation's arguments
 * @allow:	written by the program, in label() and check(), and heeded if it has BOESFS_CACHE:
 *		operations (1 << enum boesfs_op) that it knows, and allows on this name for as long
 *		as the policy is not replaced, whatever their arguments, whoever calls, and
 *		whatever the name stands for: also on a file that is made there later. It need not
 *		be asked for them again. LINK and RENAME are always asked: they have two objects.
 */
struct boesfs_ctx {
	__u32 op;
	__u32 access;
	__u32 label;
	__u32 other_label;
	__u64 table;
	__u32 policy_id;
	__u32 mode;
	__u64 instance;
	__u64 generation;
	__u64 ino;
	__u32 dev;
	__u32 uid;
	__u32 gid;
	__u32 pid;
	__u32 tid;
	__u32 flags;
#ifdef __KERNEL__
	/* of scalars alone, the verifier would take any memory of the program's for a context */
	void *no_scalar[0];
#endif
	__u64 arg[BOESFS_ARGS];
	__u64 allow;
};

/**
 * struct boesfs_key - A name below a label, as a key for a map.
 * @label:	the label that the name is looked up below
 * @chunk:	which piece of the name this is, from 0
 * @length:	bytes of the whole name, 1 to 255
 * @name:	the piece, padded with NULs; a name longer than BOESFS_KEY_NAME bytes has several
 */
struct boesfs_key {
	__u32 label;
	__u8 chunk;
	__u8 length;
	char name[BOESFS_KEY_NAME];
};

/**
 * struct boesfs_program_id - Which program a process was made from, not by name.
 * @ino:	inode number of the executable
 * @dev:	its device; that of the lower filesystem if it is on boesfs
 * @generation:	the inode's generation, against reuse of the number
 */
struct boesfs_program_id {
	__u64 ino;
	__u32 dev;
	__u32 generation;
};

#endif /* BOESFS_ABI_H */
