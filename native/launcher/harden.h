/* Takes from this process what a VM's process does not need, so that a guest that breaks out of its emulator finds little. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

/* Places of the file system that stay open to the process, each with all below it; a NULL ends a list. Places that are not there
 * are passed over. */
struct harden_places {
  const char *const *readable, *const *writable;
};

enum { HARDEN_CHOWN = 0, HARDEN_DAC_OVERRIDE = 1, HARDEN_FOWNER = 3, HARDEN_FSETID = 4, HARDEN_SETGID = 6, HARDEN_SETUID = 7, HARDEN_SYS_CHROOT = 18 };

/* Each answers 0, or the errno of what the machine does not allow or have: the process then goes on without. */
int harden_no_new_privileges(void);
int harden_network(void);
int harden_files(const struct harden_places *places);
/* `kept`: a bit for each capability that stays. */
int harden_capabilities(uint64_t kept);
/* `emulator`: the process becomes another program, which has a filter of its own for the rest. */
int harden_calls(bool emulator);
