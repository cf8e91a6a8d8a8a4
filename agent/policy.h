/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BOESFS_POLICY_H
#define BOESFS_POLICY_H
/* What the policy program has to say of an instance that it ended. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A descriptor of the map where it says so, or -1. Opened while that is allowed. */
int kills_open(void);
/* Whether it ended INSTANCE; then TEXT is why. */
bool killed_by_policy(int kills, uint64_t instance, char *text, size_t size);

#endif
