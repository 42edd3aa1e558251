/* Tests of user resolution against docker's rules. */
#include "../src/users.h"

#include "check.h"
#include "tests.h"

static const char passwd[] = "root:x:0:0:root:/root:/bin/sh\nbroken\nbad:x:abc:1::/:\n"
                             "u:x:1000:1001:U:/home/u:/bin/sh\n1234:x:7:8::/seven:\nlast:x:9:9::/last:";
static const char group[] = "root:x:0:\nwheel:x:10:root,u\nu:x:1001:u\naudio:x:29:x,u\nnope:x:30:uu\nempty:x:31";

static struct identity who;
static bool resolve(const char *user) { return user_resolve(passwd, group, user, &who); }

static void resolves_names_and_numbers(void) {
  CHECK(resolve("u") && who.uid == 1000 && who.gid == 1001 && who.group_count == 2);
  CHECK(who.groups[0] == 10 && who.groups[1] == 29);
  CHECK_TEXT(who.home, "/home/u");
  CHECK(resolve("1000") && who.uid == 1000 && who.group_count == 2);
  CHECK(resolve("") && who.uid == 0 && who.gid == 0 && who.group_count == 1);
  CHECK_TEXT(who.home, "/root");
  CHECK(resolve("last") && who.uid == 9);
  CHECK(resolve("1234") && who.uid == 7);
}

static void takes_unknown_numbers_as_they_are(void) {
  CHECK(resolve("4242") && who.uid == 4242 && who.gid == 0 && who.group_count == 0);
  CHECK_TEXT(who.home, "/");
  CHECK(resolve("4242:77") && who.gid == 77);
}

static void takes_a_named_group_alone(void) {
  CHECK(resolve("u:audio") && who.uid == 1000 && who.gid == 29 && who.group_count == 0);
  CHECK(resolve("u:5") && who.gid == 5);
  CHECK(resolve("u:") && who.gid == 1001);
}

static void refuses_what_is_not_there(void) {
  static const char *const bad[] = {"zz", "bad", "u:zz", "-1", "4294967295", "99999999999", "zz:0", ":zz", "u x"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    if (resolve(bad[i])) CHECK_TEXT(bad[i], "refused");
  CHECK(user_resolve("", "", "", &who) && who.uid == 0);
  CHECK(!user_resolve("", "", "root", &who));
}

void users_tests(void) {
  resolves_names_and_numbers();
  takes_unknown_numbers_as_they_are();
  takes_a_named_group_alone();
  refuses_what_is_not_there();
}
