// Jobs to submit, from a command line or a file, by llmb-run's rules.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/limits.h"
#include "recipe/cluster_config.h"
#include "recipe/metadata.h"

namespace nereus::recipe {

inline constexpr int64_t kMostGpus = kMostRanks, kMostRepeats = 1000;

struct Task {
  std::string workload, size, dtype;
  int64_t scale = 0;  // GPUs
  bool profile = false, proxy = false;
  Variables environment = {};  // --env and a file's `env`
  Variables parameters = {};   // a file's `params`
};

// What was asked for. Empty texts: not given.
struct TaskRequest {
  std::string workload, size, dtype, scale;  // lists with commas
  std::optional<int64_t> max_scale;
  bool min_scale = false, exact_scales = false, proxy = false, profile = false, force = false;
  int64_t repeats = 1;
  std::string file;
  Variables environment;
};

// The tasks that are valid, largest scale first, with what is to be said about them.
struct TaskList {
  std::vector<Task> tasks;
  std::vector<std::string> warnings;
  std::string dropped;  // the report on those that are not, "" when all are
};

// Throws Error{kConfig} when options contradict each other or no valid task is left.
TaskList make_tasks(const TaskRequest& request, const Workloads& workloads,
                    const ClusterConfig& config);

// Tasks of a .yaml or a .txt file, without looking at whether they are valid.
std::vector<Task> read_tasks(const std::string& path);

// "KEY=value" words of --env. Throws Error{kConfig}.
Variables parse_environment(const std::vector<std::string>& words);
void check_variable(const std::string& key, const std::string& value, const std::string& source);

// A task as one line.
std::string describe(const Task& task, const std::string& prefix, const std::string& suffix);

// A token or password by the end of its name, in whatever case: neither shown nor written to files.
bool is_secret(const std::string& variable);
// The same with "..." for secrets.
Variables masked(Variables variables);

std::vector<std::string> split_commas(const std::string& text);

}  // namespace nereus::recipe
