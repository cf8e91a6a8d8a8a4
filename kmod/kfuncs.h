/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef BOESFS_KFUNCS_H
#define BOESFS_KFUNCS_H

struct boesfs_ctx;
struct boesfs_program_id;
struct list_head;

int boesfs_kfuncs_register(void);
int boesfs_ctx_string(struct boesfs_ctx *ctx, u32 which, char *buf, u32 buf__sz);
char *boesfs_name_key(struct boesfs_ctx *ctx, u32 label, u32 chunk, const int rdwr_buf_size);
int boesfs_ctx_program(struct boesfs_ctx *ctx, struct boesfs_program_id *id);
int boesfs_policy_replace(const char *name, u32 name__sz, u32 id, u64 table, u32 flags);
int boesfs_policy_forget(const char *name, u32 name__sz, u32 id);
void boesfs_kill_caller(void);

/* The private mounts below those of a policy, each with a reference. */
struct boesfs_mounts {
	unsigned int count;
	struct vfsmount *lower[] __counted_by(count);
};

int boesfs_kill_mapped(const struct boesfs_mounts *mounts);

#ifndef KF_TRUSTED_ARGS /* what every kfunc has since it lost its flag */
#define KF_TRUSTED_ARGS 0
#endif

#endif /* BOESFS_KFUNCS_H */
