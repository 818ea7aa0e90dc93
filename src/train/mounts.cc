#include "train/mounts.h"

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/mount_answer.h"
#include "control/tcp.h"

namespace nereus {

void check_mounts(const JobConfig& c, std::chrono::milliseconds limit) {
  std::vector<std::pair<const char*, std::string>> places = {
      {"job.dump_folder", c.job.dump_folder}, {"model.hf_assets_path", c.model.hf_assets_path}};
  if (c.checkpoint.initial_load_path)
    places.emplace_back("checkpoint.initial_load_path", *c.checkpoint.initial_load_path);
  if (c.training.dataset_path)
    places.emplace_back("training.dataset_path", *c.training.dataset_path);
  std::set<std::string> looked;
  for (const auto& [key, path] : places) {
    if (path.empty() || !looked.insert(path).second) continue;
    if (mount_answers(path, limit)) continue;
    const std::string mount = mount_of(path);
    NEREUS_FAIL(
        kConfig,
        "{} = {}: its file system does not answer: nothing came back within {:g} s on {}{}. "
        "Is its server up? `dmesg` on that host says what the mount waits for; choose "
        "another folder, leave the host out, or start again when it answers.",
        key, path, std::chrono::duration<double>(limit).count(), tcp::host_name(),
        mount.empty() ? "" : ", mount " + mount);
  }
}

}  // namespace nereus
