/* SPDX-License-Identifier: GPL-2.0-only */
/* What the small programs begin with that the verifier is shown; each is wrong in one way, good_least.bpf.c in none. */
#ifndef BAD_H
#define BAD_H

#include "boesfs.bpf.h"

char _license[] SEC("license") = "GPL";

#endif
