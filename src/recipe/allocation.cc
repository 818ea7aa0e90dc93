#include "recipe/allocation.h"

#include <algorithm>
#include <cstdlib>

#include "base/check.h"
#include "recipe/command_output.h"
#include "recipe/node_gpus.h"

namespace nereus::recipe {
namespace {

std::string value(const Variables& all, const char* key) {
  const auto it = all.find(key);
  return it == all.end() ? "" : it->second;
}

// 0: not said.
int64_t number(const Variables& all, const char* key) {
  return std::strtoll(value(all, key).c_str(), nullptr, 10);
}

struct Wanted {
  int64_t nodes, tasks;  // tasks: of a node
};
Wanted wanted(const RecipeRun& run, const Variables& variables) {
  const int64_t asked = gpus_per_node(variables, run.gpu_type, 0);
  const int64_t per_node = asked > 0 ? asked : default_gpus_per_node(run.gpu_type);
  return {(run.gpus + per_node - 1) / per_node, std::min(per_node, run.gpus)};
}

std::string count(int64_t n, const char* what) {
  return fmt::format("{} {}{}", n, what, n == 1 ? "" : "s");
}

}  // namespace

std::vector<std::string> sbatch_for(const RecipeRun& run, const Variables& variables,
                                    const std::string& script) {
  const Wanted w = wanted(run, variables);
  return {"sbatch", "-N", std::to_string(w.nodes), fmt::format("--ntasks-per-node={}", w.tasks),
          script};
}

void check_allocation(const RecipeRun& run, const Variables& variables, const std::string& script) {
  if (value(variables, "SLURM_JOB_ID").empty()) return;
  if (value(variables, "ADDITIONAL_SLURM_PARAMS").find("overcommit") != std::string::npos) return;
  const int64_t nodes = number(variables, "SLURM_JOB_NUM_NODES"),
                tasks = number(variables, "SLURM_NTASKS");
  const Wanted w = wanted(run, variables);
  const bool enough = tasks > 0 ? tasks >= run.gpus : nodes == 0 || nodes >= w.nodes;
  // What was set for the run, to be typed again.
  std::string again = fmt::format("GPU_TYPE={} JOB_TOTAL_GPUS={} ", run.gpu_type, run.gpus);
  for (const auto& [name, text] : variables) {
    const bool own = name == "GPU_TYPE" || name == "JOB_TOTAL_GPUS" || name.starts_with("LLMB_") ||
                     name.starts_with("SLURM_") || name.starts_with("SBATCH_");
    if (!own && !text.empty()) again += name + "=" + quoted(text) + " ";
  }
  NEREUS_CHECK(kConfig, enough,
               "JOB_TOTAL_GPUS = {} needs {} of {}, and this job has {}{}. Submit it like this:\n"
               "  {}{}\n"
               "  NEREUS_SUBMIT=true {} asks for nodes and tasks by itself; GPUS_PER_NODE says how "
               "many GPUs "
               "a node has, where it is not {}.",
               run.gpus, count(w.nodes, "node"), count(w.tasks, "task"), count(nodes, "node"),
               tasks > 0 ? " with " + count(tasks, "task") + " in all" : "", again,
               quoted(sbatch_for(run, variables, script)), script, w.tasks);
}

}  // namespace nereus::recipe
