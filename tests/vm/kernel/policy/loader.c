// SPDX-License-Identifier: GPL-2.0-only
/*
 * loader: the tests' hand on policy programs. Everything is pinned below /sys/fs/bpf/NAME.
 *
 *   loader load NAME OBJECT [FLAGS [IN_ADVANCE]]	load, attach, pin; -1 for the object's own flags
 *   loader unload NAME				unpin all: detaches
 *   loader update NAME [OBJECT]		BPF_LINK_UPDATE, with the same map if there is no OBJECT
 *   loader updateto NAME OTHER			BPF_LINK_UPDATE with the map of another name
 *   loader replace NAME ID TABLE [FLAGS]	boesfs_policy_replace()
 *   loader forget NAME ID			boesfs_policy_forget()
 *   loader flip NAME ID TABLE... -- COUNT	replace COUNT times, the tables in turn
 *   loader name NAME PARENT COMPONENT LABEL	an entry of the trie; labels are whole numbers (table << 20 | node)
 *   loader rule NAME LABEL FIELD=VALUE...	a struct test_rule
 *   loader trust NAME PROGRAM			who is trusted
 *   loader many NAME TABLE COUNT		COUNT entries and rules of names that nobody uses
 *   loader records NAME			print and forget what was recorded
 *   loader counters NAME			print and zero
 *   loader verify OBJECT			the last line of what the verifier says, or OK
 *   loader link NAME				run `mount` with the link as a descriptor: link NAME -- COMMAND with {} for it
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/types.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "boesfs_abi.h"
#include "test_policy.h"

static char verifier_log[1 << 20];

static void die(const char *what)
{
	fprintf(stderr, "loader: %s: %s\n", what, strerror(errno));
	exit(1);
}

static const char *pin(const char *name, const char *what)
{
	static char path[2][256];
	static int which;

	which = !which;
	snprintf(path[which], sizeof(path[which]), "/sys/fs/bpf/%s/%s", name, what);
	return path[which];
}

static int map_of(const char *name, const char *map)
{
	int fd = bpf_obj_get(pin(name, map));

	if (fd < 0)
		die(pin(name, map));
	return fd;
}

static int quiet(enum libbpf_print_level level, const char *format, va_list args)
{
	return getenv("LOADER_DEBUG") ? vfprintf(stderr, format, args) : 0;
}

/* The struct_ops is given NAME (and flags) before it is loaded. */
static struct bpf_object *load(const char *file, const char *name, long flags, __u32 in_advance)
{
	struct bpf_object *object = bpf_object__open_file(file, NULL);
	struct bpf_map *map;

	if (!object)
		die(file);
	bpf_object__for_each_map(map, object) {
		size_t size;
		char *value;

		value = bpf_map__initial_value(map, &size);
		if (strstr(bpf_map__name(map), ".rodata") && size == sizeof(in_advance))
			memcpy(value, &in_advance, size);	/* the only constant of the test policy */
		if (bpf_map__type(map) != BPF_MAP_TYPE_STRUCT_OPS)
			continue;
		memset(value + 20, 0, BOESFS_PROGRAM_NAME_MAX);
		strncpy(value + 20, name, BOESFS_PROGRAM_NAME_MAX);
		if (flags >= 0)
			*(__u32 *)(value + 16) = flags;
	}
	if (bpf_object__load(object))
		die("load");
	return object;
}

static struct bpf_map *ops_of(struct bpf_object *object)
{
	struct bpf_map *map;

	bpf_object__for_each_map(map, object)
		if (bpf_map__type(map) == BPF_MAP_TYPE_STRUCT_OPS)
			return map;
	die("no struct_ops");
	return NULL;
}

static int cmd_load(int argc, char **argv)
{
	struct bpf_object *object = load(argv[1], argv[0], argc > 2 ? atol(argv[2]) : -1, argc > 3 ? atoi(argv[3]) : 0);
	struct bpf_program *program;
	struct bpf_link *link;
	struct bpf_map *map;
	char directory[128];

	snprintf(directory, sizeof(directory), "/sys/fs/bpf/%s", argv[0]);
	link = bpf_map__attach_struct_ops(ops_of(object));
	if (!link)
		die("attach");
	mkdir(directory, 0700);
	if (bpf_link__pin(link, pin(argv[0], "link")))
		die("pin link");
	bpf_object__for_each_map(map, object)
		if (bpf_map__type(map) != BPF_MAP_TYPE_STRUCT_OPS && !strchr(bpf_map__name(map), '.') &&
		    bpf_map__pin(map, pin(argv[0], bpf_map__name(map))))
			die("pin map");
	program = bpf_object__find_program_by_name(object, "replace");
	if (program && bpf_program__pin(program, pin(argv[0], "replace")))
		die("pin program");
	bpf_link__disconnect(link);
	return 0;
}

static int cmd_unload(int argc, char **argv)
{
	static const char *const pins[] = { "link", "names", "short_names", "rules", "records", "counters", "trusted", "replace", "" };
	size_t i;

	for (i = 0; i < sizeof(pins) / sizeof(*pins) - 1; i++)
		unlink(pin(argv[0], pins[i]));
	return rmdir(pin(argv[0], "")) ? 1 : 0;
}

static int cmd_update(int argc, char **argv)
{
	struct bpf_link_info info = {};
	__u32 size = sizeof(info);
	int link = bpf_obj_get(pin(argv[0], "link")), map;

	if (link < 0)
		die("link");
	if (argc > 1) {
		struct bpf_map *ops = ops_of(load(argv[1], argv[0], -1, 0));

		if (bpf_map__attach_struct_ops(ops))	/* refused with EEXIST, but it fills the map */
			die("attached twice");
		map = bpf_map__fd(ops);
	} else {
		if (bpf_obj_get_info_by_fd(link, &info, &size))
			die("info");
		map = bpf_map_get_fd_by_id(info.struct_ops.map_id);
	}
	if (bpf_link_update(link, map, NULL))
		die("update");
	return 0;
}

/* To the program of another link: refused, its name is another. */
static int cmd_update_to(int argc, char **argv)
{
	int link = bpf_obj_get(pin(argv[0], "link")), other = bpf_obj_get(pin(argv[1], "link"));
	struct bpf_link_info info = {};
	__u32 size = sizeof(info);

	if (link < 0 || other < 0 || bpf_obj_get_info_by_fd(other, &info, &size))
		die("link");
	if (bpf_link_update(link, bpf_map_get_fd_by_id(info.struct_ops.map_id), NULL))
		die("update");
	return 0;
}

struct call {
	char name[BOESFS_PROGRAM_NAME_MAX];
	__u64 table;
	__u32 id, flags, forget;
	__s32 answer;
};

static int ask(int fd, struct call *call)
{
	LIBBPF_OPTS(bpf_test_run_opts, opts, .ctx_in = call, .ctx_size_in = sizeof(*call));	/* and comes back there */

	if (bpf_prog_test_run_opts(fd, &opts))
		die("run");
	if (call->answer) {
		errno = -call->answer;
		perror("loader: replace");
	}
	return !!call->answer;
}

static int cmd_replace(int argc, char **argv)
{
	struct call call = { .id = strtoul(argv[1], NULL, 0), .table = strtoull(argv[2], NULL, 0) };

	strncpy(call.name, argv[0], sizeof(call.name));
	call.flags = argc > 3 ? strtoul(argv[3], NULL, 0) : 0;
	return ask(map_of(argv[0], "replace"), &call);
}

static int cmd_forget(int argc, char **argv)
{
	struct call call = { .id = strtoul(argv[1], NULL, 0), .forget = 1 };

	strncpy(call.name, argv[0], sizeof(call.name));
	return ask(map_of(argv[0], "replace"), &call);
}

static int cmd_flip(int argc, char **argv)
{
	int tables = argc - 4, fd = map_of(argv[0], "replace"), i, count = atoi(argv[argc - 1]);
	struct call call = { .id = strtoul(argv[1], NULL, 0) };

	strncpy(call.name, argv[0], sizeof(call.name));
	for (i = 0; i < count; i++) {
		call.table = strtoull(argv[2 + i % tables], NULL, 0);
		if (ask(fd, &call))
			return 1;
	}
	return 0;
}

static void add_name(const char *name, __u32 parent, const char *component, __u32 label)
{
	size_t length = strlen(component), chunk, chunks = (length + BOESFS_KEY_NAME - 1) / BOESFS_KEY_NAME;
	int fd = map_of(name, length <= TEST_SHORT_NAME ? "short_names" : "names");
	__u32 from = parent;

	for (chunk = 0; chunk < chunks; chunk++) {
		struct boesfs_key key = { .label = from, .chunk = chunk, .length = length };
		__u32 to = chunk + 1 == chunks ? label : label + 1 + chunk;

		strncpy(key.name, component + chunk * BOESFS_KEY_NAME, BOESFS_KEY_NAME);
		if (bpf_map_update_elem(fd, &key, &to, 0))
			die("name");
		from = to;
	}
	close(fd);
}

static int cmd_name(int argc, char **argv)
{
	add_name(argv[0], strtoul(argv[1], NULL, 0), argv[2], strtoul(argv[3], NULL, 0));
	return 0;
}

static int cmd_rule(int argc, char **argv)
{
	__u32 label = strtoul(argv[1], NULL, 0);
	struct test_rule rule = {};
	int i;

	for (i = 2; i < argc; i++) {
		char *value = strchr(argv[i], '=');
		unsigned long long number = strtoull(value + 1, NULL, 0);

		*value = 0;
		if (!strcmp(argv[i], "deny"))
			rule.deny = number;
		else if (!strcmp(argv[i], "nocache"))
			rule.nocache = number;
		else if (!strcmp(argv[i], "kill"))
			rule.kill = number;
		else if (!strcmp(argv[i], "record"))
			rule.record = number;
		else if (!strcmp(argv[i], "by_argument"))
			rule.by_argument = number;
		else if (!strcmp(argv[i], "mask"))
			rule.mask = number;
		else if (!strcmp(argv[i], "argument"))
			rule.argument = number;
		else if (!strcmp(argv[i], "verdict"))
			rule.verdict = strtol(value + 1, NULL, 0);
		else if (!strcmp(argv[i], "access"))
			rule.access = number;
		else if (!strcmp(argv[i], "program"))
			rule.program = number;
		else if (!strcmp(argv[i], "slow"))
			rule.slow = number;
		else if (!strcmp(argv[i], "slow_check"))
			rule.slow_check = number;
		else if (!strcmp(argv[i], "slow_label"))
			rule.slow_label = number;
		else
			die(argv[i]);
	}
	return bpf_map_update_elem(map_of(argv[0], "rules"), &label, &rule, 0) ? 1 : 0;
}

static int cmd_trust(int argc, char **argv)
{
	struct boesfs_program_id id = {};
	int fd = open(argv[1], O_RDONLY);
	long generation = 0;
	struct stat st;
	__u32 zero = 0;

	if (fd < 0 || fstat(fd, &st))
		die(argv[1]);
	ioctl(fd, FS_IOC_GETVERSION, &generation);
	id.ino = st.st_ino;
	id.dev = major(st.st_dev) << 20 | minor(st.st_dev);
	id.generation = generation;
	return bpf_map_update_elem(map_of(argv[0], "trusted"), &zero, &id, 0) ? 1 : 0;
}

static int cmd_many(int argc, char **argv)
{
	__u32 table = strtoul(argv[1], NULL, 0), i, count = strtoul(argv[2], NULL, 0);
	int rules = map_of(argv[0], "rules");
	struct test_rule rule = { .deny = 1ULL << BOESFS_OP_UNLINK };

	for (i = 0; i < count; i++) {
		__u32 label = table << TEST_TABLE_SHIFT | (0x40000 + i);
		char component[32];

		snprintf(component, sizeof(component), "unused-%u", i);
		add_name(argv[0], table << TEST_TABLE_SHIFT, component, label);
		if (bpf_map_update_elem(rules, &label, &rule, 0))
			die("rule");
	}
	return 0;
}

static int print(void *context, void *data, size_t size)
{
	const struct test_record *r = data;

	printf("op=%u access=%u label=%u other_label=%u uid=%u pid=%u policy_id=%u mode=%u instance=%llu table=%llu "
	       "generation=%llu ino=%llu dev=%u arg0=%lld arg1=%lld arg2=%lld arg3=%lld verdict=%d path=%s other=%s string=%s\n",
	       r->op, r->access, r->label, r->other_label, r->uid, r->pid, r->policy_id, r->mode, r->instance, r->table,
	       r->generation, r->ino, r->dev, (long long)r->arg[0], (long long)r->arg[1], (long long)r->arg[2],
	       (long long)r->arg[3], r->verdict, r->path, r->other, r->string);
	return 0;
}

static int cmd_records(int argc, char **argv)
{
	struct ring_buffer *ring = ring_buffer__new(map_of(argv[0], "records"), print, NULL, NULL);

	if (!ring)
		die("ring buffer");
	return ring_buffer__consume(ring) < 0;
}

static int cmd_counters(int argc, char **argv)
{
	static const char *const names[] = { "labels", "checks", "mixed" };
	int fd = map_of(argv[0], "counters");
	__u64 value, zero = 0;
	__u32 i;

	for (i = 0; i < TEST_COUNTERS; i++) {
		if (bpf_map_lookup_elem(fd, &i, &value) || bpf_map_update_elem(fd, &i, &zero, 0))
			die("counters");
		printf("%s=%llu%c", names[i], value, i + 1 == TEST_COUNTERS ? '\n' : ' ');
	}
	return 0;
}

static int cmd_verify(int argc, char **argv)
{
	struct bpf_object *object = bpf_object__open_file(argv[0], NULL);
	struct bpf_program *program;
	char *line, *said = "no message";
	int err;

	if (!object)
		die(argv[0]);
	bpf_object__for_each_program(program, object) {
		bpf_program__set_log_buf(program, verifier_log, sizeof(verifier_log));
		bpf_program__set_log_level(program, 1);
	}
	err = bpf_object__load(object);
	if (!err && !bpf_map__attach_struct_ops(ops_of(object)))
		err = -errno;
	for (line = strtok(verifier_log, "\n"); line; line = strtok(NULL, "\n"))
		if (strncmp(line, "processed", 9) && strncmp(line, "verification", 12))
			said = line;
	printf("%s %d %s\n", err ? "REFUSED" : "OK", err, err ? said : "");
	return 0;
}

static int cmd_link(int argc, char **argv)
{
	int fd = bpf_obj_get(pin(argv[0], "link")), i;

	if (fd < 0)
		die("link");
	fcntl(fd, F_SETFD, 0);
	for (i = 2; i < argc; i++) {
		char *mark = strstr(argv[i], "{}");

		if (mark) {
			char *text = malloc(strlen(argv[i]) + 16);

			sprintf(text, "%.*s%d%s", (int)(mark - argv[i]), argv[i], fd, mark + 2);
			argv[i] = text;
		}
	}
	execvp(argv[2], argv + 2);
	die(argv[2]);
	return 1;
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int least;
		int (*run)(int argc, char **argv);
	} commands[] = {
		{ "load", 2, cmd_load }, { "unload", 1, cmd_unload }, { "update", 1, cmd_update },
		{ "updateto", 2, cmd_update_to },
		{ "replace", 3, cmd_replace }, { "forget", 2, cmd_forget }, { "flip", 5, cmd_flip },
		{ "name", 4, cmd_name }, { "rule", 2, cmd_rule }, { "trust", 2, cmd_trust }, { "many", 3, cmd_many },
		{ "records", 1, cmd_records }, { "counters", 1, cmd_counters }, { "verify", 1, cmd_verify },
		{ "link", 3, cmd_link },
	};
	size_t i;

	libbpf_set_print(quiet);
	for (i = 0; argc > 1 && i < sizeof(commands) / sizeof(*commands); i++)
		if (!strcmp(argv[1], commands[i].name) && argc - 2 >= commands[i].least)
			return commands[i].run(argc - 2, argv + 2);
	fprintf(stderr, "loader: usage: see the head of loader.c\n");
	return 2;
}
