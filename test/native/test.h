// A small test harness: LH_TEST(name) { ... } registers a case; EXPECT_* record failures and go
// on. main() runs all cases (or those whose name contains argv[1]) and prints
// "N passed, N failed"; the exit code is non-zero when a case failed or none ran.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

namespace lh_test {

struct Case {
  const char* name;
  void (*run)();
};
inline std::vector<Case>& cases() {
  static std::vector<Case> list;
  return list;
}
inline int& failures() {
  static int count = 0;
  return count;
}
struct Register {
  Register(const char* name, void (*run)()) { cases().push_back({name, run}); }
};
inline void fail(const char* file, int line, const std::string& what) {
  ++failures();
  std::printf("  %s:%d: %s\n", file, line, what.c_str());
}
template <typename A, typename B>
void expect_eq(const A& a, const B& b, const char* ta, const char* tb, const char* file, int line) {
  if (a == b) return;
  std::ostringstream text;
  text << "expected " << ta << " == " << tb;
  if constexpr (requires(std::ostream& o) { o << a << b; }) text << ", found " << a << " and " << b;
  fail(file, line, text.str());
}

inline int run_all(int argc, char** argv) {
  int passed = 0, failed = 0;
  for (const Case& c : cases()) {
    if (argc > 1 && !std::strstr(c.name, argv[1])) continue;
    const int before = failures();
    c.run();
    if (failures() == before) {
      ++passed;
    } else {
      ++failed;
      std::printf("FAILED %s (rerun: %s %s)\n", c.name, argv[0], c.name);
    }
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed > 0 || passed == 0 ? 1 : 0;
}

}  // namespace lh_test

#define LH_TEST(name)                                         \
  static void lh_test_##name();                               \
  static lh_test::Register lh_reg_##name(#name, lh_test_##name); \
  static void lh_test_##name()
#define EXPECT_TRUE(c) \
  do { if (!(c)) lh_test::fail(__FILE__, __LINE__, "expected " #c); } while (0)
#define EXPECT_EQ(a, b) lh_test::expect_eq((a), (b), #a, #b, __FILE__, __LINE__)
#define EXPECT_NEAR(a, b, tolerance)                                                          \
  do {                                                                                        \
    const double lh_a = (a), lh_b = (b);                                                      \
    if (!(std::fabs(lh_a - lh_b) <= (tolerance)))                                             \
      lh_test::fail(__FILE__, __LINE__, std::string("expected " #a " near " #b ", found ") +  \
                                            std::to_string(lh_a) + " and " + std::to_string(lh_b)); \
  } while (0)
#define LH_TEST_MAIN \
  int main(int argc, char** argv) { return lh_test::run_all(argc, argv); }
