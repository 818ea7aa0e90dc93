// What a run needs from the hub, and where it belongs: tokenizer, data set, weights.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "hub/download.h"
#include "recipe/variables.h"

namespace nereus::recipe {

inline constexpr const char* kModelRepository = "deepseek-ai/DeepSeek-V3.1-Base";
inline constexpr const char* kDatasetRepository = "allenai/c4";
inline constexpr int kDatasetShards = 1024;

// LLMB_INSTALL, LLMB_WORKLOAD and LLMB_HF_MAX_WORKERS of this process.
Variables artifact_variables();

// $LLMB_WORKLOAD/torchtitan/assets/hf/NAME, the same below $LLMB_INSTALL, or ./assets/hf/NAME:
// where the recipe looks for tokenizer and weights.
std::string model_folder(const Variables&, const std::string& repository);
// $LLMB_INSTALL/datasets/c4, or ./datasets/c4.
std::string dataset_folder(const Variables&);
int download_workers(const Variables&);

hub::DownloadRequest tokenizer_request(const std::string& repository, const std::string& folder);
hub::DownloadRequest model_request(const std::string& repository, const std::string& folder);
// C4's English texts: the first `shards` training shards and one of validation, or all of it.
hub::DownloadRequest dataset_request(std::optional<int> shards, const std::string& folder);

}  // namespace nereus::recipe
