/* Numbers of the whole guest. */
#pragma once
#include "text.h"

/** Appends the fields of a stats response. */
void stats_write(struct text *fields);
