#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Writes the C source of _boesfs_bpf, through which boesfsd.kernel speaks to libbpf: build_cffi.py HEADER... FILE.

The layouts are those of the headers, kmod/boesfs_abi.h and bpf/boesfs_maps.h, the only definitions there are.
"""

import subprocess
import sys
from pathlib import Path

from cffi import FFI

TYPES = """
typedef uint8_t __u8;
typedef uint16_t __u16;
typedef uint32_t __u32;
typedef unsigned long long __u64;
typedef int32_t __s32;
typedef long long __s64;
"""
LIBBPF = """
struct bpf_object;
struct bpf_map;
struct bpf_program;
struct bpf_link;
struct ring_buffer;
typedef int (*ring_buffer_sample_fn)(void *ctx, void *data, size_t size);

extern "Python" int boesfs_record_came(void *context, void *data, size_t size);
extern "Python" void boesfs_said(char *text);
void boesfs_listen(void);
int boesfs_map_create(__u32 type, const char *name, __u32 key_size, __u32 value_size, __u32 max_entries, __u32 flags);
int boesfs_map_fill(int fd, const void *keys, const void *values, __u32 count);
int boesfs_run(int program, void *context, __u32 size);
int boesfs_map_read(int fd, void *keys, void *values, __u32 count);

struct bpf_object *bpf_object__open_file(const char *path, const void *options);
int bpf_object__load(struct bpf_object *object);
void bpf_object__close(struct bpf_object *object);
struct bpf_map *bpf_object__find_map_by_name(const struct bpf_object *object, const char *name);
struct bpf_program *bpf_object__find_program_by_name(const struct bpf_object *object, const char *name);
int bpf_map__pin(struct bpf_map *map, const char *path);
int bpf_map__reuse_fd(struct bpf_map *map, int fd);
struct bpf_map *bpf_object__next_map(const struct bpf_object *object, const struct bpf_map *map);
int bpf_map__type(const struct bpf_map *map);
void *bpf_map__initial_value(const struct bpf_map *map, size_t *size);
struct bpf_link *bpf_map__attach_struct_ops(const struct bpf_map *map);
struct bpf_link *bpf_link__open(const char *path);
int bpf_link__pin(struct bpf_link *link, const char *path);
int bpf_link__update_map(struct bpf_link *link, const struct bpf_map *map);
int bpf_link__destroy(struct bpf_link *link);
int bpf_program__pin(struct bpf_program *program, const char *path);
int bpf_obj_get(const char *path);
int bpf_map_update_elem(int fd, const void *key, const void *value, __u64 flags);
int bpf_map_lookup_elem(int fd, const void *key, void *value);
int bpf_map_delete_elem(int fd, const void *key);
int bpf_map_get_next_key(int fd, const void *key, void *next);
struct ring_buffer *ring_buffer__new(int fd, ring_buffer_sample_fn callback, void *context, const void *options);
void ring_buffer__free(struct ring_buffer *ring);
int ring_buffer__consume_n(struct ring_buffer *ring, size_t n);
int ring_buffer__epoll_fd(const struct ring_buffer *ring);
"""
GLUE = """
#include <alloca.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include "boesfs_abi.h"
#include "boesfs_maps.h"

static void boesfs_said(char *text);

static int hear(enum libbpf_print_level level, const char *format, va_list args)
{
    va_list again;
    char *text;
    int length;

    if (level == LIBBPF_DEBUG)
        return 0;
    va_copy(again, args);
    length = vsnprintf(NULL, 0, format, again);
    va_end(again);
    text = length < 0 ? NULL : malloc(length + 1);
    if (!text)
        return 0;
    vsnprintf(text, length + 1, format, args);
    boesfs_said(text);
    free(text);
    return 0;
}

/* What libbpf has to say, the verifier's log too, comes by boesfs_said(). */
static void boesfs_listen(void)
{
    libbpf_set_print(hear);
}

static int boesfs_map_create(__u32 type, const char *name, __u32 key_size, __u32 value_size, __u32 max_entries,
                             __u32 flags)
{
    LIBBPF_OPTS(bpf_map_create_opts, options, .map_flags = flags);
    int fd = bpf_map_create(type, name, key_size, value_size, max_entries, &options);

    return fd < 0 ? -errno : fd;
}

static int boesfs_map_fill(int fd, const void *keys, const void *values, __u32 count)
{
    LIBBPF_OPTS(bpf_map_batch_opts, options);
    __u32 done = count;

    return bpf_map_update_batch(fd, keys, values, &done, &options) ? -errno : 0;
}

/* All elements of an array. */
static int boesfs_map_read(int fd, void *keys, void *values, __u32 count)
{
    LIBBPF_OPTS(bpf_map_batch_opts, options);
    __u32 next;

    return bpf_map_lookup_batch(fd, NULL, &next, keys, values, &count, &options) && errno != ENOENT ? -errno : count;
}

static int boesfs_run(int program, void *context, __u32 size)
{
    LIBBPF_OPTS(bpf_test_run_opts, options, .ctx_in = context, .ctx_size_in = size);

    return bpf_prog_test_run_opts(program, &options) ? -errno : 0;
}
"""


def declarations(headers: list[str]) -> str:
    """The headers without what only a compiler needs."""
    text = "".join(Path(header).read_text() for header in headers)
    words = ["gcc", "-E", "-P", "-DBOESFS_CDEF", "-"]
    return subprocess.run(words, input=text, capture_output=True, text=True, check=True).stdout


def main() -> None:
    builder = FFI()
    builder.cdef(TYPES + declarations(sys.argv[1:-1]) + LIBBPF)
    builder.set_source("_boesfs_bpf", GLUE)
    builder.emit_c_code(sys.argv[-1])


if __name__ == "__main__":
    main()
