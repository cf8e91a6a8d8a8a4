/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BOESFS_PLAN_H
#define BOESFS_PLAN_H
/*
 * A plan is what boesfsd decided and the agent executes: text, one operation a line, fields separated by tabs,
 * with \t, \n and \\ as escapes. The first line is "boesfs-plan 6". Operations run in the order they are written;
 * boesfsd/plan.py writes them and documents each one.
 */
#include <stddef.h>
#include <stdint.h>

enum plan_op {
	OP_LABEL,		/* label KEY VALUE: what journal fields and the hostname call this instance */
	OP_LIMIT,		/* limit NAME NUMBER: what the supervisor keeps to */
	OP_USER,		/* user UID [GID [GROUP...]]: without, the number is both, and there are no groups */
	OP_NETWORK,		/* network none|host|PATH */
	OP_ROOT,		/* root BYTES: begin the new root, a tmpfs */
	OP_MKDIR,		/* mkdir PATH MODE */
	OP_LINK,		/* link TARGET PATH */
	OP_FILE,		/* file PATH MODE TEXT */
	OP_COPY,		/* copy SOURCE PATH: the content of a file of the host, to be read by all */
	OP_BIND,		/* bind SOURCE PATH [nofollow]: read-only, nosuid, nodev, not recursive */
	OP_TREE,		/* tree NAME PATH ro|rw: a directory that was handed over; as bind */
	OP_POLICY,		/* policy PROGRAM [ID]: what judges the BoesFS mounts that follow */
	OP_GOVERN,		/* govern PATH ro|rw [SOURCE]: BoesFS on PATH, of SOURCE or of what is there; as bind */
	OP_DEVICE,		/* device NAME */
	OP_HIDE,		/* hide PATH: an empty read-only directory over it */
	OP_TMPFS,		/* tmpfs PATH BYTES MODE */
	OP_PROC,		/* proc PATH */
	OP_FREEZE,		/* freeze PATH: what is there, if anything, read-only */
	OP_PTS,			/* pts PATH: terminals of its own */
	OP_LISTENER,		/* listener PATH: the directory where the FDK puts its socket */
	OP_PIVOT,		/* pivot: the new root becomes / and read-only */
	OP_HOSTNAME,		/* hostname NAME */
	OP_RLIMIT,		/* rlimit NAME NUMBER */
	OP_TERMINAL,		/* terminal ROWS COLUMNS: a new one is its standard input, output and error */
	OP_DROP,		/* drop: own user namespace, no capabilities, no_new_privs */
	OP_LANDLOCK,		/* landlock required|optional|off|policy: begin a ruleset; policy: ABI 3 is required */
	OP_ALLOW,		/* allow RIGHTS PATH: Landlock's, of PATH and all below; a letter each, see confine.c */
	OP_PORTS,		/* ports connect|bind NUMBER...: the only TCP ports */
	OP_RESTRICT,		/* restrict: enforce the ruleset */
	OP_TRACE,		/* trace PATH UNTIL: note there which system calls are made; until then, in seconds since boot, all may be */
	OP_SECCOMP,		/* seccomp PATH [NAME...]: a compiled filter, and which calls alone of those it allows */
	OP_ENV,			/* env NAME=VALUE */
	OP_CWD,			/* cwd PATH */
	OP_REAPER,		/* reaper: PID 1 is one of ours, that passes on signals and ends with the program */
	OP_EXEC,		/* exec PROGRAM ARG...; without a / it is looked for in the PATH of its environment */
	OP_COUNT,
};

enum { PLAN_MAX_BYTES = 32 << 20, PLAN_VERSION = 6, SYSCALLS_MAX = 513 };

struct step {
	enum plan_op op;
	int argc;
	char **argv;
};

struct plan {
	struct step *steps;
	int count;
	char error[256];
};

extern const char *const plan_op_names[OP_COUNT];

/* Read and check the plan in FILE. 0, or -1 with plan->error set to a sentence that names the line. */
int plan_read(struct plan *plan, const char *file);
/* The value of the first "label KEY" or "limit KEY" line, or NULL. */
const char *plan_label(const struct plan *plan, const char *key);
uint64_t plan_limit(const struct plan *plan, const char *key, uint64_t otherwise);
const struct step *plan_find(const struct plan *plan, enum plan_op op);

#endif
