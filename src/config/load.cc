#include "config/load.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "base/check.h"
#include "base/suggest.h"
#include "config/set_value.h"

namespace nereus {
namespace {

std::string read_text_file(const std::string& path) {
  NEREUS_CHECK(kConfig, !std::filesystem::is_directory(path),
               "Error while loading config file: {}\n  it is a folder; name a .toml file", path);
  std::ifstream in(path, std::ios::binary);
  NEREUS_CHECK(
      kConfig, in.good(),
      "Error while loading config file: {}\n  {}; configs/ has examples, and `nereus train "
      "--help` the usage",
      path, std::strerror(errno));
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

// One --name or --name=value of the command line.
struct Argument {
  std::string name;  // with _ for -
  std::optional<std::string> value;
  std::string written;
};

Argument split_argument(const std::string& written) {
  Argument a{.name = written.substr(2), .value = {}, .written = written};
  const size_t equals = a.name.find('=');
  if (equals != std::string::npos) {
    a.value = a.name.substr(equals + 1);
    a.name.resize(equals);
  }
  std::replace(a.name.begin(), a.name.end(), '-', '_');
  return a;
}

// Walks the arguments after `nereus train`.
class CommandLine {
 public:
  CommandLine(std::span<const std::string> arguments, TrainFlags& flags)
      : arguments_(arguments), flags_(flags) {}

  // The TOML file, if the arguments name one.
  std::optional<std::string> config_file() {
    std::optional<std::string> file;
    for_each(
        [&](const Argument& a) {
          if (a.name == "job.config_file") {
            const std::string named = value_of(a);
            NEREUS_CHECK(kConfig, !file, "two configuration files are named: {} and {}; name one",
                         *file, named);
            file = named;
          } else {
            skip_value(a);
          }
        },
        [&](const std::string& plain) {
          NEREUS_CHECK(kConfig, !file, "two configuration files are named: {} and {}; name one",
                       *file, plain);
          file = plain;
        });
    return file;
  }

  void apply(LoadedConfig& into) {
    const std::vector<Key> table = keys(into.config);
    std::set<std::string> seen;
    for_each(
        [&](const Argument& a) {
          if (program_flag(a)) return;
          bool negated = false;
          const Key* key = find(table, a.name, negated);
          if (key == nullptr) fail_unknown(table, a);
          const std::string where = "command line: --" + key->name;
          const bool repeated = !seen.insert(key->name).second;
          if (std::holds_alternative<bool*>(key->target) ||
              std::holds_alternative<std::optional<bool>*>(key->target)) {
            NEREUS_CHECK(kConfig, !negated || !a.value, "{}: --...no_{} takes no value", a.written,
                         last_name_of(*key));
            set_from_text(*key, negated ? "false" : a.value.value_or("true"), where, false);
          } else {
            set_from_text(*key, value_of(a), where, repeated);
          }
          into.origin[key->name] = "command line";
        },
        [](const std::string&) {});
  }

 private:
  template <class OnFlag, class OnPlain>
  void for_each(OnFlag on_flag, OnPlain on_plain) {
    for (next_ = 0; next_ < arguments_.size();) {
      const std::string& text = arguments_[next_++];
      if (text.starts_with("--") && text.size() > 2) {
        on_flag(split_argument(text));
      } else if (text == "-h") {
        flags_.help = true;
      } else {
        NEREUS_CHECK(
            kConfig, !text.starts_with("-"),
            "{}: options are written --section.key=value; `nereus train --help` lists them", text);
        on_plain(text);
      }
    }
  }

  std::string value_of(const Argument& a) {
    if (a.value) return *a.value;
    NEREUS_CHECK(kConfig, next_ < arguments_.size() && !arguments_[next_].starts_with("--"),
                 "{}: a value is missing; write {}=VALUE", a.written, a.written);
    return arguments_[next_++];
  }

  // In the pass that only looks for the file.
  void skip_value(const Argument& a) {
    JobConfig scratch;
    const std::vector<Key> table = keys(scratch);
    if (program_flag(a)) return;
    bool negated = false;
    const Key* key = find(table, a.name, negated);
    if (key == nullptr) fail_unknown(table, a);
    const bool boolean = std::holds_alternative<bool*>(key->target) ||
                         std::holds_alternative<std::optional<bool>*>(key->target);
    if (!boolean) value_of(a);
  }

  bool program_flag(const Argument& a) {
    const auto flag = [&](const char* name, bool& target) {
      if (a.name != name) return false;
      NEREUS_CHECK(kConfig, !a.value, "{}: it takes no value", a.written);
      return target = true;
    };
    const auto number = [&](const char* name, int64_t& target) {
      if (a.name != name) return false;
      const std::string text = value_of(a);
      NEREUS_CHECK(kConfig,
                   !text.empty() && text.size() < 10 &&
                       text.find_first_not_of("0123456789") == std::string::npos &&
                       std::stoll(text) >= 1,
                   "{} {}: it must be an integer, at least 1", a.written, text);
      target = std::stoll(text);
      return true;
    };
    return flag("print_config", flags_.print_config) || flag("dry_run", flags_.dry_run) ||
           flag("config_reference", flags_.config_reference) || flag("help", flags_.help) ||
           number("world", flags_.world) || number("nproc", flags_.nproc);
  }

  static const Key* find(const std::vector<Key>& table, const std::string& name, bool& negated) {
    const auto named = [&](const std::string& wanted) -> const Key* {
      const auto k = std::find_if(table.begin(), table.end(),
                                  [&](const Key& key) { return key.name == wanted; });
      return k == table.end() ? nullptr : &*k;
    };
    if (const Key* key = named(name)) return key;
    const size_t dot = name.rfind('.');
    if (dot == std::string::npos || name.compare(dot + 1, 3, "no_") != 0) return nullptr;
    const Key* key = named(name.substr(0, dot + 1) + name.substr(dot + 4));
    negated = key != nullptr && std::holds_alternative<bool*>(key->target);
    return negated ? key : nullptr;
  }

  [[noreturn]] static void fail_unknown(const std::vector<Key>& table, const Argument& a) {
    Strings names = {"print-config", "dry-run", "config-reference", "help", "world", "nproc"};
    for (const Key& k : table) names.push_back(k.name);
    std::string near = nearest(a.name, names);
    if (near.empty())  // the right name in the wrong section
      for (const Key& k : table)
        if (last_name_of(k) == a.name.substr(a.name.rfind('.') + 1)) near = k.name;
    NEREUS_FAIL(kConfig, "{}: there is no such option{}\n  docs/configuration.md lists every key.",
                a.written, near.empty() ? "" : fmt::format("; did you mean --{}?", near));
  }

  std::span<const std::string> arguments_;
  TrainFlags& flags_;
  size_t next_ = 0;
};

}  // namespace

LoadedConfig load_config(std::span<const std::string> arguments, TrainFlags& flags) {
  LoadedConfig loaded;
  CommandLine line(arguments, flags);
  if (const std::optional<std::string> file = line.config_file()) {
    read_toml(read_text_file(*file), *file, loaded);
    loaded.config.job.config_file = *file;
  }
  line.apply(loaded);
  check_config(loaded, flags.world);
  return loaded;
}

std::string print_config(const LoadedConfig& loaded) {
  JobConfig copy = loaded.config;
  std::string out, section;
  for (const Key& key : keys(copy)) {
    if (section_of(key) != section) {
      section = section_of(key);
      out += fmt::format("{}[{}]\n", out.empty() ? "" : "\n", section);
    }
    const auto origin = loaded.origin.find(key.name);
    const std::string where = origin == loaded.origin.end() ? "default" : origin->second;
    const std::string value = value_text(key);
    // TOML has no null: an optional without a value is a comment.
    out += fmt::format("{}{} = {}  # {}\n", value == "None" ? "# " : "", last_name_of(key), value,
                       where);
  }
  return out;
}

std::string configuration_reference() {
  constexpr const char* kClasses[] = {"works", "no meaning here", "not built yet: refused",
                                      "not built yet: warned of"};
  std::string out =
      "# Configuration\n\n"
      "A TOML file with TorchTitan's sections and keys, and `--section.key=value` on the command "
      "line "
      "over it (`--section.key value`, `-` for `_`, `--section.flag`, `--section.no_flag`, "
      "`--section.flag=false`; lists are comma-separated, and a repeated list appends). `nereus "
      "train "
      "CONFIG --print-config` prints every value with where it came from.\n\n"
      "What becomes of a key: **works**; **no meaning here**: accepted, there is nothing for it to "
      "act "
      "on, named once when set; **refused**: not built yet and would change results, so that "
      "setting "
      "it to another value than its default ends the run with exit code 2; **warned of**: not "
      "built "
      "yet and only observes. An unknown key is an error.\n\n"
      "This page is made by `nereus train --config-reference`.\n";
  std::string section;
  JobConfig defaults;
  for (const Key& key : keys(defaults)) {
    if (section_of(key) != section) {
      section = section_of(key);
      out += fmt::format(
          "\n## [{}]\n\n| key | type | default | values | | meaning |\n|---|---|---|---|---|---|\n",
          section);
    }
    std::string values = fmt::format("{}", fmt::join(key.allowed, ", "));
    if (key.minimum > std::numeric_limits<int64_t>::min())
      values = fmt::format(">= {}{}", key.minimum, key.or_minus_one ? " or -1" : "");
    if (key.positive) values = "> 0";
    if (key.non_negative) values = ">= 0";
    if (std::isfinite(key.maximum)) values += fmt::format(", <= {}", key.maximum);
    out += fmt::format("| `{}` | {} | `{}` | {} | {} | {} |\n", last_name_of(key), type_name(key),
                       value_text(key), values, kClasses[static_cast<size_t>(key.key_class)],
                       key.meaning);
  }
  return out;
}

}  // namespace nereus
