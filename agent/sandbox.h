/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BOESFS_SANDBOX_H
#define BOESFS_SANDBOX_H
/*
 * A sandbox: its namespaces with their PID 1, built by executing the plan's operations in order, and the program in it:
 * PID 1 itself, or its child if the plan has a reaper.
 *
 * It reports over a SOCK_SEQPACKET channel: "E text" (a step failed), "N" with the seccomp notification descriptor,
 * "T" with the other side of its terminal, "B" with a pipe that execve(2) closes, and what a reaper knows: "X status"
 * (how the program ended, as wait(2) has it). When the program is executed without a reaper the channel ends.
 */
#include <linux/filter.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "journal.h"
#include "plan.h"

enum { SYSCALLS_SEEN = 512, DIRECTORIES_MAX = 64 };

struct sandbox {
	pid_t init;
	int init_fd;		/* pidfd */
	int report_fd;
	int out_fd, err_fd;	/* what the program prints, if it does not print to where we do */
	int listener_fd;	/* the directory with the FDK's socket */
	int kills_fd;		/* where the policy says whom it ended; -1: there is none */
	uint64_t instance;	/* and by which number */

	int notify_fd;		/* of seccomp */
	int terminal_fd;	/* our side of its terminal */
	int status;		/* how the program ended, as wait(2) has it; -1 while it runs */
	char failure[512];	/* a step of the plan that failed */
	struct sock_fprog filter;	/* of system calls, the same for all; what is loaded may be narrower */
	bool refused[SYSCALLS_SEEN];	/* the last stands for all that are newer */
	bool narrow, named[SYSCALLS_SEEN];	/* only these of what the filter allows */
	unsigned char *traced;	/* which calls were made, and in the last byte that it is over; NULL: that is not wanted */
	uint64_t traced_until;	/* in seconds since boot */
	bool reaper;		/* PID 1 is ours */
	int begin_fd;		/* whose other end is closed when the program has been executed */
	bool begun;
};

/* Directories that were handed over as descriptors, by name. */
struct handed {
	int count;
	struct { const char *name; int fd; } directories[DIRECTORIES_MAX];
};

/*
 * 0, or -1 with a sentence in ERROR. HANDED: a command's own directories, and that it has our standard input and
 * output; NULL: it is a function, whose output goes through pipes.
 */
int sandbox_start(struct sandbox *sandbox, const struct plan *plan, const struct handed *handed, char *error,
		  size_t error_size);
/* Take one report; false when there is nothing (more) to take. */
bool sandbox_hear(struct sandbox *sandbox);
/* Answer a system call that the filter does not allow, or that is to be noted. */
void sandbox_answer_syscall(struct sandbox *sandbox, struct journal *journal);
void sandbox_kill(const struct sandbox *sandbox);
/* TEXT as a packet, with FD if that is one; FLAGS as send(2) has them. 0 or -1. */
int send_text(int socket, const char *text, int fd, int flags);
/* Has the kernel killed a process of this unit for want of memory? (memory.events of our own cgroup) */
bool out_of_memory(void);
/* Landlock ABI of this kernel, 0 without Landlock. */
int landlock_abi(void);
/* No capabilities for this process and what it executes. */
int no_capabilities(void);

#endif
