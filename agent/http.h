/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BOESFS_HTTP_H
#define BOESFS_HTTP_H
/*
 * Just enough HTTP/1.1 (RFC 9112) to relay one message after another and know where each ends: heads are parsed
 * strictly, bodies are counted and passed on unchanged. No I/O here.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { HEAD_MAX = 64 << 10 };

struct text {
	const char *at;
	size_t len;
};

struct head {
	size_t len;		/* bytes, with the empty line */
	int status;		/* of a response */
	struct text method, target;	/* of a request */
	struct text fields;	/* all header lines */
	int64_t content_length;	/* -1: not given */
	bool chunked, close, expect_continue;
};

enum body_kind { BODY_NONE, BODY_LENGTH, BODY_CHUNKED, BODY_UNTIL_CLOSE };

struct body {
	enum body_kind kind;
	bool done;
	uint64_t left;		/* of the message or the chunk */
	int state;		/* of the chunk reader */
};

/* Bytes of a complete head at DATA, 0 if more is needed, -1 if it is malformed or over HEAD_MAX. */
ssize_t head_parse(struct head *head, const char *data, size_t len, bool response);
/* Next header line; false at the end. *AT starts at head->fields. */
bool head_next(struct text *at, struct text *name, struct text *value);
/* Case-insensitive comparison with a C string; find a header, false when absent. */
bool text_is(struct text text, const char *word);
bool head_find(const struct head *head, const char *name, struct text *value);
/* True for headers that belong to one connection only and are never passed on. */
bool head_is_hop_by_hop(struct text name);

void body_begin(struct body *body, const struct head *head, bool response);
/* How many of the LEN bytes at DATA belong to this body (-1: malformed framing); sets body->done at its end. */
ssize_t body_take(struct body *body, const char *data, size_t len);

/* "2026-11-21T21:14:58.123Z" -> milliseconds since 1970, -1 if it is no RFC 3339 time in UTC. */
int64_t rfc3339_ms(struct text text);

#endif
