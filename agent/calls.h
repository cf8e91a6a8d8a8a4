/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BOESFS_CALLS_H
#define BOESFS_CALLS_H
/* The filter of system calls, as classic BPF. What returns int returns 0, or -1 with errno. */
#include "sandbox.h"

#include <linux/seccomp.h>
#include <stdint.h>

int filter_read(struct sock_fprog *filter, const char *path);
/* Mark the calls with these names; the name that there is none of, or NULL. */
const char *calls_named(bool named[SYSCALLS_SEEN], int count, char **names);
/* Of what FILTER allows only what is NAMED, and what every program and our PID 1 need. */
int filter_narrow(struct sock_fprog *narrow, const struct sock_fprog *filter, const bool named[SYSCALLS_SEEN]);
/* What FILTER says of one call: SECCOMP_RET_*. */
uint32_t filter_verdict(const struct sock_fprog *filter, const struct seccomp_data *data);
/* Where it is noted which calls were made, a byte each, in a file of SYSCALLS_SEEN; NULL with errno. */
unsigned char *trace_open(const char *path);

#endif
