// How the layers of a model are cut into the stages of a pipeline: TorchTitan's rules.
//
// By default the first and the last stage count the embedding and the head as
// pipeline_parallel_{first,last}_stage_less_layers layers; all layers are spread evenly, and the
// first stages take one more where they do not come out even. pipeline_parallel_layers_per_stage
// sets the number of stages; module_fqns_per_model_part says everything.
#pragma once

#include <string>
#include <vector>

#include "config/job_config.h"
#include "model/stage.h"

namespace nereus {

// How many stages a rank holds. `schedule` is a canonical name, or "" for a CSV's. Throws
// Error{kConfig} with TorchTitan's sentence and our keys.
int stages_per_rank(const JobConfig::Parallelism&, const std::string& schedule, int64_t layers);

// The part of each of `stages` stages, by TorchTitan's rule. Throws likewise.
std::vector<Stage::Part> split_layers(int64_t layers, int stages, int64_t first_less,
                                      int64_t last_less);
// The same from module_fqns_per_model_part: the names tok_embeddings, layers.N, norm and output, of
// each stage. Each once, in order, norm and output together.
std::vector<Stage::Part> split_by_names(int64_t layers, const std::vector<Strings>& names);

// By the configuration, for a schedule of `stages` stages.
std::vector<Stage::Part> split_model(const JobConfig::Parallelism&, int64_t layers, int stages);

// How many microbatches a local batch is. Throws when it does not divide.
int pipeline_microbatches(int64_t local_batch, int64_t microbatch);

// TorchTitan's warning, with the bubble it costs; "" when there are enough microbatches.
std::string few_microbatches_warning(int microbatches, int stages, double bubble);

}  // namespace nereus
