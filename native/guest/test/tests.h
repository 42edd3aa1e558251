/* Groups of tests. */
#pragma once
void frame_tests(void);
void ring_tests(void);
void json_tests(void);
void text_tests(void);
void tree_tests(void);
void limits_tests(void);
void users_tests(void);
