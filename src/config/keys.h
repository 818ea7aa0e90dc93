// Every key of the configuration in one table: its name, where its value lives, which values it may
// have, and which of three classes it belongs to. Reading TOML and the command line, checking,
// printing and the documentation all go through it.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "config/job_config.h"

namespace nereus {

enum class KeyClass : uint8_t {
  works,
  no_meaning,  // has nothing to act on here: accepted, named once when set
  refused,     // not implemented and would change results: setting it to another value ends the run
};

// A value that is an enum, an optional or a list of one, as words (config/choices.h).
struct Choice {
  enum class Form : uint8_t { one, optional, list };
  Form form;
  void* target;  // in the JobConfig
  Strings (*words)(const void* target);
  void (*set)(void* target, const Strings& words);  // each of the enum's; one, or none of optional

  Strings get() const { return words(target); }
  void set_words(const Strings& to) const { set(target, to); }
};

struct Key {
  using Target =
      std::variant<bool*, int64_t*, double*, std::string*, Strings*, std::optional<bool>*,
                   std::optional<int64_t>*, std::optional<double>*, std::optional<std::string>*,
                   std::optional<std::vector<Strings>>*, Integers*, Choice>;

  std::string name;           // training.seq_len
  std::string old_name = {};  // also accepted, with a note; empty: the key was never renamed
  Target target;              // in the JobConfig the table was made for
  KeyClass key_class = KeyClass::works;
  std::string meaning;
  // Which values: of a string or of a list's elements (empty: any), of an integer, of a float.
  Strings allowed = {};
  bool any_case = false;  // a string may be written in any case; it is kept as `allowed` has it
  int64_t minimum = std::numeric_limits<int64_t>::min();
  int64_t maximum = std::numeric_limits<int32_t>::max();
  bool or_minus_one = false;  // -1 has a meaning of its own
  double lowest = -std::numeric_limits<double>::max();
  double highest = std::numeric_limits<double>::max();
  bool above_lowest = false, below_highest = false;  // the bounds themselves are excluded
  // TorchTitan's words for a value that is not allowed, {} the value: users search for them.
  std::string sentence = {};
};

// The table over the members of `config`, which must outlive it.
std::vector<Key> keys(JobConfig& config);

// The key of that name, present or old; nullptr: there is none.
const Key* find_key(const std::vector<Key>&, const std::string& name);

// What the log says of a value that `where` gave under the old name.
std::string renamed_notice(const Key&, const std::string& where);
// Both names in one file, or on one command line. Throws Error{kConfig}.
[[noreturn]] void fail_both_names(const Key&, const std::string& where);

const char* type_name(const Key&);     // "integer", "list of strings or None", ...
std::string value_text(const Key&);    // the value as TOML; None for an optional without value
std::string section_of(const Key&);    // "quantize.linear.float8"
std::string last_name_of(const Key&);  // "filter_fqns"

}  // namespace nereus
