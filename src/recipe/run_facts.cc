#include "recipe/run_facts.h"

#include <filesystem>

#include "base/check.h"
#include "base/files.h"

namespace nereus::recipe {
namespace {

// Does this machine see the place as the job's machines do? The installation is on all of them; of
// another path, where the folder around it is here.
bool is_seen(const std::string& path, const RecipeRun& run) {
  if (path.empty()) return true;
  if (path.starts_with(run.install + "/") && is_there(run.install)) return true;
  return is_there(std::filesystem::path(path).parent_path());
}

std::string listed(const std::vector<RunFacts::Missing>& missing) {
  std::string out;
  for (const RunFacts::Missing& m : missing) out += "\n  " + m.text;
  return out;
}

}  // namespace

std::vector<std::string> hold(const RunFacts& facts, const RecipeRun& run, Purpose purpose,
                              bool force) {
  std::vector<std::string> warnings;
  NEREUS_CHECK(kConfig, facts.too_large.empty() || force, "{}\n  --force starts it anyway.",
               facts.too_large);
  if (!facts.too_large.empty())
    warnings.push_back(facts.too_large.substr(0, facts.too_large.find('\n')) +
                       " Started anyway (--force).");

  std::vector<RunFacts::Missing> missing = facts.missing, elsewhere;
  const bool is_path = run.image.starts_with("/") || run.image.starts_with("./");
  if (is_path && !is_there(run.image))
    missing.push_back(
        {run.image,
         fmt::format("the container image {} (RUN_CONF_IMAGE): it does not exist", run.image)});
  if (purpose != Purpose::launch)
    std::erase_if(missing, [&](const RunFacts::Missing& m) {
      if (purpose == Purpose::queue && is_seen(m.path, run)) return false;
      elsewhere.push_back(m);
      return true;
    });
  NEREUS_CHECK(kConfig, missing.empty(), "input of the run is missing:{}", listed(missing));
  if (!elsewhere.empty())
    warnings.push_back("not found on this machine; the job checks again when it starts:" +
                       listed(elsewhere));
  return warnings;
}

}  // namespace nereus::recipe
