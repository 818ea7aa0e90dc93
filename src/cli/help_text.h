// `--help` of the commands whose options CLI11 parses, in the form of those that are written by
// hand:
//
//   What it does.
//
//   Usage: nereus download dataset [OPTIONS]
//
//     --workers N       files at once (1 to 64, default 4)
//     -h, --help        this text
//
// For .cc files only.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace nereus {

class HelpText : public CLI::FormatterBase {
 public:
  std::string make_help(const CLI::App*, std::string name, CLI::AppFormatMode) const override;
};

// The name that a command is called by: `nereus X`, or `llmb-run X` where the program is that.
std::string called_name(const std::string& name);

}  // namespace nereus
