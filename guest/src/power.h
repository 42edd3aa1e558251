/* The orderly end of the machine. */
#pragma once
#include <stdint.h>

void power_request(int signal, int64_t grace_ms, int64_t request, uint32_t generation);
void power_poll(int *timeout);
/** Goes on with what is under way; does not return when the machine ends. */
void power_service(void);
/** Ends a native agent at once. */
_Noreturn void power_quit(void);
