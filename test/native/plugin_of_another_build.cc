// A plug-in as another version of the sources would have built it, for cuda_plugin_test: its ABI
// text differs, and calling anything else of it would crash.
#include "backend/plugin_abi.h"

extern "C" __attribute__((visibility("default"))) const longhaul::BackendPlugin*
longhaul_backend_plugin() {
  static const longhaul::BackendPlugin plugin{"longhaul 0.0.0 of another build", "cuda", nullptr};
  return &plugin;
}
