/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BOESFS_RUN_H
#define BOESFS_RUN_H
/*
 * Supervises a command (boesfsctl run), for who holds the other side of INTERRUPT: a byte, or the end of it, ends the
 * sandbox. If it is a SOCK_SEQPACKET socket there are words on it (docs/run.md):
 *
 *   from us: "terminal" with a descriptor; at the end "ended STATUS [WHY]", STATUS as a shell has it
 *   to us: "signal NUMBER"
 */
#include "journal.h"
#include "plan.h"
#include "sandbox.h"

/* Until the command has ended; its status, as a shell has it. */
int supervise_command(const struct plan *plan, struct sandbox *sandbox, struct journal *journal, int interrupt);
/* There is no sandbox: say WHY to who waits. */
void refuse_command(int interrupt, const char *why);

#endif
