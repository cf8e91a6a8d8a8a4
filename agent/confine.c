// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "plan.h"
#include "sandbox.h"
#include "steps.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/*
 * Landlock's rights by ABI, as linux/landlock.h has them; written here because the header of the machine that
 * builds may be older than the kernel that runs.
 */
enum {
	FS_EXECUTE = 1 << 0, FS_WRITE_FILE = 1 << 1, FS_READ_FILE = 1 << 2, FS_READ_DIR = 1 << 3,
	FS_REMOVE_DIR = 1 << 4, FS_REMOVE_FILE = 1 << 5, FS_MAKE_CHAR = 1 << 6, FS_MAKE_DIR = 1 << 7,
	FS_MAKE_REG = 1 << 8, FS_MAKE_SOCK = 1 << 9, FS_MAKE_FIFO = 1 << 10, FS_MAKE_BLOCK = 1 << 11,
	FS_MAKE_SYM = 1 << 12,
	FS_ABI1 = (1 << 13) - 1,
	FS_REFER = 1 << 13,		/* ABI 2 */
	FS_TRUNCATE = 1 << 14,		/* ABI 3 */
	FS_IOCTL_DEV = 1 << 15,		/* ABI 5 */
	NET_BIND_TCP = 1 << 0, NET_CONNECT_TCP = 1 << 1,	/* ABI 4 */
	SCOPE_ABSTRACT_UNIX = 1 << 0, SCOPE_SIGNAL = 1 << 1,	/* ABI 6 */
	RULE_PATH = 1, RULE_PORT = 2,
	ABI_OF_POLICIES = 3,		/* before, nobody can be kept from truncating */
	FILE_RIGHTS = FS_EXECUTE | FS_WRITE_FILE | FS_READ_FILE | FS_TRUNCATE | FS_IOCTL_DEV,
};

/* The letters of rights in plans. */
static const char right_letters[] = "rlxwtfdsnuemi";
static const uint64_t right_bits[] = {
	FS_READ_FILE, FS_READ_DIR, FS_EXECUTE, FS_WRITE_FILE, FS_TRUNCATE, FS_MAKE_REG, FS_MAKE_DIR, FS_MAKE_SYM,
	FS_MAKE_CHAR | FS_MAKE_SOCK | FS_MAKE_FIFO | FS_MAKE_BLOCK, FS_REMOVE_FILE, FS_REMOVE_DIR, FS_REFER, FS_IOCTL_DEV,
};

struct ruleset_attr { uint64_t fs, net, scoped; };
struct path_rule { uint64_t allowed; int32_t parent; } __attribute__((packed));
struct port_rule { uint64_t allowed, port; };

int landlock_abi(void)
{
	int abi = syscall(SYS_landlock_create_ruleset, NULL, 0, 1 /* version */);

	return abi < 0 ? 0 : abi;
}

int step_hostname(const char *name)
{
	return sethostname(name, strlen(name));
}

int step_loopback(void)
{
	struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), result;

	if (fd < 0)
		return -1;
	result = ioctl(fd, SIOCSIFFLAGS, &request);
	close(fd);
	return result;
}

int step_rlimit(const char *name, uint64_t value)
{
	static const struct { const char *name; int resource; } limits[] = {
		{"nofile", RLIMIT_NOFILE}, {"nproc", RLIMIT_NPROC}, {"core", RLIMIT_CORE}, {"memlock", RLIMIT_MEMLOCK},
		{"msgqueue", RLIMIT_MSGQUEUE},
	};
	struct rlimit both = {value, value};

	for (size_t i = 0; i < sizeof limits / sizeof *limits; i++)
		if (!strcmp(limits[i].name, name))
			return setrlimit(limits[i].resource, &both);
	errno = EINVAL;
	return -1;
}

static int write_once(const char *file, const char *text)
{
	int fd = open(file, O_WRONLY | O_CLOEXEC), result;

	if (fd < 0)
		return -1;
	result = write(fd, text, strlen(text)) == (ssize_t)strlen(text) ? 0 : -1;
	close(fd);
	return result;
}

/*
 * Become the function's own uid, alone in a user namespace of its own. A process may map its own ids one to one
 * without privilege, but only while its /proc files are its own: hence dumpable for a moment (proc(5)).
 */
static int own_user_namespace(const struct build *build)
{
	uid_t uid = build->uid;
	gid_t gid = build->gid;
	char users[64], groups[64];

	if (setgroups(build->group_count, build->groups) || setresgid(gid, gid, gid) || setresuid(uid, uid, uid))
		return -1;
	if (prctl(PR_SET_DUMPABLE, 1))
		return -1;
	if (unshare(CLONE_NEWUSER)) {
		errno = EUSERS;		/* whatever forbids it: a sysctl, a security module, a chroot */
		return -1;
	}
	snprintf(users, sizeof users, "%u %u 1\n", uid, uid);
	snprintf(groups, sizeof groups, "%u %u 1\n", gid, gid);
	if (write_once("/proc/self/setgroups", "deny") || write_once("/proc/self/uid_map", users) ||
	    write_once("/proc/self/gid_map", groups))
		return -1;
	return prctl(PR_SET_DUMPABLE, 0);
}

int no_capabilities(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[2] = {0};

	for (int cap = 0; prctl(PR_CAPBSET_READ, cap) >= 0; cap++)
		if (prctl(PR_CAPBSET_DROP, cap))
			return -1;
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
		return -1;
	return syscall(SYS_capset, &header, none);
}

int step_drop(struct build *build)
{
	if (!build->pivoted) {
		errno = EINVAL;
		return -1;
	}
	/* the function first, when memory runs short; the supervisor must live to say so */
	if (write_once("/proc/self/oom_score_adj", "500"))
		return -1;
	if (own_user_namespace(build) || no_capabilities() || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -1;
	build->dropped = true;
	/* credentials have changed for the last time, which would have cleared this */
	return prctl(PR_SET_PDEATHSIG, 9);
}

static uint64_t fs_rights(int abi)
{
	return FS_ABI1 | (abi >= 2 ? FS_REFER : 0) | (abi >= 3 ? FS_TRUNCATE : 0) | (abi >= 5 ? FS_IOCTL_DEV : 0);
}

int step_landlock(struct build *build, const char *mode, const struct step *ports, int ports_count)
{
	struct ruleset_attr attr = {0};
	size_t size = 8;

	bool policy = build->keeps_policy = !strcmp(mode, "policy");

	build->abi = strcmp(mode, "off") ? landlock_abi() : 0;
	if (!build->abi || (policy && build->abi < ABI_OF_POLICIES)) {
		errno = EOPNOTSUPP;
		return strcmp(mode, "required") && !policy && !ports_count ? 0 : -1;
	}
	attr.fs = fs_rights(build->abi);
	for (int i = 0; i < ports_count; i++)
		attr.net |= strcmp(ports[i].argv[0], "bind") ? NET_CONNECT_TCP : NET_BIND_TCP;
	if (attr.net && build->abi < 4) {
		errno = EOPNOTSUPP;
		return -1;
	}
	if (build->abi >= 4)
		size = 16;
	if (build->abi >= 6) {
		attr.scoped = SCOPE_ABSTRACT_UNIX | SCOPE_SIGNAL;
		size = 24;
	}
	build->ruleset = syscall(SYS_landlock_create_ruleset, &attr, size, 0);
	return build->ruleset < 0 ? -1 : 0;
}

int step_allow(struct build *build, const char *rights, const char *path)
{
	struct path_rule rule = {0};
	int result;

	if (build->ruleset < 0)
		return 0;
	for (const char *right = rights; *right; right++) {
		const char *known = strchr(right_letters, *right);

		if (!known) {
			errno = EINVAL;
			return -1;
		}
		rule.allowed |= right_bits[known - right_letters];
	}
	rule.allowed &= fs_rights(build->abi);
	/* not fstat(2): a policy may let nobody do that here; a link has no rights, and what it leads to has its own */
	rule.parent = open(path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (rule.parent < 0 && errno == ENOTDIR) {
		rule.parent = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		rule.allowed &= FILE_RIGHTS;
	}
	if (rule.parent < 0)	/* nor has what has gone since a policy chose it */
		return build->keeps_policy && errno == ENOENT ? 0 : -1;
	result = syscall(SYS_landlock_add_rule, build->ruleset, RULE_PATH, &rule, 0);
	close(rule.parent);
	return result;
}

int step_ports(struct build *build, int argc, char **argv)
{
	struct port_rule rule = {.allowed = strcmp(argv[0], "bind") ? NET_CONNECT_TCP : NET_BIND_TCP};

	for (int i = 1; i < argc; i++) {
		rule.port = strtoull(argv[i], NULL, 10);
		if (syscall(SYS_landlock_add_rule, build->ruleset, RULE_PORT, &rule, 0))
			return -1;
	}
	return 0;
}

int step_restrict(struct build *build)
{
	build->restricted = true;
	if (build->ruleset < 0)
		return 0;
	if (syscall(SYS_landlock_restrict_self, build->ruleset, 0))
		return -1;
	return close(build->ruleset);
}

int step_terminal(struct build *build, const char *rows, const char *columns)
{
	const struct winsize size = {.ws_row = strtoul(rows, NULL, 10), .ws_col = strtoul(columns, NULL, 10)};
	int ours = open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC), unlocked = 0;

	if (ours < 0)
		return -1;
	if (!ioctl(ours, TIOCSWINSZ, &size) && !ioctl(ours, TIOCSPTLCK, &unlocked))
		build->terminal = ioctl(ours, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (build->terminal >= 0)
		return ours;
	close(ours);
	return -1;
}

int step_seccomp(struct build *build)
{
	/* once we know of a call, a signal does not make it begin anew */
	const unsigned flags = SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
	int fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, build->filter);

	build->filtered = fd >= 0;
	return fd;
}
