// The one place where a failed launch leaves its number and words.
#pragma once

#include <source_location>
#include <string>

namespace longhaul::simt {

// "rms_norm.cuh:42": the file's last path component is enough to find it.
std::string place(std::source_location site);

void set_fault(int code, std::string message);
// Number of the fault of the launch that this thread runs; 0 if there is none.
int fault_code();
void clear_fault_code();

}  // namespace longhaul::simt
