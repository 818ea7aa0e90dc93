#include "checkpoint/step_folders.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <optional>

#include "base/check.h"
#include "base/files.h"
#include "checkpoint/manifest.h"

namespace nereus {
namespace {

namespace fs = std::filesystem;

std::optional<int64_t> step_of(const std::string& name) {
  const std::string number = name.starts_with("step-") ? name.substr(5) : "";
  if (number.empty() || number.size() > 18 ||
      number.find_first_not_of("0123456789") != std::string::npos)
    return std::nullopt;
  return std::stoll(number);
}

StepFolder::Kind kind_of(const fs::path& path) {
  if (is_there(path / kManifestFile)) return StepFolder::Kind::native;
  if (is_there(path / "model.safetensors") || is_there(path / "model.safetensors.index.json"))
    return StepFolder::Kind::hugging_face;
  return StepFolder::Kind::incomplete;
}

void rename(const std::string& from, const std::string& to) {
  std::error_code error;
  fs::rename(from, to, error);
  NEREUS_CHECK(kIo, !error, "{}: cannot be renamed to {}: {}", from, to, error.message());
}

void sync_folder(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  (void)::fsync(fd);
  ::close(fd);
}

// Under another name first: a run that is killed meanwhile leaves no half of a checkpoint.
void remove_step(const std::string& path) {
  const std::string doomed = path + ".deleting";
  std::error_code error;
  fs::remove_all(doomed, error);
  rename(path, doomed);
  fs::remove_all(doomed, error);
  NEREUS_CHECK(kIo, !error, "{}: cannot be deleted: {}", doomed, error.message());
}

}  // namespace

std::string step_path(const std::string& folder, int64_t step) {
  return fmt::format("{}/step-{}", folder, step);
}
std::string partial_path(const std::string& place) { return place + ".partial"; }

std::vector<StepFolder> step_folders(const std::string& folder) {
  std::vector<StepFolder> out;
  std::error_code error;
  const std::vector<fs::directory_entry> entries = entries_of(folder, error);
  NEREUS_CHECK(kConfig, !error || error == std::errc::no_such_file_or_directory,
               "{}: cannot be read: {}. Checkpoints are looked for there: choose another folder "
               "with --job.dump_folder=... or --checkpoint.folder=..., or make it readable.",
               folder, error.message());
  for (const fs::directory_entry& entry : entries) {
    const std::optional<int64_t> step = step_of(entry.path().filename().string());
    if (!step || !is_folder(entry.path())) continue;
    out.push_back({*step, entry.path().string(), kind_of(entry.path())});
  }
  std::sort(out.begin(), out.end(),
            [](const StepFolder& a, const StepFolder& b) { return a.step > b.step; });
  return out;
}

std::string set_aside(const std::string& path, const std::string& word) {
  std::string name = fmt::format("{}.{}", path, word);
  std::error_code ignored;
  for (int i = 2; fs::exists(fs::symlink_status(name, ignored)); ++i)
    name = fmt::format("{}.{}-{}", path, word, i);
  rename(path, name);
  return name;
}

void remove_remains(const std::string& folder) {
  std::error_code error;
  std::vector<fs::path> remains;
  for (const fs::directory_entry& entry : entries_of(folder, error)) {
    const fs::path& path = entry.path();
    const bool ours = path.extension() == ".partial" || path.extension() == ".deleting";
    if (ours && step_of(path.stem().string())) remains.push_back(path);
  }
  for (const fs::path& path : remains) fs::remove_all(path, error);
}

void commit_step(const std::string& place) {
  const std::string partial = partial_path(place);
  std::error_code ignored;
  sync_folder(partial);
  std::string old;
  if (fs::exists(fs::symlink_status(place, ignored))) {
    const bool checkpoint =
        fs::is_directory(place, ignored) && kind_of(place) != StepFolder::Kind::incomplete;
    old = set_aside(place, checkpoint ? "deleting" : "old");
    if (!checkpoint) old.clear();
  }
  rename(partial, place);
  sync_folder(fs::path(place).parent_path().string());
  if (!old.empty()) fs::remove_all(old, ignored);
}

std::vector<int64_t> purge_steps(const std::string& folder, int64_t keep, int64_t every) {
  std::vector<int64_t> out;
  if (keep == 0) return out;
  int64_t kept = 0;
  for (const StepFolder& s : step_folders(folder)) {
    if (s.kind != StepFolder::Kind::native) continue;
    if (every > 0 && s.step % every == 0) continue;
    if (++kept <= keep) continue;
    remove_step(s.path);
    out.push_back(s.step);
  }
  return out;
}

}  // namespace nereus
