// SPDX-License-Identifier: Apache-2.0
/*
 * boesfs-agent: the main process of boesfs-fn@.service. Reads the function's plan, starts the sandbox that it
 * describes, gives up its own privileges and serves the unit's socket until the instance ends. In a unit of
 * `boesfsctl run` it does the same for a command.
 */
#define _GNU_SOURCE
#include "journal.h"
#include "notify.h"
#include "plan.h"
#include "relay.h"
#include "run.h"
#include "sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

static const char plan_dir[] = "/run/boesfs/plan";

/* The supervisor needs no rights any more: it takes the ids of who is inside, from outside the sandbox. */
static int give_up_privileges(const struct step *user)
{
	uid_t uid = strtoul(user->argv[0], NULL, 10);
	gid_t gid = user->argc > 1 ? strtoul(user->argv[1], NULL, 10) : uid;

	if (setgroups(0, NULL) || setresgid(gid, gid, gid) || setresuid(uid, uid, uid))
		return -1;
	if (!uid && no_capabilities())	/* others have lost them by now */
		return -1;
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

/* systemd gives the listening socket as descriptor 3 (sd_listen_fds(3)). */
static int has_listener(void)
{
	const char *count = getenv("LISTEN_FDS"), *pid = getenv("LISTEN_PID");

	return count && pid && atoi(count) == 1 && atoi(pid) == getpid();
}

static int refuse(const char *reason)
{
	fprintf(stderr, "<3>boesfs-agent: %s\n", reason);
	return refuse_waiting(502, "Container failed to initialize, please ensure you are using the latest fdk and check the logs",
			      reason);
}

/* INSTANCE is FUNCTION-ID:SLOT, from the unit's name. */
static int run(const char *instance)
{
	struct sandbox sandbox;
	struct journal journal;
	struct plan plan;
	char file[128], error[256];

	if (!has_listener()) {
		fprintf(stderr, "boesfs-agent: no listening socket; start boesfs-fn@%s.socket first, or call the function's Start method\n", instance);
		return 2;
	}
	umask(022);
	snprintf(file, sizeof file, "%s/%.*s.plan", plan_dir, (int)strcspn(instance, ":"), instance);
	if (strchr(instance, '/') || plan_read(&plan, file))
		return refuse(strchr(instance, '/') ? "bad instance name" : plan.error);
	journal_open(&journal, &plan, monotonic_ms());
	notify_open();
	if (sandbox_start(&sandbox, &plan, NULL, error, sizeof error)) {
		journal_say(&journal, LOG_ERR, "The sandbox could not be made: %s", error);
		return refuse(error);
	}
	if (give_up_privileges(plan_find(&plan, OP_USER))) {
		snprintf(error, sizeof error, "cannot give up privileges: %s", strerror(errno));
		return refuse(error);
	}
	return supervise(&plan, &sandbox, &journal);
}

/* By name: systemd gives a command's plan, the interrupt and its directories as descriptors (sd_listen_fds(3)). */
static int take_descriptors(struct handed *handed, int *plan, int *interrupt)
{
	const char *count = getenv("LISTEN_FDS"), *pid = getenv("LISTEN_PID"), *names = getenv("LISTEN_FDNAMES");
	char *rest = names ? strdup(names) : NULL, *name;

	if (!count || !pid || !rest || atoi(pid) != getpid())
		return -1;
	*plan = *interrupt = -1;
	for (int fd = LISTEN_FD; fd < LISTEN_FD + atoi(count) && (name = strsep(&rest, ":")); fd++) {
		fcntl(fd, F_SETFD, FD_CLOEXEC);
		if (!strcmp(name, "plan")) {
			*plan = fd;
		} else if (!strcmp(name, "interrupt")) {
			*interrupt = fd;
		} else if (handed->count < DIRECTORIES_MAX) {
			handed->directories[handed->count].name = name;
			handed->directories[handed->count++].fd = fd;
		}
	}
	return *plan < 0 || *interrupt < 0 ? -1 : 0;
}

/* Standard input and output are the command's; who reads them is not to wait for us. */
static int let_go_of_output(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	return null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(null, 2) < 0;
}

static int fail_command(struct journal *journal, int interrupt, const char *why)
{
	journal_say(journal, LOG_ERR, "The sandbox could not be made: %s", why);
	refuse_command(interrupt, why);
	return 125;
}

static int run_command(void)
{
	struct handed handed = {0};
	struct sandbox sandbox;
	struct journal journal;
	struct plan plan;
	char file[32], error[256];
	int plan_fd, interrupt;

	if (take_descriptors(&handed, &plan_fd, &interrupt)) {
		fprintf(stderr, "boesfs-agent: there is no plan; boesfsctl run makes it\n");
		return 2;
	}
	umask(022);
	snprintf(file, sizeof file, "/proc/self/fd/%d", plan_fd);
	if (plan_read(&plan, file)) {
		refuse_command(interrupt, plan.error);
		return 125;
	}
	close(plan_fd);
	journal_open(&journal, &plan, monotonic_ms());
	notify_open();
	if (sandbox_start(&sandbox, &plan, &handed, error, sizeof error))
		return fail_command(&journal, interrupt, error);
	for (int i = 0; i < handed.count; i++)
		close(handed.directories[i].fd);
	if (let_go_of_output() || give_up_privileges(plan_find(&plan, OP_USER))) {
		snprintf(error, sizeof error, "cannot give up privileges: %s", strerror(errno));
		sandbox_kill(&sandbox);
		return fail_command(&journal, interrupt, error);
	}
	return supervise_command(&plan, &sandbox, &journal, interrupt);
}

static int usage(FILE *to, int status)
{
	fputs("boesfs-agent FUNCTION-ID:SLOT   run one instance, with its socket as descriptor 3\n"
	      "boesfs-agent --run              run a command, with plan, interrupt and directories as descriptors\n"
	      "boesfs-agent --features         what this kernel and agent can do, a KEY=VALUE a line\n", to);
	return status;
}

int main(int argc, char **argv)
{
	if (argc != 2)
		return usage(stderr, 2);
	if (!strcmp(argv[1], "--help"))
		return usage(stdout, 0);
	if (!strcmp(argv[1], "--features")) {
		printf("plan=%d\nlandlock=%d\n", PLAN_VERSION, landlock_abi());
		return 0;
	}
	return strcmp(argv[1], "--run") ? run(argv[1]) : run_command();
}
