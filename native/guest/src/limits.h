/* Limits of setrlimit(2) that a request names: `[["nofile",soft,hard],…]`, -1 for none. */
#pragma once
#include "json.h"

/** True when the array is missing, or every element of it is well-formed. */
bool limits_are_sound(const struct json *doc, long array);
/** Sets them for the calling process; the name of the first that can not be set, with errno, else NULL. */
const char *limits_set(const struct json *doc, long array);
