/* Bytes between a process and its connection. */
#pragma once
#include "exec.h"

/** Takes DATA from the host; false when it is more than the window allows. */
bool pump_input(struct exec *e, const uint8_t *bytes, size_t n);
/** polls[0] input, polls[1] and [2] outputs. */
void pump_poll(const struct exec *e, struct pollfd polls[3], int *timeout);
void pump(struct exec *e, const struct pollfd polls[3]);
