/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BOESFS_STEPS_H
#define BOESFS_STEPS_H
/* What the operations of a plan do inside the new namespaces: mounts.c and confine.c. Each returns 0 or -1 with errno. */
#include "plan.h"
#include "sandbox.h"

#include <linux/filter.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct build {
	int listener_mount;	/* detached tmpfs for the FDK's socket */
	const struct sock_fprog *filter;	/* of the two: the sandbox's, or NARROW */
	struct sock_fprog narrow;
	uid_t uid;
	gid_t gid;
	int group_count;	/* supplementary ones */
	gid_t *groups;
	mode_t umask;		/* of the program */
	int channel;		/* where it reports */
	int terminal;		/* its side of it, or -1 */
	bool reaper;
	int trees;		/* directories that were handed over, detached */
	struct { const char *name; int mount; } tree[DIRECTORIES_MAX];
	const char *program;	/* that judges; NULL: the sandbox is not made of BoesFS */
	const char *policy;	/* which of its policies; NULL: it has one */
	uint64_t instance;	/* what the kernel's records call this instance */
	char detail[256];	/* why a step failed, if errno does not say it all */
	int ruleset;		/* Landlock, -1 without */
	int abi;
	int ports_handled;	/* LANDLOCK_ACCESS_NET_* that the plan lists */
	bool keeps_policy;	/* a policy chose what is there: what has gone since is left out */
	bool pivoted, dropped, restricted, filtered;
};

/* mounts.c: paths of the plan are relative to the new root, which is the working directory until the pivot. */
/* FLAGS are MOUNT_ATTR_*, besides nosuid and nodev */
/* A directory as a mount that is nowhere yet, or -1 */
int mount_detached(int directory);
int mount_tmpfs_detached(uint64_t bytes, uid_t uid, unsigned mode, uint64_t flags);
int step_root(uint64_t bytes);
int step_mkdir(const char *path, const char *mode);
int step_link(const char *target, const char *path);
int step_file(const char *path, const char *mode, const char *text);
int step_copy(const char *source, const char *path);
int step_bind(const char *source, const char *path, const char *nofollow);
int step_tree(const struct build *build, const char *name, const char *path, const char *access);
int step_govern(struct build *build, const char *path, const char *access, const char *source);
int step_device(const char *name);
int step_hide(const char *path);
int step_tmpfs(const char *path, uint64_t bytes, const char *mode, uid_t uid);
int step_proc(const char *path);
int step_freeze(const char *path);
int step_pts(const char *path, uid_t uid, gid_t gid);
int step_listener(int mount, const char *path);
int step_pivot(void);

/* confine.c */
int step_hostname(const char *name);
int step_loopback(void);
int step_rlimit(const char *name, uint64_t value);
int step_drop(struct build *build);
int step_landlock(struct build *build, const char *mode, const struct step *ports, int ports_count);
int step_allow(struct build *build, const char *rights, const char *path);
int step_ports(struct build *build, int argc, char **argv);
int step_restrict(struct build *build);
/* Make a terminal: our side of it, or -1 */
int step_terminal(struct build *build, const char *rows, const char *columns);
/* Load the filter; the notification descriptor, or -1. */
int step_seccomp(struct build *build);

#endif
