/* Tests of the text builder. */
#include "../../common/text.h"

#include "check.h"
#include "tests.h"

static void writes_numbers_and_quotes(void) {
  char buffer[100];
  struct text t = TEXT_IN(buffer);
  text_int(&t, 0);
  text_add(&t, " ");
  text_int(&t, INT64_MIN);
  text_add(&t, " ");
  text_quoted(&t, "a\"\\\n\x7f\xc3\xa9");
  CHECK_TEXT(text_end(&t), "0 -9223372036854775808 \"a\\\"\\\\\\u000a\\u007f\xc3\xa9\"");
  CHECK(!t.overflow);
}

static void cuts_and_remembers(void) {
  char buffer[5];
  struct text t = TEXT_IN(buffer), none = {buffer, 0, 0, false};
  text_add(&t, "abcd");
  CHECK(!t.overflow);
  text_add(&t, "e");
  CHECK(t.overflow);
  CHECK_TEXT(text_end(&t), "abcd");
  text_add(&none, "x");
  CHECK(none.overflow && none.length == 0);
}

void text_tests(void) {
  writes_numbers_and_quotes();
  cuts_and_remembers();
}
