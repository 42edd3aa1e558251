/* The orderly end of the machine. */
#pragma once
#include <stdint.h>

/** Ends the machine by itself: `max_ms` from now, or after `idle_ms` without a host and without a process; 0 for never. */
void power_limit(int64_t max_ms, int64_t idle_ms);
void power_request(int signal, int64_t grace_ms, int64_t request, uint32_t generation);
void power_poll(int *timeout);
/** Goes on with what is under way; does not return when the machine ends. */
void power_service(void);
/** Ends a native agent at once. */
_Noreturn void power_quit(void);
