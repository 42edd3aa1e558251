/* The boot request: from the init disk to the sandbox's root. */
#pragma once
#include "json.h"
#include "text.h"

void boot_request(const struct json *doc, int64_t request, uint32_t generation);
/** Sets the clock from a decimal string of nanoseconds since 1970; false when it is none. */
bool boot_set_clock(const char *unix_ns);
/** Mounts what the channel needs: dev, proc, sys of the init disk. */
void boot_early(void);
/** Makes the file systems that hold data read-only. */
void boot_unmount(void);
