/* Child side of a start. */
#pragma once
#include "exec.h"

enum { PLAN_ENV_SPARE = 3 }; /* PATH, HOME and TERM may be added */

struct plan {
  char **argv, **env; /* env has room for PLAN_ENV_SPARE more */
  const char *cwd, *user;
  int stdio[3]; /* of a terminal only the first counts */
  int report;
  bool terminal;
  bool make_cwd;           /* a working directory that is missing is made */
  bool files;              /* no program: the child works on files itself */
  const struct json *spec; /* the request */
};

_Noreturn void child_run(struct plan *plan);
