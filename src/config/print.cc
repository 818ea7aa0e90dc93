// The key table as text: a run's configuration, and the reference of all keys.
#include <algorithm>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/atomic_file.h"
#include "base/check.h"
#include "config/load.h"
#include "config/set_value.h"

namespace nereus {
namespace {

// TOML has no control characters in comments; a file's name may.
std::string comment(std::string text) {
  std::replace_if(
      text.begin(), text.end(),
      [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }, '?');
  return text;
}

std::string values_of(const Key& key) {
  if (!key.allowed.empty()) return fmt::format("{}", fmt::join(key.allowed, ", "));
  if (key.minimum == std::numeric_limits<int64_t>::min()) return float_rule(key);
  return fmt::format("at least {}{}", key.minimum, key.or_minus_one ? ", or -1" : "");
}

template <class T>
nlohmann::ordered_json json_of(T* value) {
  return *value;
}
template <class T>
nlohmann::ordered_json json_of(std::optional<T>* value) {
  return *value ? nlohmann::ordered_json(**value) : nlohmann::ordered_json(nullptr);
}
nlohmann::ordered_json json_of(const Choice& choice) {
  const Strings words = choice.get();
  if (choice.form == Choice::Form::list) return words;
  return words.empty() ? nlohmann::ordered_json(nullptr) : nlohmann::ordered_json(words.front());
}

constexpr const char* kHead =
    R"(# Configuration

A run is configured by a TOML file with TorchTitan's sections and keys, and by `--section.key=value`
on the command line over it:

    nereus train configs/tiny.toml --training.steps=50 --lr_scheduler.warmup-steps 5

Values may follow `=` or a space, and `-` serves for `_`. Booleans are flags: `--compile.enable`,
`--compile.no_enable`, `--compile.enable=false`. Lists are comma-separated, or
their items follow one another (`--compile.components model loss`); a repeated list flag appends,
its first use replaces the file's list. `None` (or an empty text) gives an optional key no
value; in TOML, leave the key out. `nereus train CONFIG --print-config` prints every value with
where it came from, as TOML.

An integer serves for a float, never the reverse. Integers are below 2^31. An unknown key or
section, a wrong type, a value outside its set and a contradiction end the program with exit code 2
and one message. A key that was renamed is accepted under its old name too, which the tables give;
the log then names the new one. Both names in one file or on one command line are a contradiction.

What becomes of a key:

| class | meaning |
|---|---|
| works | does what TorchTitan documents, or what this page says |
| no meaning here | accepted: there is nothing for it to act on; named once when set |
| refused | not implemented and would change results: another value than the default ends the run with exit code 2 |

This page is made by `nereus train --config-reference`.

## The model

A flavor, or a file of arguments (`model.torchtitan_args` or `model.hf_config`, not both), and
`[model_overrides]` over it. `numerics.family` says whose arithmetic is followed where TorchTitan and
Hugging Face differ: in family torchtitan YaRN acts when `training.seq_len` is above
`original_seq_len`; in family huggingface it acts where config.json has it, or where `rope_factor` is
above 1.

## Data sets

| `training.dataset` | `dataset_path` | what |
|---|---|---|
| `c4`, `c4_validation` | folder of `*.json.gz`, one `{"text": ...}` a line | documents, tokenised and packed |
| `c4_test` | as above; without it the sample that comes with the program | the same |
| `tokens` | `.safetensors` with `inputs` and `labels` (I64, [N, B, S] or [rows, S]), or `.npy` of ids | rows as they are; a label of -100 is ignored |
| `random` | none | uniform ids, for benchmarks |
)";

}  // namespace

std::string print_config(const LoadedConfig& loaded) {
  JobConfig copy = loaded.config;
  std::string out, section;
  for (const Key& key : keys(copy)) {
    if (section_of(key) != section) {
      section = section_of(key);
      out += fmt::format("{}[{}]\n", out.empty() ? "" : "\n", section);
    }
    const auto origin = loaded.origin.find(key.name);
    const std::string where = origin == loaded.origin.end() ? "default" : comment(origin->second);
    const std::string value = value_text(key);
    // TOML has no null: an optional key without a value is a comment.
    out += fmt::format("{}{} = {}  # {}\n", value == "None" ? "# " : "", last_name_of(key), value,
                       where);
  }
  return out;
}

std::string config_lines(const JobConfig& config) {
  JobConfig copy = config;
  std::string out;
  for (const Key& key : keys(copy)) out += fmt::format("{}={}\n", key.name, value_text(key));
  return out;
}

std::string config_json(const JobConfig& config) {
  JobConfig copy = config;
  nlohmann::ordered_json all;
  for (const Key& key : keys(copy)) {
    nlohmann::ordered_json* at = &all;
    std::istringstream sections(section_of(key));
    for (std::string name; std::getline(sections, name, '.');) at = &(*at)[name];
    std::visit([&](const auto& value) { (*at)[last_name_of(key)] = json_of(value); }, key.target);
  }
  return all.dump(2) + "\n";
}

void save_config(const JobConfig& config, const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  error = replace_file(path, config_json(config));
  NEREUS_CHECK(kIo, !error, "job.save_config_file: {} cannot be written: {}", path,
               error.message());
}

std::string configuration_reference() {
  constexpr const char* kClasses[] = {"works", "no meaning here", "refused"};
  std::string out = kHead, section;
  JobConfig defaults;
  for (const Key& key : keys(defaults)) {
    if (section_of(key) != section) {
      section = section_of(key);
      out += fmt::format(
          "\n## [{}]\n\n| key | type | default | values | class | meaning |\n"
          "|---|---|---|---|---|---|\n",
          section);
    }
    out += fmt::format(
        "| `{}` | {} | `{}` | {} | {} | {} |\n", last_name_of(key), type_name(key), value_text(key),
        values_of(key), kClasses[static_cast<size_t>(key.key_class)],
        key.old_name.empty() ? key.meaning
                             : fmt::format("{} (old name: `{}`)", key.meaning, key.old_name));
  }
  return out;
}

}  // namespace nereus
