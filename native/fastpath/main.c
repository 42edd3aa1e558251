/* The program that people start as `bunker`. It answers itself what a keeper can do at once (exec, stop, kill), and becomes
 * the whole program, bunker-main beside it, for everything else and wherever anything is out of the ordinary: what it does not
 * understand it never judges, so that words, errors and help have one source. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fastpath.h"

/* Commands that are over soon, or mostly wait for somebody: half of the processor time of so short a life would go into
 * compiling functions that are called a few times more. The others move and check much data. */
static const char *const brief[] = {"run", "create", "start", "exec", "attach", "shell", "stop", "restart", "kill", "touch", "rm",
                                    "ps", "inspect", "logs", "stats", "wait", "images", "image", "df", NULL};

/* Executions after which JavaScriptCore compiles a function; a call counts 15, a turn of a loop 1, the default is 500. Loops
 * over data still get there in milliseconds. Read by the engine from the environment, once, as a process starts. */
static const char late_compiling[] = "BUN_JSC_thresholdForJITAfterWarmUp", late_compiling_value[] = "100000";

static const char main_name[] = "bunker-main";

_Noreturn void become_main(char **argv) {
  char path[PATH_MAX + sizeof main_name];
  ssize_t length = readlink("/proc/self/exe", path, PATH_MAX);
  if (length <= 0) {
    fputs("bunker: /proc/self/exe can not be read, so that the rest of the program is not found; mount /proc\n", stderr);
    _exit(125);
  }
  while (length > 0 && path[length - 1] != '/') length--;
  memcpy(path + length, main_name, sizeof main_name);
  for (const char *const *word = brief; argv[0] && argv[1] && *word; word++)
    if (strcmp(argv[1], *word) == 0) setenv(late_compiling, late_compiling_value, 0);
  execv(path, argv);
  fprintf(stderr, "bunker: %s can not be started: %s; it belongs beside this program: build or install both again\n", path,
          strerror(errno));
  _exit(125);
}

/* Descriptors 0 to 2 that were closed would be the next ones opened, and the command's bytes would go there. */
static void fill_standard(void) {
  int fd;
  while ((fd = open("/dev/null", O_RDWR)) >= 0 && fd <= STDERR_FILENO) {}
  if (fd > STDERR_FILENO) close(fd);
}

int main(int argc, char **argv) {
  struct call call;
  fill_standard();
  if (argc == 2 && (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0)) return puts(VERSION) < 0 || fflush(stdout) != 0 ? 125 : 0;
  if (call_read(argc, argv, &call)) {
    int code = call_run(&call);
    if (code != HAND_OVER) return code;
  }
  become_main(argv);
}
