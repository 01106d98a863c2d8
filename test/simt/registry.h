// Which kernel instantiations exist and which have run. launch<Kernel> registers its
// instantiation before main() starts and marks it on each launch, so that a check can list those
// that can be dispatched and that no case executes (coverage.h).
#pragma once

#include <atomic>
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
  void mark_executed() { executed_.store(true, std::memory_order_relaxed); }

 private:
  std::string name_;
  std::atomic<bool> executed_ = false;
};

// All instantiations linked into this process, by name.
std::vector<const Instantiation*> instantiations();

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
