// The history of jobs: their states from Slurm, their speed from their logs, as a table.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "recipe/cluster_config.h"
#include "recipe/job_database.h"
#include "recipe/metadata.h"

namespace nereus::recipe {

// What is known of a job that has not ended, and is not recorded.
struct LiveJob {
  std::string reason = {};      // why Slurm lets it wait; "" otherwise
  int64_t step = 0, steps = 0;  // by its log: the last one, and how many it will do; 0: not known
};
using LiveJobs = std::map<int64_t, LiveJob>;

struct Refreshed {
  int64_t count = 0;
  std::string warning;  // "" when Slurm answered
  LiveJobs live;
};

// Asks Slurm for the jobs' states: sacct; for jobs that it does not know (yet), and where there is
// no accounting, scontrol; without accounting, for jobs that Slurm forgot, their logs. Then reads
// the speed of those that have ended, of jobs named in `ids` once more. Empty `ids`: all that have
// not ended. squeue is asked why jobs wait.
Refreshed refresh(JobDatabase& database, const std::vector<int64_t>& ids,
                  const Variables& environment);

struct Rebuilt {
  int64_t scanned = 0, imported = 0, skipped = 0;  // runs
  std::string database, aside;                     // aside: where an unusable database went
  std::vector<std::string> warnings;
};

// Records every run below the installation's workloads: those with an llmb-config_*.yaml, and those
// of `sbatch launch.sh`, which have a log alone. A database that is damaged
// or stays locked is renamed and kept; throws NewerDatabase for one that a newer program made.
Rebuilt rebuild(const ClusterConfig& config, const Workloads& workloads,
                const Variables& environment, int wait_ms = 5000);

// `goodput`, "93.1%", of the jobs of which it is known; a column where it is of any.
std::string table(const std::vector<JobRecord>& jobs, const LiveJobs& live = {},
                  const std::map<int64_t, std::string>& goodput = {});
// `gpu_type`: of the recipe's table of peaks, for the MFU; "": not known.
std::string details(const JobRecord& job, const LiveJob& live = {},
                    const std::string& gpu_type = "", const std::string& goodput = "");

// The programs' answers, by job. For tests too.
std::map<int64_t, JobState> parse_sacct(const std::string& text);
std::map<int64_t, JobState> parse_scontrol(const std::string& text);
std::map<int64_t, std::string> parse_squeue(const std::string& text);  // the reasons

}  // namespace nereus::recipe
