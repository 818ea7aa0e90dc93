#include "train/data_facts.h"

#include <filesystem>

#include "base/check.h"
#include "base/fetched.h"
#include "base/text.h"
#include "data/shards.h"
#include "train/data_set.h"

namespace nereus {
namespace {

namespace fs = std::filesystem;

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
  if (!set.has_files()) return "random ids, no files";
  if (set.path.empty())
    return fmt::format("{}: {} names no files; a run needs them", set.name, set.path_key());
  std::error_code error;
  if (!fs::exists(set.path, error))
    return fmt::format("{}: it is not there ({}); a run needs it", set.path, set.path_key());
  try {
    if (set.is_text())
      return set.path + ": " +
             facts_of_shards(data::find_shards(set.path, set.split, set.path_key()));
    const auto bytes = fs::file_size(set.path, error);
    if (error) return fmt::format("{}: {} ({})", set.path, error.message(), set.path_key());
    check_fetched(set.path);
    return fmt::format("{}: token ids, {}", set.path, size_text(static_cast<int64_t>(bytes)));
  } catch (const Error& e) {
    const std::string what = e.what();
    return what.substr(0, what.find('\n'));
  }
}

}  // namespace

std::string data_facts(const JobConfig& c) {
  std::string out = fmt::format("Training data\n  {}\n", facts_of(training_set(c)));
  if (c.validation.enable)
    out += fmt::format("Validation data\n  {}\n", facts_of(validation_set(c)));
  return out;
}

}  // namespace nereus
