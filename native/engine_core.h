// The engine over any backend; Engine::create picks one by name. Tests hand in their own.
#pragma once

#include <memory>
#include <string>

#include "backend/backend.h"
#include "engine.h"

namespace longhaul {

Result<std::unique_ptr<Engine>> create_engine(const ModelConfig& config, const WeightSet& weights,
                                              std::shared_ptr<void> keep_alive,
                                              const EngineOptions& options,
                                              std::unique_ptr<Backend> backend,
                                              const std::string& backend_reason = {});

}  // namespace longhaul
