/* The smallest test kit: CHECK says where it failed, main's result says whether anything did. */
#pragma once
#include <stdio.h>
#include <string.h>

extern int failures_total;

#define CHECK(what)                                                              \
  do {                                                                           \
    if (!(what)) {                                                               \
      failures_total++;                                                          \
      fprintf(stderr, "%s:%d: %s: not true: %s\n", __FILE__, __LINE__, __func__, #what); \
    }                                                                            \
  } while (0)
#define CHECK_TEXT(found, wanted)                                                            \
  do {                                                                                       \
    const char *check_found = (found);                                                       \
    if (!check_found || strcmp(check_found, wanted) != 0) {                                  \
      failures_total++;                                                                      \
      fprintf(stderr, "%s:%d: %s: found \"%s\", wanted \"%s\"\n", __FILE__, __LINE__, __func__, \
              check_found ? check_found : "(none)", wanted);                                 \
    }                                                                                        \
  } while (0)
