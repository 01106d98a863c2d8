// CHECK for programmer mistakes: prints the condition and place, then aborts. Never used on input.
#pragma once

#include <cstdio>
#include <cstdlib>

#define LH_CHECK(condition)                                                             \
  do {                                                                                  \
    if (!(condition)) {                                                                 \
      std::fprintf(stderr, "%s:%d: check failed: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                     \
    }                                                                                   \
  } while (0)
