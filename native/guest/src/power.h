/* The orderly end of the machine. */
#pragma once
#include <signal.h>
#include <stdint.h>

/** Ends the machine by itself: `max_ms` from now, or after `idle_ms` without a host and without a process; 0 for never. */
void power_limit(int64_t max_ms, int64_t idle_ms);
void power_request(int signal, int64_t grace_ms, int64_t request, uint32_t generation);
/** Adds the signals by which programs ask an init to end the machine. */
void power_watch(sigset_t *set);
/** Ends the machine in order when the signal is one of those. */
void power_wish(int signal);
void power_poll(int *timeout);
/** Goes on with what is under way; does not return when the machine ends. */
void power_service(void);
/** Ends a native agent at once. */
_Noreturn void power_quit(void);
