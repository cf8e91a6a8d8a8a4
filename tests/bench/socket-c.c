// SPDX-License-Identifier: Apache-2.0
/*
 * socket-c: the least that a socket-activated unit can be. Takes the listening socket from systemd as descriptor 3,
 * answers one request, ends.
 */
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(void)
{
	static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
	char request[4096];
	int fd = accept(3, NULL, NULL);

	if (fd < 0 || read(fd, request, sizeof request) <= 0)
		return 1;
	if (write(fd, answer, strlen(answer)) != (ssize_t)strlen(answer))
		return 1;
	return shutdown(fd, SHUT_WR);
}
