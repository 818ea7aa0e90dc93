#include "recipe/archive.h"

#include <fnmatch.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <set>

#include "base/atomic_file.h"
#include "base/check.h"
#include "base/files.h"
#include "recipe/submit.h"
#include "recipe/tar_zst.h"

namespace nereus::recipe {
namespace {

namespace fs = std::filesystem;

bool matches_one(const std::string& name, std::initializer_list<const char*> patterns) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [&name](const char* p) { return fnmatch(p, name.c_str(), 0) == 0; });
}

void add_below(const fs::path& folder, const std::string& name, std::vector<ArchiveEntry>& out) {
  std::error_code error;
  for (const fs::directory_entry& entry : entries_of(folder, error)) {
    const std::string one = entry.path().filename().string();
    const bool below = entry.is_directory(error) && !entry.is_symlink(error);
    if (entry.is_directory(error) &&
        matches_one(one, {"code", "checkpoint", "checkpoints", "nsys_profile", "torch_profile",
                          "pytorch_profile"}))
      continue;
    if (below)
      add_below(entry.path(), name + "/" + one, out);
    else if (!matches_one(one, {"*.nsys-rep", "*_trace.json", "*.pt.trace.json", "*.tar.*"}))
      out.push_back({entry.path().string(), name + "/" + one});
  }
}

}  // namespace

std::vector<ArchiveEntry> archive_entries(const std::string& install) {
  std::vector<ArchiveEntry> out;
  std::error_code error;
  for (const fs::directory_entry& workload : entries_of(fs::path(install) / "workloads", error)) {
    const fs::path experiments = workload.path() / "experiments";
    if (fs::is_directory(experiments, error))
      add_below(experiments, workload.path().filename().string() + "/experiments", out);
  }
  std::sort(out.begin(), out.end(),
            [](const ArchiveEntry& a, const ArchiveEntry& b) { return a.name < b.name; });
  return out;
}

ArchiveResult make_archive(const ClusterConfig& config, const std::string& output) {
  return make_archive(config, output, archive_entries(config.llmb_install));
}

ArchiveResult make_archive(const ClusterConfig& config, const std::string& output,
                           const std::vector<ArchiveEntry>& entries) {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char stamp[32];
  std::strftime(stamp, sizeof stamp, "%Y%m%dT%H%M%SZ", &parts);
  ArchiveResult result;
  result.path = output.empty()
                    ? fmt::format("{}/llmb-archive_{}_{}.tar.zst", config.llmb_install,
                                  release_version(config.llmb_repo, NEREUS_VERSION), stamp)
                    : output;
  std::error_code error;
  const fs::path folder = fs::path(absolute_path(result.path)).parent_path();
  NEREUS_CHECK(kConfig, !fs::exists(result.path, error),
               "Archive output already exists: {}. Name another with --output.", result.path);
  NEREUS_CHECK(kConfig, fs::is_directory(folder, error), "Output directory does not exist: {}",
               folder.string());
  PartialPath partial(result.path);
  const std::string top = std::string("llmb-archive-") + stamp;
  TarZst tar(partial.path());
  tar.add_folder(top);
  std::set<std::string> runs;
  for (const ArchiveEntry& entry : entries) {
    if (!tar.add(entry.source, top + "/" + entry.name)) {
      result.warnings.push_back(
          fmt::format("{}: was removed meanwhile and is left out.", entry.source));
      continue;
    }
    const std::string name = fs::path(entry.name).filename().string();
    if (matches_one(name, {"llmb-config_*.yaml", "log-*.out"}))
      runs.insert(fs::path(entry.name).parent_path().string());
  }
  result.runs = static_cast<int64_t>(runs.size());
  tar.finish();
  error = partial.commit();
  NEREUS_CHECK(kIo, !error, "{}: cannot be renamed: {}.", partial.path(), error.message());
  return result;
}

}  // namespace nereus::recipe
