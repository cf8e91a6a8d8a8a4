/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef BOESFS_KFUNCS_H
#define BOESFS_KFUNCS_H

struct list_head;

int boesfs_kfuncs_register(void);
void boesfs_kill_caller(void);
void boesfs_kill_mapped(const struct list_head *mounts);

#ifndef KF_TRUSTED_ARGS		/* what every kfunc has since it lost its flag */
#define KF_TRUSTED_ARGS 0
#endif

#endif /* BOESFS_KFUNCS_H */
