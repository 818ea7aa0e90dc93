// From a command line and a TOML file to a checked configuration.
//
// Precedence: command line over TOML file over defaults. Everything wrong is one Error{kConfig}
// that names the file and line or the command line, the key, the value, the rule and the remedy.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "config/job_config.h"
#include "config/keys.h"

namespace nereus {

struct LoadedConfig {
  JobConfig config;
  std::map<std::string, std::string> origin;  // by key: "configs/tiny.toml:7", "command line"
  std::vector<std::string> notices;           // warnings to log, one line each
};

// What `nereus train` accepts in addition to the keys.
struct TrainFlags {
  bool print_config = false, dry_run = false, config_reference = false, help = false;
  int64_t world = 1;  // --world N, with --dry-run: ranks to plan for
  int64_t nproc = 1;  // --nproc N
};

// `arguments` after `nereus train`: an optional CONFIG.toml and --section.key overrides in all of
// TorchTitan's forms. Contradictions are checked for the run's ranks: --world's with --dry-run,
// --nproc's, or `launched` when a launcher started this process as one of so many (0: none did; -1:
// it does not say of how many, and what depends on it is not checked). With --help or
// --config-reference only the flags are read.
LoadedConfig load_config(std::span<const std::string> arguments, TrainFlags& flags,
                         int64_t launched = 0);

// The keys of a TOML text, as load_config reads a file of that name; no checks across keys.
void read_toml(const std::string& text, const std::string& file_name, LoadedConfig& into);

// Rules across keys, and the class of each key that was set; adds notices.
void check_config(LoadedConfig&, int64_t world);

// TOML that reads back to the same configuration, each line with where its value came from.
std::string print_config(const LoadedConfig&);

// Every key as a line "section.key=value": what ranks compare.
std::string config_lines(const JobConfig&);

// All keys as TorchTitan has them: one JSON object a section, None as null.
std::string config_json(const JobConfig&);
// Writes them to a file. Throws Error{kIo}.
void save_config(const JobConfig&, const std::string& path);

// docs/configuration.md
std::string configuration_reference();

}  // namespace nereus
