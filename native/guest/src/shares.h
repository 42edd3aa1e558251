/* Directories of the host and file systems in memory, below the sandbox's root. */
#pragma once
#include <stdbool.h>

#include "json.h"
#include "text.h"

/** Mounts what all shares come through where only this agent finds it; before the switch of roots. */
bool shares_open(const struct json *doc, long mounts, struct text *why);
/** Mounts each of the boot request's `mounts` in its place, in their order; after the switch. Makes missing places. */
bool shares_mount(const struct json *doc, long mounts, struct text *why);
