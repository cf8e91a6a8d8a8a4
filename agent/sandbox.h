/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BOESFS_SANDBOX_H
#define BOESFS_SANDBOX_H
/*
 * The sandbox of one instance: its namespaces with their init (PID 1 inside), built by executing the plan's
 * operations in order, and the function's FDK as init's child.
 *
 * Init reports over a SOCK_SEQPACKET channel: "E text" (a step failed), "N" with the seccomp notification
 * descriptor, "X status" (how the FDK ended, as wait(2) has it).
 */
#include <stdint.h>
#include <sys/types.h>

#include "plan.h"

struct sandbox {
	pid_t init;
	int init_fd;		/* pidfd */
	int report_fd;
	int out_fd, err_fd;	/* what the function prints */
	int listener_fd;	/* the directory with the FDK's socket */
	int kills_fd;		/* where the policy says whom it ended; -1: there is none */
	uint64_t instance;	/* and by which number */
};

/* 0, or -1 with a sentence in ERROR. */
int sandbox_start(struct sandbox *sandbox, const struct plan *plan, char *error, size_t error_size);
/* Landlock ABI of this kernel, 0 without Landlock. */
int landlock_abi(void);

#endif
