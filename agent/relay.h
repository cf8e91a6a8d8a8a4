/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BOESFS_RELAY_H
#define BOESFS_RELAY_H
/*
 * The supervisor: accepts connections on the unit's listening socket, passes one call at a time to the FDK, keeps
 * the time limits, and ends the instance when it is idle, done for or told to. accept() is a promise of an answer:
 * what has not been accepted stays in the kernel's backlog, and systemd starts the next instance for it.
 */
#include "journal.h"
#include "plan.h"
#include "sandbox.h"

enum { LISTEN_FD = 3 };

/* Serve until the instance ends; the exit status of the unit's main process. */
int supervise(const struct plan *plan, struct sandbox *sandbox, struct journal *journal);
/* No instance could be made: answer who waits, with STATUS, MESSAGE and DETAIL. Returns the exit status. */
int refuse_waiting(int status, const char *message, const char *detail);
uint64_t monotonic_ms(void);

#endif
