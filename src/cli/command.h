// What subcommands share: parsing with CLI11 so that a wrong option is a user's error like any
// other. For .cc files only.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>

namespace nereus {

// Returns the exit code when there is nothing left to do (--help). Throws Error{kConfig} that names
// the option and the nearest right one.
std::optional<int> parse_command(CLI::App& app, int argc, char** argv);

}  // namespace nereus
