#include "simt/registry.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <mutex>

namespace longhaul::simt {
namespace {

struct Table {
  std::mutex mutex;
  std::vector<const Instantiation*> entries;
};
Table& table() {
  static Table* const instance = new Table;  // outlives every static destructor
  return *instance;
}

constexpr std::string_view kCompiled = "compiled ", kExecuted = "executed ";

// One write at the end of the file: processes that run at once do not mix their lines.
void append(const char* path, const std::string& text) {
  const int file = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  const bool written =
      file >= 0 && write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  if (!written) std::perror(path);
  if (file >= 0) close(file);
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

void Instantiation::report_execution() const {
  const char* const path = std::getenv("LONGHAUL_SIMT_COVERAGE");
  if (!path || !*path) return;
  std::string text;
  static std::once_flag first;
  std::call_once(first, [&] {
    for (const Instantiation* each : instantiations()) {
      text.append(kCompiled).append(each->name()).append("\n");
    }
  });
  append(path, text.append(kExecuted).append(name_).append("\n"));
}

bool Coverage::add(std::istream& lines) {
  bool good = true;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with(kCompiled)) {
      compiled.insert(line.substr(kCompiled.size()));
    } else if (line.starts_with(kExecuted)) {
      executed.insert(line.substr(kExecuted.size()));
    } else {
      good = false;
    }
  }
  return good;
}

std::vector<std::string> Coverage::missing() const {
  std::vector<std::string> names;
  std::set_difference(compiled.begin(), compiled.end(), executed.begin(), executed.end(),
                      std::back_inserter(names));
  return names;
}

// GCC: "std::string ...name_of() [with auto Kernel = rms_norm_kernel<Config{4}>; std::string =
// ...]" Clang: "std::string ...name_of() [Kernel = &rms_norm_kernel<Config{4}>]"
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
