// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "policy.h"

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../kmod/boesfs_abi.h"
#include "../bpf/boesfs_maps.h"

static const char pinned[] = "/sys/fs/bpf/boesfs/kills";

int kills_open(void)
{
	union bpf_attr attr = {.pathname = (uintptr_t)pinned, .file_flags = BPF_F_RDONLY};

	return syscall(SYS_bpf, BPF_OBJ_GET, &attr, sizeof attr);
}

bool killed_by_policy(int kills, uint64_t instance, char *text, size_t size)
{
	struct boesfs_kill kill;
	union bpf_attr attr = {.map_fd = kills, .key = (uintptr_t)&instance, .value = (uintptr_t)&kill};

	if (kills < 0 || syscall(SYS_bpf, BPF_MAP_LOOKUP_ELEM, &attr, sizeof attr))
		return false;
	for (char *c = kill.path; c < kill.path + BOESFS_KILL_PATH && *c; c++)
		if (*c < ' ' || *c > '~')	/* signed or not: it goes into JSON, and may be cut off in a character */
			*c = '?';
	snprintf(text, size, "killed by policy: too many denials, the last of %.*s", BOESFS_KILL_PATH, kill.path);
	return true;
}
