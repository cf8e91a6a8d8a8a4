/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BOESFS_NOTIFY_H
#define BOESFS_NOTIFY_H
/* What the unit's main process tells systemd about itself: sd_notify(3), over a socket that is opened while it may. */

void notify_open(void);
/* STATE as in sd_notify(3); nothing happens without NOTIFY_SOCKET. */
void notify_systemd(const char *state);

#endif
