/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BOESFS_JOURNAL_H
#define BOESFS_JOURNAL_H
/*
 * Lines for the journal, in its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL), so that each carries app,
 * function and call id as fields. Never blocks: what journald cannot take, or the log-rate forbids, is counted
 * and the count is written when there is room again.
 */
#include <stddef.h>
#include <stdint.h>

#include "plan.h"

enum { LINE_MAX_BYTES = 48 << 10, CALL_ID_LEN = 26, LAST_BYTES = 200 };

struct journal {
	int fd;
	char *fields;		/* those that never change */
	size_t fields_len;
	uint64_t rate, tokens, filled_ms;
	uint64_t dropped, lost, reported_ms;	/* over the rate; not taken by journald */
	uint64_t window_ms;	/* in which we have waited for journald */
	int waited_ms;
	char call_id[CALL_ID_LEN + 1];	/* of the call being served, or "" */
};

/* One pipe of the function, cut into lines. */
struct stream {
	int fd;
	size_t len;
	char *line;
	char last[LAST_BYTES];	/* the last line that was not empty, cut short */
};

void journal_open(struct journal *journal, const struct plan *plan, uint64_t now_ms);
/* A message of the agent itself: PRIORITY as in syslog(3). */
void journal_say(struct journal *journal, int priority, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
void stream_init(struct stream *stream, int fd);
/* Read what is there, at the most MOST bytes. 0 when the writers are gone, else 1. */
int stream_drain(struct stream *stream, struct journal *journal, uint64_t now_ms, size_t most);
/* Write an unfinished last line, and how many lines were dropped. */
void stream_flush(struct stream *stream, struct journal *journal, uint64_t now_ms);

#endif
