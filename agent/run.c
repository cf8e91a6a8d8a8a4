// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "run.h"
#include "notify.h"
#include "policy.h"
#include "relay.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

enum { NO_SANDBOX = 125, TIMED_OUT = 124, BY_SIGNAL = 128, PATIENCE = 1000, STOP_LOOKS = 1000, STOP_MS = 7000 };

struct command {
	struct sandbox *sandbox;
	int interrupt;		/* -1: nobody is there any more */
	bool talks;		/* words are understood there */
	bool interrupted, late, stopped;	/* why we have killed it */
	uint64_t last_ms;	/* until when it may run, 0 for ever */
	bool reaper;
	int killed_as;		/* the signal that would have ended it, were it not PID 1 */
};

static void say(const struct command *c, const char *text, int fd)
{
	if (c->talks && c->interrupt >= 0)
		send_text(c->interrupt, text, fd, MSG_DONTWAIT);	/* who does not read is not waited for */
}

static bool understands_words(int fd)
{
	int type;
	socklen_t len = sizeof type;

	return !getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) && type == SOCK_SEQPACKET;
}

static void say_ended(const struct command *c, int status, const char *why)
{
	char text[700];

	snprintf(text, sizeof text, "ended %d%s%s", status, *why ? " " : "", why);
	say(c, text, -1);
}

void refuse_command(int interrupt, const char *why)
{
	const struct command c = {.interrupt = interrupt, .talks = understands_words(interrupt)};

	say_ended(&c, NO_SANDBOX, why);
}

enum disposition { DEFAULT, BLOCKED, OWN };

struct signals {
	char state;	/* as ps(1) has it */
	unsigned long long blocked, ignored, caught;
};

/* What a process says about its signals; false if it is no more. */
static bool read_signals(pid_t pid, struct signals *found)
{
	char path[40], line[128];
	FILE *file;

	snprintf(path, sizeof path, "/proc/%d/status", pid);
	file = fopen(path, "re");
	if (!file)
		return false;
	while (fgets(line, sizeof line, file)) {
		sscanf(line, "State: %c", &found->state);
		sscanf(line, "SigBlk: %llx", &found->blocked);
		sscanf(line, "SigIgn: %llx", &found->ignored);
		sscanf(line, "SigCgt: %llx", &found->caught);
	}
	fclose(file);
	return true;
}

static unsigned long long bit_of(int number)
{
	return 1ULL << (number - 1);
}

/* What a process does with a signal, as far as it says: the default, its own, or whoever waits for one that is blocked. */
static enum disposition disposition_of(pid_t pid, int number, struct signals *found)
{
	*found = (struct signals){0};
	if (!read_signals(pid, found))
		return OWN;
	return (found->ignored | found->caught) & bit_of(number) ? OWN : found->blocked & bit_of(number) ? BLOCKED : DEFAULT;
}

/* Until it is stopped, or is no more; who waits for its disk takes a while. */
static void stop(const struct sandbox *sandbox)
{
	const struct timespec moment = {.tv_nsec = 1000000};
	struct signals found = {0};

	syscall(SYS_pidfd_send_signal, sandbox->init_fd, SIGSTOP, NULL, 0);
	for (int i = 0; i < STOP_LOOKS && read_signals(sandbox->init, &found) && !strchr("TtZX", found.state); i++)
		nanosleep(&moment, NULL);
}

/* What a look at who has blocked a signal takes of our patience: in vfork(2) it will go on, or on a CPU, asleep hardly. */
static int cost_of(char state)
{
	return state == 'D' ? 1 : state == 'R' ? 3 : PATIENCE / 30;
}

/*
 * Whether PID 1 of a sandbox, which the kernel spares what it has no handler for, would be spared this signal. Shells
 * block all signals for a moment now and then, and what comes while they are in vfork(2) may be heard by nobody; who
 * waits for signals has them blocked for good. Who has a handler may execute a program that has none right before the
 * signal comes, so it is held: while it is stopped it is in no execve(2). Not done to who is stopped already, or would
 * notice. One look decides: who had no handler at that moment has to end, whatever it does next.
 */
static bool spared(const struct sandbox *sandbox, int number, bool *held)
{
	const struct timespec moment = {.tv_nsec = 10000000};
	struct signals signals;
	enum disposition found = disposition_of(sandbox->init, number, &signals);

	for (int spent = 0; signals.blocked & bit_of(number) && spent < PATIENCE; spent += cost_of(signals.state)) {
		nanosleep(&moment, NULL);
		found = disposition_of(sandbox->init, number, &signals);
	}
	if (signals.caught & bit_of(number) && signals.state != 'T' &&
	    !((signals.caught | signals.blocked) & bit_of(SIGCONT))) {
		*held = true;
		stop(sandbox);
		found = disposition_of(sandbox->init, number, &signals);
	}
	return found == DEFAULT;
}

static bool ends_by_default(int number)
{
	return number != SIGCHLD && number != SIGCONT && number != SIGURG && number != SIGWINCH && number != SIGSTOP &&
	       number != SIGTSTP && number != SIGTTIN && number != SIGTTOU;
}

/* As to any other program: what would end it ends it. */
static void pass_signal(struct command *c, int number)
{
	const struct sandbox *sandbox = c->sandbox;
	bool keyboard = number == SIGINT || number == SIGQUIT, held = false, ended = false;

	if (number < 1 || number >= NSIG)
		return;
	if (!c->reaper && ends_by_default(number))
		ended = spared(sandbox, number, &held);
	/* from the keyboard they come to all that stand in the foreground: a shell waits for who it has started */
	if (c->reaper || !keyboard || kill(-sandbox->init, number))
		syscall(SYS_pidfd_send_signal, sandbox->init_fd, number, NULL, 0);
	if (ended) {
		c->killed_as = number;
		sandbox_kill(c->sandbox);
	}
	if (held)
		syscall(SYS_pidfd_send_signal, sandbox->init_fd, SIGCONT, NULL, 0);
}

static void end(struct command *c)
{
	c->interrupted = true;
	sandbox_kill(c->sandbox);
}

static void read_interrupt(struct command *c)
{
	char text[64];
	ssize_t len = c->talks ? recv(c->interrupt, text, sizeof text - 1, MSG_DONTWAIT) : 0;
	int number;

	if (len < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	text[len > 0 ? len : 0] = 0;
	if (len > 0 && sscanf(text, "signal %d", &number) == 1) {
		pass_signal(c, number);
		return;
	}
	if (len <= 0) {	/* nobody is there; with a byte somebody is, who wants to hear of the end */
		close(c->interrupt);
		c->interrupt = -1;
	}
	end(c);
}

static void read_reports(struct command *c)
{
	while (c->sandbox->report_fd >= 0 && sandbox_hear(c->sandbox))
		;
	if (c->sandbox->terminal_fd >= 0) {
		say(c, "terminal", c->sandbox->terminal_fd);
		close(c->sandbox->terminal_fd);	/* when they go away, the program is to be told */
		c->sandbox->terminal_fd = -1;
	}
}

static void read_signal(struct command *c, int signal_fd)
{
	struct signalfd_siginfo info;

	if (read(signal_fd, &info, sizeof info) == sizeof info) {
		pass_signal(c, info.ssi_signo);
		if (info.ssi_signo == SIGTERM) {	/* systemd kills us too, a little later */
			notify_systemd("STOPPING=1");
			c->stopped = true;
			c->last_ms = monotonic_ms() + STOP_MS;
		}
	}
}

/* The status as a shell has it, and why, if the program itself is not the reason. */
static int describe(const struct command *c, const struct plan *plan, char *why, size_t size)
{
	int status = c->sandbox->status;

	*why = 0;
	if (*c->sandbox->failure) {
		snprintf(why, size, "%s", c->sandbox->failure);
	} else if (killed_by_policy(c->sandbox->kills_fd, c->sandbox->instance, why, size)) {
		/* it says why */
	} else if (c->late && c->stopped) {
		snprintf(why, size, "it was stopped, and did not end");
	} else if (c->late) {
		snprintf(why, size, "its time, %llu s, was over",
			 (unsigned long long)plan_limit(plan, "time", 0) / 1000);
		return TIMED_OUT;
	} else if (WIFSIGNALED(status) && out_of_memory()) {
		snprintf(why, size, "out of memory: it used more than was allowed");
	} else if (c->interrupted && WIFSIGNALED(status)) {
		snprintf(why, size, "it was interrupted");
	}
	if (c->killed_as && WIFSIGNALED(status))
		return BY_SIGNAL + c->killed_as;
	return WIFSIGNALED(status) ? BY_SIGNAL + WTERMSIG(status) : WEXITSTATUS(status);
}

static const int passed[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};

static int watch_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	for (int i = 0; i < (int)(sizeof passed / sizeof *passed); i++)
		sigaddset(&set, passed[i]);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

int supervise_command(const struct plan *plan, struct sandbox *sandbox, struct journal *journal, int interrupt)
{
	struct command c = {.sandbox = sandbox, .interrupt = interrupt,
			    .talks = understands_words(interrupt), .reaper = plan_find(plan, OP_REAPER)};
	uint64_t time = plan_limit(plan, "time", 0);
	int signal_fd = watch_signals(), status;
	bool gone = false;
	char why[600];

	c.last_ms = time ? monotonic_ms() + time : 0;
	while (!gone) {
		struct pollfd at[] = {
			{.fd = sandbox->init_fd, .events = POLLIN}, {.fd = sandbox->report_fd, .events = POLLIN},
			{.fd = c.interrupted ? -1 : c.interrupt, .events = POLLIN}, {.fd = signal_fd, .events = POLLIN},
			{.fd = sandbox->notify_fd, .events = POLLIN},
		};
		uint64_t now = monotonic_ms(), left = c.last_ms > now ? c.last_ms - now : 0;

		if (poll(at, sizeof at / sizeof *at, !c.last_ms || c.late ? -1 : left < INT_MAX ? (int)left : INT_MAX) < 0 &&
		    errno != EINTR)
			return 1;
		if (c.last_ms && !c.late && monotonic_ms() >= c.last_ms) {
			c.late = true;
			sandbox_kill(sandbox);
		}
		if (at[1].revents)
			read_reports(&c);
		if (at[4].revents & POLLIN) {
			sandbox_answer_syscall(sandbox, journal);
		} else if (at[4].revents) {
			close(sandbox->notify_fd);
			sandbox->notify_fd = -1;
		}
		if (at[2].revents)
			read_interrupt(&c);
		if (at[3].revents)
			read_signal(&c, signal_fd);
		gone = at[0].revents;
	}
	read_reports(&c);
	waitpid(sandbox->init, &status, 0);
	if (sandbox->status < 0)	/* else a reaper has told, whose own end is not the program's */
		sandbox->status = status;
	status = describe(&c, plan, why, sizeof why);
	if (*why)
		journal_say(journal, LOG_NOTICE, "The command ended with status %d: %s", status, why);
	say_ended(&c, status, why);
	return status;
}
