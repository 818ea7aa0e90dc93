#include "train/run_data.h"

#include <algorithm>

#include "base/assets.h"
#include "base/check.h"
#include "base/text.h"
#include "data/document_encoder.h"
#include "data/line_reader.h"
#include "data/tokenizer/tokenizer.h"

namespace nereus {
namespace {

using data::Tokenizer;

struct Wanted {
  std::string section;  // training or validation
  std::string dataset;
  std::optional<std::string> path;
  const char* sample;  // of the assets, for c4_test
  bool loop;
};

std::string text_path(const Wanted& w) {
  if (w.path) return resolve_asset(*w.path);
  NEREUS_CHECK(
      kConfig, w.dataset == "c4_test",
      "{}.dataset = {} needs {}.dataset_path: a folder with C4's shards "
      "(c4-train.00000-of-01024.json.gz, ...), which `nereus download dataset` fetches. For a try "
      "without them, c4_test is the sample that comes with the program.",
      w.section, w.dataset, w.section);
  const std::string path = asset_path(w.sample);
  NEREUS_CHECK(kConfig, !path.empty(),
               "{}.dataset = c4_test: the sample that comes with the program is not next to it "
               "(assets/{}); set {}.dataset_path",
               w.section, w.sample, w.section);
  return path;
}

std::unique_ptr<data::RowSource> open_source(const JobConfig& c, const ModelArgs& args,
                                             const Wanted& w, const data::RowPlan& plan,
                                             std::optional<int32_t>* eos_id) {
  const auto seed = static_cast<uint64_t>(c.training.seed.value_or(0));
  if (w.dataset == "random") return data::random_rows(plan, args.vocab_size, seed);
  if (w.dataset == "tokens") {
    NEREUS_CHECK(
        kConfig, w.path.has_value(),
        "{}.dataset = tokens needs {}.dataset_path: a .safetensors with inputs and labels, or a "
        ".npy of ids",
        w.section, w.section);
    return data::token_rows(*w.path, plan, args.vocab_size, w.loop);
  }
  NEREUS_CHECK(
      kConfig, w.dataset == "c4" || w.dataset == "c4_test" || w.dataset == "c4_validation",
      "Dataset {} is not supported. Supported datasets are: ['c4', 'c4_test', 'c4_validation', "
      "'tokens', 'random']\n  {}.dataset = \"{}\": set it to one of them.",
      w.dataset, w.section, w.dataset);
  const std::string path = text_path(w);
  data::find_shards(path, w.dataset == "c4_validation" ? "validation" : "train",
                    plan.path_key);  // a wrong path is said before the tokenizer is looked for
  const std::shared_ptr<const Tokenizer> tokenizer =
      Tokenizer::load(resolve_asset(c.model.hf_assets_path));
  NEREUS_CHECK(
      kConfig, tokenizer->vocab_size() <= args.vocab_size,
      "model.hf_assets_path = {}: its tokenizer has {} ids, but the model's vocabulary only {}; "
      "set model_overrides.vocab_size to at least {}",
      c.model.hf_assets_path, tokenizer->vocab_size(), args.vocab_size, tokenizer->vocab_size());
  if (eos_id != nullptr) *eos_id = tokenizer->eos_id();
  return data::text_rows({.dataset = w.dataset,
                          .path = path,
                          .order = c.data.order,
                          .workers = static_cast<int>(c.data.workers),
                          .loop = w.loop,
                          .vocab_size = args.vocab_size,
                          .make_encoder = data::document_encoder(tokenizer)},
                         plan);
}

}  // namespace

RunData open_run_data(const JobConfig& c, const ModelArgs& args, int dp_rank, int dp_size) {
  const data::RowPlan plan{.seq_len = c.training.seq_len,
                           .global_batch = c.global_batch(dp_size),
                           .dp_rank = dp_rank,
                           .dp_size = dp_size};
  RunData out;
  auto source = open_source(c, args,
                            {.section = "training",
                             .dataset = lower(c.training.dataset),
                             .path = c.training.dataset_path,
                             .sample = "sample/en",
                             .loop = true},
                            plan, &out.eos_id);
  out.loader = std::make_unique<data::Loader>(std::move(source), plan);
  return out;
}

std::vector<data::Batch> validation_batches(const JobConfig& c, const ModelArgs& args, int64_t B,
                                            int dp_size) {
  const auto& v = c.validation;
  const int64_t S = c.training.seq_len;
  const auto source = open_source(
      c, args,
      {.section = "validation",
       .dataset = lower(v.dataset),
       .path = v.dataset_path,
       .sample = "sample/validation",
       .loop = lower(v.dataset) == "random"},
      {.seq_len = S, .global_batch = 1, .any_batch = true, .path_key = "validation.dataset_path"},
      nullptr);
  NEREUS_CHECK(kConfig, v.steps > 0 || lower(v.dataset) != "random",
               "validation.dataset = random has no end; set validation.steps");
  int64_t left = v.steps > 0 ? v.steps * v.local_batch_size : std::numeric_limits<int64_t>::max();
  std::vector<data::Batch> out;
  const auto empty = [&] {
    data::Batch batch;
    batch.inputs.assign(static_cast<size_t>(B * S), 0);
    batch.labels.assign(static_cast<size_t>(B * S), -100);
    return batch;
  };
  while (left > 0) {
    data::Batch batch = empty();
    const int64_t ask = std::min(B, left);
    batch.rows = source->next(ask, batch.inputs, batch.labels);
    if (batch.rows == 0) break;
    left -= batch.rows;
    const bool ended = batch.rows < ask;
    // What a source left unfilled may hold a row that did not come.
    std::fill(batch.labels.begin() + batch.rows * S, batch.labels.end(), -100);
    out.push_back(std::move(batch));
    if (ended) break;
  }
  NEREUS_CHECK(kConfig, !out.empty(), "validation.dataset_path: has no whole row of {} tokens", S);
  while (out.size() % static_cast<size_t>(dp_size) != 0) out.push_back(empty());
  return out;
}

}  // namespace nereus
