// SPDX-License-Identifier: Apache-2.0
/* What a sandbox tells whoever supervises it from outside, and how things are said with descriptors. */
#define _GNU_SOURCE
#include "sandbox.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

void sandbox_kill(const struct sandbox *sandbox)
{
	syscall(SYS_pidfd_send_signal, sandbox->init_fd, SIGKILL, NULL, 0);
}

int send_text(int socket, const char *text, int fd, int flags)
{
	char control[CMSG_SPACE(sizeof fd)] = {0};
	struct iovec part = {(void *)text, strlen(text)};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

	if (fd >= 0) {
		struct cmsghdr *header;

		message.msg_control = control;
		message.msg_controllen = sizeof control;
		header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(sizeof fd);
		memcpy(CMSG_DATA(header), &fd, sizeof fd);
	}
	return sendmsg(socket, &message, MSG_NOSIGNAL | flags) < 0 ? -1 : 0;
}

static int received_fd(struct msghdr *message)
{
	struct cmsghdr *header = CMSG_FIRSTHDR(message);
	int fd = -1;

	if (header && header->cmsg_type == SCM_RIGHTS)
		memcpy(&fd, CMSG_DATA(header), sizeof fd);
	return fd;
}

bool sandbox_hear(struct sandbox *sandbox)
{
	char text[512], control[CMSG_SPACE(sizeof(int))];
	struct iovec part = {text, sizeof text - 1};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	ssize_t len = recvmsg(sandbox->report_fd, &message, MSG_CMSG_CLOEXEC);

	if (len <= 0) {
		if (!len || errno != EAGAIN) {
			close(sandbox->report_fd);
			sandbox->report_fd = -1;
		}
		return false;
	}
	text[len] = 0;
	if (*text == 'N')
		sandbox->notify_fd = received_fd(&message);
	else if (*text == 'T')
		sandbox->terminal_fd = received_fd(&message);
	else if (*text == 'B')
		sandbox->begun = (sandbox->begin_fd = received_fd(&message)) < 0;
	else if (*text == 'X')
		sandbox->status = atoi(text + 1);
	else if (!*sandbox->failure)
		snprintf(sandbox->failure, sizeof sandbox->failure, "%s", text + 1);
	return true;
}

bool out_of_memory(void)
{
	char line[512], path[600];
	unsigned long long kills = 0;
	FILE *file = fopen("/proc/self/cgroup", "re");

	if (!file)
		return false;
	*path = 0;
	while (fgets(line, sizeof line, file))
		if (!strncmp(line, "0::/", 4)) {
			line[strcspn(line, "\n")] = 0;
			snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.events", line + 3);
		}
	fclose(file);
	file = *path ? fopen(path, "re") : NULL;
	if (!file)
		return false;
	while (fgets(line, sizeof line, file))
		sscanf(line, "oom_kill %llu", &kills);
	fclose(file);
	return kills > 0;
}
