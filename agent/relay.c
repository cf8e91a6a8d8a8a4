// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "relay.h"
#include "http.h"
#include "notify.h"
#include "policy.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

enum {
	CLIENTS_MAX = 16,	/* accepted connections whose request is not complete yet */
	BUFFER = 128 << 10,
	ROOM = 16 << 10,	/* least room in a buffer that is worth a read */
	HEAD_TIMEOUT_MS = 10000,
	QUIET_MS = 5,
	REPORT_WAIT_MS = 50,
	REUSE_MS = 1000,	/* an FDK may close an idle connection; do not meet it doing so */
	FLUSH_MS = 2000,	/* for last answers when the instance ends */
	DRAIN_BYTES = 4 << 20,	/* of output read at one go, so that a flood cannot starve the call */
};

static const char fdk_socket[] = "lsnr.sock";

struct buffer {
	char *data;
	size_t start, end;
};

enum client_state { CLIENT_FREE, CLIENT_HEAD, CLIENT_CALL, CLIENT_FLUSH };

struct client {
	enum client_state state;
	int fd;
	struct buffer in, out;
	uint64_t since_ms;
};

enum supervisor_state { STARTING, SERVING, DRAINING, ENDING };

struct supervisor {
	struct sandbox *sandbox;
	struct journal *journal;
	struct stream streams[2];
	enum supervisor_state state;
	uint64_t now_ms, started_ms, idle_since_ms;
	uint64_t timeout_ms, idle_ms, init_ms;
	int exit_status;
	int signal_fd, inotify_fd, watch;
	struct client clients[CLIENTS_MAX];

	/* the call being served */
	struct client *caller;
	int fdk_fd;
	uint64_t fdk_used_ms;
	struct buffer fdk_in, fdk_out;
	struct body request, response;
	bool response_begun, fdk_close, fdk_eof;
	uint64_t deadline_ms, call_began_ms;

	bool gone;		/* the sandbox's init has ended */
};

uint64_t monotonic_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000ULL + now.tv_nsec / 1000000;
}

/* --- buffers ------------------------------------------------------------------------------------------------ */

static size_t held(const struct buffer *buffer)
{
	return buffer->end - buffer->start;
}

/* Room at the end, moving the content to the front when that makes more. */
static size_t room(struct buffer *buffer)
{
	if (!buffer->data && !(buffer->data = malloc(BUFFER)))
		return 0;
	if (buffer->start && BUFFER - buffer->end < ROOM) {
		memmove(buffer->data, buffer->data + buffer->start, held(buffer));
		buffer->end -= buffer->start;
		buffer->start = 0;
	}
	return BUFFER - buffer->end;
}

static void clear(struct buffer *buffer)
{
	buffer->start = buffer->end = 0;
}

static bool append(struct buffer *buffer, const void *data, size_t len)
{
	if (room(buffer) < len)
		return false;
	memcpy(buffer->data + buffer->end, data, len);
	buffer->end += len;
	return true;
}

static bool append_text(struct buffer *buffer, const char *format, ...) __attribute__((format(printf, 2, 3)));
static bool append_text(struct buffer *buffer, const char *format, ...)
{
	char text[1024];
	va_list args;
	int len;

	va_start(args, format);
	len = vsnprintf(text, sizeof text, format, args);
	va_end(args);
	return len >= 0 && len < (int)sizeof text && append(buffer, text, len);
}

/* Bytes read, 0 at the end of the stream, -1 when there is nothing now, -2 on an error. */
static ssize_t fill(struct buffer *buffer, int fd)
{
	size_t space = room(buffer);
	ssize_t got;

	if (!space)
		return -1;
	got = recv(fd, buffer->data + buffer->end, space, 0);
	if (got > 0)
		buffer->end += got;
	else if (got < 0)
		return errno == EAGAIN || errno == EINTR ? -1 : -2;
	return got;
}

/* False when the other side is gone. */
static bool empty(struct buffer *buffer, int fd)
{
	while (held(buffer)) {
		ssize_t sent = send(fd, buffer->data + buffer->start, held(buffer), MSG_NOSIGNAL);

		if (sent < 0)
			return errno == EAGAIN || errno == EINTR;
		buffer->start += sent;
	}
	clear(buffer);
	return true;
}

/* --- clients ------------------------------------------------------------------------------------------------ */

static void close_client(struct supervisor *s, struct client *client)
{
	close(client->fd);
	clear(&client->in);
	clear(&client->out);
	client->state = CLIENT_FREE;
	if (s->caller == client)
		s->caller = NULL;
}

static void json_text(char *to, size_t size, const char *from)
{
	size_t at = 0;

	for (; *from && at + 7 < size; from++) {
		if (*from == '"' || *from == '\\')
			at += snprintf(to + at, size - at, "\\%c", *from);
		else if ((unsigned char)*from < ' ')
			at += snprintf(to + at, size - at, "\\u%04x", *from);
		else
			to[at++] = *from;
	}
	to[at] = 0;
}

static const char *reason_phrase(int status)
{
	switch (status) {
	case 400: return "Bad Request";
	case 408: return "Request Timeout";
	case 502: return "Bad Gateway";
	case 503: return "Service Unavailable";
	default: return "Gateway Timeout";
	}
}

/* An answer of the agent itself. CODE names the reason for boesfsd, which passes MESSAGE on. */
static void answer(struct buffer *out, int status, const char *code, const char *message, const char *detail,
		   const char *call_id)
{
	char safe[512], body[900];
	int len;

	json_text(safe, sizeof safe, detail ? detail : "");
	len = snprintf(body, sizeof body, detail ? "{\"message\":\"%s\",\"detail\":\"%s\"}\n" : "{\"message\":\"%s\"}\n",
		       message, safe);
	append_text(out, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n"
		    "Boesfs-Error: %s\r\n%s", status, reason_phrase(status), len, code,
		    status == 503 ? "Retry-After: 1\r\n" : "");
	if (*call_id)
		append_text(out, "Fn-Call-Id: %s\r\n", call_id);
	append(out, "\r\n", 2);
	append(out, body, len);
}

/* Hand the rest of OUT to the kernel; close at once if it took everything. */
static void finish_client(struct supervisor *s, struct client *client)
{
	if (s->caller == client)
		s->caller = NULL;
	client->state = CLIENT_FLUSH;
	client->since_ms = s->now_ms;
	if (!empty(&client->out, client->fd) || !held(&client->out))
		close_client(s, client);
}

int refuse_waiting(int status, const char *message, const char *detail)
{
	struct timeval patience = {.tv_usec = 200000};
	struct buffer out = {0};
	char request[4096];
	int fd;

	fcntl(LISTEN_FD, F_SETFL, O_NONBLOCK);
	while ((fd = accept4(LISTEN_FD, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
		/* a client that has not been read from may be told of a reset instead of our answer */
		if (recv(fd, request, sizeof request, 0) >= 0) {
			answer(&out, status, status == 504 ? "InitTimeout" : "InitFailed", message, detail, "");
			empty(&out, fd);
			clear(&out);
		}
		close(fd);
	}
	return 1;
}

/* --- the FDK ------------------------------------------------------------------------------------------------ */

/*
 * The FDK's name for its socket is a link that the function made: follow it only inside its own directory, never to
 * a socket of the host.
 */
static int connect_fdk(struct supervisor *s)
{
	struct open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS};
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int node = syscall(SYS_openat2, s->sandbox->listener_fd, fdk_socket, &how, sizeof how);
	int fd;

	if (node < 0)
		return -1;
	snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d", node);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address)) {
		close(fd);
		fd = -1;
	}
	close(node);
	return fd;
}

static void close_fdk(struct supervisor *s)
{
	if (s->fdk_fd >= 0)
		close(s->fdk_fd);
	s->fdk_fd = -1;
}

/* All the function printed until now belongs to the call, or the start, that ends here. */
static void drain_output(struct supervisor *s, size_t most)
{
	for (int i = 0; i < 2; i++)
		stream_drain(&s->streams[i], s->journal, s->now_ms, most);
}

/*
 * The instance ends. Who is being served is answered; who was accepted but has not sent a whole request is told to
 * come again; the backlog is left for the next instance.
 */
static void end_instance(struct supervisor *s, int exit_status, int status, const char *code, const char *message,
			 const char *detail)
{
	if (s->state == ENDING)
		return;
	s->state = ENDING;
	s->exit_status = exit_status;
	s->started_ms = s->now_ms;
	sandbox_kill(s->sandbox);
	if (s->caller && status) {
		struct client *caller = s->caller;

		if (!s->response_begun)
			answer(&caller->out, status, code, message, detail, s->journal->call_id);
		finish_client(s, caller);
	} else if (s->caller) {
		close_client(s, s->caller);
	}
	for (int i = 0; i < CLIENTS_MAX; i++) {
		if (s->clients[i].state != CLIENT_HEAD)
			continue;
		answer(&s->clients[i].out, 503, "Stopped", "The instance ended before the request was complete", NULL, "");
		finish_client(s, &s->clients[i]);
	}
}

/* How the FDK's end reads to a person, and as exit status of the unit's main process (sysexits.h has the first). */
static int describe_end(const struct supervisor *s, char *text, size_t size)
{
	if (killed_by_policy(s->sandbox->kills_fd, s->sandbox->instance, text, size))
		return EX_NOPERM;
	if (out_of_memory())
		snprintf(text, size, "out of memory: it used more than memory= allows");
	else if (s->sandbox->status < 0)
		snprintf(text, size, "its connection broke");
	else if (WIFSIGNALED(s->sandbox->status))
		snprintf(text, size, "killed by SIG%s", sigabbrev_np(WTERMSIG(s->sandbox->status)));
	else
		snprintf(text, size, "exited with status %d", WEXITSTATUS(s->sandbox->status));
	return 1;
}

/* Its connection ends a moment before init can say how it ended. */
static void await_report(struct supervisor *s)
{
	struct pollfd at[] = {{.fd = s->sandbox->report_fd, .events = POLLIN}, {.fd = s->sandbox->notify_fd, .events = POLLIN}};
	bool going = true;

	while (going && s->sandbox->status < 0 && s->sandbox->report_fd >= 0 && poll(at, 2, REPORT_WAIT_MS) > 0) {
		if (at[1].revents & POLLIN)	/* it may have something to ask before it ends */
			sandbox_answer_syscall(s->sandbox, s->journal);
		else if (at[1].revents)
			at[1].fd = -1;
		if (at[0].revents)
			going = sandbox_hear(s->sandbox);
	}
}

static void fail_call(struct supervisor *s)
{
	char detail[320];
	int status;

	await_report(s);
	status = describe_end(s, detail, sizeof detail);
	drain_output(s, BUFFER);
	journal_say(s->journal, LOG_ERR, "The function gave no answer: %s", detail);
	end_instance(s, status, 502, "FunctionFailed", "error receiving function response", detail);
}

/* --- one call ----------------------------------------------------------------------------------------------- */

/* 26 characters in Crockford's base32: 48 bits of milliseconds, 80 of chance; sorts by time. */
static void make_call_id(char *id)
{
	static const char digits[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
	struct timespec now;
	unsigned char chance[16];
	uint64_t ms;

	clock_gettime(CLOCK_REALTIME, &now);
	ms = now.tv_sec * 1000ULL + now.tv_nsec / 1000000;
	if (getrandom(chance, sizeof chance, 0) != sizeof chance)
		memset(chance, 0, sizeof chance);
	for (int i = 9; i >= 0; i--, ms >>= 5)
		id[i] = digits[ms & 31];
	for (int i = 0; i < 16; i++)
		id[10 + i] = digits[chance[i] & 31];
	id[CALL_ID_LEN] = 0;
}

/* The caller's call id if it is a fit journal field, else one of our own. */
static void take_call_id(struct supervisor *s, const struct head *head)
{
	struct text value;

	if (!head_find(head, "fn-call-id", &value) || !value.len || value.len > CALL_ID_LEN) {
		make_call_id(s->journal->call_id);
		return;
	}
	memcpy(s->journal->call_id, value.at, value.len);
	s->journal->call_id[value.len] = 0;
}

static void take_deadline(struct supervisor *s, const struct head *head)
{
	struct timespec now;
	struct text value;
	int64_t deadline, left;

	s->call_began_ms = s->now_ms;
	s->deadline_ms = s->now_ms + s->timeout_ms;
	if (!head_find(head, "fn-deadline", &value) || (deadline = rfc3339_ms(value)) < 0)
		return;
	clock_gettime(CLOCK_REALTIME, &now);
	left = deadline - (now.tv_sec * 1000LL + now.tv_nsec / 1000000);
	if (left < (int64_t)s->timeout_ms)
		s->deadline_ms = s->now_ms + (left > 0 ? left : 0);
}

static void write_deadline(struct supervisor *s)
{
	struct timespec now;
	struct tm tm;
	char text[32];
	uint64_t ms;
	time_t seconds;

	clock_gettime(CLOCK_REALTIME, &now);
	ms = now.tv_sec * 1000ULL + now.tv_nsec / 1000000 + (s->deadline_ms - s->now_ms);
	seconds = ms / 1000;
	gmtime_r(&seconds, &tm);
	strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
	append_text(&s->fdk_out, "Fn-Deadline: %s.%03dZ\r\n", text, (int)(ms % 1000));
}

/* The caller's headers as the FDK sees them: without those of the connection, with the call's identity. */
static void write_request_head(struct supervisor *s, const struct head *head)
{
	struct text at = head->fields, name, value;

	append(&s->fdk_out, head->method.at, head->method.len);
	append(&s->fdk_out, " ", 1);
	append(&s->fdk_out, head->target.at, head->target.len);
	append_text(&s->fdk_out, " HTTP/1.1\r\nFn-Call-Id: %s\r\n", s->journal->call_id);
	write_deadline(s);
	if (!head->chunked && head->content_length < 0)
		append_text(&s->fdk_out, "Content-Length: 0\r\n");
	while (head_next(&at, &name, &value)) {
		if (head_is_hop_by_hop(name) || text_is(name, "fn-call-id") || text_is(name, "fn-deadline"))
			continue;
		append(&s->fdk_out, name.at, name.len);
		append(&s->fdk_out, ": ", 2);
		append(&s->fdk_out, value.at, value.len);
		append(&s->fdk_out, "\r\n", 2);
	}
	append(&s->fdk_out, "\r\n", 2);
}

static void write_response_head(struct supervisor *s, const struct head *head, const char *line)
{
	struct buffer *out = &s->caller->out;
	struct text at = head->fields, name, value;

	append(out, "HTTP/1.1", 8);
	append(out, line + 8, head->fields.at - (line + 8));
	append_text(out, "Fn-Call-Id: %s\r\nConnection: close\r\n", s->journal->call_id);
	while (head_next(&at, &name, &value)) {
		if (head_is_hop_by_hop(name) || text_is(name, "fn-call-id") || (name.len > 7 && !strncasecmp(name.at, "boesfs-", 7)))
			continue;
		append(out, name.at, name.len);
		append(out, ": ", 2);
		append(out, value.at, value.len);
		append(out, "\r\n", 2);
	}
	append(out, "\r\n", 2);
}

static void begin_call(struct supervisor *s, struct client *client, const struct head *head)
{
	client->state = CLIENT_CALL;
	s->caller = client;
	s->response_begun = s->fdk_close = s->fdk_eof = false;
	take_call_id(s, head);
	take_deadline(s, head);
	if (s->fdk_fd >= 0 && s->now_ms - s->fdk_used_ms > REUSE_MS)
		close_fdk(s);
	if (s->fdk_fd < 0 && (s->fdk_fd = connect_fdk(s)) < 0) {
		fail_call(s);
		return;
	}
	clear(&s->fdk_in);
	clear(&s->fdk_out);
	if (head->expect_continue)
		append_text(&client->out, "HTTP/1.1 100 Continue\r\n\r\n");
	write_request_head(s, head);
	body_begin(&s->request, head, false);
	client->in.start += head->len;
}

static void end_call(struct supervisor *s)
{
	struct client *caller = s->caller;

	drain_output(s, DRAIN_BYTES);
	for (int i = 0; i < 2; i++)
		stream_flush(&s->streams[i], s->journal, s->now_ms);
	*s->journal->call_id = 0;
	if (s->fdk_close || !s->request.done || held(&s->fdk_out))
		close_fdk(s);
	s->fdk_used_ms = s->idle_since_ms = s->now_ms;
	finish_client(s, caller);
	if (s->state == DRAINING || s->gone)
		end_instance(s, s->gone, 0, NULL, NULL, NULL);
}

/* A piece of the request's body from the caller's buffer to the FDK's; false when it is malformed. */
static bool move_request(struct supervisor *s)
{
	struct buffer *in = &s->caller->in;
	size_t space = room(&s->fdk_out), ready = held(in);
	ssize_t take = body_take(&s->request, in->data + in->start, ready < space ? ready : space);

	if (take < 0)
		return false;
	append(&s->fdk_out, in->data + in->start, take);
	in->start += take;
	if (!held(in))
		clear(in);
	return true;
}

/* The request's body, as far as it came and the FDK takes it. */
static void pass_request(struct supervisor *s)
{
	do {
		if (!s->request.done && held(&s->caller->in) && !move_request(s)) {
			journal_say(s->journal, LOG_NOTICE, "The caller sent a malformed chunked body");
			end_instance(s, 1, 400, "InvalidArgs", "malformed chunked body", NULL);
			return;
		}
		/* a failed write shows as end of the answers; there may be one already */
		if (!empty(&s->fdk_out, s->fdk_fd))
			clear(&s->fdk_out);
	} while (!held(&s->fdk_out) && !s->request.done && held(&s->caller->in));
}

static void invalid_response(struct supervisor *s, const char *detail)
{
	journal_say(s->journal, LOG_ERR, "Invalid function response: %s", detail);
	end_instance(s, 1, 502, "InvalidResponse", "invalid function response", detail);
}

/* Heads of the answer, 1xx among them. False: not there yet, or the call ended. */
static bool pass_response_head(struct supervisor *s)
{
	while (!s->response_begun) {
		const char *data = s->fdk_in.data + s->fdk_in.start;
		struct head head;
		ssize_t len = head_parse(&head, data, held(&s->fdk_in), true);
		char detail[80];

		if (len < 0) {
			invalid_response(s, "no HTTP/1.1 response head of at most 64 KiB");
			return false;
		}
		if (!len)
			return false;
		if (head.status >= 200 && head.status != 200 && head.status != 502 && head.status != 504) {
			snprintf(detail, sizeof detail, "status %d from the FDK", head.status);
			invalid_response(s, detail);
			return false;
		}
		if (head.status >= 200) {
			body_begin(&s->response, &head, true);
			s->fdk_close = head.close || s->response.kind == BODY_UNTIL_CLOSE;
			write_response_head(s, &head, data);
			s->response_begun = true;
		}
		s->fdk_in.start += len;
	}
	return true;
}

/* What the FDK answered, as far as it came and there is room. */
static void pass_response(struct supervisor *s)
{
	struct buffer *out = &s->caller->out;
	size_t space, ready;
	ssize_t take;

	if (!pass_response_head(s))
		return;
	while ((ready = held(&s->fdk_in)) && (space = room(out)) && !s->response.done) {
		take = body_take(&s->response, s->fdk_in.data + s->fdk_in.start, ready < space ? ready : space);
		if (take < 0) {
			invalid_response(s, "malformed chunked body");
			return;
		}
		append(out, s->fdk_in.data + s->fdk_in.start, take);
		s->fdk_in.start += take;
		if (!empty(out, s->caller->fd))
			break;
	}
	if (s->fdk_eof && s->response.kind == BODY_UNTIL_CLOSE && !held(&s->fdk_in))
		s->response.done = true;
	if (s->response.done)
		end_call(s);
	else if (!empty(out, s->caller->fd))
		clear(out);
}

/* As pass_response; an answer that stops before its end is a failure once all of it has been passed on. */
static void move_response(struct supervisor *s)
{
	pass_response(s);
	if (s->caller && s->state < ENDING && s->fdk_eof && (!held(&s->fdk_in) || !s->response_begun))
		fail_call(s);
}

static void read_fdk(struct supervisor *s)
{
	ssize_t got = fill(&s->fdk_in, s->fdk_fd);

	if (got == -1)
		return;
	s->fdk_eof = got <= 0;
	move_response(s);
}

static void cancel_call(struct supervisor *s)
{
	journal_say(s->journal, LOG_NOTICE, "The caller went away; the instance ends");
	end_instance(s, 0, 0, NULL, NULL, NULL);
}

/* The caller sends its body, or goes. A caller that only stops sending (shutdown) still wants its answer. */
static void read_caller(struct supervisor *s, short events)
{
	ssize_t got = -1;

	if (events & (POLLHUP | POLLERR)) {
		cancel_call(s);
		return;
	}
	if (!s->request.done)
		got = fill(&s->caller->in, s->caller->fd);
	if (got == 0 || got == -2)
		cancel_call(s);
	else
		pass_request(s);
}

/* --- heads -------------------------------------------------------------------------------------------------- */

static void read_head(struct supervisor *s, struct client *client)
{
	ssize_t got = fill(&client->in, client->fd), len;
	struct head head;

	len = head_parse(&head, client->in.data + client->in.start, held(&client->in), false);
	if (len < 0) {
		answer(&client->out, 400, "InvalidArgs", "malformed request head, or one over 64 KiB", NULL, "");
		finish_client(s, client);
	} else if (len > 0 && !s->caller) {
		begin_call(s, client, &head);
		if (s->caller && s->state < ENDING)
			pass_request(s);
	} else if (!len && (got == 0 || got == -2)) {
		close_client(s, client);
	}
}

static void accept_client(struct supervisor *s)
{
	for (int i = 0; i < CLIENTS_MAX; i++) {
		struct client *client = &s->clients[i];

		if (client->state != CLIENT_FREE)
			continue;
		client->fd = accept4(LISTEN_FD, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (client->fd >= 0) {
			client->state = CLIENT_HEAD;
			client->since_ms = s->now_ms;
			read_head(s, client);	/* most have sent it already */
		}
		return;
	}
}

/* After a call: the next request may be complete already. */
static void next_call(struct supervisor *s)
{
	for (int i = 0; i < CLIENTS_MAX && !s->caller && s->state == SERVING; i++)
		if (s->clients[i].state == CLIENT_HEAD && held(&s->clients[i].in))
			read_head(s, &s->clients[i]);
}

/* --- what the sandbox says ---------------------------------------------------------------------------------- */

static void fail_start(struct supervisor *s, int status, const char *message, const char *detail)
{
	drain_output(s, DRAIN_BYTES);
	for (int i = 0; i < 2; i++)
		stream_flush(&s->streams[i], s->journal, s->now_ms);
	journal_say(s->journal, LOG_ERR, "The function did not start: %s", detail);
	sandbox_kill(s->sandbox);
	s->exit_status = refuse_waiting(status, message, detail);
	s->state = ENDING;
}

static const char init_failed[] =
	"Container failed to initialize, please ensure you are using the latest fdk and check the logs";
static const char init_timed_out[] =
	"Container initialization timed out, please ensure you are using the latest fdk and check the logs";

/* How it ended and, since that is mostly the exception, the last line on its standard error. */
static void describe_failed_start(struct supervisor *s, char *text, size_t size)
{
	const char *said = s->streams[1].last;
	char end[300];

	drain_output(s, DRAIN_BYTES);
	stream_flush(&s->streams[1], s->journal, s->now_ms);
	describe_end(s, end, sizeof end);
	snprintf(text, size, "%s%s%s", *s->sandbox->failure ? s->sandbox->failure : end, *said ? ": " : "", said);
}

static void sandbox_ended(struct supervisor *s)
{
	char detail[800];
	int status;

	s->gone = true;
	while (s->sandbox->report_fd >= 0 && sandbox_hear(s->sandbox))
		;
	status = describe_end(s, detail, sizeof detail);
	if (s->state == STARTING) {
		describe_failed_start(s, detail, sizeof detail);
		fail_start(s, 502, init_failed, detail);
	} else if (!s->caller) {
		drain_output(s, BUFFER);
		journal_say(s->journal, LOG_ERR, "The function ended between calls: %s", detail);
		end_instance(s, status, 0, NULL, NULL, NULL);
	}
	/* else the end of its connection tells, after what it still answered */
}

static void look_for_socket(struct supervisor *s)
{
	char events[4096];

	while (read(s->inotify_fd, events, sizeof events) > 0)
		;
	s->fdk_fd = connect_fdk(s);
	if (s->fdk_fd < 0)
		return;
	/* not close: that would wait until the kernel has done away with the watch */
	inotify_rm_watch(s->inotify_fd, s->watch);
	s->state = SERVING;
	s->idle_since_ms = s->fdk_used_ms = s->now_ms;
	drain_output(s, BUFFER);
	notify_systemd("READY=1");
}

/* SIGTERM: stop now, as systemctl stop means it. SIGHUP: finish the call, then end, for a new version. */
static void read_signal(struct supervisor *s)
{
	struct signalfd_siginfo info;

	if (read(s->signal_fd, &info, sizeof info) != sizeof info)
		return;
	if (info.ssi_signo == SIGTERM) {
		notify_systemd("STOPPING=1");
		end_instance(s, 0, 503, "Stopped", "The function was stopped", NULL);
	} else if (info.ssi_signo == SIGHUP && s->state == SERVING) {
		s->state = DRAINING;
		if (!s->caller)
			end_instance(s, 0, 0, NULL, NULL, NULL);
	} else if (info.ssi_signo == SIGHUP && s->state == STARTING) {
		end_instance(s, 0, 0, NULL, NULL, NULL);
	}
}

/* --- the loop ----------------------------------------------------------------------------------------------- */

static bool any_client(const struct supervisor *s, enum client_state state)
{
	for (int i = 0; i < CLIENTS_MAX; i++)
		if (s->clients[i].state == state)
			return true;
	return false;
}

static uint64_t next_event_ms(const struct supervisor *s)
{
	uint64_t next;

	if (s->state == ENDING)
		return s->started_ms + FLUSH_MS;
	if (s->state == STARTING)
		return s->started_ms + s->init_ms;
	next = s->caller ? s->deadline_ms : s->idle_since_ms + s->idle_ms;
	if (s->caller && s->now_ms < s->call_began_ms + QUIET_MS && s->call_began_ms + QUIET_MS < next)
		next = s->call_began_ms + QUIET_MS;
	for (int i = 0; i < CLIENTS_MAX; i++) {
		const struct client *client = &s->clients[i];
		uint64_t end = client->since_ms + HEAD_TIMEOUT_MS;

		if ((client->state == CLIENT_HEAD || client->state == CLIENT_FLUSH) && end < next)
			next = end;
	}
	return next;
}

static void check_clients(struct supervisor *s)
{
	for (int i = 0; i < CLIENTS_MAX; i++) {
		struct client *client = &s->clients[i];

		if (s->now_ms < client->since_ms + HEAD_TIMEOUT_MS)
			continue;
		if (client->state == CLIENT_HEAD) {
			answer(&client->out, 408, "InvalidArgs", "no whole request head within 10 s", NULL, "");
			finish_client(s, client);
		} else if (client->state == CLIENT_FLUSH) {
			close_client(s, client);
		}
	}
}

static void check_time(struct supervisor *s)
{
	char detail[64];

	if (s->state == STARTING && s->now_ms >= s->started_ms + s->init_ms) {
		snprintf(detail, sizeof detail, "no socket within %llu ms", (unsigned long long)s->init_ms);
		fail_start(s, 504, init_timed_out, detail);
	} else if (s->caller && s->now_ms >= s->deadline_ms) {
		drain_output(s, BUFFER);
		journal_say(s->journal, LOG_ERR, "The deadline passed; the instance is killed");
		end_instance(s, 1, 504, "Timeout", "Timed out", NULL);
	} else if (s->state == SERVING && !s->caller && s->now_ms >= s->idle_since_ms + s->idle_ms &&
		   !any_client(s, CLIENT_HEAD) && !any_client(s, CLIENT_FLUSH)) {
		notify_systemd("STOPPING=1");
		end_instance(s, 0, 0, NULL, NULL, NULL);
	}
	check_clients(s);
}

enum source { AT_SIGNAL, AT_INIT, AT_REPORT, AT_SYSCALL, AT_OUT, AT_ERR, AT_INOTIFY, AT_FDK, AT_LISTEN, AT_CLIENTS };

static void watch(struct pollfd *at, int fd, short events)
{
	*at = (struct pollfd){.fd = events ? fd : -1, .events = events};
}

/* Most calls are over sooner than this, and then read what was printed in one go. */
static bool quiet(const struct supervisor *s)
{
	return s->caller && s->now_ms < s->call_began_ms + QUIET_MS;
}

static void choose_events(struct supervisor *s, struct pollfd *at)
{
	short fdk = 0;

	watch(&at[AT_SIGNAL], s->signal_fd, POLLIN);
	watch(&at[AT_INIT], s->gone || s->state == ENDING ? -1 : s->sandbox->init_fd, POLLIN);
	watch(&at[AT_REPORT], s->sandbox->report_fd, POLLIN);
	watch(&at[AT_SYSCALL], s->sandbox->notify_fd, POLLIN);
	watch(&at[AT_OUT], quiet(s) ? -1 : s->streams[0].fd, POLLIN);
	watch(&at[AT_ERR], quiet(s) ? -1 : s->streams[1].fd, POLLIN);
	watch(&at[AT_INOTIFY], s->state == STARTING ? s->inotify_fd : -1, POLLIN);
	if (s->state == ENDING) {
		fdk = 0;
	} else if (s->caller) {
		fdk = held(&s->fdk_out) ? POLLOUT : 0;
		if (!s->fdk_eof && held(&s->fdk_in) < BUFFER && held(&s->caller->out) < BUFFER - ROOM)
			fdk |= POLLIN;
	} else if (s->fdk_fd >= 0) {
		fdk = POLLIN;	/* only its end can come */
	}
	watch(&at[AT_FDK], s->fdk_fd, fdk);	/* ignored when there is nothing to do with it */
	watch(&at[AT_LISTEN], s->state == SERVING && !s->caller ? LISTEN_FD : -1, POLLIN);
	for (int i = 0; i < CLIENTS_MAX; i++) {
		const struct client *client = &s->clients[i];
		short events = held(&client->out) ? POLLOUT : 0;

		if (client->state == CLIENT_HEAD && !s->caller)
			events |= POLLIN;
		if (client->state == CLIENT_CALL && !s->request.done && held(&client->in) < BUFFER - ROOM)
			events |= POLLIN;
		at[AT_CLIENTS + i] = (struct pollfd){.fd = client->state == CLIENT_FREE ? -1 : client->fd, .events = events};
	}
}

static void serve_client(struct supervisor *s, struct client *client, short events)
{
	if (client->state == CLIENT_HEAD && !s->caller && s->state == SERVING) {
		read_head(s, client);
		return;
	}
	if (events & POLLOUT && !empty(&client->out, client->fd)) {
		if (client == s->caller)
			cancel_call(s);
		else
			close_client(s, client);
		return;
	}
	if (client->state == CLIENT_FLUSH && (!held(&client->out) || events & (POLLHUP | POLLERR)))
		close_client(s, client);
	else if (client == s->caller && s->state < ENDING) {
		read_caller(s, events);
		if (s->caller && s->state < ENDING && held(&s->fdk_in))
			move_response(s);	/* there may be room now */
	}
}

static void react(struct supervisor *s, const struct pollfd *at)
{
	if (at[AT_SYSCALL].revents & POLLIN) {
		sandbox_answer_syscall(s->sandbox, s->journal);
	} else if (at[AT_SYSCALL].revents) {	/* nobody is left under the filter */
		close(s->sandbox->notify_fd);
		s->sandbox->notify_fd = -1;
	}
	if (at[AT_REPORT].revents)
		sandbox_hear(s->sandbox);
	if (at[AT_OUT].revents || at[AT_ERR].revents)
		drain_output(s, BUFFER);
	if (at[AT_SIGNAL].revents)
		read_signal(s);
	for (int i = 0; i < CLIENTS_MAX; i++)
		if (at[AT_CLIENTS + i].revents && s->clients[i].state != CLIENT_FREE)
			serve_client(s, &s->clients[i], at[AT_CLIENTS + i].revents);
	if (at[AT_FDK].revents && s->fdk_fd == at[AT_FDK].fd && s->state < ENDING) {
		if (!s->caller)
			close_fdk(s);
		else if (at[AT_FDK].revents & (POLLIN | POLLHUP | POLLERR))
			read_fdk(s);
		if (s->caller && s->fdk_fd >= 0 && at[AT_FDK].revents & POLLOUT)
			pass_request(s);
	}
	if (at[AT_INOTIFY].revents && s->state == STARTING)
		look_for_socket(s);
	if (at[AT_INIT].revents && s->state != ENDING && !s->gone)
		sandbox_ended(s);
	if (at[AT_LISTEN].revents && s->state == SERVING && !s->caller)
		accept_client(s);
	next_call(s);
}

static bool ended(const struct supervisor *s)
{
	if (s->state != ENDING)
		return false;
	return !any_client(s, CLIENT_FLUSH) || s->now_ms >= s->started_ms + FLUSH_MS;
}

/* Killed is not gone yet; systemd would find and report what is left. */
static void await_sandbox(struct supervisor *s)
{
	struct pollfd init = {.fd = s->sandbox->init_fd, .events = POLLIN};

	if (poll(&init, 1, FLUSH_MS) > 0)
		waitpid(s->sandbox->init, NULL, WNOHANG);
}

static int watch_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void watch_listener(struct supervisor *s)
{
	char path[32];

	snprintf(path, sizeof path, "/proc/self/fd/%d", s->sandbox->listener_fd);
	s->inotify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	s->watch = inotify_add_watch(s->inotify_fd, path, IN_CREATE | IN_MOVED_TO);
}

int supervise(const struct plan *plan, struct sandbox *sandbox, struct journal *journal)
{
	static struct supervisor state;
	struct supervisor *s = &state;
	struct pollfd at[AT_CLIENTS + CLIENTS_MAX];

	s->sandbox = sandbox;
	s->journal = journal;
	s->fdk_fd = -1;
	s->timeout_ms = plan_limit(plan, "timeout", 30000);
	s->idle_ms = plan_limit(plan, "idle-timeout", 30000);
	s->init_ms = plan_limit(plan, "init-timeout", 5000);
	s->now_ms = s->started_ms = monotonic_ms();
	s->signal_fd = watch_signals();
	watch_listener(s);
	stream_init(&s->streams[0], sandbox->out_fd);
	stream_init(&s->streams[1], sandbox->err_fd);
	fcntl(LISTEN_FD, F_SETFL, O_NONBLOCK);
	if (s->watch < 0)
		fail_start(s, 502, init_failed, "cannot watch for the FDK's socket");
	else
		look_for_socket(s);	/* it may have been quicker than the watch */
	while (!ended(s)) {
		uint64_t next = next_event_ms(s);
		int wait = next > s->now_ms ? (int)(next - s->now_ms) : 0;

		choose_events(s, at);
		if (poll(at, AT_CLIENTS + CLIENTS_MAX, wait) < 0 && errno != EINTR)
			return 1;
		s->now_ms = monotonic_ms();
		react(s, at);
		if (s->state != ENDING)
			check_time(s);
	}
	await_sandbox(s);
	drain_output(s, DRAIN_BYTES);
	for (int i = 0; i < 2; i++)
		stream_flush(&s->streams[i], s->journal, s->now_ms);
	return s->exit_status;
}
