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

struct Refreshed {
  int64_t count = 0;
  std::string warning;  // "" when Slurm answered
};

// Asks Slurm for the jobs' states: sacct; for jobs that it does not know (yet), and where there is
// no accounting, scontrol; without accounting, for jobs that Slurm forgot, their logs. Then reads
// the speed of those that have ended, of jobs named in `ids` once more. Empty `ids`: all that have
// not ended.
Refreshed refresh(JobDatabase& database, const std::vector<int64_t>& ids,
                  const Variables& environment);

struct Rebuilt {
  int64_t scanned = 0, imported = 0, skipped = 0;
  std::string database, aside;  // aside: where an unusable database went
  std::vector<std::string> warnings;
};

// Records every llmb-config_*.yaml below the installation's workloads. A database that is damaged
// or stays locked is renamed and kept; throws NewerDatabase for one that a newer program made.
Rebuilt rebuild(const ClusterConfig& config, const Workloads& workloads,
                const Variables& environment, int wait_ms = 5000);

std::string table(const std::vector<JobRecord>& jobs);
std::string details(const JobRecord& job);

// Both programs' answers, by job. For tests too.
std::map<int64_t, JobState> parse_sacct(const std::string& text);
std::map<int64_t, JobState> parse_scontrol(const std::string& text);

}  // namespace nereus::recipe
