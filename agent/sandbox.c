// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "sandbox.h"
#include "calls.h"
#include "policy.h"
#include "steps.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LISTENER_BYTES = 64 << 10, PIPE_BYTES = 1 << 20, ENV_MAX = 1024 };

static void report(int fd, const char *text)
{
	send_text(fd, text, -1, 0);
}

/* What a shell would say of a program that cannot be executed, and 125 for what is no fault of its. */
static int status_of(enum plan_op op, int error)
{
	if (op != OP_EXEC)
		return 125;
	return error == ENOENT ? 127 : 126;
}

/* One step of the plan failed: say which, and why. Nothing runs after it. */
static _Noreturn void refuse(const struct build *build, const struct step *step, const char *detail)
{
	int len, error = errno, most = step->op == OP_EXEC ? 1 : 2;
	char text[500];
	const char *reason = *detail ? detail : strerror(error);

	len = snprintf(text, sizeof text, "E%s", plan_op_names[step->op]);
	for (int i = 0; i < step->argc && i < most && len < 300; i++)
		len += snprintf(text + len, sizeof text - len, " %.120s", step->argv[i]);
	if (error == EOPNOTSUPP && (step->op == OP_LANDLOCK || step->op == OP_PORTS))
		reason = "this kernel's Landlock cannot (see landlock= in boesfsd.conf(5))";
	if (error == EUSERS && step->op == OP_DROP)
		reason = "this host makes no user namespaces (boesfsctl doctor says why)";
	snprintf(text + len, sizeof text - len, ": %s", reason);
	report(build->channel, text);
	_exit(status_of(step->op, error));
}

/* Give FD to the supervisor, and do not keep it. */
static int hand_over(const struct build *build, const char *what, int fd)
{
	int result;

	if (fd < 0)
		return -1;
	result = send_text(build->channel, what, fd, 0);
	close(fd);
	return result;
}

/* PIPE_BYTES of slack: a function that prints in bursts does not wait for us. */
static int make_pipe(int ends[2])
{
	if (pipe2(ends, O_CLOEXEC))
		return -1;
	fcntl(ends[1], F_SETPIPE_SZ, PIPE_BYTES);
	return fcntl(ends[0], F_SETFL, O_NONBLOCK);
}

/* Its standard input, output and error: a terminal, pipes to the supervisor, or, for a command, what we have. */
static int connect_output(const struct build *build, const int out[2], const int err[2])
{
	int null;

	if (build->terminal >= 0)
		return setsid() < 0 || ioctl(build->terminal, TIOCSCTTY, 0) || dup2(build->terminal, 0) < 0 ||
		       dup2(build->terminal, 1) < 0 || dup2(build->terminal, 2) < 0;
	if (out[1] < 0)
		return setsid() < 0;
	null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	return null < 0 || dup2(null, 0) < 0 || dup2(out[1], 1) < 0 || dup2(err[1], 2) < 0;
}

/* Who narrows the program's system calls has to know when it is the program that makes them. */
static int announce(const struct build *build)
{
	int ends[2];

	if (build->filter != &build->narrow)
		return 0;
	return pipe2(ends, O_CLOEXEC) || send_text(build->channel, "B", ends[0], 0) || close(ends[0]);
}

static _Noreturn void exec_program(const struct build *build, const struct step *step, char **environment,
				   const int out[2], const int err[2])
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);	/* which systemd has ignored */
	if (announce(build) || connect_output(build, out, err))
		refuse(build, step, "");
	/* whatever else is open ends here: the program gets 0, 1 and 2 */
	syscall(SYS_close_range, 3, ~0U, 4 /* CLOSE_RANGE_CLOEXEC */);
	umask(build->umask);
	environ = environment;
	execvp(step->argv[0], step->argv);
	refuse(build, step, "");
}

/* PID 1 of the sandbox: reaps, passes on signals, and ends with its one child; the kernel then ends all else inside. */
static _Noreturn void be_init(const struct build *build, pid_t child, const sigset_t *all)
{
	char text[32];
	int status, number;
	pid_t pid;

	/* nothing of the supervisor's stays open in here */
	if (dup2(build->channel, 3) != 3 || syscall(SYS_close_range, 4, ~0U, 0))
		_exit(1);
	for (int fd = 0; fd < 3; fd++)
		close(fd);	/* nor is who reads what the program prints kept waiting for us */
	for (;;) {
		number = sigwaitinfo(all, NULL);
		if ((number == SIGINT || number == SIGQUIT) && !kill(-child, number))
			continue;	/* as from the keyboard, to all in the foreground */
		if (number > 0 && number != SIGCHLD)
			kill(child, number);
		while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
			if (pid != child)
				continue;
			snprintf(text, sizeof text, "X%d", status);
			report(3, text);
			_exit(0);
		}
	}
}

/* Execute the program, as PID 1 or with one of ours before it. Fail closed: a plan that forgot a wall starts nothing. */
static _Noreturn void run_program(const struct build *build, const struct step *step, char **environment,
				  const int out[2], const int err[2])
{
	sigset_t all;
	pid_t child;

	sigfillset(&all);	/* they are blocked already */
	errno = EPERM;
	if (!build->pivoted || !build->dropped || !build->restricted || !build->filtered)
		refuse(build, step, "");
	if (!build->reaper)
		exec_program(build, step, environment, out, err);
	child = fork();
	if (child == 0)
		exec_program(build, step, environment, out, err);
	if (child < 0)
		refuse(build, step, "");
	be_init(build, child, &all);
}

static int enter_network(const char *network, int netns)
{
	if (!strcmp(network, "none"))
		return step_loopback();
	return netns < 0 ? 0 : setns(netns, CLONE_NEWNET);
}

/* All steps in the plan's order. The agent trusts the plan's order but not that it is complete: see OP_EXEC. */
static _Noreturn void build_and_run(const struct plan *plan, struct build *build, int netns, const int out[2],
				    const int err[2])
{
	char *environment[ENV_MAX + 1];
	int environment_count = 0;

	for (int i = 0; i < plan->count; i++) {
		const struct step *step = &plan->steps[i];
		char **argv = step->argv;
		int result = 0;

		switch (step->op) {
		case OP_LABEL: case OP_LIMIT: case OP_USER: case OP_TRACE: break;
		case OP_NETWORK: result = enter_network(argv[0], netns); break;
		case OP_ROOT: result = step_root(strtoull(argv[0], NULL, 10)); break;
		case OP_MKDIR: result = step_mkdir(argv[0], argv[1]); break;
		case OP_LINK: result = step_link(argv[0], argv[1]); break;
		case OP_FILE: result = step_file(argv[0], argv[1], argv[2]); break;
		case OP_COPY: result = step_copy(argv[0], argv[1]); break;
		case OP_BIND: result = step_bind(argv[0], argv[1], argv[2]); break;
		case OP_TREE: result = step_tree(build, argv[0], argv[1], argv[2]); break;
		case OP_POLICY: build->program = argv[0]; build->policy = argv[1]; break;
		case OP_GOVERN: result = step_govern(build, argv[0], argv[1], argv[2]); break;
		case OP_DEVICE: result = step_device(argv[0]); break;
		case OP_HIDE: result = step_hide(argv[0]); break;
		case OP_TMPFS: result = step_tmpfs(argv[0], strtoull(argv[1], NULL, 10), argv[2], build->uid); break;
		case OP_PROC: result = step_proc(argv[0]); break;
		case OP_FREEZE: result = step_freeze(argv[0]); break;
		case OP_PTS: result = step_pts(argv[0], build->uid, build->gid); break;
		case OP_LISTENER: result = step_listener(build->listener_mount, argv[0]); break;
		case OP_PIVOT: result = step_pivot(); build->pivoted = !result; break;
		case OP_HOSTNAME: result = step_hostname(argv[0]); break;
		case OP_RLIMIT: result = step_rlimit(argv[0], strtoull(argv[1], NULL, 10)); break;
		case OP_TERMINAL: result = hand_over(build, "T", step_terminal(build, argv[0], argv[1])); break;
		case OP_DROP: result = step_drop(build); break;
		case OP_LANDLOCK: {
			int ports = 0;

			while (plan->steps[i + 1 + ports].op == OP_PORTS)
				ports++;
			result = step_landlock(build, argv[0], step + 1, ports);
			break;
		}
		case OP_ALLOW: result = step_allow(build, argv[0], argv[1]); break;
		case OP_PORTS: result = step_ports(build, step->argc, argv); break;
		case OP_RESTRICT: result = step_restrict(build); break;
		case OP_SECCOMP: result = hand_over(build, "N", step_seccomp(build)); break;
		case OP_ENV:
			if (environment_count == ENV_MAX) {
				errno = E2BIG;
				result = -1;
			} else {
				environment[environment_count++] = argv[0];
			}
			break;
		case OP_CWD: result = chdir(argv[0]); break;
		case OP_REAPER: build->reaper = true; break;
		case OP_EXEC:
			environment[environment_count] = NULL;
			run_program(build, step, environment, out, err);
		case OP_COUNT: break;
		}
		if (result)
			refuse(build, step, build->detail);
	}
	_exit(1);
}

/* What the kernel's records call this instance: half of systemd's id for this run of the unit, or chance. */
static uint64_t instance_number(void)
{
	const char *id = getenv("INVOCATION_ID");
	uint64_t number = 0;

	if ((!id || sscanf(id, "%16" SCNx64, &number) != 1) && getrandom(&number, sizeof number, 0) != sizeof number)
		number = 0;
	return number ? number : 1;	/* 0 is no instance */
}

/* "user UID [GID [GROUP...]]"; false: there is none, or it is none. */
static bool whose(struct build *build, const struct step *user)
{
	char *end;

	for (int i = 0; user && i < user->argc; i++)
		if (!*user->argv[i])	/* strtoul(3) would take it for root */
			return false;
	if (!user)
		return false;
	build->uid = build->gid = strtoul(user->argv[0], &end, 10);
	if (user->argc > 1 && !*end)
		build->gid = strtoul(user->argv[1], &end, 10);
	build->groups = calloc(user->argc, sizeof *build->groups);
	for (int i = 2; i < user->argc && !*end && build->groups; i++)
		build->groups[build->group_count++] = strtoul(user->argv[i], &end, 10);
	return !*end && build->groups;
}

/* Where a directory that was handed over is to be, for people. */
static const char *place_of(const struct plan *plan, const char *name)
{
	for (int i = 0; i < plan->count; i++)
		if (plan->steps[i].op == OP_TREE && !strcmp(plan->steps[i].argv[0], name))
			return plan->steps[i].argv[1];
	return name;
}

static int detach_trees(struct build *build, const struct plan *plan, const struct handed *handed, char *error,
			size_t error_size)
{
	for (int i = 0; i < handed->count; i++) {
		int mount = mount_detached(handed->directories[i].fd);

		if (mount < 0) {
			snprintf(error, error_size, "%s cannot be mounted (%s); is it of this host, and no container's?",
				 place_of(plan, handed->directories[i].name), strerror(errno));
			return -1;
		}
		build->tree[i].name = handed->directories[i].name;
		build->tree[i].mount = mount;
		build->trees++;
	}
	return 0;
}

static const bool none[SYSCALLS_SEEN];

static int prepare_filter(struct build *build, struct sandbox *sandbox, const struct plan *plan,
			  const struct step *step, char *error, size_t error_size)
{
	const struct step *trace = plan_find(plan, OP_TRACE);
	const char *unknown = calls_named(sandbox->named, step->argc - 1, step->argv + 1);

	build->filter = &sandbox->filter;
	sandbox->narrow = step->argc > 1;
	if (filter_read(&sandbox->filter, step->argv[0])) {
		snprintf(error, error_size, "cannot read seccomp filter %s: %s", step->argv[0], strerror(errno));
		return -1;
	}
	if (unknown) {
		snprintf(error, error_size, "there is no system call %s here", unknown);
		return -1;
	}
	if (trace && !(sandbox->traced = trace_open(trace->argv[0])) && errno != ENOENT) {	/* else it is over already */
		snprintf(error, error_size, "cannot note system calls in %s: %s", trace->argv[0], strerror(errno));
		return -1;
	}
	if (!sandbox->traced && !sandbox->narrow)
		return 0;
	sandbox->traced_until = trace ? strtoull(trace->argv[1], NULL, 10) : 0;
	build->filter = &build->narrow;
	if (filter_narrow(&build->narrow, &sandbox->filter, sandbox->traced ? none : sandbox->named)) {
		snprintf(error, error_size, "cannot make the seccomp filter narrower: %s", strerror(errno));
		return -1;
	}
	return 0;
}

/* What needs the host's view of things, before any namespace is entered. */
static int prepare(struct build *build, struct sandbox *sandbox, const struct plan *plan, const struct handed *handed,
		   int *netns, char *error, size_t error_size)
{
	const struct step *filter = plan_find(plan, OP_SECCOMP), *network = plan_find(plan, OP_NETWORK);

	build->instance = instance_number();
	build->umask = plan_limit(plan, "umask", 022);
	if (!whose(build, plan_find(plan, OP_USER)) || !filter || !network) {
		snprintf(error, error_size, "the plan has no user, network or seccomp line");
		return -1;
	}
	if (prepare_filter(build, sandbox, plan, filter, error, error_size))
		return -1;
	if (network->argv[0][0] == '/' && (*netns = open(network->argv[0], O_RDONLY | O_CLOEXEC)) < 0) {
		snprintf(error, error_size, "cannot open network namespace %s: %s", network->argv[0], strerror(errno));
		return -1;
	}
	if (handed && detach_trees(build, plan, handed, error, error_size))
		return -1;
	if (!plan_find(plan, OP_LISTENER))
		return 0;
	build->listener_mount = mount_tmpfs_detached(LISTENER_BYTES, build->uid, 0755, MOUNT_ATTR_NOEXEC);
	if (build->listener_mount < 0) {
		snprintf(error, error_size, "cannot make the listener's tmpfs: %s", strerror(errno));
		return -1;
	}
	return 0;
}

int sandbox_start(struct sandbox *sandbox, const struct plan *plan, const struct handed *handed, char *error,
		  size_t error_size)
{
	struct build build = {.ruleset = -1, .listener_mount = -1, .terminal = -1};
	sigset_t all, before;
	int netns = -1, channel[2], out[2] = {-1, -1}, err[2] = {-1, -1};
	struct clone_args args = {
		.flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP | CLONE_PIDFD,
		.pidfd = (uintptr_t)&sandbox->init_fd,
		.exit_signal = SIGCHLD,
	};

	memset(sandbox, 0, sizeof *sandbox);
	sandbox->notify_fd = sandbox->terminal_fd = sandbox->begin_fd = sandbox->status = -1;
	sandbox->reaper = plan_find(plan, OP_REAPER);
	sandbox->kills_fd = plan_find(plan, OP_POLICY) ? kills_open() : -1;
	if (prepare(&build, sandbox, plan, handed, &netns, error, error_size))
		return -1;
	if (!strcmp(plan_find(plan, OP_NETWORK)->argv[0], "none"))
		args.flags |= CLONE_NEWNET;
	if ((!handed && (make_pipe(out) || make_pipe(err))) || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel)) {
		snprintf(error, error_size, "cannot make pipes: %s", strerror(errno));
		return -1;
	}
	build.channel = channel[1];
	if (plan_find(plan, OP_REAPER)) {	/* what comes before it can pass signals on waits for it */
		sigfillset(&all);
		sigprocmask(SIG_SETMASK, &all, &before);
	}
	sandbox->init = syscall(SYS_clone3, &args, sizeof args);
	if (sandbox->init && plan_find(plan, OP_REAPER))
		sigprocmask(SIG_SETMASK, &before, NULL);
	if (sandbox->init < 0) {
		snprintf(error, error_size, "cannot make namespaces: %s", strerror(errno));
		return -1;
	}
	if (!sandbox->init) {
		close(channel[0]);
		build_and_run(plan, &build, netns, out, err);
	}
	close(channel[1]);
	if (!handed) {
		close(out[1]);
		close(err[1]);
	}
	for (int i = 0; i < build.trees; i++)
		close(build.tree[i].mount);
	if (netns >= 0)
		close(netns);
	free(build.narrow.filter);
	free(build.groups);
	sandbox->report_fd = channel[0];
	fcntl(channel[0], F_SETFL, O_NONBLOCK);
	sandbox->out_fd = out[0];
	sandbox->err_fd = err[0];
	sandbox->listener_fd = build.listener_mount;
	sandbox->instance = build.instance;
	return 0;
}
