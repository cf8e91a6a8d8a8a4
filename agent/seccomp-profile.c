// SPDX-License-Identifier: Apache-2.0
/*
 * Runs when the agent is built: writes the seccomp filter of functions as classic BPF, and the names of all system
 * calls as a C table, so that nothing needs libseccomp when a function starts.
 *
 *   seccomp-profile filter > function.bpf
 *   seccomp-profile names > syscall_names.h
 *   seccomp-profile allowed > system-calls	(a name and its number a line: what a function may be narrowed to)
 *
 * The policy: what an ordinary program needs is allowed; the rest goes to the supervisor, which refuses it with
 * EPERM and writes its name to the journal. Not allowed are: new namespaces and mounts, other processes' memory,
 * kernel modules, BPF, perf, keyrings, io_uring, userfaultfd, raw I/O, clocks, swap, reboot, quotas.
 */
#include <errno.h>
#include <linux/sched.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { NAMES_MAX = 512 };

static const char *const allowed[] = {
	/* files */
	"access", "chdir", "chmod", "chown", "close", "close_range", "copy_file_range", "creat", "dup", "dup2", "dup3",
	"faccessat", "faccessat2", "fadvise64", "fallocate", "fchdir", "fchmod", "fchmodat", "fchmodat2", "fchown",
	"fchownat", "fcntl", "fdatasync", "fgetxattr", "flistxattr", "flock", "fremovexattr", "fsetxattr", "fstat",
	"fstatfs", "fsync", "ftruncate", "futimesat", "getcwd", "getdents", "getdents64", "getxattr", "inotify_add_watch",
	"inotify_init", "inotify_init1", "inotify_rm_watch", "ioctl", "lchown", "lgetxattr", "link", "linkat",
	"listxattr", "llistxattr", "lremovexattr", "lseek", "lsetxattr", "lstat", "mkdir", "mkdirat", "mknod", "mknodat",
	"newfstatat", "open", "openat", "openat2", "pread64", "preadv", "preadv2", "pwrite64", "pwritev", "pwritev2",
	"read", "readahead", "readlink", "readlinkat", "readv", "removexattr", "rename", "renameat", "renameat2", "rmdir",
	"sendfile", "setxattr", "splice", "stat", "statfs", "statx", "symlink", "symlinkat", "sync", "sync_file_range",
	"syncfs", "tee", "truncate", "umask", "unlink", "unlinkat", "utime", "utimensat", "utimes", "vmsplice", "write",
	"writev", "io_cancel", "io_destroy", "io_getevents", "io_pgetevents", "io_setup", "io_submit",
	/* memory */
	"brk", "madvise", "membarrier", "memfd_create", "mincore", "mlock", "mlock2", "mlockall", "mmap", "mprotect",
	"mremap", "mseal", "msync", "munlock", "munlockall", "munmap", "pkey_alloc", "pkey_free", "pkey_mprotect",
	"map_shadow_stack",
	/* processes and threads */
	"arch_prctl", "capget", "execve", "execveat", "exit", "exit_group", "fork", "futex", "futex_requeue",
	"futex_wait", "futex_waitv", "futex_wake", "get_robust_list", "get_thread_area", "getcpu", "getegid", "geteuid",
	"getgid", "getgroups", "getpgid", "getpgrp", "getpid", "getppid", "getpriority", "getresgid", "getresuid",
	"getrlimit", "getrusage", "getsid", "gettid", "getuid", "ioprio_get", "ioprio_set", "kill", "landlock_add_rule",
	"landlock_create_ruleset", "landlock_restrict_self", "pidfd_open", "pidfd_send_signal", "prctl", "prlimit64",
	"rseq", "sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity", "sched_getattr",
	"sched_getparam", "sched_getscheduler", "sched_rr_get_interval", "sched_setaffinity", "sched_setattr",
	"sched_setparam", "sched_setscheduler", "sched_yield", "seccomp", "set_robust_list", "set_thread_area",
	"set_tid_address", "setfsgid", "setfsuid", "setgid", "setgroups", "setitimer", "setpgid", "setpriority",
	"setregid", "setresgid", "setresuid", "setreuid", "setrlimit", "setsid", "setuid", "sysinfo", "tgkill", "times",
	"tkill", "uname", "vfork", "wait4", "waitid", "capset",
	/* signals, time, waiting */
	"alarm", "clock_getres", "clock_gettime", "clock_nanosleep", "epoll_create", "epoll_create1", "epoll_ctl",
	"epoll_pwait", "epoll_pwait2", "epoll_wait", "eventfd", "eventfd2", "getitimer", "gettimeofday", "nanosleep",
	"pause", "poll", "ppoll", "pselect6", "restart_syscall", "rt_sigaction", "rt_sigpending", "rt_sigprocmask",
	"rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "rt_tgsigqueueinfo", "select",
	"sigaltstack", "signalfd", "signalfd4", "time", "timer_create", "timer_delete", "timer_getoverrun",
	"timer_gettime", "timer_settime", "timerfd_create", "timerfd_gettime", "timerfd_settime", "getrandom",
	/* talking to others; socket() below */
	"accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen", "mq_getsetattr",
	"mq_notify", "mq_open", "mq_timedreceive", "mq_timedsend", "mq_unlink", "msgctl", "msgget", "msgrcv", "msgsnd",
	"pipe", "pipe2", "recvfrom", "recvmmsg", "recvmsg", "semctl", "semget", "semop", "semtimedop", "sendmmsg",
	"sendmsg", "sendto", "setsockopt", "shmat", "shmctl", "shmdt", "shmget", "shutdown", "socketpair",
};

static void check(int result, const char *what)
{
	if (result < 0) {
		fprintf(stderr, "seccomp-profile: %s: %s\n", what, strerror(-result));
		exit(1);
	}
}

static void allow(scmp_filter_ctx context, const char *name)
{
	int number = seccomp_syscall_resolve_name(name);

	if (number == __NR_SCMP_ERROR) {	/* newer than this libseccomp: stays refused */
		fprintf(stderr, "seccomp-profile: %s is not known here\n", name);
		return;
	}
	if (number >= 0)
		check(seccomp_rule_add(context, SCMP_ACT_ALLOW, number, 0), name);
}

static int write_filter(void)
{
	static const int families[] = {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK};
	const unsigned long namespaces = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER |
		CLONE_NEWPID | CLONE_NEWNET;
	scmp_filter_ctx context = seccomp_init(SCMP_ACT_NOTIFY);

	if (!context)
		return 1;
	check(seccomp_attr_set(context, SCMP_FLTATR_CTL_OPTIMIZE, 2), "optimize");
	for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++)
		allow(context, allowed[i]);
	for (size_t i = 0; i < sizeof families / sizeof *families; i++)
		check(seccomp_rule_add(context, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1, SCMP_A0(SCMP_CMP_EQ, families[i])), "socket");
	check(seccomp_rule_add(context, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
			       SCMP_A0(SCMP_CMP_MASKED_EQ, namespaces, 0)), "clone");
	/* its flags are behind a pointer, out of a filter's sight: C libraries then fall back to clone */
	check(seccomp_rule_add(context, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0), "clone3");
	check(seccomp_export_bpf(context, fileno(stdout)), "export");
	return 0;
}

static int write_names(void)
{
	puts("/* SPDX-License-Identifier: Apache-2.0 */\n/* Made by seccomp-profile. */\nstatic const char *const syscall_names[] = {");
	for (int number = 0; number < NAMES_MAX; number++) {
		char *name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, number);

		if (name)
			printf("\t[%d] = \"%s\",\n", number, name);
		free(name);
	}
	puts("};");
	return 0;
}

static void tell(const char *name)
{
	int number = seccomp_syscall_resolve_name(name);

	if (number >= 0)
		printf("%s %d\n", name, number);
}

static int write_allowed(void)
{
	for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++)
		tell(allowed[i]);
	tell("socket");
	tell("clone");
	tell("clone3");
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "filter"))
		return write_filter();
	if (argc == 2 && !strcmp(argv[1], "names"))
		return write_names();
	if (argc == 2 && !strcmp(argv[1], "allowed"))
		return write_allowed();
	fprintf(stderr, "usage: seccomp-profile filter|names|allowed\n");
	return 2;
}
