#include "simt/registry.h"

#include <algorithm>
#include <mutex>

namespace longhaul::simt {
namespace {

struct Table {
  std::mutex mutex;
  std::vector<const Instantiation*> entries;
};
Table& table() {
  static Table* const instance = new Table;   // outlives every static destructor
  return *instance;
}

}  // namespace

Instantiation::Instantiation(std::string name) : name_(std::move(name)) {
  const std::lock_guard lock(table().mutex);
  table().entries.push_back(this);
}

std::vector<const Instantiation*> instantiations() {
  std::vector<const Instantiation*> list;
  {
    const std::lock_guard lock(table().mutex);
    list = table().entries;
  }
  std::sort(list.begin(), list.end(),
            [](const Instantiation* a, const Instantiation* b) { return a->name() < b->name(); });
  return list;
}

// GCC: "std::string ...name_of() [with auto Kernel = rms_norm_kernel<Config{4}>; std::string = ...]"
// Clang: "std::string ...name_of() [Kernel = &rms_norm_kernel<Config{4}>]"
std::string kernel_name(std::string_view pretty_function) {
  constexpr std::string_view key = "Kernel = ";
  const size_t start = pretty_function.find(key);
  if (start == std::string_view::npos) return std::string(pretty_function);
  std::string_view rest = pretty_function.substr(start + key.size());
  if (!rest.empty() && rest.front() == '&') rest.remove_prefix(1);
  int depth = 0;
  size_t end = 0;
  for (; end < rest.size(); ++end) {
    const char c = rest[end];
    if (c == '<' || c == '{' || c == '(' || c == '[') ++depth;
    if (c == '>' || c == '}' || c == ')' || c == ']') {
      if (depth == 0) break;
      --depth;
    }
    if (c == ';' && depth == 0) break;
  }
  std::string name(rest.substr(0, end));
  for (const std::string_view noise : {"longhaul::device::", "longhaul::"}) {
    for (size_t at = name.find(noise); at != std::string::npos; at = name.find(noise)) {
      name.erase(at, noise.size());
    }
  }
  return name;
}

}  // namespace longhaul::simt
