// SPDX-License-Identifier: Apache-2.0
/*
 * client: how long one HTTP call takes, from before connect (or before the start of COMMAND) to the last byte of the
 * answer, by CLOCK_MONOTONIC.
 *
 *   client [-n ROUNDS] [-u UNTIMED] [-t] [-e NAME=VALUE] [-d DIRECTORY] TARGET ... [-- COMMAND ...]
 *
 * A TARGET is unix:SOCKET@PATH or tcp:PORT@PATH (of 127.0.0.1), with new: before it for a connection of its own per
 * call; otherwise a connection is kept as long as the other side keeps it. All targets are called once a round, in an
 * order that is drawn anew for each round. Prints a line a round: the microseconds of each target, in the order of the
 * command line. -u calls all targets as often first, untimed.
 *
 * With COMMAND: the clock starts before it is forked, and the call waits (inotify) until the name of the one target's
 * socket is made. COMMAND is killed after the last round. Its environment is what -e says, its directory -d's.
 *
 * -t prints the two points in time, in microseconds of CLOCK_MONOTONIC, in place of their distance.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { TARGETS_MAX = 32, VARIABLES_MAX = 256, ANSWER_MAX = 1 << 16, PATIENCE_MS = 30000 };

static const char body[] = "{\"name\":\"bench\"}";

struct target {
	const char *name;
	union {
		struct sockaddr any;
		struct sockaddr_un local;
		struct sockaddr_in inet;
	} address;
	socklen_t address_len;
	char request[1024];
	size_t request_len;
	int fd;			/* -1: not connected */
	int fresh;		/* a connection of its own for each call */
};

static pid_t started;
static int errors = -1;		/* what COMMAND printed as its errors; a file, for what it leaves behind may keep it open */

static void stop_command(void)
{
	if (started > 0) {
		kill(-started, SIGKILL);
		kill(started, SIGKILL);
		waitpid(started, NULL, 0);
	}
	started = 0;
}

static _Noreturn void die(const char *name, const char *what)
{
	char text[1024];
	ssize_t len;

	fprintf(stderr, "client: %s: %s\n", name, what);
	stop_command();
	if (errors >= 0 && (len = pread(errors, text, sizeof text, 0)) > 0)
		fprintf(stderr, "%.*s", (int)len, text);
	exit(1);
}

static uint64_t now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000ULL + now.tv_nsec / 1000;
}

static void parse_target(struct target *target, char *text)
{
	char *path;

	target->name = strdup(text);
	target->fd = -1;
	target->fresh = !strncmp(text, "new:", 4);
	if (target->fresh)
		text += 4;
	path = strrchr(text, '@');
	if (!path)
		die(text, "no @PATH");
	*path++ = 0;
	if (!strncmp(text, "unix:", 5) && strlen(text + 5) < sizeof target->address.local.sun_path) {
		target->address.local.sun_family = AF_UNIX;
		strcpy(target->address.local.sun_path, text + 5);
		target->address_len = sizeof target->address.local;
	} else if (!strncmp(text, "tcp:", 4)) {
		target->address.inet.sin_family = AF_INET;
		target->address.inet.sin_port = htons(atoi(text + 4));
		target->address.inet.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		target->address_len = sizeof target->address.inet;
	} else {
		die(text, "neither unix:SOCKET nor tcp:PORT");
	}
	target->request_len =
		snprintf(target->request, sizeof target->request,
			 "POST %s HTTP/1.1\r\nHost: function\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
			 path, strlen(body), body);
	if (target->request_len >= sizeof target->request)
		die(target->name, "path too long");
}

static void connect_target(struct target *target)
{
	int one = 1;

	target->fd = socket(target->address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (target->fd < 0 || connect(target->fd, &target->address.any, target->address_len))
		die(target->name, strerror(errno));
	if (target->address.any.sa_family == AF_INET)
		setsockopt(target->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static void hang_up(struct target *target)
{
	close(target->fd);
	target->fd = -1;
}

/* Value of a header in a head that ends with a zero byte, or NULL. */
static const char *header(const char *head, const char *name)
{
	const char *line = strcasestr(head, name);

	return line && line[-1] == '\n' ? line + strlen(name) : NULL;
}

/* Read one whole answer. True when the other side keeps the connection. */
static int read_answer(struct target *target)
{
	static char answer[ANSWER_MAX + 1];
	size_t have = 0, need = SIZE_MAX;
	const char *length, *connection;
	char *end = NULL;
	int chunked = 0;

	while (have < need && !(chunked && have >= 5 && !memcmp(answer + have - 5, "0\r\n\r\n", 5))) {
		struct pollfd ready = {.fd = target->fd, .events = POLLIN};
		ssize_t got;

		if (poll(&ready, 1, PATIENCE_MS) != 1)
			die(target->name, "no answer");
		got = recv(target->fd, answer + have, ANSWER_MAX - have, 0);
		if (got <= 0)
			die(target->name, "the connection ended within the answer");
		have += got;
		answer[have] = 0;
		if (end || !(end = strstr(answer, "\r\n\r\n")))
			continue;
		length = header(answer, "content-length:");
		chunked = !length;
		need = length ? end + 4 - answer + strtoul(length, NULL, 10) : SIZE_MAX;
	}
	if (strncmp(answer, "HTTP/1.1 200", 12))
		die(target->name, answer);
	*end = 0;
	connection = header(answer, "connection:");
	return !connection || strncasecmp(connection + strspn(connection, " "), "close", 5);
}

static void call(struct target *target)
{
	if (target->fd < 0)
		connect_target(target);
	if (send(target->fd, target->request, target->request_len, MSG_NOSIGNAL) != (ssize_t)target->request_len)
		die(target->name, "the request was not taken");
	if (!read_answer(target) || target->fresh)
		hang_up(target);
}

/* Start COMMAND and wait until the target's socket has its name. */
static void start(struct target *target, char **command, char **environment, const char *directory)
{
	char path[PATH_MAX], events[4096] __attribute__((aligned(8)));
	int watch = inotify_init1(IN_CLOEXEC);
	struct pollfd ready = {.fd = watch, .events = POLLIN};

	strcpy(path, target->address.local.sun_path);
	if (watch < 0 || inotify_add_watch(watch, dirname(path), IN_CREATE | IN_MOVED_TO) < 0)
		die(target->name, strerror(errno));
	if (errors < 0)
		die(target->name, strerror(errno));
	started = fork();
	if (!started) {
		int null = open("/dev/null", O_RDWR);

		setpgid(0, 0);
		dup2(null, 0);
		dup2(null, 1);
		dup2(errors, 2);
		if (chdir(directory) == 0)
			execve(command[0], command, environment);
		fprintf(stderr, "client: %s: %s\n", command[0], strerror(errno));
		_exit(127);
	}
	setpgid(started, started);
	while (access(target->address.local.sun_path, F_OK))
		if (poll(&ready, 1, PATIENCE_MS) != 1 || read(watch, events, sizeof events) <= 0)
			die(command[0], "its socket did not come");
	/* WATCH stays open: closing it would wait for a grace period of the kernel, 8 to 25 ms */
}

static void draw_order(int *order, int count)
{
	for (int i = count - 1; i > 0; i--) {
		int other = rand() % (i + 1), kept = order[i];

		order[i] = order[other];
		order[other] = kept;
	}
}

static void run_round(struct target *targets, int *order, int count, uint64_t begun, int points, int print)
{
	uint64_t from[TARGETS_MAX], to[TARGETS_MAX];

	draw_order(order, count);
	for (int i = 0; i < count; i++) {
		int at = order[i];

		from[at] = begun ? begun : now_us();
		call(&targets[at]);
		to[at] = now_us();
	}
	if (!print)
		return;
	for (int i = 0; i < count; i++) {
		if (points)
			printf("%s%llu %llu", i ? " " : "", (unsigned long long)from[i], (unsigned long long)to[i]);
		else
			printf("%s%llu", i ? " " : "", (unsigned long long)(to[i] - from[i]));
	}
	putchar('\n');
}

int main(int argc, char **argv)
{
	static struct target targets[TARGETS_MAX];
	char *environment[VARIABLES_MAX + 1], **command = NULL;
	int rounds = 1, untimed = 0, points = 0, count = 0, variables = 0, option, order[TARGETS_MAX];
	const char *directory = "/";
	uint64_t begun = 0;

	while ((option = getopt(argc, argv, "+n:u:te:d:")) != -1) {
		switch (option) {
		case 'n': rounds = atoi(optarg); break;
		case 'u': untimed = atoi(optarg); break;
		case 't': points = 1; break;
		case 'e':
			if (variables == VARIABLES_MAX)
				die(optarg, "too many variables");
			environment[variables++] = optarg;
			break;
		case 'd': directory = optarg; break;
		default: return 2;
		}
	}
	environment[variables] = NULL;
	for (; optind < argc && strcmp(argv[optind], "--") && count < TARGETS_MAX; optind++, count++) {
		parse_target(&targets[count], argv[optind]);
		order[count] = count;
	}
	if (optind + 1 < argc && !strcmp(argv[optind], "--"))
		command = argv + optind + 1;
	if (!count || (command && (count != 1 || targets[0].address.any.sa_family != AF_UNIX))) {
		fputs("usage: client [-n ROUNDS] [-u UNTIMED] [-t] [-e NAME=VALUE] [-d DIRECTORY] TARGET ... [-- COMMAND ...]\n",
		      stderr);
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	if (command) {
		errors = memfd_create("errors", MFD_CLOEXEC);
		begun = now_us();
		start(&targets[0], command, environment, directory);
	}
	for (int i = 0; i < untimed; i++)
		run_round(targets, order, count, 0, 0, 0);
	for (int i = 0; i < rounds; i++)
		run_round(targets, order, count, i ? 0 : begun, points, 1);
	stop_command();
	return 0;
}
