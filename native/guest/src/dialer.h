/* Connections to TCP ports of the guest, made for the host. */
#pragma once
#include "exec.h"

/** Takes a dial request; false when a field of it is missing or wrong. */
bool dialer_op(const struct json *doc, int64_t id, uint32_t generation);
/** Starts to connect to the port of `e->spec`, at 127.0.0.1 and then at ::1. */
bool dialer_start(struct exec *e, struct spawn_report *why);
/** Looks how far the connection is; the state tells when it is there. False with a filled report when there is none. */
bool dialer_continue(struct exec *e, struct spawn_report *why);
/** True when both directions have ended, or the connection was reset. */
bool dialer_over(const struct exec *e);
/** Lets the service see a reset instead of an orderly end. */
void dialer_break(struct exec *e);
