/* What the parts of the entry program share. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

enum { HAND_OVER = -1 };

/** What is asked of the keeper of one sandbox. */
struct call {
  const char *name;    /* of the sandbox; safe in a path */
  const char *request; /* JSON, for a REQUEST frame */
  uint32_t length;
  bool command;     /* a command is joined to this process; otherwise the name is printed once it is done */
  bool interactive; /* it gets our stdin */
  char **words;     /* the whole command line */
};

/** Reads a command line; false when it is not one of the few that are answered here, or not certainly. */
bool call_read(int argc, char **argv, struct call *call);

/** The directory of the sandbox below the home that the environment names, -1 when there is none. */
int sandbox_open(const char *name);

/** Asks the keeper and passes bytes and signals until the end. The exit code; HAND_OVER when nothing has begun. */
int call_run(const struct call *call);

/** Becomes the whole program with these words. Does not return. */
_Noreturn void become_main(char **argv);
