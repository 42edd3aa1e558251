/* Mounts of the guest. */
#pragma once
#include <stdbool.h>

#include "text.h"

struct mount_plan {
  const char *root_device, *root_type;
  const char *upper_device; /* ext4; NULL for a tmpfs */
};

/** dev, proc and sys of the init disk. */
void mounts_early(void);
/** The place in memory where everything is put together, /mnt. */
bool mounts_stage(struct text *why);
/** Overlay of root and upper, kernel file systems in it, and the switch into it. False with the reason; a failed switch
 * leaves the agent alive on the init disk, and can be tried again only by a new boot of the machine. */
bool mounts_switch_root(const struct mount_plan *plan, struct text *why);
/** Writes everything out and makes root and upper read-only. */
void mounts_read_only(void);
