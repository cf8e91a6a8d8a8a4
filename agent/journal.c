// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "journal.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <syslog.h>
#include <unistd.h>

static const char journal_socket[] = "/run/systemd/journal/socket";
enum { BURST_SECONDS = 10, REPORT_MS = 1000, WAIT_MS = 300, TOKEN_BYTES = 1024, READ_BYTES = 64 << 10 };

void journal_open(struct journal *journal, const struct plan *plan, uint64_t now_ms)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	const char *app = plan_label(plan, "app"), *name = plan_label(plan, "function");
	int len;

	memset(journal, 0, sizeof *journal);
	journal->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	memcpy(address.sun_path, journal_socket, sizeof journal_socket);
	if (journal->fd >= 0 && connect(journal->fd, (struct sockaddr *)&address, sizeof address)) {
		close(journal->fd);
		journal->fd = -1;
	}
	len = asprintf(&journal->fields, "SYSLOG_IDENTIFIER=%s/%s\nBOESFS_APP=%s\nBOESFS_FUNCTION=%s\nBOESFS_FUNCTION_ID=%s\n"
		       "BOESFS_DIGEST=%s\n", app ? app : "?", name ? name : "?", app ? app : "?", name ? name : "?",
		       plan_label(plan, "id"), plan_label(plan, "digest"));
	journal->fields_len = len > 0 ? len : 0;
	journal->rate = plan_limit(plan, "log-rate", 1000);
	journal->tokens = journal->rate * BURST_SECONDS;
	journal->filled_ms = now_ms;
}

/* MESSAGE goes in the binary form (name, newline, 64-bit length, bytes): a function may print anything. */
static int send_entry(struct journal *journal, int priority, const char *text, size_t len)
{
	char head[96];
	uint64_t size = len;	/* little-endian; so is every machine we run on */
	int head_len = snprintf(head, sizeof head, "PRIORITY=%d\n%s%s%sMESSAGE\n", priority,
				*journal->call_id ? "BOESFS_CALL_ID=" : "", journal->call_id,
				*journal->call_id ? "\n" : "");
	struct iovec parts[] = {
		{journal->fields, journal->fields_len}, {head, head_len}, {&size, sizeof size},
		{(void *)text, len}, {"\n", 1},
	};
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = 5};

	return sendmsg(journal->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -1 : 0;
}

/* journald's queue is short: wait a little for it, but not for long in any second, since calls are waiting too. */
static int send_line(struct journal *journal, const char *line, size_t len, uint64_t now_ms)
{
	struct pollfd room = {.fd = journal->fd, .events = POLLOUT};

	while (send_entry(journal, LOG_INFO, line, len)) {
		if (errno != EAGAIN)
			return -1;
		if (now_ms >= journal->window_ms + 1000) {
			journal->window_ms = now_ms;
			journal->waited_ms = 0;
		}
		if (journal->waited_ms >= WAIT_MS)
			return -1;
		journal->waited_ms += 1;
		poll(&room, 1, 1);
	}
	return 0;
}

void journal_say(struct journal *journal, int priority, const char *format, ...)
{
	char text[1024];
	va_list args;
	int len;

	va_start(args, format);
	len = vsnprintf(text, sizeof text, format, args);
	va_end(args);
	if (len >= (int)sizeof text)
		len = sizeof text - 1;
	if (send_entry(journal, priority, text, len))
		dprintf(2, "<%d>%s\n", priority, text);
}

static void report_dropped(struct journal *journal, uint64_t now_ms)
{
	char text[128];
	int len;

	if (!journal->dropped && !journal->lost)
		return;
	journal->reported_ms = now_ms;
	len = snprintf(text, sizeof text, "%llu lines of output dropped: over log_rate (%llu a second)",
		       (unsigned long long)journal->dropped, (unsigned long long)journal->rate);
	if (journal->dropped && !send_entry(journal, LOG_WARNING, text, len))
		journal->dropped = 0;
	len = snprintf(text, sizeof text, "%llu lines of output dropped: journald took them too slowly",
		       (unsigned long long)journal->lost);
	if (journal->lost && !send_entry(journal, LOG_WARNING, text, len))
		journal->lost = 0;
}

static void write_line(struct journal *journal, const char *line, size_t len, uint64_t now_ms)
{
	uint64_t cost = 1 + len / TOKEN_BYTES, most = journal->rate * BURST_SECONDS;
	uint64_t earned = (now_ms - journal->filled_ms) * journal->rate / 1000;

	if (earned) {
		journal->tokens = journal->tokens + earned > most ? most : journal->tokens + earned;
		journal->filled_ms = now_ms;
	}
	if (journal->tokens < cost) {
		journal->dropped++;
		return;
	}
	if (now_ms >= journal->reported_ms + REPORT_MS)
		report_dropped(journal, now_ms);
	if (send_line(journal, line, len, now_ms))
		journal->lost++;
	else
		journal->tokens -= cost;
}

void stream_init(struct stream *stream, int fd)
{
	stream->fd = fd;
	stream->len = 0;
	*stream->last = 0;
	stream->line = malloc(LINE_MAX_BYTES);
}

static void end_line(struct stream *stream, struct journal *journal, uint64_t now_ms)
{
	if (stream->len)
		snprintf(stream->last, sizeof stream->last, "%.*s", (int)stream->len, stream->line);
	write_line(journal, stream->line, stream->len, now_ms);
	stream->len = 0;
}

/* Add bytes to the line begun; a newline or a full buffer ends it. */
static void take_bytes(struct stream *stream, struct journal *journal, uint64_t now_ms, const char *data, size_t len)
{
	while (len) {
		const char *newline = memchr(data, '\n', len);
		size_t part = newline ? (size_t)(newline - data) : len;
		size_t room = LINE_MAX_BYTES - stream->len;
		size_t take = part < room ? part : room;
		memcpy(stream->line + stream->len, data, take);
		stream->len += take;
		data += take;
		len -= take;
		if (take < part || stream->len == LINE_MAX_BYTES || newline) {
			if (newline && take == part) {
				data++;
				len--;
			}
			end_line(stream, journal, now_ms);
		}
	}
}

int stream_drain(struct stream *stream, struct journal *journal, uint64_t now_ms, size_t most)
{
	static char data[READ_BYTES];

	while (stream->fd >= 0 && most) {
		ssize_t got = read(stream->fd, data, most < sizeof data ? most : sizeof data);

		if (got < 0)
			return errno == EAGAIN || errno == EINTR;
		if (!got) {
			close(stream->fd);
			stream->fd = -1;
			return 0;
		}
		take_bytes(stream, journal, now_ms, data, got);
		most -= got;
	}
	return stream->fd >= 0;
}

void stream_flush(struct stream *stream, struct journal *journal, uint64_t now_ms)
{
	if (stream->len)
		end_line(stream, journal, now_ms);
	report_dropped(journal, now_ms);
}
