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
#include <unistd.h>

enum { NAMES = sizeof syscall_names / sizeof *syscall_names };

/* Allowed whatever a function names: its end, signals, what the vDSO falls back on, and what our PID 1 ends by. */
static const unsigned always[] = {
	SYS_exit, SYS_exit_group, SYS_rt_sigreturn, SYS_restart_syscall, SYS_clock_gettime, SYS_gettimeofday, SYS_time,
	SYS_getcpu, SYS_sendmsg, SYS_rt_sigtimedwait, SYS_wait4, SYS_kill,
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

int filter_narrow(struct sock_fprog *narrow, const struct sock_fprog *filter, int count, char **names)
{
	const int kept = sizeof always / sizeof *always, before = 2 * (kept + count) + 2;
	struct sock_filter *at = calloc(before + filter->len, sizeof *at);

	narrow->filter = at;
	narrow->len = before + filter->len;
	if (!at || before + filter->len > BPF_MAXINSNS) {
		errno = E2BIG;
		return -1;
	}
	*at++ = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	for (int i = 0; i < kept + count; i++) {
		int number = i < kept ? (int)always[i] : number_of(names[i - kept]);

		if (number < 0) {
			errno = ENOSYS;
			return -1;
		}
		/* what follows jumps farther than the 255 that a condition can */
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
	if (!sandbox->begun && sandbox->begin_fd >= 0 && poll(&executed, 1, 0) != 0) {
		sandbox->begun = true;
		close(sandbox->begin_fd);
		sandbox->begin_fd = -1;
	}
	return !sandbox->begun;
}

/* EPERM for a call that exists, ENOSYS for one newer than our table: libraries then fall back. */
static int refuse(struct sandbox *sandbox, struct journal *journal, unsigned number)
{
	const char *name = number < NAMES ? syscall_names[number] : NULL;

	if (number >= SYSCALLS_SEEN || !sandbox->refused[number]++)	/* once for each system call and instance */
		journal_say(journal, LOG_WARNING, "System call %s (%u) was refused", name ? name : "unknown", number);
	return name ? EPERM : ENOSYS;
}

void sandbox_answer_syscall(struct sandbox *sandbox, struct journal *journal)
{
	struct seccomp_notif request = {0};
	struct seccomp_notif_resp reply = {0};
	unsigned number;
	uint32_t verdict;

	if (ioctl(sandbox->notify_fd, SECCOMP_IOCTL_NOTIF_RECV, &request))
		return;
	number = request.data.nr;
	verdict = filter_verdict(&sandbox->filter, &request.data);
	reply.id = request.id;
	if (verdict == SECCOMP_RET_ALLOW && is_ours(sandbox, request.pid)) {
		reply.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
	} else if (verdict == SECCOMP_RET_ALLOW && sandbox->traced) {
		if (number < SYSCALLS_SEEN)
			sandbox->traced[number] = 1;
		reply.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
	} else if ((verdict & SECCOMP_RET_ACTION_FULL) == SECCOMP_RET_ERRNO) {
		reply.error = -(int)(verdict & SECCOMP_RET_DATA);
	} else {
		reply.error = -refuse(sandbox, journal, number);
	}
	ioctl(sandbox->notify_fd, SECCOMP_IOCTL_NOTIF_SEND, &reply);
}
