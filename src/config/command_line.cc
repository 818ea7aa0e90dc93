#include "config/command_line.h"

#include <algorithm>
#include <map>

#include "base/check.h"
#include "base/limits.h"
#include "base/suggest.h"
#include "config/other_names.h"

namespace nereus {
namespace {

// One --name or --name=value.
struct Option {
  std::string written;
  std::string name;  // with _ for -
  std::optional<std::string> value = {};
};

Option split_option(const std::string& written) {
  Option o{.written = written, .name = written.substr(2)};
  const size_t equals = o.name.find('=');
  if (equals != std::string::npos) {
    o.value = o.name.substr(equals + 1);
    o.name.resize(equals);
    o.written.resize(equals + 2);
  }
  std::replace(o.name.begin(), o.name.end(), '-', '_');
  return o;
}

bool is_bool_text(const std::string& text) {
  return text == "true" || text == "True" || text == "false" || text == "False";
}

class Parser {
 public:
  explicit Parser(std::span<const std::string> arguments)
      : arguments_(arguments), keys_(keys(defaults_)) {}

  CommandLine parse() {
    while (next_ < arguments_.size()) {
      const std::string& argument = arguments_[next_++];
      if (argument == "-h") {
        line_.flags.help = true;
      } else if (argument.starts_with("--") && argument.size() > 2) {
        option(split_option(argument));
      } else {
        NEREUS_CHECK(
            kConfig, !argument.starts_with("-"),
            "{}: options are written --section.key=value; `nereus train --help` lists them",
            argument);
        config_file(argument);
      }
    }
    return std::move(line_);
  }

 private:
  void option(const Option& o) {
    if (program_flag(o)) return;
    if (o.name == "job.config_file") return config_file(value_of(o));
    bool negated = false, old_name = false;
    const Key* key = find(o.name, negated, old_name);
    if (key == nullptr) fail_unknown(o);
    const auto [seen, first] = seen_.emplace(key->name, old_name);
    if (!first && seen->second != old_name) fail_both_names(*key, o.written);
    Override set{.key = key->name, .append = !first, .old_name = old_name};
    if (negated) {
      NEREUS_CHECK(kConfig, !o.value, "{}={}: it takes no value; write --{}={}", o.written,
                   *o.value, key->name, *o.value);
      set.text = "false";
    } else if (is_flag(*key)) {
      set.text = "true";
      if (o.value) set.text = *o.value;
      // No configuration file is called "true".
      if (!o.value && next_ < arguments_.size() && is_bool_text(arguments_[next_]))
        set.text = arguments_[next_++];
    } else {
      set.text = value_of(o);
      if (!o.value && is_list(*key))
        while (next_ < arguments_.size() && is_item(*key, arguments_[next_]))
          set.text += "," + arguments_[next_++];
    }
    line_.overrides.push_back(std::move(set));
  }

  void config_file(const std::string& file) {
    NEREUS_CHECK(kConfig, !line_.config_file,
                 "two configuration files are named: {} and {}; name one", *line_.config_file,
                 file);
    line_.config_file = file;
  }

  std::string value_of(const Option& o) {
    if (o.value) return *o.value;
    NEREUS_CHECK(kConfig, next_ < arguments_.size() && !arguments_[next_].starts_with("--"),
                 "{}: a value is missing; write {}=VALUE", o.written, o.written);
    return arguments_[next_++];
  }

  bool program_flag(const Option& o) {
    TrainFlags& f = line_.flags;
    const auto flag = [&](const char* name, bool& target) {
      if (o.name != name) return false;
      NEREUS_CHECK(kConfig, !o.value, "{}={}: it takes no value", o.written, *o.value);
      return target = true;
    };
    const auto number = [&](const char* name, int64_t& target) {
      if (o.name != name) return false;
      const std::string text = value_of(o);
      const bool digits = !text.empty() && text.size() < 10 &&
                          text.find_first_not_of("0123456789") == std::string::npos;
      target = digits ? std::stoll(text) : 0;
      NEREUS_CHECK(kConfig, target >= 1 && target <= kMostRanks,
                   "{} {}: it must be an integer from 1 to {}", o.written, text, kMostRanks);
      return true;
    };
    return flag("print_config", f.print_config) || flag("dry_run", f.dry_run) ||
           flag("config_reference", f.config_reference) || flag("help", f.help) ||
           number("world", f.world) || number("nproc", f.nproc);
  }

  static bool is_flag(const Key& key) {
    return std::holds_alternative<bool*>(key.target) ||
           std::holds_alternative<std::optional<bool>*>(key.target);
  }

  static bool is_list(const Key& key) {
    const auto* choice = std::get_if<Choice>(&key.target);
    return std::holds_alternative<Strings*>(key.target) ||
           std::holds_alternative<Integers*>(key.target) ||
           (choice != nullptr && choice->form == Choice::Form::list);
  }

  // Another item of a list, as in `--compile.components model loss`: one of its words, or of a list
  // of any words what is neither an option nor a configuration file.
  static bool is_item(const Key& key, const std::string& argument) {
    if (!key.allowed.empty())
      return std::find(key.allowed.begin(), key.allowed.end(), argument) != key.allowed.end();
    return !argument.starts_with("-") && !argument.ends_with(".toml");
  }

  // Also --section.no_flag.
  const Key* find(const std::string& name, bool& negated, bool& old_name) const {
    const Key* key = find_key(keys_, name);
    std::string positive = name;
    const size_t dot = name.rfind('.');
    if (key == nullptr && dot != std::string::npos && name.compare(dot + 1, 3, "no_") == 0) {
      positive = name.substr(0, dot + 1) + name.substr(dot + 4);
      key = find_key(keys_, positive);
      negated = key != nullptr && is_flag(*key);
      if (!negated) return nullptr;
    }
    old_name = key != nullptr && positive == key->old_name;
    return key;
  }

  [[noreturn]] void fail_unknown(const Option& o) const {
    std::string advice = other_name_advice(keys_, o.name, true);
    if (advice.empty()) {
      std::string near = same_last_name(keys_, o.name), positive = o.name;
      const size_t last = o.name.rfind('.') + 1;
      if (o.name.compare(last, 3, "no_") == 0) positive.erase(last, 3);
      if (near.empty()) near = same_last_name(keys_, positive);
      if (near.empty()) near = nearest_key(keys_, positive);
      if (near.empty() && last == 0)
        near = nearest(o.name, Strings{"print-config", "dry-run", "config-reference", "help",
                                       "world", "nproc"});
      if (!near.empty()) advice = fmt::format("; did you mean --{}?", near);
    }
    NEREUS_FAIL(kConfig, "{}: there is no such option{}\n  docs/configuration.md lists every key.",
                o.written, advice);
  }

  std::span<const std::string> arguments_;
  size_t next_ = 0;
  JobConfig defaults_;
  std::vector<Key> keys_;             // over defaults_: for names and types only
  std::map<std::string, bool> seen_;  // keys of the command line: by the old name?
  CommandLine line_;
};

}  // namespace

CommandLine parse_command_line(std::span<const std::string> arguments) {
  return Parser(arguments).parse();
}

}  // namespace nereus
