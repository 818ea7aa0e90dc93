// The data of a run, from its configuration.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "config/job_config.h"
#include "config/model_args.h"
#include "data/loader.h"

namespace nereus {

struct RunData {
  std::unique_ptr<data::Loader> loader;  // a batch a step
  std::optional<int32_t> eos_id;         // the tokenizer's, if the data set has one
};

// training.dataset and what belongs to it: the rows of data-parallel rank dp_rank of dp_size.
// Throws Error{kConfig}: unknown data set, no path, no tokenizer.
RunData open_run_data(const JobConfig&, const ModelArgs&, int dp_rank, int dp_size);

// The rows of validation.dataset, all of them on every rank, in a multiple of dp_size batches of
// `rows`, filled up with rows whose labels are ignored.
std::vector<data::Batch> validation_batches(const JobConfig&, const ModelArgs&, int64_t rows,
                                            int dp_size);

}  // namespace nereus
