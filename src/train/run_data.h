// The data of a run, from its configuration.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "config/job_config.h"
#include "config/model_args.h"
#include "data/loader.h"
#include "data/tokenizer/tokenizer.h"
#include "train/data_set.h"

namespace nereus {

struct RunData {
  std::unique_ptr<data::Loader> loader;  // a batch a step
  bool tokenized = false;                // text, by the tokenizer of model.hf_assets_path
  std::optional<int32_t> eos_id;         // that tokenizer's: it is put after each document
};

// training.dataset and what belongs to it: the rows of data-parallel rank dp_rank of dp_size, from
// the position of `saved` on (Loader::state() of all data-parallel ranks that there were). The
// loader keeps `ahead` batches ready. Throws Error{kConfig}: unknown data set, no path, no
// tokenizer; a position that it cannot go on from.
RunData open_run_data(const JobConfig&, const ModelArgs&, int dp_rank, int dp_size, int ahead,
                      const data::SavedStates& saved = {});

// Sets args.eos_id, the token that ends a document, where attention stops at it: what the data set
// puts there, which is its tokenizer's; without a tokenizer what config.json says. Says which of
// two that differ is used. Throws Error{kConfig} when nothing ends a document.
void choose_end_of_document(const JobConfig&, const RunData&, ModelArgs& args);

// What the above throw for settings that contradict each other.
void check_vocabulary(const JobConfig&, const ModelArgs&, const data::Tokenizer&);
void check_end_of_document(const JobConfig&, const RunData&, const ModelArgs&);

// Of all documents of the run, from the status of each rank's source. A collective of all ranks.
data::SourceStatus::Part of_all_ranks(const data::SourceStatus& mine, Stream&, Communicator& all);

struct ValidationRows {
  std::vector<data::Batch> mine;  // as many on every data-parallel rank
  // Of all ranks' batches: tokens of rows that were read, and labels that are not ignored.
  int64_t tokens = 0, counted = 0;
};

// A data set, read to its end or to validation.steps, in batches of `rows`, of which batch i is
// data-parallel rank i % dp_size's: those of dp_rank are kept. What lacks of a whole number of
// batches a rank is filled up with rows whose labels are ignored. `about` (may be null) gets what
// choose_end_of_document() wants to know.
ValidationRows validation_rows(const JobConfig&, const ModelArgs&, const DataSet&, int64_t rows,
                               int dp_rank, int dp_size, RunData* about);

}  // namespace nereus
