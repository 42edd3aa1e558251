/* Builds short texts and JSON in a caller's buffer. Does without printf: it would double the agent's size. */
#include "text.h"

#include <errno.h>
#include <string.h>

void text_bytes(struct text *t, const char *bytes, size_t n) {
  if (t->room == 0 || n > t->room - 1 - t->length) {
    t->overflow = true;
    n = t->room == 0 ? 0 : t->room - 1 - t->length;
  }
  memcpy(t->at + t->length, bytes, n);
  t->length += n;
}

void text_add(struct text *t, const char *string) { text_bytes(t, string, strlen(string)); }

void text_int(struct text *t, int64_t value) {
  char digits[20];
  size_t n = 0;
  uint64_t rest = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
  do digits[sizeof digits - ++n] = (char)('0' + rest % 10);
  while ((rest /= 10) != 0);
  if (value < 0) text_add(t, "-");
  text_bytes(t, digits + sizeof digits - n, n);
}

void text_quoted(struct text *t, const char *string) {
  static const char hex[] = "0123456789abcdef";
  text_add(t, "\"");
  for (; *string; string++) {
    unsigned char c = (unsigned char)*string;
    if (c == '"' || c == '\\') {
      char escaped[2] = {'\\', (char)c};
      text_bytes(t, escaped, 2);
    } else if (c < 0x20 || c == 0x7f) {
      char escaped[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
      text_bytes(t, escaped, 6);
    } else {
      text_bytes(t, string, 1);
    }
  }
  text_add(t, "\"");
}

bool text_failed(struct text *t, const char *what, const char *detail) {
  int error = errno;
  text_add(t, what);
  text_add(t, " ");
  text_add(t, detail);
  text_add(t, ": ");
  text_add(t, strerror(error));
  return false;
}

const char *text_end(struct text *t) {
  if (t->room == 0) return "";
  t->at[t->length] = 0;
  return t->at;
}
