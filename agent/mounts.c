// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "plan.h"
#include "steps.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* An empty directory that boesfsd keeps for this: the new root is mounted over it, in the sandbox's namespace only. */
static const char root_dir[] = "/run/boesfs/root";

static const char *inside(const char *path)
{
	while (*path == '/')
		path++;
	return *path ? path : ".";
}

static int set_flags(int mount, uint64_t flags)
{
	struct mount_attr attr = {.attr_set = flags, .propagation = MS_PRIVATE};

	return syscall(SYS_mount_setattr, mount, "", AT_EMPTY_PATH, &attr, sizeof attr);
}

/* Where PATH is in the new root, and never outside of it, whatever links there are on the way. */
static int move_to(int mount, const char *path)
{
	struct open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT};
	int place = syscall(SYS_openat2, AT_FDCWD, inside(path), &how, sizeof how), result;

	if (place < 0)
		return -1;
	result = syscall(SYS_move_mount, mount, "", place, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
	close(place);
	return result;
}

static int attach(int mount, const char *path)
{
	int result = move_to(mount, path);

	close(mount);
	return result;
}

static int set_option(int context, const char *key, const char *value)
{
	return syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, key, value, 0);
}

static int option(int context, const char *key, const char *format, unsigned long long number)
{
	char value[32];

	snprintf(value, sizeof value, format, number);
	return set_option(context, key, value);
}

int mount_tmpfs_detached(uint64_t bytes, uid_t uid, unsigned mode, uint64_t flags)
{
	int context = syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC), mount = -1;

	if (context < 0)
		return -1;
	if (!option(context, "size", "%llu", bytes) && !option(context, "mode", "%llo", mode) &&
	    !option(context, "uid", "%llu", uid) && !option(context, "gid", "%llu", uid) &&
	    !option(context, "nr_inodes", "%llu", bytes / 1024 + 64) &&
	    !syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
		mount = syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | flags);
	close(context);
	return mount;
}

int step_root(uint64_t bytes)
{
	int mount;

	/* nothing that happens in here may reach the host */
	if (syscall(SYS_mount, NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		return -1;
	mount = mount_tmpfs_detached(bytes, 0, 0755, 0);
	if (mount < 0 || chdir(root_dir) || attach(mount, "."))
		return -1;
	return chdir(root_dir);	/* once more: now it is the new mount */
}

int step_mkdir(const char *path, const char *mode)
{
	mode_t bits = strtoul(mode, NULL, 8);

	if (mkdir(inside(path), bits))
		return -1;
	return chmod(inside(path), bits);
}

int step_link(const char *target, const char *path)
{
	return symlink(target, inside(path));
}

int step_file(const char *path, const char *mode, const char *text)
{
	int fd = open(inside(path), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	ssize_t len = strlen(text);
	int result;

	if (fd < 0)
		return -1;
	result = write(fd, text, len) == len ? fchmod(fd, strtoul(mode, NULL, 8)) : -1;
	close(fd);
	return result;
}

int step_copy(const char *source, const char *path)
{
	int from = open(source, O_RDONLY | O_CLOEXEC);
	int to = open(inside(path), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0444);
	ssize_t moved = -1;

	while (from >= 0 && to >= 0 && (moved = sendfile(to, from, NULL, 1 << 30)) > 0)
		;
	if (from >= 0)
		close(from);
	if (to >= 0)
		close(to);
	return moved ? -1 : 0;
}

static int bind_with(const char *source, const char *path, uint64_t flags, unsigned follow)
{
	int mount = syscall(SYS_open_tree, AT_FDCWD, source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | follow);

	if (mount < 0)	/* a piece that has gone since it was chosen leaves what it was to be mounted on, which is empty */
		return follow && errno == ENOENT ? 0 : -1;
	if (set_flags(mount, flags)) {
		close(mount);
		return -1;
	}
	return attach(mount, path);
}

int step_bind(const char *source, const char *path, const char *nofollow)
{
	return bind_with(source, path, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV,
			 nofollow ? AT_SYMLINK_NOFOLLOW : 0);
}

int mount_detached(int directory)
{
	return syscall(SYS_open_tree, directory, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
}

int step_tree(const struct build *build, const char *name, const char *path, const char *access)
{
	uint64_t flags = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | (strcmp(access, "rw") ? MOUNT_ATTR_RDONLY : 0);

	for (int i = 0; i < build->trees; i++) {
		int mount = build->tree[i].mount;

		if (strcmp(build->tree[i].name, name))
			continue;
		return set_flags(mount, flags) ? -1 : attach(mount, path);
	}
	errno = EBADF;
	return -1;
}

/* What the kernel says of a mount that it refuses; its first message is the one that tells why. */
static void read_refusal(int context, char *text, size_t size)
{
	ssize_t len = read(context, text, size - 1);

	text[len > 0 ? len : 0] = 0;
	text[strcspn(text, "\n")] = 0;
	if (len > 2 && text[1] == ' ')	/* "e ", the message's level */
		memmove(text, text + 2, strlen(text + 2) + 1);
}

/* A mount of one filesystem alone, as bind is: what is mounted below SOURCE is not seen. */
int step_govern(struct build *build, const char *path, const char *access, const char *source)
{
	uint64_t flags = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | (strcmp(access, "rw") ? MOUNT_ATTR_RDONLY : 0);
	int context, mount = -1, saved;

	if (!build->program) {
		errno = EINVAL;
		return -1;
	}
	context = syscall(SYS_fsopen, "boesfs", FSOPEN_CLOEXEC);
	if (context < 0) {
		if (errno == ENODEV)
			snprintf(build->detail, sizeof build->detail, "the kernel module boesfs is not loaded: systemctl restart boesfs-setup");
		return -1;
	}
	if (!set_option(context, "policy", build->program) &&
	    (!build->policy || !set_option(context, "policy_id", build->policy)) &&
	    !set_option(context, "at", path) && !option(context, "instance", "%llu", build->instance) &&
	    !set_option(context, "source", source ? source : inside(path)) &&
	    !syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
		mount = syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, flags);
	saved = errno;
	if (mount < 0)
		read_refusal(context, build->detail, sizeof build->detail);
	close(context);
	errno = saved;
	if (mount < 0 || attach(mount, path))
		return -1;
	return strcmp(path, "/") ? 0 : chdir(root_dir);	/* the new root is over the one that we stand in */
}

int step_device(const char *name)
{
	char source[64], path[64];

	snprintf(source, sizeof source, "/dev/%s", name);
	snprintf(path, sizeof path, "dev/%s", name);
	return bind_with(source, path, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, 0);
}

int step_hide(const char *path)
{
	int mount = mount_tmpfs_detached(4096, 0, 0555, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOEXEC);

	return mount < 0 ? -1 : attach(mount, path);
}

int step_tmpfs(const char *path, uint64_t bytes, const char *mode, uid_t uid)
{
	int mount = mount_tmpfs_detached(bytes, uid, strtoul(mode, NULL, 8), 0);

	return mount < 0 ? -1 : attach(mount, path);
}

int step_proc(const char *path)
{
	return mount("proc", inside(path), "proc", MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL);
}

int step_freeze(const char *path)
{
	int mount = syscall(SYS_open_tree, AT_FDCWD, inside(path), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);

	if (mount < 0)
		return errno == ENOENT ? 0 : -1;
	return set_flags(mount, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC) ? -1 : attach(mount, path);
}

int step_pts(const char *path, uid_t uid, gid_t gid)
{
	char options[96];

	snprintf(options, sizeof options, "uid=%u,gid=%u,mode=0620,ptmxmode=0666", uid, gid);
	return mount("devpts", inside(path), "devpts", MS_NOSUID | MS_NOEXEC, options);
}

int step_listener(int mount, const char *path)
{
	return move_to(mount, path);
}

int step_pivot(void)
{
	/* pivot_root(".", ".") stacks the old root over the new one, and umount2 takes it away (pivot_root(2)) */
	if (syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH) || chdir("/"))
		return -1;
	return mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL);
}
