// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "http.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

/* tchar of RFC 9110, 5.6.2 */
static bool is_token(unsigned char c)
{
	return isalnum(c) || (c && strchr("!#$%&'*+-.^_`|~", c));
}

bool text_is(struct text text, const char *word)
{
	return strlen(word) == text.len && !strncasecmp(text.at, word, text.len);
}

bool head_next(struct text *at, struct text *name, struct text *value)
{
	const char *line = at->at, *end, *colon;

	if (!at->len)
		return false;
	end = memchr(line, '\r', at->len);
	colon = memchr(line, ':', end - line);
	name->at = line;
	name->len = colon - line;
	value->at = colon + 1;
	value->len = end - value->at;
	while (value->len && (*value->at == ' ' || *value->at == '\t')) {
		value->at++;
		value->len--;
	}
	while (value->len && (value->at[value->len - 1] == ' ' || value->at[value->len - 1] == '\t'))
		value->len--;
	at->len -= end + 2 - line;
	at->at = end + 2;
	return true;
}

bool head_find(const struct head *head, const char *name, struct text *value)
{
	struct text at = head->fields, found;

	while (head_next(&at, &found, value))
		if (text_is(found, name))
			return true;
	return false;
}

bool head_is_hop_by_hop(struct text name)
{
	static const char *const names[] = {"connection", "keep-alive", "proxy-connection", "proxy-authenticate",
		"proxy-authorization", "te", "trailer", "upgrade", "expect"};

	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (text_is(name, names[i]))
			return true;
	return false;
}

/* Every line must be NAME ":" VALUE CRLF without control characters; sets head->fields. */
static bool check_fields(struct head *head, const char *at, const char *end)
{
	head->fields = (struct text){at, end - at};
	while (at < end) {
		const char *name = at;

		while (at < end && is_token(*at))
			at++;
		if (at == name || at == end || *at++ != ':')
			return false;
		while (at < end && *at != '\r' && (*at == '\t' || (unsigned char)*at >= ' ') && *at != 0x7f)
			at++;
		if (end - at < 2 || at[0] != '\r' || at[1] != '\n')
			return false;
		at += 2;
	}
	return true;
}

static bool parse_number(struct text text, int64_t *number)
{
	if (!text.len || text.len > 18)
		return false;
	*number = 0;
	for (size_t i = 0; i < text.len; i++) {
		if (!isdigit((unsigned char)text.at[i]))
			return false;
		*number = *number * 10 + (text.at[i] - '0');
	}
	return true;
}

/* Is WORD among the comma-separated options of LIST? */
static bool has_option(struct text list, const char *word)
{
	while (list.len) {
		const char *comma = memchr(list.at, ',', list.len);
		struct text option = {list.at, comma ? (size_t)(comma - list.at) : list.len};

		list.len -= option.len + (comma != NULL);
		list.at += option.len + (comma != NULL);
		for (; option.len && (*option.at == ' ' || *option.at == '\t'); option.at++)
			option.len--;
		while (option.len && (option.at[option.len - 1] == ' ' || option.at[option.len - 1] == '\t'))
			option.len--;
		if (text_is(option, word))
			return true;
	}
	return false;
}

/* The fields that decide where the message ends. A message with both or with two different lengths is refused. */
static bool read_framing(struct head *head)
{
	struct text at = head->fields, name, value;

	head->content_length = -1;
	while (head_next(&at, &name, &value)) {
		if (text_is(name, "content-length")) {
			int64_t length;

			if (!parse_number(value, &length))
				return false;
			if (head->content_length >= 0 && head->content_length != length)
				return false;
			head->content_length = length;
		} else if (text_is(name, "transfer-encoding")) {
			if (head->chunked || !text_is(value, "chunked"))
				return false;
			head->chunked = true;
		} else if (text_is(name, "connection")) {
			head->close = head->close || has_option(value, "close");
		} else if (text_is(name, "expect")) {
			head->expect_continue = text_is(value, "100-continue");
		}
	}
	return !(head->chunked && head->content_length >= 0);
}

/* "POST /call HTTP/1.1" */
static bool read_request_line(struct head *head, const char *line, const char *end)
{
	const char *space = memchr(line, ' ', end - line);
	const char *version = end - 8;

	if (!space || version - 1 <= space + 1 || version[-1] != ' ' || memcmp(version, "HTTP/1.", 7))
		return false;
	head->method = (struct text){line, space - line};
	head->target = (struct text){space + 1, version - 1 - (space + 1)};
	head->close = version[7] == '0';
	for (size_t i = 0; i < head->method.len; i++)
		if (!is_token(head->method.at[i]))
			return false;
	for (size_t i = 0; i < head->target.len; i++)
		if ((unsigned char)head->target.at[i] <= ' ' || head->target.at[i] == 0x7f)
			return false;
	return head->method.len && (version[7] == '0' || version[7] == '1');
}

/* "HTTP/1.1 200 OK"; the reason may be missing */
static bool read_status_line(struct head *head, const char *line, const char *end)
{
	if (end - line < 12 || memcmp(line, "HTTP/1.", 7) || (line[7] != '0' && line[7] != '1') || line[8] != ' ')
		return false;
	for (const char *c = line; c < end; c++)
		if (((unsigned char)*c < ' ' && *c != '\t') || *c == 0x7f)
			return false;
	head->close = line[7] == '0';
	for (int i = 9; i < 12; i++) {
		if (!isdigit((unsigned char)line[i]))
			return false;
		head->status = head->status * 10 + (line[i] - '0');
	}
	return head->status >= 100 && (end - line == 12 || line[12] == ' ');
}

ssize_t head_parse(struct head *head, const char *data, size_t len, bool response)
{
	const char *end = memmem(data, len, "\r\n\r\n", 4);
	const char *line_end;

	memset(head, 0, sizeof *head);
	if (!end || end + 4 - data > HEAD_MAX)
		return end || len >= HEAD_MAX ? -1 : 0;
	line_end = memmem(data, end + 2 - data, "\r\n", 2);
	head->len = end + 4 - data;
	if (response ? !read_status_line(head, data, line_end) : !read_request_line(head, data, line_end))
		return -1;
	if (!check_fields(head, line_end + 2, end + 2) || !read_framing(head))
		return -1;
	return head->len;
}

void body_begin(struct body *body, const struct head *head, bool response)
{
	memset(body, 0, sizeof *body);
	if (response && (head->status == 204 || head->status == 304 || head->status < 200))
		body->kind = BODY_NONE;
	else if (head->chunked)
		body->kind = BODY_CHUNKED;
	else if (head->content_length >= 0)
		body->kind = BODY_LENGTH;
	else
		body->kind = response ? BODY_UNTIL_CLOSE : BODY_NONE;
	body->left = body->kind == BODY_LENGTH ? (uint64_t)head->content_length : 0;
	body->done = body->kind == BODY_NONE || (body->kind == BODY_LENGTH && !body->left);
}

enum chunk_state { SIZE_FIRST, SIZE, EXTENSION, SIZE_LF, DATA, DATA_CR, DATA_LF, TRAILER, TRAILER_LINE, TRAILER_LF, END_LF };

static ssize_t take_chunked(struct body *body, const char *data, size_t len)
{
	size_t i = 0;

	while (i < len && !body->done) {
		unsigned char c = data[i];

		switch ((enum chunk_state)body->state) {
		case SIZE_FIRST:
			if (!isxdigit(c))
				return -1;
			body->left = 0;
			body->state = SIZE;
			/* fall through */
		case SIZE:
			if (isxdigit(c)) {
				if (body->left >> 56)
					return -1;
				body->left = body->left * 16 + (isdigit(c) ? c - '0' : (c | 32) - 'a' + 10);
			} else if (c == '\r') {
				body->state = SIZE_LF;
			} else if (c == ';' || c == ' ' || c == '\t') {
				body->state = EXTENSION;
			} else {
				return -1;
			}
			break;
		case EXTENSION:
			if (c == '\r')
				body->state = SIZE_LF;
			else if (c == '\n')
				return -1;
			break;
		case SIZE_LF:
			if (c != '\n')
				return -1;
			body->state = body->left ? DATA : TRAILER;
			break;
		case DATA: {
			size_t take = len - i < body->left ? len - i : body->left;

			body->left -= take;
			i += take;
			if (!body->left)
				body->state = DATA_CR;
			continue;
		}
		case DATA_CR:
			if (c != '\r')
				return -1;
			body->state = DATA_LF;
			break;
		case DATA_LF:
			if (c != '\n')
				return -1;
			body->state = SIZE_FIRST;
			break;
		case TRAILER:
			body->state = c == '\r' ? END_LF : TRAILER_LINE;
			break;
		case TRAILER_LINE:
			if (c == '\r')
				body->state = TRAILER_LF;
			break;
		case TRAILER_LF:
			if (c != '\n')
				return -1;
			body->state = TRAILER;
			break;
		case END_LF:
			if (c != '\n')
				return -1;
			body->done = true;
			break;
		}
		i++;
	}
	return i;
}

ssize_t body_take(struct body *body, const char *data, size_t len)
{
	size_t take;

	switch (body->kind) {
	case BODY_NONE:
		return 0;
	case BODY_UNTIL_CLOSE:
		return len;
	case BODY_CHUNKED:
		return take_chunked(body, data, len);
	case BODY_LENGTH:
		take = len < body->left ? len : body->left;
		body->left -= take;
		body->done = !body->left;
		return take;
	}
	return -1;
}

int64_t rfc3339_ms(struct text text)
{
	char copy[64], *rest;
	struct tm tm = {0};
	int64_t ms, scale = 100;

	if (text.len >= sizeof copy)
		return -1;
	memcpy(copy, text.at, text.len);
	copy[text.len] = 0;
	rest = strptime(copy, "%Y-%m-%dT%H:%M:%S", &tm);
	if (!rest)
		return -1;
	ms = (int64_t)timegm(&tm) * 1000;
	if (*rest == '.')
		for (rest++; isdigit((unsigned char)*rest); rest++, scale /= 10)
			ms += (*rest - '0') * scale;
	return !strcmp(rest, "Z") || !strcmp(rest, "+00:00") ? ms : -1;
}
