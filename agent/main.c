// SPDX-License-Identifier: Apache-2.0
/*
 * boesfs-agent: the main process of boesfs-fn@.service. Reads the function's plan, starts the sandbox that it
 * describes, gives up its own privileges and serves the unit's socket until the instance ends.
 */
#define _GNU_SOURCE
#include "journal.h"
#include "notify.h"
#include "plan.h"
#include "relay.h"
#include "sandbox.h"

#include <errno.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

static const char plan_dir[] = "/run/boesfs/plan";

/* The supervisor needs no rights any more: it takes the function's uid, from outside the sandbox. */
static int give_up_privileges(uid_t uid)
{
	if (setgroups(0, NULL) || setresgid(uid, uid, uid) || setresuid(uid, uid, uid))
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
	if (sandbox_start(&sandbox, &plan, error, sizeof error)) {
		journal_say(&journal, LOG_ERR, "The sandbox could not be made: %s", error);
		return refuse(error);
	}
	if (give_up_privileges(strtoul(plan_find(&plan, OP_USER)->argv[0], NULL, 10))) {
		snprintf(error, sizeof error, "cannot give up privileges: %s", strerror(errno));
		return refuse(error);
	}
	return supervise(&plan, &sandbox, &journal);
}

static int usage(FILE *to, int status)
{
	fputs("boesfs-agent FUNCTION-ID:SLOT   run one instance, with its socket as descriptor 3\n"
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
	return run(argv[1]);
}
