// The loss of a checkpoint on a set of rows, on any layout: what a training run's validation of
// these weights would say, computed by the same code, without gradients and optimizer states.
#pragma once

#include <cmath>
#include <string>

#include "comm/communicator.h"
#include "config/job_config.h"
#include "control/world.h"
#include "train/run_data.h"
#include "train/saved_model.h"

namespace nereus {

struct EvaluationResult {  // the same on all ranks
  double loss = 0;         // mean over the labels that are not ignored
  int64_t tokens = 0, labels = 0;
  double seconds = 0;  // of the passes

  double perplexity() const { return std::exp(loss); }
};

// All ranks call it. validation.steps bounds the rows of the set. The
// model is the configuration's (model.hf_config, ...), of whose weights config.json may say
// something else: a warning. Throws Error{kConfig} for what the user can correct, Error{kNumeric}
// when the loss is not finite.
EvaluationResult evaluate_checkpoint(const JobConfig&, const SavedModel&, const DataSet& set,
                                     Stream&, Communicator& all, World&);

}  // namespace nereus
