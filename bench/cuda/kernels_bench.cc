// Speed of the CUDA kernels, and of whole steps made of them, beside the limits of the device.
//
//   kernels_bench [--tiny] [--only machine,attention,matmul,rows,step] [--json FILE] [--seconds N]
//
// The limits (copy bandwidth, cuBLASLt's best rate) are measured first and in any case. Rows that
// would begin after N seconds are skipped and say so. --tiny runs every section on operands of a
// few kilobytes, once: over the emulator, as a test. kernels_report.py lays the file of --json
// beside PyTorch's figures (kernels_torch.py).
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "sections.h"

namespace longhaul::bench {
namespace {

struct Section {
  const char* name;
  Status (*run)(BenchDevice&, Report&);
};
constexpr Section kSections[] = {{"machine", machine_section},
                                 {"attention", attention_section},
                                 {"matmul", matmul_section},
                                 {"rows", row_ops_section},
                                 {"step", step_section}};

struct Options {
  bool tiny = false;
  std::string only;
  std::string json;
  double seconds = 300;
};

bool is_wanted(const Options& options, std::string_view name) {
  if (options.only.empty() || name == "machine") return true;
  for (std::string_view rest = options.only; !rest.empty();) {
    const size_t comma = std::min(rest.find(','), rest.size());
    if (rest.substr(0, comma) == name) return true;
    rest.remove_prefix(std::min(comma + 1, rest.size()));
  }
  return false;
}

bool parse(int argc, char** argv, Options* options) {
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--tiny") {
      options->tiny = true;
      continue;
    }
    if (i + 1 == argc) return false;
    const std::string value = argv[++i];
    if (flag == "--only") {
      options->only = value;
    } else if (flag == "--json") {
      options->json = value;
    } else if (flag == "--seconds" && std::atof(value.c_str()) > 0) {
      options->seconds = std::atof(value.c_str());
    } else {
      return false;
    }
  }
  return true;
}

int run(const Options& options) {
  Report report;
  if (!report.open(options.json)) {
    std::fprintf(stderr, "cannot write %s\n", options.json.c_str());
    return 2;
  }
  auto device = BenchDevice::open(options.tiny, options.seconds);
  if (!device.ok()) {
    std::fprintf(stderr, "%s\n", device.status().message().c_str());
    return 1;
  }
  for (const Section& section : kSections) {
    if (!is_wanted(options, section.name)) continue;
    const Status status = section.run(*device.value(), report);
    if (!status.ok()) {
      std::fprintf(stderr, "%s\n", status.message().c_str());
      return 1;
    }
  }
  std::printf("%d rows measured\n", report.num_rows());
  return report.num_rows() > 0 ? 0 : 1;
}

}  // namespace
}  // namespace longhaul::bench

int main(int argc, char** argv) {
  longhaul::bench::Options options;
  if (!longhaul::bench::parse(argc, argv, &options)) {
    std::fprintf(stderr,
                 "usage: kernels_bench [--tiny] [--only machine,attention,matmul,rows,step] "
                 "[--json FILE] [--seconds N]\n");
    return 2;
  }
  return longhaul::bench::run(options);
}
