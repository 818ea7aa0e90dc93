#include "train/data_facts.h"

#include <filesystem>

#include "base/assets.h"
#include "base/check.h"
#include "base/text.h"
#include "data/shards.h"

namespace nereus {
namespace {

namespace fs = std::filesystem;

struct DataSet {
  std::string section, dataset;
  std::optional<std::string> path;
  const char* sample;  // of the assets, for c4_test

  std::string path_key() const { return section + ".dataset_path"; }
};

// "12 shards, a.json.gz to m.json.gz, 3.1 GB", and what of them cannot be read.
std::string facts_of_shards(const std::vector<std::string>& shards) {
  const data::ShardLook look = data::look_at_shards(shards);
  const auto name = [](const std::string& path) { return fs::path(path).filename().string(); };
  std::string out = fmt::format(
      "{} shard{}, {}{}, {}", shards.size(), shards.size() == 1 ? "" : "s", name(shards.front()),
      shards.size() == 1 ? "" : " to " + name(shards.back()), size_text(look.bytes));
  if (!look.broken.empty())
    out += fmt::format("\n  {} of {} cannot be read as lines of JSON{}", look.broken.size(),
                       shards.size(), look.message);
  return out;
}

std::string facts_of(const DataSet& set) {
  if (set.dataset == "random") return "random ids, no files";
  std::string path = set.path ? resolve_asset(*set.path) : "";
  if (!set.path && set.dataset == "c4_test") path = asset_path(set.sample);
  if (path.empty())
    return fmt::format("{}: {} names no files; a run needs them", set.dataset, set.path_key());
  std::error_code error;
  if (!fs::exists(path, error))
    return fmt::format("{}: it is not there ({}); a run needs it", path, set.path_key());
  if (set.dataset == "tokens") {
    const auto bytes = fs::file_size(path, error);
    return error ? fmt::format("{}: {} ({})", path, error.message(), set.path_key())
                 : fmt::format("{}: token ids, {}", path, size_text(static_cast<int64_t>(bytes)));
  }
  try {
    const char* split = set.dataset == "c4_validation" ? "validation" : "train";
    return path + ": " + facts_of_shards(data::find_shards(path, split, set.path_key()));
  } catch (const Error& e) {
    const std::string what = e.what();
    return what.substr(0, what.find('\n'));
  }
}

}  // namespace

std::string data_facts(const JobConfig& c) {
  std::string out = fmt::format(
      "Training data\n  {}\n",
      facts_of({"training", lower(c.training.dataset), c.training.dataset_path, "sample/en"}));
  if (c.validation.enable)
    out += fmt::format("Validation data\n  {}\n",
                       facts_of({"validation", lower(c.validation.dataset),
                                 c.validation.dataset_path, "sample/validation"}));
  return out;
}

}  // namespace nereus
