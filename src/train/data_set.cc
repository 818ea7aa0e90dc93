#include "train/data_set.h"

#include "base/assets.h"
#include "base/check.h"
#include "base/text.h"

namespace nereus {
namespace {

// Of the assets, for c4_test.
const char* sample_of(const std::string& section) {
  return section == "training" ? "sample/en" : "sample/validation";
}

DataSet data_set(const std::string& section, const std::string& name,
                 const std::optional<std::string>& path) {
  DataSet out{.section = section, .name = lower(name), .path = "", .split = "train"};
  const bool known = out.name == "c4" || out.name == "c4_test" || out.name == "c4_validation" ||
                     out.name == "tokens" || out.name == "random";
  NEREUS_CHECK(
      kConfig, known,
      "Dataset {} is not supported. Supported datasets are: ['c4', 'c4_test', 'c4_validation', "
      "'tokens', 'random']\n  {}.dataset = \"{}\": set it to one of them.",
      out.name, section, out.name);
  if (out.name == "c4_validation") out.split = "validation";
  if (path) {
    out.path = resolve_asset(*path);
  } else if (out.name == "c4_test") {
    out.path = asset_path(sample_of(section));
  }
  return out;
}

}  // namespace

void DataSet::require_path() const {
  if (!has_files() || !path.empty()) return;
  NEREUS_CHECK(kConfig, name != "c4_test",
               "{}.dataset = c4_test: the sample that comes with the program is not next to it "
               "(assets/{}); set {}",
               section, sample_of(section), path_key());
  NEREUS_CHECK(
      kConfig, name != "tokens",
      "{}.dataset = tokens needs {}: a .safetensors with inputs and labels, or a .npy of ids",
      section, path_key());
  NEREUS_FAIL(
      kConfig,
      "{}.dataset = {} needs {}: a folder with C4's shards "
      "(c4-train.00000-of-01024.json.gz, ...), which `nereus download dataset` fetches. For "
      "a try without them, c4_test is the sample that comes with the program.",
      section, name, path_key());
}

DataSet training_set(const JobConfig& c) {
  return data_set("training", c.training.dataset, c.training.dataset_path);
}

DataSet validation_set(const JobConfig& c) {
  return data_set("validation", c.validation.dataset, c.validation.dataset_path);
}

}  // namespace nereus
