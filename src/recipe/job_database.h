// The jobs that were submitted: $LLMB_INSTALL/.llmb/jobs.sqlite3, with llmb-run's tables, so that
// either program reads what the other recorded.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "recipe/run_log.h"
#include "recipe/variables.h"

struct sqlite3;

namespace nereus::recipe {

struct JobRecord {
  int64_t id = 0;
  std::string launcher_type = {}, workload = {}, model = {}, size = {}, dtype = {};
  int64_t scale = 0;
  bool profile = false, proxy = false;
  std::string log_folder = {}, config_path = {};
  std::string created = {};    // 2026-11-28T17:00:00+00:00, UTC always
  std::string submitted = {};  // 2026-11-28T17:00:00, this machine's time
  std::string state = {}, elapsed = {}, nodes = {}, exit_code = {};  // Slurm's
  std::optional<double> step_seconds = {}, tflops_per_gpu = {}, tokens_per_second_per_gpu = {};
  std::string speed_status = {};                // RunSpeed::status
  Variables environment = {}, parameters = {};  // written without secrets, not read
};

// What Slurm says of a job. Empty texts: it does not say.
struct JobState {
  std::string state, elapsed = {}, submitted = {}, nodes = {}, exit_code = {};
};

// A newer program's database, which is not this one's to replace.
class NewerDatabase : public Error {
  using Error::Error;
};

class JobDatabase {
 public:
  // Opens it, or makes it. Waits for another program's lock for so long. Throws Error{kConfig} when
  // it is locked, is no database or is damaged, with the remedy; every function does. Throws
  // NewerDatabase, and has changed nothing, when its schema is not known here.
  explicit JobDatabase(const std::string& path, int wait_ms = 5000);
  ~JobDatabase();
  JobDatabase(const JobDatabase&) = delete;
  JobDatabase& operator=(const JobDatabase&) = delete;

  void record(const JobRecord& job);  // a new one, or what was submitted of a known one
  void set_state(int64_t id, const JobState& state);
  void set_speed(int64_t id, const RunSpeed& speed);

  std::vector<JobRecord> jobs();       // by workload, size, data type, scale; the latest first
  std::vector<JobRecord> unsettled();  // those whose state or speed is not final
  std::optional<JobRecord> job(int64_t id);

  // What is written between the two is there as a whole or not at all; many rows are fast.
  void begin();
  void commit();

  static std::string path_in(const std::string& install);
  // Renames a database that cannot be used, with SQLite's files that belong to it, and returns the
  // new name.
  static std::string put_aside(const std::string& path);

 private:
  class Statement;
  int64_t schema();  // 0: none
  void open();
  std::vector<JobRecord> select(const std::string& rest, std::optional<int64_t> id);

  std::string path_;
  sqlite3* db_ = nullptr;
};

std::string utc_now();  // 2026-11-28T17:00:00+00:00
std::string utc_time(int64_t seconds);

// States that a job does not leave: COMPLETED, FAILED, ... and PURGED (Slurm forgot it).
bool is_terminal(const std::string& state);

}  // namespace nereus::recipe
