// Splits the arguments after `nereus train` into a file, overrides of keys, and the program's own
// flags. Values are not looked at here.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "config/load.h"

namespace nereus {

struct Override {
  std::string key;        // training.seq_len
  std::string text = {};  // its value; flags: true or false
  bool append;            // the same list was named before on this command line
  bool old_name;          // the argument has the key's old name
};

struct CommandLine {
  std::optional<std::string> config_file;  // a plain argument or --job.config_file
  std::vector<Override> overrides;         // in their order
  TrainFlags flags;
};

// Throws Error{kConfig} for an unknown option (with the nearest name), a missing value, and a
// second configuration file.
CommandLine parse_command_line(std::span<const std::string> arguments);

}  // namespace nereus
