#include "recipe/artifacts.h"

#include <cstdlib>

#include "base/check.h"

namespace nereus::recipe {
namespace {

std::string value(const Variables& v, const char* name) {
  const auto it = v.find(name);
  return it == v.end() ? "" : it->second;
}

}  // namespace

Variables artifact_variables() {
  Variables out;
  for (const char* name : {"LLMB_INSTALL", "LLMB_WORKLOAD", "LLMB_HF_MAX_WORKERS"})
    if (const char* text = std::getenv(name)) out[name] = text;
  return out;
}

std::string model_folder(const Variables& v, const std::string& repository) {
  const std::string name = repository.substr(repository.rfind('/') + 1);
  std::string workload = value(v, "LLMB_WORKLOAD");
  if (workload.empty() && !value(v, "LLMB_INSTALL").empty())
    workload = value(v, "LLMB_INSTALL") + "/workloads/pretrain_deepseek-v3-torchtitan";
  return (workload.empty() ? "." : workload + "/torchtitan") + "/assets/hf/" + name;
}

std::string dataset_folder(const Variables& v) {
  const std::string install = value(v, "LLMB_INSTALL");
  return (install.empty() ? "." : install) + "/datasets/c4";
}

int download_workers(const Variables& v) {
  const std::string text = value(v, "LLMB_HF_MAX_WORKERS");
  if (text.empty()) return 4;
  char* end = nullptr;
  const long n = std::strtol(text.c_str(), &end, 10);
  NEREUS_CHECK(kConfig, *end == '\0' && n >= 1 && n <= 64,
               "LLMB_HF_MAX_WORKERS = {}: it must be a whole number from 1 to 64 (files at once)",
               text);
  return static_cast<int>(n);
}

hub::DownloadRequest tokenizer_request(const std::string& repository, const std::string& folder) {
  return {.repository = {.name = repository},
          .folder = folder,
          // [.] makes a pattern of a name: taken where the repository has it.
          .include = {"tokenizer.json", "tokenizer[._]*", "config[.]json",
                      "special_tokens_map[.]json", "vocab[.]*", "merges[.]*"}};
}

hub::DownloadRequest model_request(const std::string& repository, const std::string& folder) {
  return {.repository = {.name = repository},
          .folder = folder,
          .include = {"*.safetensors", "*.json", "tokenizer[._]*", "vocab[.]*", "merges[.]*"}};
}

hub::DownloadRequest dataset_request(std::optional<int> shards, const std::string& folder) {
  hub::DownloadRequest r{
      .repository = {.kind = hub::Repository::Kind::dataset, .name = kDatasetRepository},
      .folder = folder,
      .include = {"en/*"}};
  if (!shards) return r;
  NEREUS_CHECK(kConfig, *shards >= 1 && *shards <= kDatasetShards,
               "{} shards: C4's English texts have 1 to {} training shards", *shards,
               kDatasetShards);
  r.include = {"en/c4-validation.00000-of-00008.json.gz"};
  for (int i = 0; i < *shards; ++i)
    r.include.push_back(fmt::format("en/c4-train.{:05}-of-{:05}.json.gz", i, kDatasetShards));
  return r;
}

}  // namespace nereus::recipe
