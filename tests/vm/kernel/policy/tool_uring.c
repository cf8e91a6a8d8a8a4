// SPDX-License-Identifier: GPL-2.0-only
/*
 * uring: one operation of each kind in a directory, by io_uring or by plain system calls; a line with name and errno for
 * each.
 *
 *	uring HOW DIRECTORY UID [PERSONALITY]
 *	uring fixed DIRECTORY UID
 *
 * HOW is plain (system calls), ring, async (IOSQE_ASYNC) or sqpoll (IORING_SETUP_SQPOLL). All is done as user UID; with
 * PERSONALITY, what the ring does is done as that user, by IORING_REGISTER_PERSONALITY. The first line is the process id.
 * fixed: the ring alone keeps the file (IORING_REGISTER_FILES), and works with it once for each line that is read.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

static int plain, ring_fd, personality;
static unsigned int sqe_flags, enter_flags = IORING_ENTER_GETEVENTS;
static struct io_uring_params params;
static char *queues;
static struct io_uring_sqe *sqes;

static void die(const char *what)
{
	fprintf(stderr, "uring: %s: %s\n", what, strerror(errno));
	exit(2);
}

static void become(uid_t real, uid_t saved)
{
	if (setresuid(real, real, saved))
		die("setresuid");
}

static void set_up(void)
{
	size_t size;

	ring_fd = syscall(SYS_io_uring_setup, 8, &params);
	if (ring_fd < 0 || !(params.features & IORING_FEAT_SINGLE_MMAP))
		die("io_uring_setup");
	size = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
	queues = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, ring_fd, IORING_OFF_SQ_RING);
	sqes = mmap(NULL, params.sq_entries * sizeof(*sqes), PROT_READ | PROT_WRITE, MAP_SHARED, ring_fd, IORING_OFF_SQES);
	if (queues == MAP_FAILED || sqes == MAP_FAILED)
		die("mmap");
}

/* Submit one operation and wait for it. */
static int through_ring(const struct io_uring_sqe *what)
{
	unsigned int *sq_tail = (void *)(queues + params.sq_off.tail), *cq_head = (void *)(queues + params.cq_off.head);
	unsigned int *sq_array = (void *)(queues + params.sq_off.array), *cq_tail = (void *)(queues + params.cq_off.tail);
	struct io_uring_cqe *cqes = (void *)(queues + params.cq_off.cqes);
	unsigned int slot = *sq_tail & (params.sq_entries - 1);
	int result;

	sqes[slot] = *what;
	sqes[slot].flags |= sqe_flags;
	sqes[slot].personality = personality;
	sq_array[slot] = slot;
	atomic_store((_Atomic unsigned int *)sq_tail, *sq_tail + 1);
	while (atomic_load((_Atomic unsigned int *)cq_tail) == *cq_head)
		if (syscall(SYS_io_uring_enter, ring_fd, 1, 1, enter_flags, NULL, 0) < 0)
			die("io_uring_enter");
	result = cqes[*cq_head & (params.cq_entries - 1)].res;
	atomic_store((_Atomic unsigned int *)cq_head, *cq_head + 1);
	return result;
}

static void tell(const char *name, int result)
{
	printf("%s %d\n", name, result < 0 ? -result : 0);
}

#define DO(name, system_call, ...)                                                              \
	tell(name, plain ? ((system_call) < 0 ? -errno : 0) :                                     \
			   through_ring(&(struct io_uring_sqe){ __VA_ARGS__ }))
#define AT(text) .fd = AT_FDCWD, .addr = (unsigned long)(text)

static int with_fixed(int file)
{
	char buffer[4], line[8];

	if (syscall(SYS_io_uring_register, ring_fd, IORING_REGISTER_FILES, &file, 1))
		die("files");
	close(file);
	sqe_flags = IOSQE_FIXED_FILE;	/* .fd is an index of the one that was registered */
	while (fgets(line, sizeof(line), stdin)) {
		DO("read", -1, .opcode = IORING_OP_READ, .fd = 0, .addr = (unsigned long)buffer, .len = 4);
		DO("write", -1, .opcode = IORING_OP_WRITE, .fd = 0, .addr = (unsigned long)"ring", .len = 4);
		DO("fallocate", -1, .opcode = IORING_OP_FALLOCATE, .fd = 0, .addr = 10000);
		DO("fsync", -1, .opcode = IORING_OP_FSYNC, .fd = 0);
		fflush(stdout);
	}
	return 0;
}

int main(int argc, char **argv)
{
	uid_t uid = argc > 3 ? atoi(argv[3]) : 0;
	int file, other, pipes[2];
	struct statx stx;
	char buffer[4];
	loff_t at = 0;

	if (argc < 4)
		return fprintf(stderr, "uring: usage: see the head of tool_uring.c\n"), 2;
	plain = !strcmp(argv[1], "plain");
	sqe_flags = strcmp(argv[1], "async") ? 0 : IOSQE_ASYNC;
	if (!strcmp(argv[1], "sqpoll")) {
		params.flags = IORING_SETUP_SQPOLL;
		params.sq_thread_idle = 10;
		enter_flags |= IORING_ENTER_SQ_WAKEUP;
	}
	umask(0);
	become(uid, 0);
	set_up();
	if (argc > 4) {
		become(0, 0);
		become(atoi(argv[4]), 0);
		personality = syscall(SYS_io_uring_register, ring_fd, IORING_REGISTER_PERSONALITY, NULL, 0);
		if (personality <= 0)
			die("personality");
		become(0, 0);
	}
	become(0, 0);
	become(uid, uid);
	if (chdir(argv[2]) || pipe(pipes) || write(pipes[1], "pipe", 4) != 4)
		die(argv[2]);
	file = open("file", O_RDWR);
	other = open("other", O_RDWR);
	if (file < 0 || other < 0)
		die("file");
	if (!strcmp(argv[1], "fixed"))
		return with_fixed(file);
	printf("%d\n", getpid());
	DO("openat", open("to-open", O_RDONLY), .opcode = IORING_OP_OPENAT, AT("to-open"), .open_flags = O_RDONLY);
	DO("create", open("to-create", O_WRONLY | O_CREAT, 0666), .opcode = IORING_OP_OPENAT, AT("to-create"),
	   .open_flags = O_WRONLY | O_CREAT, .len = 0666);
	DO("statx", statx(AT_FDCWD, "file", 0, STATX_BASIC_STATS, &stx), .opcode = IORING_OP_STATX, AT("file"),
	   .len = STATX_BASIC_STATS, .off = (unsigned long)&stx);
	DO("renameat", rename("to-rename", "renamed"), .opcode = IORING_OP_RENAMEAT, AT("to-rename"), .len = AT_FDCWD,
	   .addr2 = (unsigned long)"renamed");
	DO("unlinkat", unlink("to-unlink"), .opcode = IORING_OP_UNLINKAT, AT("to-unlink"));
	DO("linkat", link("to-link", "linked"), .opcode = IORING_OP_LINKAT, AT("to-link"), .len = AT_FDCWD,
	   .addr2 = (unsigned long)"linked");
	DO("mkdirat", mkdir("made", 0777), .opcode = IORING_OP_MKDIRAT, AT("made"), .len = 0777);
	DO("read", pread(file, buffer, 4, 0), .opcode = IORING_OP_READ, .fd = file, .addr = (unsigned long)buffer, .len = 4);
	DO("write", pwrite(file, "ring", 4, 0), .opcode = IORING_OP_WRITE, .fd = file, .addr = (unsigned long)"ring", .len = 4);
	DO("splice-in", splice(pipes[0], NULL, other, &at, 4, 0), .opcode = IORING_OP_SPLICE, .fd = other, .len = 4,
	   .splice_fd_in = pipes[0], .splice_off_in = -1);
	at = 0;
	DO("splice-out", splice(other, &at, pipes[1], NULL, 4, 0), .opcode = IORING_OP_SPLICE, .fd = pipes[1], .len = 4,
	   .splice_fd_in = other, .off = -1);
	DO("fallocate", fallocate(file, 0, 0, 10000), .opcode = IORING_OP_FALLOCATE, .fd = file, .addr = 10000);
	DO("fsetxattr", fsetxattr(file, "user.a", "b", 1, 0), .opcode = IORING_OP_FSETXATTR, .fd = file,
	   .addr = (unsigned long)"user.a", .addr2 = (unsigned long)"b", .len = 1);
	return 0;
}
