// Which kernel instantiations exist and which have run. launch<Kernel> registers its
// instantiation before main() starts and marks it on each launch, so that a check can list those
// that can be dispatched and that no case executes.
//
// Where LONGHAUL_SIMT_COVERAGE names a file, each process that launches appends to it, a line each:
// "compiled <name>" for all it carries, "executed <name>" when one first runs. Merging the files of
// many processes is reading them all: simt_coverage_test --check FILE.
#pragma once

#include <atomic>
#include <istream>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace longhaul::simt {

class Instantiation {
 public:
  // Registers for the life of the process. `name` is a readable kernel<Config> text.
  explicit Instantiation(std::string name);
  Instantiation(const Instantiation&) = delete;
  Instantiation& operator=(const Instantiation&) = delete;

  const std::string& name() const { return name_; }
  bool executed() const { return executed_.load(std::memory_order_relaxed); }
  void mark_executed() {
    if (!executed() && !executed_.exchange(true)) report_execution();
  }

 private:
  void report_execution() const;

  std::string name_;
  std::atomic<bool> executed_ = false;
};

// All instantiations linked into this process, by name.
std::vector<const Instantiation*> instantiations();

// What the lines of coverage files say together.
struct Coverage {
  std::set<std::string> compiled;
  std::set<std::string> executed;

  // Adds a file's lines. False if one of them is none of the two kinds.
  bool add(std::istream& lines);
  // Compiled and never executed.
  std::vector<std::string> missing() const;
};

// "kernel<Config>" out of the compiler's text for a function with a template argument `Kernel`.
std::string kernel_name(std::string_view pretty_function);

namespace detail {
template <auto Kernel>
std::string name_of() {
  return kernel_name(__PRETTY_FUNCTION__);
}
template <auto Kernel>
struct Registered {
  static inline Instantiation value{name_of<Kernel>()};
};
}  // namespace detail

// Naming it anywhere registers it: the static member is initialized before main().
template <auto Kernel>
Instantiation& instantiation() {
  return detail::Registered<Kernel>::value;
}

}  // namespace longhaul::simt
