/* The control connection: requests of the host and their answers. */
#pragma once
#include <poll.h>
#include <sys/types.h>

#include "conn.h"

void control_poll(struct pollfd *p, int *timeout);
void control_service(short revents);

/** Answers are dropped when the control connection that asked is gone. */
void control_reply_ok(int64_t request, uint32_t generation, struct text *fields);
void control_reply_error(int64_t request, uint32_t generation, const char *error, const char *message);
void control_reply_pid(int64_t request, uint32_t generation, int64_t pid);
/** Tells the host that a virtio slot can carry another exec. */
void control_slot_free(int slot);
/** A process of the host looks after this machine. */
bool control_has_host(void);
/** A child of the agent's has ended. */
void control_reaped(pid_t pid);
/** Moves what is queued for at most `ms`, and waits as long for the host to say that it has seen it. */
void control_farewell(int64_t ms);
