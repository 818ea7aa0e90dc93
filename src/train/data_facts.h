// What a run reads, by a look at its files: for --dry-run, which needs none of them, and for those
// who queue runs.
#pragma once

#include <string>
#include <vector>

#include "config/job_config.h"
#include "config/model_args.h"

namespace nereus {

struct DataFacts {
  // A line for the training set and, where it is enabled, one for validation's: how many shards,
  // the first and the last, their bytes; below it what cannot be read, with remedies.
  std::string text;

  // What a run on this machine would end for: files that are not there or cannot be read.
  struct Missing {
    std::string path;  // "": none is named
    std::string text;  // "the data set /data/c4 (training.dataset_path): ..."
  };
  std::vector<Missing> missing;
};

// Throws Error{kConfig} for what no other file could mend: a data set that is not known, a
// tokenizer with more ids than the model, document masks without a token that ends documents.
DataFacts data_facts(const JobConfig&, const ModelArgs&);

}  // namespace nereus
