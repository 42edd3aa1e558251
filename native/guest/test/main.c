/* Runs all unit tests of the agent natively. */
#include <stdio.h>

#include "tests.h"

int failures_total;

int main(void) {
  frame_tests();
  ring_tests();
  json_tests();
  text_tests();
  tree_tests();
  limits_tests();
  users_tests();
  if (failures_total == 0) puts("guest unit tests: ok");
  return failures_total != 0;
}
