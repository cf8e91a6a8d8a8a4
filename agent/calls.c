// SPDX-License-Identifier: Apache-2.0
/* The filter of system calls: read, made narrower for one function, and what is answered to what it does not allow. */
#define _GNU_SOURCE
#include "calls.h"
#include "syscall_names.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

enum { NAMES = sizeof syscall_names / sizeof *syscall_names };
_Static_assert((int)NAMES < (int)SYSCALLS_SEEN, "the last byte of what is seen is for something else");

/* Allowed whatever is named: its end, its last words, signals, what the vDSO falls back on, what our PID 1 ends by. */
static char *always[] = {
	"exit", "exit_group", "rt_sigreturn", "restart_syscall", "clock_gettime", "gettimeofday", "time", "getcpu",
	"sendmsg", "rt_sigtimedwait", "wait4", "kill", "write", "writev",
};

int filter_read(struct sock_fprog *filter, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	int result = -1;

	if (fd < 0)
		return -1;
	errno = EINVAL;
	if (!fstat(fd, &st) && st.st_size && st.st_size % sizeof *filter->filter == 0 &&
	    st.st_size / sizeof *filter->filter <= BPF_MAXINSNS && (filter->filter = malloc(st.st_size)) &&
	    read(fd, filter->filter, st.st_size) == st.st_size) {
		filter->len = st.st_size / sizeof *filter->filter;
		result = 0;
	}
	close(fd);
	return result;
}

static int number_of(const char *name)
{
	for (int number = 0; number < NAMES; number++)
		if (syscall_names[number] && !strcmp(syscall_names[number], name))
			return number;
	return -1;
}

const char *calls_named(bool named[SYSCALLS_SEEN], int count, char **names)
{
	for (int i = 0; i < count; i++) {
		int number = number_of(names[i]);

		if (number < 0)
			return names[i];
		named[number] = true;
	}
	return NULL;
}

int filter_narrow(struct sock_fprog *narrow, const struct sock_fprog *filter, const bool named[SYSCALLS_SEEN])
{
	bool kept[SYSCALLS_SEEN];
	int before = 2;
	struct sock_filter *at;

	memcpy(kept, named, sizeof kept);
	for (unsigned i = 0; i < sizeof always / sizeof *always; i++)
		calls_named(kept, 1, always + i);	/* not every machine has all */
	for (int number = 0; number < SYSCALLS_SEEN; number++)
		before += 2 * kept[number];
	narrow->len = before + filter->len;
	narrow->filter = at = calloc(narrow->len, sizeof *at);
	if (!at)
		return -1;
	*at++ = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	for (int number = 0; number < SYSCALLS_SEEN; number++)
		if (kept[number]) {	/* what follows jumps farther than the 255 that a condition can */
			*at++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, 1);
			*at = (struct sock_filter)BPF_STMT(BPF_JMP | BPF_JA, narrow->filter + before - at - 1);
			at++;
		}
	*at++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF);
	memcpy(at, filter->filter, filter->len * sizeof *at);
	return 0;
}

uint32_t filter_verdict(const struct sock_fprog *filter, const struct seccomp_data *data)
{
	uint32_t a = 0;

	for (unsigned at = 0; at < filter->len; at++) {
		const struct sock_filter *i = &filter->filter[at];

		switch (i->code) {
		case BPF_LD | BPF_W | BPF_ABS:
			if (i->k > sizeof *data - sizeof a)
				return SECCOMP_RET_KILL_PROCESS;
			memcpy(&a, (const char *)data + i->k, sizeof a);
			break;
		case BPF_ALU | BPF_AND | BPF_K: a &= i->k; break;
		case BPF_JMP | BPF_JA: at += i->k; break;
		case BPF_JMP | BPF_JEQ | BPF_K: at += a == i->k ? i->jt : i->jf; break;
		case BPF_JMP | BPF_JGT | BPF_K: at += a > i->k ? i->jt : i->jf; break;
		case BPF_JMP | BPF_JGE | BPF_K: at += a >= i->k ? i->jt : i->jf; break;
		case BPF_JMP | BPF_JSET | BPF_K: at += a & i->k ? i->jt : i->jf; break;
		case BPF_RET | BPF_K: return i->k;
		default: return SECCOMP_RET_KILL_PROCESS;	/* nothing that libseccomp writes */
		}
	}
	return SECCOMP_RET_KILL_PROCESS;
}

unsigned char *trace_open(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	struct stat st;
	void *seen = MAP_FAILED;

	if (fd < 0)
		return NULL;
	errno = EINVAL;
	if (!fstat(fd, &st) && st.st_size == SYSCALLS_SEEN)
		seen = mmap(NULL, SYSCALLS_SEEN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (seen == MAP_FAILED)
		return NULL;
	madvise(seen, SYSCALLS_SEEN, MADV_DONTFORK);
	return seen;
}

/*
 * PID 1, and what executes the program, until it has: that has sent us one end of a pipe before, and execve(2) has closed
 * the other.
 */
static bool is_ours(struct sandbox *sandbox, pid_t pid)
{
	struct pollfd executed = {.events = POLLIN};

	if (pid == sandbox->init)
		return sandbox->reaper;
	while (sandbox->begin_fd < 0 && !sandbox->begun && sandbox->report_fd >= 0 && sandbox_hear(sandbox))
		;
	executed.fd = sandbox->begin_fd;
	if (sandbox->begin_fd < 0 && sandbox->report_fd < 0) {	/* nobody is left who could tell */
		sandbox->begun = true;
	} else if (sandbox->begin_fd >= 0 && poll(&executed, 1, 0) != 0) {
		sandbox->begun = true;
		close(sandbox->begin_fd);
		sandbox->begin_fd = -1;
	}
	return !sandbox->begun;
}

/* Whether a call that the filter allows is made: while calls are noted each is, and then those that the function names. */
static bool is_made(struct sandbox *sandbox, pid_t pid, unsigned number)
{
	struct timespec now;

	if (is_ours(sandbox, pid))
		return true;
	clock_gettime(CLOCK_BOOTTIME, &now);
	if (number >= SYSCALLS_SEEN - 1 || !sandbox->traced)
		return false;
	if (sandbox->traced[SYSCALLS_SEEN - 1] || (uint64_t)now.tv_sec >= sandbox->traced_until)
		return !sandbox->narrow || sandbox->named[number];
	sandbox->traced[number] = 1;
	return true;
}

static void say_refused(struct sandbox *sandbox, struct journal *journal, unsigned number, const char *name)
{
	bool *said = &sandbox->refused[number < SYSCALLS_SEEN ? number : SYSCALLS_SEEN - 1];

	if (!*said)	/* once for each system call and instance */
		journal_say(journal, LOG_WARNING, "System call %s (%u) was refused", name ? name : "unknown", number);
	*said = true;
}

/* EPERM for a call that exists, ENOSYS for one newer than our table: libraries then fall back. */
void sandbox_answer_syscall(struct sandbox *sandbox, struct journal *journal)
{
	struct seccomp_notif request = {0};
	struct seccomp_notif_resp reply = {0};
	const char *name;
	unsigned number;
	uint32_t verdict, action;

	if (ioctl(sandbox->notify_fd, SECCOMP_IOCTL_NOTIF_RECV, &request))
		return;
	number = request.data.nr;
	name = number < NAMES ? syscall_names[number] : NULL;
	verdict = filter_verdict(&sandbox->filter, &request.data);
	action = verdict & SECCOMP_RET_ACTION_FULL;
	reply.id = request.id;
	if (action == SECCOMP_RET_ALLOW && is_made(sandbox, request.pid, number))
		reply.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
	else if (action == SECCOMP_RET_ERRNO)
		reply.error = -(int)(verdict & SECCOMP_RET_DATA);
	else
		reply.error = name ? -EPERM : -ENOSYS;
	if (action != SECCOMP_RET_ALLOW && action != SECCOMP_RET_ERRNO && action != SECCOMP_RET_USER_NOTIF)
		sandbox_kill(sandbox);	/* as the filter would: another architecture's calls */
	ioctl(sandbox->notify_fd, SECCOMP_IOCTL_NOTIF_SEND, &reply);
	if (!reply.flags && action != SECCOMP_RET_ERRNO)
		say_refused(sandbox, journal, number, name);
}
