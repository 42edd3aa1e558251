/* Builds short texts and JSON in a caller's buffer. Never allocates; what does not fit is cut and remembered. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct text {
  char *at;
  size_t length, room;
  bool overflow;
};

#define TEXT_IN(buffer) {(buffer), 0, sizeof(buffer), false}

void text_bytes(struct text *t, const char *bytes, size_t n);
void text_add(struct text *t, const char *string);
void text_int(struct text *t, int64_t value);
/** A JSON string literal; control bytes are escaped, bytes from 0x80 on pass unchanged. */
void text_quoted(struct text *t, const char *string);
/** "what detail: " and what errno means; false, for functions that end with it. */
bool text_failed(struct text *t, const char *what, const char *detail);
/** The text as a C string; one byte is always kept for its end. */
const char *text_end(struct text *t);
