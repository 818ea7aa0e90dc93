#include "config/load.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/check.h"
#include "config/command_line.h"
#include "config/set_value.h"

namespace nereus {
namespace {

std::string read_text_file(const std::string& path) {
  std::error_code error;
  NEREUS_CHECK(kConfig, !std::filesystem::is_directory(path, error),
               "Error while loading config file: {}\n  it is a folder; name a .toml file", path);
  errno = 0;
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  if (in.good()) text << in.rdbuf();
  NEREUS_CHECK(
      kConfig, in.good() && !in.bad(),
      "Error while loading config file: {}\n  {}; configs/ has examples, and `nereus train "
      "--help` the usage",
      path, errno == 0 ? "it cannot be read" : std::strerror(errno));
  return text.str();
}

}  // namespace

LoadedConfig load_config(std::span<const std::string> arguments, TrainFlags& flags,
                         int64_t launched) {
  LoadedConfig loaded;
  const CommandLine line = parse_command_line(arguments);
  flags = line.flags;
  if (flags.help || flags.config_reference) return loaded;
  NEREUS_CHECK(kConfig, flags.world == 1 || flags.dry_run,
               "--world {}: it plans for ranks that need not exist, so it goes with --dry-run",
               flags.world);
  NEREUS_CHECK(kConfig, flags.nproc == 1 || !flags.dry_run,
               "--nproc {} with --dry-run: say --world {} to plan for so many ranks", flags.nproc,
               flags.nproc);
  NEREUS_CHECK(
      kConfig, flags.nproc == 1 || launched == 0,
      "--nproc {}: this process is one of {} ranks that were started together; leave it out",
      flags.nproc, launched);

  if (line.config_file) {
    read_toml(read_text_file(*line.config_file), *line.config_file, loaded);
    loaded.config.job.config_file = *line.config_file;
    loaded.origin["job.config_file"] = "command line";
  }
  const std::vector<Key> table = keys(loaded.config);
  for (const Override& set : line.overrides) {
    const Key& key = *find_key(table, set.key);
    set_from_text(key, set.text, "command line", set.append);
    loaded.origin[set.key] = "command line";
    if (set.old_name && !set.append) loaded.notices.push_back(renamed_notice(key, "command line"));
  }
  check_config(loaded, flags.dry_run ? flags.world : launched != 0 ? launched : flags.nproc);
  return loaded;
}

}  // namespace nereus
