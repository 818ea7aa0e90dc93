// Every key of the configuration in one table: its name, where its value lives, which values it may
// have, and which of four classes it belongs to. Reading TOML and the command line, checking,
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
  refused,     // not built yet and would change results: setting it to another value ends the run
  ignored,     // not built yet and only observes: one warning when set
};

struct Key {
  using Target = std::variant<bool*, int64_t*, double*, std::string*, Strings*,
                              std::optional<bool>*, std::optional<int64_t>*, std::optional<double>*,
                              std::optional<std::string>*, std::optional<std::vector<Strings>>*>;

  std::string name;  // training.seq_len
  Target target;     // in the JobConfig the table was made for
  KeyClass key_class = KeyClass::works;
  std::string meaning;
  Strings allowed;  // of a string, or of a list's elements; empty: any
  int64_t minimum = std::numeric_limits<int64_t>::min();     // of an integer
  bool or_minus_one = false;                                 // -1 has a meaning of its own
  bool positive = false;                                     // of a float: > 0
  bool non_negative = false;                                 // of a float: >= 0
  double maximum = std::numeric_limits<double>::infinity();  // of a float
};

// The table over the members of `config`, which must outlive it.
std::vector<Key> keys(JobConfig& config);

const char* type_name(const Key&);     // "integer", "list of strings or None", ...
std::string value_text(const Key&);    // the value as TOML; None for an optional without value
std::string section_of(const Key&);    // "quantize.linear.float8"
std::string last_name_of(const Key&);  // "filter_fqns"

}  // namespace nereus
