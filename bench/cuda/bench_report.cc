#include "bench_report.h"

#include <cstdarg>

namespace longhaul::bench {
namespace {

std::string format(const char* text, ...) __attribute__((format(printf, 1, 2)));
std::string format(const char* text, ...) {
  char buffer[1024];
  std::va_list arguments;
  va_start(arguments, text);
  std::vsnprintf(buffer, sizeof buffer, text, arguments);
  va_end(arguments);
  return buffer;
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (static_cast<unsigned char>(c) < 0x20) {
      out += format("\\u%04x", c);
    } else {
      out += c;
    }
  }
  return out + "\"";
}

}  // namespace

bool Report::open(const std::string& json_path) {
  if (json_path.empty()) return true;
  file_ = std::fopen(json_path.c_str(), "w");
  return file_ != nullptr;
}

Report::~Report() {
  if (file_) std::fclose(file_);
}

void Report::set_limits(double copy_bytes_per_second, double flops_per_second) {
  copy_ = copy_bytes_per_second;
  flops_ = flops_per_second;
}

void Report::json(const std::string& text) {
  if (!file_) return;
  std::fprintf(file_, "%s\n", text.c_str());
  std::fflush(file_);
}

void Report::machine(const std::string& key, const std::string& value) {
  std::printf("%s: %s\n", key.c_str(), value.c_str());
  json("{\"machine\": " + quoted(key) + ", \"value\": " + quoted(value) + "}");
}

// Of the limit that the row's work runs into; 0 while that is not known.
double Report::share(const Row& row) const {
  switch (row.work) {
    case Work::kBytes: return copy_ > 0 ? row.amount / row.time.median / copy_ : 0;
    case Work::kFlops: return flops_ > 0 ? row.amount / row.time.median / flops_ : 0;
    case Work::kSeconds: return row.amount / row.time.median;
  }
  return 0;
}

void Report::add(const Row& row) {
  ++num_rows_;
  const double part = share(row);
  std::string rate, unit;
  switch (row.work) {
    case Work::kBytes:
      rate = format("%8.1f", row.amount / row.time.median * 1e-9);
      unit = "GB/s";
      break;
    case Work::kFlops:
      rate = format("%8.1f", row.amount / row.time.median * 1e-12);
      unit = "TFLOP/s";
      break;
    case Work::kSeconds:
      rate = format("%8.3f", row.amount * 1e3);
      unit = "ms at the limit";
      break;
  }
  std::printf("%-10s %-34s %11.1f us (%.1f .. %.1f) %s %s", row.section.c_str(), row.name.c_str(),
              row.time.median * 1e6, row.time.min * 1e6, row.time.max * 1e6, rate.c_str(),
              unit.c_str());
  if (part > 0) std::printf(", %.0f %% of the limit", part * 100);
  if (row.target > 0) std::printf(" (target %.0f %%)", row.target * 100);
  if (!row.note.empty()) std::printf(", %s", row.note.c_str());
  std::printf("\n");
  std::fflush(stdout);
  json(format("{\"section\": %s, \"name\": %s, \"kernel\": %s, \"us\": %.3f, \"us_min\": %.3f, "
              "\"us_max\": %.3f, \"rate\": %s, \"unit\": %s, \"share\": %.4f, \"target\": %.3f, "
              "\"note\": %s}",
              quoted(row.section).c_str(), quoted(row.name).c_str(), quoted(row.kernel).c_str(),
              row.time.median * 1e6, row.time.min * 1e6, row.time.max * 1e6, rate.c_str(),
              quoted(unit).c_str(), part, row.target, quoted(row.note).c_str()));
}

void Report::skip(const std::string& section, const std::string& name, const std::string& reason) {
  std::printf("%-10s %-34s skipped: %s\n", section.c_str(), name.c_str(), reason.c_str());
  std::fflush(stdout);
  json("{\"section\": " + quoted(section) + ", \"name\": " + quoted(name) +
       ", \"skipped\": " + quoted(reason) + "}");
}

}  // namespace longhaul::bench
