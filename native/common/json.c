/* Parses JSON (RFC 8259) into a flat array of nodes in document order. Does not check that strings are valid UTF-8. */
#include "json.h"

#include <string.h>

struct reader {
  struct json *doc;
  size_t at, n;
};

static void skip_space(struct reader *r) {
  while (r->at < r->n && strchr(" \t\r\n", r->doc->text[r->at]) && r->doc->text[r->at]) r->at++;
}

static bool take(struct reader *r, char c) {
  if (r->at >= r->n || r->doc->text[r->at] != c) return false;
  r->at++;
  return true;
}

static struct json_node *node_new(struct reader *r, enum json_kind kind) {
  if (r->doc->used == r->doc->room) return NULL;
  struct json_node *node = &r->doc->nodes[r->doc->used++];
  *node = (struct json_node){.kind = (uint8_t)kind, .end = r->doc->used};
  return node;
}

static long hex4(struct reader *r) {
  long code = 0;
  if (r->n - r->at < 4) return -1;
  for (int i = 0; i < 4; i++) {
    char c = r->doc->text[r->at++];
    int digit = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
    if (digit < 0) return -1;
    code = code * 16 + digit;
  }
  return code;
}

static size_t put_utf8(char *out, unsigned long c) {
  if (c < 0x80) return out[0] = (char)c, 1;
  if (c < 0x800) return out[0] = (char)(0xc0 | c >> 6), out[1] = (char)(0x80 | (c & 63)), 2;
  size_t n = c < 0x10000 ? 3 : 4;
  for (size_t i = n - 1; i > 0; i--, c >>= 6) out[i] = (char)(0x80 | (c & 63));
  out[0] = (char)((n == 3 ? 0xe0 : 0xf0) | c);
  return n;
}

/* What an escape stands for, -1 when it is none. An escape is never shorter than the bytes it stands for. */
static long escape(struct reader *r) {
  static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
  if (r->at >= r->n) return -1;
  char c = r->doc->text[r->at++];
  const char *found = c ? strchr(names, c) : NULL;
  if (found) return values[found - names];
  if (c != 'u') return -1;
  long code = hex4(r);
  if (code <= 0 || (code >= 0xdc00 && code < 0xe000)) return -1;
  if (code < 0xd800 || code >= 0xe000) return code;
  if (!take(r, '\\') || !take(r, 'u')) return -1;
  long low = hex4(r);
  return low >= 0xdc00 && low < 0xe000 ? 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00) : -1;
}

static bool parse_string(struct reader *r) {
  struct json_node *node = node_new(r, JSON_STRING);
  if (!node || !take(r, '"')) return false;
  char *text = r->doc->text;
  size_t out = r->at;
  node->at = (uint32_t)out;
  while (r->at < r->n) {
    unsigned char c = (unsigned char)text[r->at++];
    if (c == '"') {
      node->count = (uint32_t)(out - node->at);
      text[out] = 0;
      return true;
    }
    if (c < 0x20) return false;
    if (c != '\\') {
      text[out++] = (char)c;
      continue;
    }
    long code = escape(r);
    if (code < 0) return false;
    out += put_utf8(text + out, (unsigned long)code);
  }
  return false;
}

static bool digits(struct reader *r) {
  size_t from = r->at;
  while (r->at < r->n && r->doc->text[r->at] >= '0' && r->doc->text[r->at] <= '9') r->at++;
  return r->at > from;
}

static bool parse_number(struct reader *r) {
  struct json_node *node = node_new(r, JSON_NUMBER);
  if (!node) return false;
  bool negative = take(r, '-');
  size_t from = r->at;
  if (!digits(r) || (r->doc->text[from] == '0' && r->at - from > 1)) return false;
  node->integer = true;
  for (size_t i = from; i < r->at; i++) {
    int digit = r->doc->text[i] - '0';
    if (__builtin_mul_overflow(node->value, 10, &node->value) ||
        __builtin_sub_overflow(node->value, digit, &node->value))
      node->integer = false;
  }
  /* Collected as a negative number, which has the larger range. */
  if (!negative && __builtin_sub_overflow(0, node->value, &node->value)) node->integer = false;
  if (take(r, '.')) {
    node->integer = false;
    if (!digits(r)) return false;
  }
  if (take(r, 'e') || take(r, 'E')) {
    node->integer = false;
    if (!take(r, '+')) take(r, '-');
    if (!digits(r)) return false;
  }
  return true;
}

static bool parse_word(struct reader *r, const char *word, enum json_kind kind) {
  size_t n = strlen(word);
  if (r->n - r->at < n || memcmp(r->doc->text + r->at, word, n) != 0) return false;
  r->at += n;
  return node_new(r, kind) != NULL;
}

static bool parse_value(struct reader *r, int depth);

static bool parse_members(struct reader *r, bool object, int depth) {
  uint32_t self = r->doc->used;
  if (depth >= JSON_DEPTH_MAX || !node_new(r, object ? JSON_OBJECT : JSON_ARRAY)) return false;
  char close = object ? '}' : ']';
  r->at++;
  skip_space(r);
  if (!take(r, close)) {
    do {
      skip_space(r);
      if (object) {
        if (!parse_string(r)) return false;
        skip_space(r);
        if (!take(r, ':')) return false;
      }
      if (!parse_value(r, depth + 1)) return false;
      r->doc->nodes[self].count++;
      skip_space(r);
    } while (take(r, ','));
    if (!take(r, close)) return false;
  }
  r->doc->nodes[self].end = r->doc->used;
  return true;
}

static bool parse_value(struct reader *r, int depth) {
  skip_space(r);
  if (r->at >= r->n) return false;
  switch (r->doc->text[r->at]) {
    case '{': return parse_members(r, true, depth);
    case '[': return parse_members(r, false, depth);
    case '"': return parse_string(r);
    case 'n': return parse_word(r, "null", JSON_NULL);
    case 't': return parse_word(r, "true", JSON_TRUE);
    case 'f': return parse_word(r, "false", JSON_FALSE);
    default: return parse_number(r);
  }
}

bool json_parse(struct json *doc, char *text, size_t n) {
  doc->text = text;
  doc->used = 0;
  struct reader r = {doc, 0, n};
  if (!parse_value(&r, 0)) return false;
  skip_space(&r);
  return r.at == r.n;
}

bool json_is(const struct json *doc, long node, enum json_kind kind) {
  return node >= 0 && (uint32_t)node < doc->used && doc->nodes[node].kind == kind;
}

long json_get(const struct json *doc, long object, const char *key) {
  if (!json_is(doc, object, JSON_OBJECT)) return -1;
  for (uint32_t i = (uint32_t)object + 1; i < doc->nodes[object].end; i = doc->nodes[i + 1].end)
    if (strcmp(doc->text + doc->nodes[i].at, key) == 0) return (long)i + 1;
  return -1;
}

const char *json_string(const struct json *doc, long node) {
  return json_is(doc, node, JSON_STRING) ? doc->text + doc->nodes[node].at : NULL;
}

bool json_integer(const struct json *doc, long node, int64_t min, int64_t max, int64_t *value) {
  if (!json_is(doc, node, JSON_NUMBER) || !doc->nodes[node].integer) return false;
  int64_t found = doc->nodes[node].value;
  if (found < min || found > max) return false;
  *value = found;
  return true;
}
