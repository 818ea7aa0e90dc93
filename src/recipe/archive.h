// The runs of all workloads as one .tar.zst: logs and settings, without profiles and checkpoints.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "recipe/cluster_config.h"

namespace nereus::recipe {

struct ArchiveEntry {
  std::string source, name;  // where it is; its name in the archive below the top folder
};

struct ArchiveResult {
  std::string path;
  int64_t runs = 0;  // folders with a log or an llmb-config_*.yaml
  std::vector<std::string> warnings;
};

// What goes in: $LLMB_INSTALL/workloads/*/experiments without *.nsys-rep, *_trace.json,
// *.pt.trace.json, *.tar.* and without folders named code, checkpoint, checkpoints, nsys_profile,
// torch_profile, pytorch_profile. By name. Symbolic links stay links.
std::vector<ArchiveEntry> archive_entries(const std::string& install);

// "" for `output`: $LLMB_INSTALL/llmb-archive_VERSION_UTC.tar.zst. It is written under a name of
// this process and then renamed. An entry that was removed in the meantime is a warning. Throws
// Error{kConfig} when it exists or its folder does not, Error{kIo} when writing fails.
ArchiveResult make_archive(const ClusterConfig& config, const std::string& output);
ArchiveResult make_archive(const ClusterConfig& config, const std::string& output,
                           const std::vector<ArchiveEntry>& entries);

}  // namespace nereus::recipe
