// Included before every file of a mutation build (-include): each barrier, wait and event of the
// sources has become `(longhaul_mutant(n) ? nothing : the call)`, so that one build holds every
// mutant.
//   LONGHAUL_MUTANT=n         the call that is left out; 0 or unset: none
//   LONGHAUL_MUTANT_TRACE=f   at exit, the numbers of all calls that were reached are added to f
#pragma once

#ifdef __cplusplus
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>

namespace longhaul_mutation {

constexpr int kMutantsMax = 4096;

class Mutants {
 public:
  Mutants() {
    if (const char* text = std::getenv("LONGHAUL_MUTANT")) active_ = std::atoi(text);
    trace_ = std::getenv("LONGHAUL_MUTANT_TRACE");
  }
  ~Mutants() {
    std::FILE* file = trace_ ? std::fopen(trace_, "a") : nullptr;
    if (!file) return;
    for (int n = 1; n < kMutantsMax; ++n) {
      const std::atomic<bool>& reached = reached_[static_cast<size_t>(n)];
      if (reached.load(std::memory_order_relaxed)) std::fprintf(file, "%d\n", n);
    }
    std::fclose(file);
  }
  bool is_active(int n) {
    reached_[static_cast<size_t>(n)].store(true, std::memory_order_relaxed);
    return n == active_;
  }

 private:
  int active_ = 0;
  const char* trace_ = nullptr;
  std::array<std::atomic<bool>, kMutantsMax> reached_{};
};

inline Mutants mutants;

}  // namespace longhaul_mutation

inline bool longhaul_mutant(int n) { return longhaul_mutation::mutants.is_active(n); }
#endif
