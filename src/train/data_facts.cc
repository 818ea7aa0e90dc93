#include "train/data_facts.h"

#include <filesystem>

#include "base/assets.h"
#include "base/check.h"
#include "base/fetched.h"
#include "base/files.h"
#include "base/text.h"
#include "data/shards.h"
#include "data/tokenizer/tokenizer.h"
#include "train/data_set.h"
#include "train/run_data.h"

namespace nereus {
namespace {

namespace fs = std::filesystem;

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

// "12 shards, a.json.gz to m.json.gz, 3.1 GB", and what of them cannot be read.
std::string facts_of_shards(const std::vector<std::string>& shards, const data::ShardLook& look) {
  const auto name = [](const std::string& path) { return fs::path(path).filename().string(); };
  std::string out = fmt::format(
      "{} shard{}, {}{}, {}", shards.size(), shards.size() == 1 ? "" : "s", name(shards.front()),
      shards.size() == 1 ? "" : " to " + name(shards.back()), size_text(look.bytes));
  if (!look.broken.empty())
    out += fmt::format("\n  {} of {} cannot be read as lines of JSON{}", look.broken.size(),
                       shards.size(), look.message);
  return out;
}

class Look {
 public:
  explicit Look(const JobConfig& config) : config_(config) {}

  void section(const char* name, const DataSet& set) {
    out_.text += fmt::format("{}\n  {}\n", name, facts_of(set));
  }

  // What the tokenizer gives; none where it cannot be read.
  std::optional<RunData> tokenizer(const ModelArgs& args) {
    const std::string path = resolve_asset(config_.model.hf_assets_path);
    std::shared_ptr<const data::Tokenizer> tokenizer;
    try {
      tokenizer = data::Tokenizer::load(path);
    } catch (const Error& e) {
      miss(path, "the tokenizer (model.hf_assets_path): " + first_line(e.what()));
      return std::nullopt;
    }
    check_vocabulary(config_, args, *tokenizer);
    RunData out;
    out.tokenized = true;
    out.eos_id = tokenizer->eos_id();
    return out;
  }

  DataFacts take() { return std::move(out_); }

 private:
  void miss(const std::string& path, const std::string& text) {
    out_.missing.push_back({path, text});
  }
  std::string miss(const DataSet& set, const std::string& why, const std::string& hint = "") {
    miss(set.path, fmt::format("the data set {} ({}): {}{}", set.path, set.path_key(), why, hint));
    return fmt::format("{}: {} ({})", set.path, why, set.path_key());
  }

  std::string facts_of(const DataSet& set) {
    if (!set.has_files()) return "random ids, no files";
    if (set.path.empty()) {
      miss("", fmt::format("{}.dataset = {} needs {}", set.section, set.name, set.path_key()));
      return fmt::format("{}: {} names no files", set.name, set.path_key());
    }
    if (!is_there(set.path))
      return miss(
          set, "it is not there",
          set.is_text()
              ? fmt::format("; `nereus download dataset --dir {}` fetches C4 there", set.path)
              : "");
    try {
      if (set.is_text()) return facts_of_text(set);
      std::error_code error;
      const auto bytes = fs::file_size(set.path, error);
      if (error) return miss(set, error.message());
      check_fetched(set.path);
      return fmt::format("{}: token ids, {}", set.path, size_text(static_cast<int64_t>(bytes)));
    } catch (const Error& e) {
      miss(set.path, first_line(e.what()));
      return first_line(e.what());
    }
  }

  std::string facts_of_text(const DataSet& set) {
    const auto shards = data::find_shards(set.path, set.split, set.path_key());
    const data::ShardLook look = data::look_at_shards(shards);
    const bool skips = config_.data.on_broken_shard == BrokenShard::skip;
    if (look.broken.size() == shards.size() || (!look.broken.empty() && !skips))
      miss(set, fmt::format("{} of its {} shards cannot be read{}", look.broken.size(),
                            shards.size(), look.message));
    return set.path + ": " + facts_of_shards(shards, look);
  }

  const JobConfig& config_;
  DataFacts out_;
};

}  // namespace

DataFacts data_facts(const JobConfig& c, const ModelArgs& args) {
  Look look(c);
  const DataSet training = training_set(c);
  bool text = training.is_text();
  look.section("Training data", training);
  if (c.validation.enable) {
    const DataSet validation = validation_set(c);
    look.section("Validation data", validation);
    text = text || validation.is_text();
  }
  std::optional<RunData> data = RunData();
  if (text) data = look.tokenizer(args);
  if (!training.is_text()) data = RunData();
  if (data) check_end_of_document(c, *data, args);
  return look.take();
}

}  // namespace nereus
