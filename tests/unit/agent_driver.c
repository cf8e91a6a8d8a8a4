// SPDX-License-Identifier: Apache-2.0
/*
 * The agent's pure parts (agent/http.c, agent/plan.c, most of agent/calls.c) on a command line, for test_agent.py. Every input lies in a
 * block of just its size, so that the address sanitizer sees each byte read beyond it.
 *
 *   head request|response       standard input is a head; prints what was understood
 *   body request|response       standard input is a message; reads its body whole and split at every position
 *   time TEXT                   rfc3339_ms
 *   plan FILE                   plan_read
 *   mutate SEED COUNT FILE...   parses COUNT damaged copies of the files
 *   calls FILTER NAME...        what FILTER says of each system call, and what it says narrowed to the names: number, its
 *                               verdict, the narrow one's, and that of another architecture's call, in hexadecimal
 */
#define _GNU_SOURCE
#include "calls.h"
#include "http.h"
#include "plan.h"

#include <assert.h>
#include <linux/audit.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static char *exact(const char *data, size_t len)
{
	char *copy = malloc(len ? len : 1);

	return memcpy(copy, data, len);
}

/* Read all headers, as the relay does; how many there are. */
static int walk(const struct head *head)
{
	struct text at = head->fields, name, value, found;
	int count = 0;

	while (head_next(&at, &name, &value)) {
		assert(name.len && name.at + name.len < value.at);
		assert(value.at + value.len <= head->fields.at + head->fields.len);
		head_is_hop_by_hop(name);
		count++;
	}
	if (head_find(head, "fn-deadline", &found))
		rfc3339_ms(found);
	return count;
}

static void show_head(const char *data, size_t len, bool response)
{
	struct head head;
	struct text at, name, value;
	ssize_t got = head_parse(&head, data, len, response);

	printf("%zd\n", got);
	if (got <= 0)
		return;
	walk(&head);
	printf("%.*s %.*s %d %lld%s%s%s\n", (int)head.method.len, head.method.at ? head.method.at : "",
	       (int)head.target.len, head.target.at ? head.target.at : "", head.status, (long long)head.content_length,
	       head.chunked ? " chunked" : "", head.close ? " close" : "", head.expect_continue ? " continue" : "");
	at = head.fields;
	while (head_next(&at, &name, &value))
		printf("%.*s=%.*s\n", (int)name.len, name.at, (int)value.len, value.at);
}

/* Bytes of the body when it comes in two pieces (-1: malformed); each is read from a block of its own. */
static ssize_t take_split(const struct head *head, const char *data, size_t len, size_t split, bool response, bool *done)
{
	struct body body;
	size_t total = 0, ends[2] = {split, len};

	body_begin(&body, head, response);
	for (int i = 0; i < 2; i++) {
		size_t piece = ends[i] - (i ? split : 0);
		char *copy = exact(data + (i ? split : 0), piece);
		ssize_t take = body.done ? 0 : body_take(&body, copy, piece);

		free(copy);
		if (take < 0)
			return -1;
		assert((size_t)take <= piece);
		assert(body.done || (size_t)take == piece);
		total += take;
	}
	*done = body.done;
	return total;
}

static bool check_body(const char *data, size_t len, bool response, size_t step)
{
	struct head head;
	ssize_t start = head_parse(&head, data, len, response), whole;
	bool whole_done, done;

	if (start <= 0) {
		if (step == 1)
			printf("no head\n");
		return false;
	}
	data += start;
	len -= start;
	whole = take_split(&head, data, len, len, response, &whole_done);
	for (size_t split = 0; split <= len; split += step) {
		ssize_t took = take_split(&head, data, len, split, response, &done);

		if (took != whole || (took >= 0 && done != whole_done)) {
			fprintf(stderr, "split at %zu of %zu: %zd, whole: %zd\n", split, len, took, whole);
			abort();
		}
	}
	if (step == 1)
		printf("%zd %s\n", whole, whole < 0 ? "malformed" : whole_done ? "done" : "more");
	return true;
}

static void show_plan(const char *file)
{
	struct plan plan;

	if (plan_read(&plan, file)) {
		printf("-1 %s\n", plan.error);
		return;
	}
	printf("%d\n", plan.count);
	for (int i = 0; i < plan.count; i++) {
		printf("%s", plan_op_names[plan.steps[i].op]);
		for (int j = 0; j < plan.steps[i].argc; j++)
			printf("|%s", plan.steps[i].argv[j]);
		assert(!plan.steps[i].argv[plan.steps[i].argc]);
		printf("%c", 0);
	}
}

static uint64_t state;

static uint64_t chance(uint64_t below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return below ? state % below : 0;
}

/* A copy with a few bytes changed, removed, doubled, or its end cut off. */
static size_t damage(char *to, const char *from, size_t len)
{
	static const char spice[] = "\r\n\r\n\t :;,\\0019afFzZ\x00\x7f\x80\xff-+";
	int times = 1 + chance(4);

	memcpy(to, from, len);
	while (times-- && len) {
		size_t at = chance(len), n = 1 + chance(len - at < 20 ? len - at : 20);

		switch (chance(6)) {
		case 0: to[at] = (char)chance(256); break;
		case 1: to[at] = spice[chance(sizeof spice - 1)]; break;
		case 2: to[at] ^= 1 << chance(8); break;
		case 3: memmove(to + at, to + at + n, len - at - n); len -= n; break;
		case 4: memmove(to + at + n, to + at, len - at); len += n; break;
		case 5: len = chance(8) ? len : at; break;
		}
	}
	return len;
}

static void parse_anything(const char *data, size_t len, int fd, long round)
{
	char *copy = exact(data, len), path[32];
	struct head head;
	struct plan plan;

	for (int response = 0; response < 2; response++) {
		ssize_t got = head_parse(&head, copy, len, response);

		assert(got <= (ssize_t)len);
		if (got > 0)
			walk(&head);
		check_body(copy, len, response, 1 + chance(len / 2 + 1) + (round % 16 ? len / 4 : 0) + 1);
	}
	rfc3339_ms((struct text){copy, len});
	if (round % 4 == 0) {
		if (ftruncate(fd, 0) || pwrite(fd, data, len, 0) != (ssize_t)len)
			abort();
		snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
		if (!plan_read(&plan, path)) {
			plan_label(&plan, "id");
			plan_limit(&plan, "timeout", 1);
			plan_find(&plan, OP_USER);
		}
	}
	free(copy);
}

static size_t slurp(FILE *file, char *buffer, size_t size)
{
	size_t len = fread(buffer, 1, size, file);

	assert(len < size && !ferror(file));
	return len;
}

/* What calls.c asks of the rest of the agent; not here. */
bool sandbox_hear(struct sandbox *sandbox)
{
	(void)sandbox;
	abort();
}

void sandbox_kill(const struct sandbox *sandbox)
{
	(void)sandbox;
	abort();
}

void journal_say(struct journal *journal, int priority, const char *format, ...)
{
	(void)journal, (void)priority, (void)format;
	abort();
}

static void show_calls(const char *file, int count, char **names)
{
	struct sock_fprog filter = {0}, narrow = {0};
	bool named[SYSCALLS_SEEN] = {0};
	const char *unknown = calls_named(named, count, names);

	if (unknown) {
		printf("unknown %s\n", unknown);
		return;
	}
	assert(!filter_read(&filter, file) && !filter_narrow(&narrow, &filter, named));
	for (int number = 0; number < SYSCALLS_SEEN; number++) {
		const struct seccomp_data data = {.nr = number, .arch = AUDIT_ARCH_X86_64};
		const struct seccomp_data foreign = {.nr = number, .arch = AUDIT_ARCH_I386};

		printf("%d %x %x %x\n", number, filter_verdict(&filter, &data), filter_verdict(&narrow, &data),
		       filter_verdict(&narrow, &foreign));
	}
}

int main(int argc, char **argv)
{
	static char input[1 << 20], damaged[(1 << 20) + 1024];
	bool response = argc > 2 && !strcmp(argv[2], "response");

	if (argc == 3 && !strcmp(argv[1], "time")) {
		char *copy = exact(argv[2], strlen(argv[2]));

		printf("%lld\n", (long long)rfc3339_ms((struct text){copy, strlen(argv[2])}));
	} else if (argc == 3 && !strcmp(argv[1], "plan")) {
		show_plan(argv[2]);
	} else if (argc > 2 && !strcmp(argv[1], "calls")) {
		show_calls(argv[2], argc - 3, argv + 3);
	} else if (argc > 4 && !strcmp(argv[1], "mutate")) {
		int fd = memfd_create("plan", 0), files = argc - 4;
		char *seeds[64];
		size_t lens[64];

		state = strtoull(argv[2], NULL, 10);
		for (int i = 0; i < files; i++) {
			FILE *file = fopen(argv[i + 4], "r");

			lens[i] = slurp(file, input, sizeof input);
			seeds[i] = exact(input, lens[i]);
			fclose(file);
		}
		for (long round = 0; round < atol(argv[3]); round++) {
			int seed = round % files;

			parse_anything(damaged, damage(damaged, seeds[seed], lens[seed]), fd, round / files);
		}
		printf("%s\n", argv[3]);
	} else if (argc == 3) {
		size_t len = slurp(stdin, input, sizeof input);
		char *copy = exact(input, len);

		if (!strcmp(argv[1], "head"))
			show_head(copy, len, response);
		else
			check_body(copy, len, response, 1);
	} else {
		return 2;
	}
	return 0;
}
