// Rows of the kernel bench: a line of text each on stdout, and a JSON object a line in a file,
// which kernels_report.py lays beside PyTorch's figures. Written as they come, so that a run that
// is cut off leaves what it measured.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

namespace longhaul::bench {

// Seconds of one call.
struct Timing {
  double median = 0;
  double min = 0;
  double max = 0;
};

// What a row's work is counted in, and so which limit of the machine it is held against.
enum class Work {
  kBytes,   // GB/s beside copying
  kFlops,   // TFLOP/s beside cuBLASLt's
  kSeconds, // ms beside the time that the limit allows
};

struct Row {
  std::string section;     // "attention"
  std::string name;        // "decode 16 x 8192 bf16": also what PyTorch's figure is found by
  std::string kernel = {}; // "attention_decode + attention_combine"
  Timing time = {};
  Work work = Work::kBytes;
  double amount = 0;       // bytes or flops of one call; kSeconds: seconds at the limit
  double target = 0;       // share of the limit that is aimed at; 0 = none
  std::string note = {};
};

class Report {
 public:
  // `json_path` may be empty. False: the file cannot be written.
  bool open(const std::string& json_path);
  ~Report();

  // The machine's limits: later rows are held against them.
  void set_limits(double copy_bytes_per_second, double flops_per_second);
  double copy_bytes_per_second() const { return copy_; }
  double flops_per_second() const { return flops_; }

  void machine(const std::string& key, const std::string& value);
  void add(const Row& row);
  // A row that was not measured, and why.
  void skip(const std::string& section, const std::string& name, const std::string& reason);
  int num_rows() const { return num_rows_; }

 private:
  double share(const Row& row) const;
  void json(const std::string& text);

  std::FILE* file_ = nullptr;
  double copy_ = 0;
  double flops_ = 0;
  int num_rows_ = 0;
};

}  // namespace longhaul::bench
