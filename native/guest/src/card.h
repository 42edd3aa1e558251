/* The network card of a guest that has one, and its resolver. */
#pragma once
#include <stdbool.h>

#include "json.h"
#include "text.h"

/** Addresses, routes and MTU as the boot request's `net` says; true when it says nothing. Needs /proc. */
bool card_up(const struct json *doc, long net, struct text *why);
/** Shows the text in place of /etc/resolv.conf until the machine ends; the image's own file stays as it is. */
void card_resolver(const char *text);
