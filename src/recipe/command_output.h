// Running another program (sbatch, sacct, scontrol) and reading what it says.
#pragma once

#include <string>
#include <vector>

#include "recipe/variables.h"

namespace nereus::recipe {

struct CommandOutput {
  int code = 0;          // its exit code; 127: it could not be started; kTookTooLong: it was ended
  std::string out, err;  // err: what it said, then why it could not be started or was ended
};
inline constexpr int kTookTooLong = 124;

// Looks the program up in PATH of `environment`. Never throws for what the program does.
CommandOutput run_command(const std::vector<std::string>& words, const Variables& environment,
                          const std::string& folder = "", int seconds = 30);

// The variables of this process.
Variables process_environment();

// The path of a program in PATH of `environment`, "" when it has none.
std::string find_program(const std::string& name, const Variables& environment);

// As a shell would take it back.
std::string quoted(const std::string& word);
std::string quoted(const std::vector<std::string>& words);

}  // namespace nereus::recipe
