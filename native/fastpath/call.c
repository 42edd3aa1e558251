/* Reads the command lines that are answered without the whole program, and writes them as requests. Whatever is wrong, odd or
 * ambiguous in one is not answered here. */
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../common/frame.h"
#include "../common/text.h"
#include "fastpath.h"

extern char **environ;

static char request[FRAME_JSON_MAX + 1];

/* As domain/name.ts. */
static bool safe_name(const char *name) {
  size_t length = strlen(name);
  if (length == 0 || length > 128 || *name == '.' || *name == '-') return false;
  return strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-") == length;
}

/* A flag's value in the word itself, `--flag=value`, or in the next. NULL when it is not this flag, or its value is odd. */
static const char *value_of(char **word, const char *flag, const char *alias, int *used) {
  size_t length = strlen(flag);
  if (strncmp(*word, flag, length) == 0 && (*word)[length] == '=') return *used = 1, *word + length + 1;
  if (strcmp(*word, flag) != 0 && strcmp(*word, alias) != 0) return NULL;
  if (!word[1] || *word[1] == '-') return NULL;
  return *used = 2, word[1];
}

/* `KEY=value`, or `KEY` for ours; nothing of one that we have not. */
static bool add_entry(struct text *t, const char *entry, bool *first) {
  size_t key = strcspn(entry, "=");
  if (key == 0) return false;
  if (!entry[key]) {
    const char *found = NULL;
    for (char **own = environ; *own && !found; own++)
      if (strncmp(*own, entry, key) == 0 && (*own)[key] == '=') found = *own;
    if (!found) return true;
    entry = found;
  }
  if (!*first) text_add(t, ",");
  *first = false;
  text_quoted(t, entry);
  return true;
}

static bool finish(struct text *t, struct call *call) {
  text_add(t, ",\"name\":");
  text_quoted(t, call->name);
  text_add(t, "}");
  call->request = request;
  call->length = (uint32_t)t->length;
  return !t->overflow;
}

/* exec [-i] [-e K=V]... [-w DIR] [-u USER] NAME [--] COMMAND... */
static bool read_exec(char **words, struct call *call) {
  struct text t = TEXT_IN(request);
  const char *cwd = NULL, *user = NULL, *value;
  bool first = true;
  int used;
  call->command = true;
  text_add(&t, "{\"protocol\":1,\"op\":\"exec\",\"env\":[");
  for (; *words && **words == '-'; words += used) {
    used = 1;
    if (!call->interactive && (strcmp(*words, "-i") == 0 || strcmp(*words, "--interactive") == 0)) call->interactive = true;
    else if ((value = value_of(words, "--env", "-e", &used))) {
      if (!add_entry(&t, value, &first)) return false;
    } else if (!cwd && (value = value_of(words, "--workdir", "-w", &used))) cwd = value;
    else if (!user && (value = value_of(words, "--user", "-u", &used))) user = value;
    else return false;
  }
  if (!*words || !safe_name(*words)) return false;
  call->name = *words++;
  if (*words && strcmp(*words, "--") == 0) words++;
  if (!*words) return false;
  text_add(&t, "],\"argv\":[");
  for (char **word = words; *word; word++) {
    if (word != words) text_add(&t, ",");
    text_quoted(&t, *word);
  }
  text_add(&t, call->interactive ? "],\"stdin\":true" : "],\"stdin\":false");
  if (cwd) text_add(&t, ",\"cwd\":"), text_quoted(&t, cwd);
  if (user) text_add(&t, ",\"user\":"), text_quoted(&t, user);
  return finish(&t, call);
}

/* stop [-t SECONDS] NAME, kill NAME */
static bool read_end(char **words, struct call *call, bool stop) {
  struct text t = TEXT_IN(request);
  long seconds = 10;
  const char *value;
  int used;
  text_add(&t, stop ? "{\"protocol\":1,\"op\":\"stop\",\"timeout_ms\":" : "{\"protocol\":1,\"op\":\"kill\"");
  for (; stop && *words && **words == '-'; words += used) {
    if (!(value = value_of(words, "--time", "-t", &used))) return false;
    size_t digits = strspn(value, "0123456789");
    if (digits == 0 || digits > 5 || value[digits]) return false;
    seconds = strtol(value, NULL, 10);
  }
  if (!*words || !safe_name(*words) || words[1]) return false;
  call->name = *words;
  if (stop) text_int(&t, seconds * 1000);
  return finish(&t, call);
}

bool call_read(int argc, char **argv, struct call *call) {
  *call = (struct call){.words = argv};
  if (argc < 3) return false;
  if (strcmp(argv[1], "exec") == 0) return read_exec(argv + 2, call);
  if (strcmp(argv[1], "stop") == 0) return read_end(argv + 2, call, true);
  if (strcmp(argv[1], "kill") == 0) return read_end(argv + 2, call, false);
  return false;
}

int sandbox_open(const char *name) {
  char path[PATH_MAX];
  const char *home = getenv("BUNKER_HOME"), *below = "";
  if (!home || !*home) home = getenv("HOME"), below = "/.bunker";
  if (!home || !*home) return -1;
  int length = snprintf(path, sizeof path, "%s%s/sandboxes/%s", home, below, name);
  if (length < 0 || length >= (int)sizeof path) return -1;
  return open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
}
