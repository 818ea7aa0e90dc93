#include "train/run_data.h"

#include <algorithm>

#include "base/assets.h"
#include "base/check.h"
#include "base/log.h"
#include "data/document_encoder.h"
#include "data/shards.h"
#include "data/tokenizer/tokenizer.h"

namespace nereus {
namespace {

using data::Tokenizer;

constexpr const char* kNameEndOfDocument =
    "name it there, as in {\"eos_token\": \"</s>\"}: it must be a token of tokenizer.json";

std::unique_ptr<data::RowSource> open_source(const JobConfig& c, const ModelArgs& args,
                                             const DataSet& set, bool loop,
                                             const data::RowPlan& plan, RunData* about,
                                             const data::SavedStates& saved = {}) {
  const auto seed = static_cast<uint64_t>(c.training.seed.value_or(0));
  if (set.name == "random") return data::random_rows(plan, args.vocab_size, seed, saved);
  set.require_path();
  if (set.name == "tokens") return data::token_rows(set.path, plan, args.vocab_size, loop, saved);
  // A wrong path is said before the tokenizer is looked for.
  data::find_shards(set.path, set.split, set.path_key());
  const std::shared_ptr<const Tokenizer> tokenizer =
      Tokenizer::load(resolve_asset(c.model.hf_assets_path));
  check_vocabulary(c, args, *tokenizer);
  if (about != nullptr) {
    about->tokenized = true;
    about->eos_id = tokenizer->eos_id();
  }
  return data::text_rows({.dataset = set.name,
                          .path = set.path,
                          .split = set.split,
                          .order = c.data.order,
                          .workers = static_cast<int>(c.data.workers),
                          .loop = loop,
                          .on_broken_shard = c.data.on_broken_shard,
                          .vocab_size = args.vocab_size,
                          .make_encoder = data::document_encoder(tokenizer)},
                         plan, saved);
}

}  // namespace

RunData open_run_data(const JobConfig& c, const ModelArgs& args, int dp_rank, int dp_size,
                      int ahead, const data::SavedStates& saved) {
  const data::RowPlan plan{.seq_len = c.training.seq_len,
                           .global_batch = c.global_batch(dp_size),
                           .dp_rank = dp_rank,
                           .dp_size = dp_size};
  RunData out;
  auto source = open_source(c, args, training_set(c), /*loop=*/true, plan, &out, saved);
  out.loader = std::make_unique<data::Loader>(std::move(source), plan, ahead);
  return out;
}

void check_vocabulary(const JobConfig& c, const ModelArgs& args, const Tokenizer& tokenizer) {
  NEREUS_CHECK(
      kConfig, tokenizer.vocab_size() <= args.vocab_size,
      "model.hf_assets_path = {}: its tokenizer has {} ids, but the model's vocabulary only {}; "
      "set model_overrides.vocab_size to at least {}",
      c.model.hf_assets_path, tokenizer.vocab_size(), args.vocab_size, tokenizer.vocab_size());
}

void check_end_of_document(const JobConfig& c, const RunData& data, const ModelArgs& args) {
  if (!args.block_causal()) return;
  NEREUS_CHECK(kConfig, !data.tokenized || data.eos_id,
               "attn_mask_type is block_causal, but no token ends a document: "
               "tokenizer_config.json in model.hf_assets_path = {} is not there or has no "
               "eos_token. Add the file or {}; or take --model_overrides.attn_mask_type=causal.",
               c.model.hf_assets_path, kNameEndOfDocument);
  NEREUS_CHECK(kConfig, data.eos_id.has_value() || args.eos_id >= 0,
               "attn_mask_type is block_causal, and nothing says which token ends a document: "
               "data set {} has no tokenizer, and no config.json gives eos_token_id. Take the "
               "model's arguments from a config.json that has one (model.hf_config), or "
               "--model_overrides.attn_mask_type=causal.",
               c.training.dataset);
}

void choose_end_of_document(const JobConfig& c, const RunData& data, ModelArgs& args) {
  check_end_of_document(c, data, args);
  if (data.tokenized && !data.eos_id)
    log::warning(
        "Documents follow one another without a token between them: tokenizer_config.json in "
        "model.hf_assets_path = {} is not there or has no eos_token. To have one, {}.",
        c.model.hf_assets_path, kNameEndOfDocument);
  if (!args.block_causal()) return;
  const std::vector<int64_t> configured =
      c.model.hf_config ? hf_config_eos_ids(*c.model.hf_config) : std::vector<int64_t>();
  const std::string listed = fmt::format("{}", fmt::join(configured, ", "));
  if (!data.eos_id) {
    if (configured.size() > 1)
      log::info(
          "Token {} ends a document, the first of config.json's eos_token_id ({}): data set {} has "
          "no tokenizer",
          args.eos_id, listed, c.training.dataset);
    return;
  }
  if (args.eos_id >= 0 && configured != std::vector<int64_t>{*data.eos_id})
    log::info(
        "Token {} ends a document, as tokenizer_config.json in {} says and the data set has it; "
        "config.json's eos_token_id ({}) is not used",
        *data.eos_id, c.model.hf_assets_path,
        listed.empty() ? std::to_string(args.eos_id) : listed);
  args.eos_id = *data.eos_id;
}

// What a rank knows nothing of is the least.
data::SourceStatus::Part of_all_ranks(const data::SourceStatus& mine, Stream& stream,
                                      Communicator& all) {
  data::SourceStatus out = mine;
  if (out.parts.empty()) return out.all();
  constexpr size_t kNumbers = 5;  // of a part
  std::vector<int64_t> numbers;
  for (const auto& p : out.parts)
    numbers.insert(numbers.end(),
                   {p.tokens_a_pass, p.not_json, p.without_text, p.replaced, p.broken_shards});
  const auto n = static_cast<int64_t>(numbers.size());
  const Buffer buffer(stream.device(), n * size_of(DType::i64), "figures of the data");
  const TensorView view(buffer.data(), DType::i64, {n});
  copy_to_device(stream, view, numbers.data());
  all.all_reduce(stream, view, ReduceOp::max);
  copy_to_host(stream, numbers.data(), view);
  stream.synchronize();
  for (size_t i = 0; i < out.parts.size(); ++i) {
    const int64_t* p = numbers.data() + kNumbers * i;
    out.parts[i] = {.tokens_a_pass = p[0],
                    .not_json = p[1],
                    .without_text = p[2],
                    .replaced = p[3],
                    .broken_shards = p[4]};
  }
  return out.all();
}

ValidationRows validation_rows(const JobConfig& c, const ModelArgs& args, const DataSet& set,
                               int64_t rows, int dp_rank, int dp_size, RunData* about) {
  const auto& v = c.validation;
  const int64_t S = c.training.seq_len;
  const bool endless = set.name == "random";
  NEREUS_CHECK(kConfig, v.steps > 0 || !endless,
               "{}.dataset = random has no end; set validation.steps", set.section);
  const auto source = open_source(
      c, args, set, /*loop=*/endless,
      {.seq_len = S, .global_batch = 1, .any_batch = true, .path_key = set.path_key()}, about);
  int64_t left = v.steps > 0 ? v.steps * v.local_batch_size : std::numeric_limits<int64_t>::max();
  ValidationRows out;
  data::Batch batch;
  bool ended = false;
  int64_t batches = 0;
  // As many on every data-parallel rank: all of them enter the same collectives.
  for (; (!ended && left > 0) || batches % dp_size != 0; ++batches) {
    batch.inputs.assign(static_cast<size_t>(rows * S), 0);
    batch.labels.assign(batch.inputs.size(), -100);
    batch.rows = 0;
    if (!ended && left > 0) {
      const int64_t ask = std::min(rows, left);
      batch.rows = source->next(ask, batch.inputs, batch.labels);
      left -= batch.rows;
      out.tokens += batch.rows * S;
      ended = batch.rows < ask;
      if (batch.rows == 0 && batches % dp_size == 0) break;
      // What a source left unfilled may hold a row that did not come.
      std::fill(batch.labels.begin() + batch.rows * S, batch.labels.end(), -100);
    }
    for (const int32_t label : batch.labels) out.counted += label >= 0;
    if (batches % dp_size == dp_rank) out.mine.push_back(std::move(batch));
  }
  NEREUS_CHECK(kConfig, batches > 0, "{} = {}: has no whole row of {} tokens", set.path_key(),
               set.path, S);
  return out;
}

}  // namespace nereus
