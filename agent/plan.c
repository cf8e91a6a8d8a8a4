// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "plan.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

const char *const plan_op_names[OP_COUNT] = {
	[OP_LABEL] = "label", [OP_LIMIT] = "limit", [OP_USER] = "user", [OP_NETWORK] = "network",
	[OP_ROOT] = "root", [OP_MKDIR] = "mkdir", [OP_LINK] = "link", [OP_FILE] = "file",
	[OP_COPY] = "copy", [OP_BIND] = "bind", [OP_TREE] = "tree", [OP_POLICY] = "policy", [OP_GOVERN] = "govern", [OP_DEVICE] = "device", [OP_HIDE] = "hide", [OP_TMPFS] = "tmpfs", [OP_PROC] = "proc", [OP_FREEZE] = "freeze", [OP_PTS] = "pts",
	[OP_LISTENER] = "listener", [OP_PIVOT] = "pivot", [OP_HOSTNAME] = "hostname",
	[OP_RLIMIT] = "rlimit", [OP_TERMINAL] = "terminal", [OP_DROP] = "drop", [OP_LANDLOCK] = "landlock", [OP_ALLOW] = "allow",
	[OP_PORTS] = "ports", [OP_RESTRICT] = "restrict", [OP_TRACE] = "trace", [OP_SECCOMP] = "seccomp", [OP_ENV] = "env",
	[OP_CWD] = "cwd", [OP_REAPER] = "reaper", [OP_EXEC] = "exec",
};

/* Fewest and most arguments of each operation. */
static const struct { int min, max; } arity[OP_COUNT] = {
	[OP_LABEL] = {2, 2}, [OP_LIMIT] = {2, 2}, [OP_USER] = {1, 1 << 17}, [OP_NETWORK] = {1, 1},
	[OP_ROOT] = {1, 1}, [OP_MKDIR] = {2, 2}, [OP_LINK] = {2, 2}, [OP_FILE] = {3, 3},
	[OP_COPY] = {2, 2}, [OP_BIND] = {2, 3}, [OP_TREE] = {3, 3}, [OP_POLICY] = {1, 2}, [OP_GOVERN] = {2, 3}, [OP_DEVICE] = {1, 1}, [OP_HIDE] = {1, 1}, [OP_TMPFS] = {3, 3}, [OP_PROC] = {1, 1}, [OP_FREEZE] = {1, 1}, [OP_PTS] = {1, 1},
	[OP_LISTENER] = {1, 1}, [OP_PIVOT] = {0, 0}, [OP_HOSTNAME] = {1, 1}, [OP_RLIMIT] = {2, 2},
	[OP_TERMINAL] = {2, 2}, [OP_DROP] = {0, 0}, [OP_LANDLOCK] = {1, 1}, [OP_ALLOW] = {2, 2}, [OP_PORTS] = {1, 1 << 16},
	[OP_RESTRICT] = {0, 0}, [OP_TRACE] = {2, 2}, [OP_SECCOMP] = {1, SYSCALLS_MAX}, [OP_ENV] = {1, 1}, [OP_CWD] = {1, 1},
	[OP_REAPER] = {0, 0}, [OP_EXEC] = {1, 1 << 21},
};

static int fail(struct plan *plan, const char *file, int line, const char *what)
{
	snprintf(plan->error, sizeof plan->error, "%s, line %d: %s", file, line, what);
	return -1;
}

static char *slurp(const char *file)
{
	int fd = open(file, O_RDONLY | O_CLOEXEC);
	struct stat st;
	char *text = NULL;

	if (fd < 0)
		return NULL;
	if (fstat(fd, &st) == 0 && st.st_size <= PLAN_MAX_BYTES && (text = malloc(st.st_size + 1))) {
		ssize_t got = read(fd, text, st.st_size);

		if (got == st.st_size) {
			text[got] = 0;
		} else {
			free(text);
			text = NULL;
			errno = EIO;
		}
	} else if (!text) {
		errno = EFBIG;
	}
	close(fd);
	return text;
}

/* Undo the escapes of one field in place; -1 on an unknown one. */
static int unescape(char *field)
{
	char *to = field;

	for (const char *from = field; *from; from++) {
		if (*from != '\\') {
			*to++ = *from;
			continue;
		}
		switch (*++from) {
		case 't': *to++ = '\t'; break;
		case 'n': *to++ = '\n'; break;
		case '\\': *to++ = '\\'; break;
		default: return -1;
		}
	}
	*to = 0;
	return 0;
}

static int read_step(struct step *step, char *line)
{
	char *word = strsep(&line, "\t");
	int fields = 0, op;

	for (op = 0; op < OP_COUNT && strcmp(plan_op_names[op], word); op++)
		;
	if (op == OP_COUNT)
		return -1;
	step->op = op;
	if (line) {
		fields = 1;
		for (const char *c = line; *c; c++)
			fields += *c == '\t';
	}
	if (fields < arity[op].min || fields > arity[op].max)
		return -1;
	step->argv = calloc(fields + 1, sizeof *step->argv);
	if (!step->argv)
		return -1;
	for (step->argc = 0; step->argc < fields; step->argc++) {
		step->argv[step->argc] = strsep(&line, "\t");
		if (unescape(step->argv[step->argc]))
			return -1;
	}
	return 0;
}

int plan_read(struct plan *plan, const char *file)
{
	char *text = slurp(file), *line, *rest;
	int lines = 1, number = 1;

	memset(plan, 0, sizeof *plan);
	if (!text) {
		snprintf(plan->error, sizeof plan->error, "cannot read plan %s: %s%s", file, strerror(errno),
			 errno == ENOENT ? "; why boesfsd did not write it is in its journal" : "");
		return -1;
	}
	for (const char *c = text; *c; c++)
		lines += *c == '\n';
	plan->steps = calloc(lines, sizeof *plan->steps);
	if (!plan->steps)
		return fail(plan, file, 0, "out of memory");
	rest = text;
	line = strsep(&rest, "\n");
	if (strcmp(line, "boesfs-plan\t6"))
		return fail(plan, file, number, "not a plan of this version; restart boesfsd to render it anew");
	while ((line = strsep(&rest, "\n"))) {
		number++;
		if (!*line)
			continue;
		if (read_step(&plan->steps[plan->count], line))
			return fail(plan, file, number, "unknown operation or wrong fields");
		plan->count++;
	}
	if (!plan->count || plan->steps[plan->count - 1].op != OP_EXEC)
		return fail(plan, file, number, "a plan must end with exec");
	return 0;
}

static const char *find_value(const struct plan *plan, enum plan_op op, const char *key)
{
	for (int i = 0; i < plan->count; i++)
		if (plan->steps[i].op == op && !strcmp(plan->steps[i].argv[0], key))
			return plan->steps[i].argv[1];
	return NULL;
}

const char *plan_label(const struct plan *plan, const char *key)
{
	return find_value(plan, OP_LABEL, key);
}

uint64_t plan_limit(const struct plan *plan, const char *key, uint64_t otherwise)
{
	const char *value = find_value(plan, OP_LIMIT, key);

	return value ? strtoull(value, NULL, 10) : otherwise;
}

const struct step *plan_find(const struct plan *plan, enum plan_op op)
{
	for (int i = 0; i < plan->count; i++)
		if (plan->steps[i].op == op)
			return &plan->steps[i];
	return NULL;
}
