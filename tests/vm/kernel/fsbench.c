// SPDX-License-Identifier: Apache-2.0
/*
 * fsbench: what an operation takes in a directory, in nanoseconds. Under `-icount shift=0` a nanosecond is an instruction
 * of the guest.
 *
 *   fsbench -p COUNT DIRECTORY		make the files that are measured, and COUNT for first-stat
 *   fsbench [-l] [-1] [-n COUNT] MEASURE DIRECTORY	COUNT operations, after as many that are not measured (-1: none before)
 *   fsbench -c COMMAND...			how long the only CPU is busy while a command runs, once
 *
 * -l: under a Landlock ruleset that allows everything below DIRECTORY, and nothing else.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { FILE_SIZE = 1 << 20, ENTRIES = 100 };

static char buffer[65536];

static void die(const char *what)
{
	fprintf(stderr, "fsbench: %s: %s\n", what, strerror(errno));
	exit(1);
}

static long long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* The working directory is the measured one; files are two directories deep. */
static void read4k(int count)
{
	int fd = open("d1/d2/file", O_RDONLY), i;

	for (i = 0; i < count; i++)
		if (pread(fd, buffer, 4096, (i % (FILE_SIZE / 4096)) * 4096) != 4096)
			die("pread");
	close(fd);
}

static void write4k(int count)
{
	int fd = open("d1/d2/file", O_WRONLY), i;

	for (i = 0; i < count; i++)
		if (pwrite(fd, buffer, 4096, (i % (FILE_SIZE / 4096)) * 4096) != 4096)
			die("pwrite");
	close(fd);
}

static void do_stat(int count)
{
	struct stat st;
	int i;

	for (i = 0; i < count; i++)
		if (stat("d1/d2/file", &st))
			die("stat");
}

static void open_close(int count)
{
	int i;

	for (i = 0; i < count; i++) {
		int fd = open("d1/d2/file", O_RDONLY);

		if (fd < 0 || read(fd, buffer, 512) != 512)
			die("open");
		close(fd);
	}
}

static void create_unlink(int count)
{
	int i;

	for (i = 0; i < count; i++) {
		int fd = open("d1/d2/new", O_WRONLY | O_CREAT | O_EXCL, 0644);

		if (fd < 0)
			die("create");
		close(fd);
		if (unlink("d1/d2/new"))
			die("unlink");
	}
}

/*
 * A page per operation, of a mapping that is made anew when it is through. It lies where one page of the page table has all
 * of it, beside a page that keeps the levels above: where chance puts it it may take two, some 20 instructions per operation.
 */
static void mmap_fault(int count)
{
	char *place = (char *)(1UL << 40);
	char *beside = mmap(place - 4096, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	int fd = open("d1/d2/file", O_RDONLY), i, pages = FILE_SIZE / 4096;
	volatile char *map = NULL, sum = 0;

	if (beside == MAP_FAILED)
		die("mmap");
	*beside = 1;
	for (i = 0; i < count; i++) {
		if (i % pages == 0) {
			if (map)
				munmap((void *)map, FILE_SIZE);
			map = mmap(place, FILE_SIZE, PROT_READ, MAP_PRIVATE | MAP_FIXED_NOREPLACE, fd, 0);
			if (map == MAP_FAILED || madvise((void *)map, FILE_SIZE, MADV_RANDOM))
				die("mmap");
		}
		sum += map[(i % pages) * 4096];
	}
	munmap((void *)map, FILE_SIZE);
	close(fd);
}

/* A directory of ENTRIES names per operation. */
static void do_readdir(int count)
{
	int i, n;

	for (i = 0; i < count; i++) {
		DIR *dir = opendir("d1/many");

		if (!dir)
			die("opendir");
		for (n = 0; readdir(dir); n++)
			;
		if (n != ENTRIES + 2)
			die("readdir");
		closedir(dir);
	}
}

static void do_rename(int count)
{
	int i;

	for (i = 0; i < count; i++)
		if (rename(i & 1 ? "d1/d2/there" : "d1/d2/here", i & 1 ? "d1/d2/here" : "d1/d2/there"))
			die("rename");
}

/* The first stat of a file: its name is new to the mount. COUNT files; needs a fresh mount or a drop of caches. */
static void first_stat(int count)
{
	struct stat st;
	char name[64];
	int i;

	for (i = 0; i < count; i++) {
		snprintf(name, sizeof(name), "d1/first/f%d", i);
		if (stat(name, &st))
			die(name);
	}
}

/* A file server's day: a file of 128 KiB is made, appended to, read, looked at and removed, among others that stay. */
static void fileserver(int count)
{
	struct stat st;
	char name[64];
	int i, j, fd;

	for (i = 0; i < count; i++) {
		snprintf(name, sizeof(name), "d1/d2/new%d", i);
		fd = open(name, O_WRONLY | O_CREAT | O_EXCL, 0644);
		if (fd < 0)
			die(name);
		for (j = 0; j < 2; j++)
			if (write(fd, buffer, sizeof(buffer)) != sizeof(buffer))
				die(name);
		close(fd);
		fd = open(name, O_WRONLY | O_APPEND);
		if (fd < 0 || write(fd, buffer, 16384) != 16384)
			die(name);
		close(fd);
		fd = open(name, O_RDONLY);
		while (fd >= 0 && read(fd, buffer, sizeof(buffer)) > 0)
			;
		close(fd);
		if (stat(name, &st) || st.st_size != 2 * (long)sizeof(buffer) + 16384 || unlink(name))
			die(name);
	}
}

static void touch(const char *name, size_t size)
{
	int fd = open(name, O_WRONLY | O_CREAT, 0644);

	if (fd < 0)
		die(name);
	for (; size; size -= size < sizeof(buffer) ? size : sizeof(buffer))
		if (write(fd, buffer, size < sizeof(buffer) ? size : sizeof(buffer)) < 0)
			die(name);
	close(fd);
}

static void prepare(const char *directory, int first)
{
	char name[64];
	int i;

	if (chdir(directory) || mkdir("d1", 0755) || mkdir("d1/d2", 0755) || mkdir("d1/many", 0755) ||
	    mkdir("d1/first", 0755))
		die(directory);
	touch("d1/d2/file", FILE_SIZE);
	touch("d1/d2/here", 100);
	for (i = 0; i < ENTRIES; i++) {
		snprintf(name, sizeof(name), "d1/many/entry%d", i);
		touch(name, 0);
	}
	for (i = 0; i < first; i++) {
		snprintf(name, sizeof(name), "d1/first/f%d", i);
		touch(name, 0);
	}
}

static const struct {
	const char *name;
	void (*run)(int count);
} measures[] = {
	{ "read4k", read4k }, { "write4k", write4k }, { "stat", do_stat }, { "open-close", open_close },
	{ "create-unlink", create_unlink }, { "mmap-fault", mmap_fault }, { "readdir", do_readdir },
	{ "rename", do_rename }, { "first-stat", first_stat }, { "fileserver", fileserver },
};

static void restrict_to(const char *directory)
{
	struct landlock_ruleset_attr ruleset = { .handled_access_fs = (LANDLOCK_ACCESS_FS_TRUNCATE << 1) - 1 };
	struct landlock_path_beneath_attr beneath = { .allowed_access = ruleset.handled_access_fs };
	int fd = syscall(SYS_landlock_create_ruleset, &ruleset, sizeof(ruleset), 0);

	beneath.parent_fd = open(directory, O_PATH | O_DIRECTORY);
	if (fd < 0 || beneath.parent_fd < 0 ||
	    syscall(SYS_landlock_add_rule, fd, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0) ||
	    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_landlock_restrict_self, fd, 0))
		die("landlock");
}

static void measure(const char *which, int count, int before)
{
	long long begin;
	size_t i;

	for (i = 0; i < sizeof(measures) / sizeof(*measures); i++)
		if (!strcmp(measures[i].name, which))
			break;
	if (i == sizeof(measures) / sizeof(*measures)) {
		errno = ENOENT;
		die(which);
	}
	if (before)
		measures[i].run(count);
	begin = now();
	measures[i].run(count);
	printf("%.1f\n", (double)(now() - begin) / count);
}

/* How long the CPU had nothing to do: who waits for a disk counts no instructions, but the clock goes on. */
static long long idle(void)
{
	FILE *file = fopen("/proc/timer_list", "r");
	long long sum = 0, part;
	char line[256];
	int found = 0;

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, " .idle_sleeptime : %lld", &part) == 1 || sscanf(line, " .iowait_sleeptime : %lld", &part) == 1)
			sum += part, found++;
	if (found != 2)
		die("/proc/timer_list");
	fclose(file);
	return sum;
}

static void measure_command(char **command)
{
	long long begin = now() - idle();
	pid_t pid = fork();
	int status;

	if (!pid) {
		execvp(command[0], command);
		_exit(127);
	}
	if (waitpid(pid, &status, 0) != pid || status) {
		errno = ECHILD;
		die(command[0]);
	}
	printf("%lld\n", now() - idle() - begin);
}

int main(int argc, char **argv)
{
	int count = 1000, option, landlock = 0, before = 1;

	while ((option = getopt(argc, argv, "+n:p:l1c")) != -1) {
		if (option == 'n')
			count = atoi(optarg) / 2 * 2;
		else if (option == 'l')
			landlock = 1;
		else if (option == '1')
			before = 0;
		else if (option == 'c')
			return measure_command(argv + optind), 0;
		else if (option == 'p' && argc == optind + 1)
			return prepare(argv[optind], atoi(optarg)), 0;
		else
			return 2;
	}
	if (argc != optind + 2)
		return fprintf(stderr, "usage: see the head of fsbench.c\n"), 2;
	if (chdir(argv[optind + 1]))
		die(argv[optind + 1]);
	if (landlock)
		restrict_to(".");
	measure(argv[optind], count, before);
	return 0;
}
