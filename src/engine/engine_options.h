// What a configuration asks of a run's engine and optimizer: the only place where a JobConfig
// becomes Engine::Options.
#pragma once

#include "config/job_config.h"
#include "config/model_args.h"
#include "engine/engine.h"
#include "engine/optimizer.h"
#include "engine/run_layout.h"

namespace nereus {

// The model's arguments of a run, its sequence length and end-of-document id included. Reads
// config.json where model.hf_config names one: call it once and pass the result on.
ModelArgs training_model_args(const JobConfig&);

// What an engine is made for: training, or the loss alone, without gradients and moments.
enum class EngineUse : uint8_t { training, evaluation };

// `world`: this rank's groups. `gpu`: the run is for a GPU (states in host
// memory exist only there). `layout` and `world` must outlive the engine. Throws Error{kConfig}
// for options that exclude each other.
Engine::Options engine_options(const JobConfig&, const ModelArgs&, const RunLayout& layout,
                               const RankWorld& world, bool gpu,
                               EngineUse use = EngineUse::training);

Optimizer::Options optimizer_options(const JobConfig&);

}  // namespace nereus
