#include "recipe/job_database.h"

#include <fmt/ranges.h>
#include <sqlite3.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "recipe/tasks.h"

namespace nereus::recipe {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kSchema = 2;
// Files that SQLite keeps for a database: a journal that was not replayed belongs to it.
constexpr const char* kBeside[] = {"-journal", "-wal", "-shm"};

constexpr const char* kTerminal[] = {"BOOT_FAIL", "CANCELLED", "COMPLETED",
                                     "DEADLINE",  "FAILED",    "NODE_FAIL",
                                     "PURGED",    "TIMEOUT",   "OUT_OF_MEMORY"};

constexpr const char* kTables = R"(
CREATE TABLE IF NOT EXISTS metadata (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS jobs (
  job_id INTEGER PRIMARY KEY,
  launcher_type TEXT NOT NULL,
  workload_key TEXT, model_name TEXT, model_size TEXT, dtype TEXT, scale INTEGER,
  profile_enabled INTEGER NOT NULL DEFAULT 0, proxy INTEGER NOT NULL DEFAULT 0,
  log_dir TEXT, llmb_config_path TEXT, created_at TEXT, updated_at TEXT,
  slurm_state TEXT, elapsed TEXT, submit_time TEXT, node_list TEXT, exit_code TEXT,
  last_status_refresh TEXT, env_overrides_json TEXT, model_overrides_json TEXT,
  train_step_time_seconds REAL, tflops_per_gpu REAL, tokens_per_sec_per_gpu REAL,
  perf_parse_status TEXT);
INSERT INTO metadata (key, value) VALUES ('schema_version', '2') ON CONFLICT(key) DO NOTHING;
)";

constexpr const char* kColumns =
    "job_id, launcher_type, workload_key, model_name, model_size, dtype, scale, profile_enabled, "
    "proxy, log_dir, llmb_config_path, created_at, submit_time, slurm_state, elapsed, node_list, "
    "exit_code, train_step_time_seconds, tflops_per_gpu, tokens_per_sec_per_gpu, "
    "perf_parse_status";

constexpr const char* kOrder = R"(
ORDER BY LOWER(COALESCE(NULLIF(workload_key, ''), NULLIF(model_name, ''), '')),
  CAST(REPLACE(LOWER(COALESCE(model_size, '0')), 'b', '') AS REAL) DESC,
  LOWER(COALESCE(model_size, '')), LOWER(COALESCE(dtype, '')), scale, profile_enabled,
  COALESCE(NULLIF(submit_time, ''), created_at) DESC, job_id DESC)";

std::string json_of(const Variables& values) { return nlohmann::json(masked(values)).dump(); }

[[noreturn]] void refuse(const std::string& path, int code, const std::string& text) {
  const int kind = code & 0xff;
  if (kind == SQLITE_BUSY || kind == SQLITE_LOCKED)
    NEREUS_FAIL(kConfig,
                "{}: the job database is locked by another program ({}). Try again; when no other "
                "`nereus` or `llmb-run` runs, `nereus jobs rebuild` makes a new one from the runs' "
                "folders.",
                path, text);
  if (kind == SQLITE_CORRUPT || kind == SQLITE_NOTADB)
    NEREUS_FAIL(kConfig,
                "{}: the job database is damaged ({}). `nereus jobs rebuild` puts it aside and "
                "makes a new one from the runs' folders.",
                path, text);
  NEREUS_FAIL(kConfig,
              "{}: the job database cannot be used: {}. Its folder must be writable; `nereus jobs "
              "rebuild` makes a new one from the runs' folders.",
              path, text);
}

}  // namespace

class JobDatabase::Statement {
 public:
  Statement(JobDatabase& owner, const std::string& sql) : owner_(owner) {
    check(sqlite3_prepare_v2(owner.db_, sql.c_str(), -1, &statement_, nullptr));
  }
  ~Statement() { sqlite3_finalize(statement_); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  Statement& bind(const std::string& text) {  // "" is NULL
    ++bound_;
    check(text.empty() ? sqlite3_bind_null(statement_, bound_)
                       : sqlite3_bind_text(statement_, bound_, text.c_str(),
                                           static_cast<int>(text.size()), SQLITE_TRANSIENT));
    return *this;
  }
  Statement& bind(int64_t n) {
    check(sqlite3_bind_int64(statement_, ++bound_, n));
    return *this;
  }
  Statement& bind(const std::optional<double>& x) {
    ++bound_;
    check(x ? sqlite3_bind_double(statement_, bound_, *x) : sqlite3_bind_null(statement_, bound_));
    return *this;
  }
  bool step() {
    const int code = sqlite3_step(statement_);
    if (code != SQLITE_ROW && code != SQLITE_DONE) check(code);
    column_ = 0;
    return code == SQLITE_ROW;
  }

  std::string text() {
    const int at = column_++;
    const auto* text = reinterpret_cast<const char*>(sqlite3_column_text(statement_, at));
    return text ? text : "";
  }
  int64_t number() { return sqlite3_column_int64(statement_, column_++); }
  std::optional<double> real() {
    const int at = column_++;
    if (sqlite3_column_type(statement_, at) == SQLITE_NULL) return std::nullopt;
    return sqlite3_column_double(statement_, at);
  }

 private:
  void check(int code) const {
    if (code != SQLITE_OK) refuse(owner_.path_, code, sqlite3_errmsg(owner_.db_));
  }
  JobDatabase& owner_;
  sqlite3_stmt* statement_ = nullptr;
  int bound_ = 0, column_ = 0;
};

JobDatabase::JobDatabase(const std::string& path, int wait_ms) : path_(path) {
  std::error_code error;
  fs::create_directories(fs::path(path).parent_path(), error);
  try {
    const int code = sqlite3_open(path.c_str(), &db_);
    if (code != SQLITE_OK) refuse(path_, code, db_ ? sqlite3_errmsg(db_) : "out of memory");
    sqlite3_busy_timeout(db_, wait_ms);
    open();
  } catch (...) {
    sqlite3_close(db_);
    throw;
  }
}

int64_t JobDatabase::schema() {
  Statement table(*this, "SELECT COUNT(*) FROM sqlite_master WHERE name = 'metadata'");
  table.step();
  if (table.number() == 0) return 0;
  Statement version(*this,
                    "SELECT CAST(value AS INTEGER) FROM metadata WHERE key = 'schema_version'");
  return version.step() ? version.number() : 0;
}

void JobDatabase::open() {
  const int64_t found = schema();
  if (found > kSchema)
    throw NewerDatabase(
        Fault::kConfig,
        fmt::format("{}: the job database has schema_version {}, and this Nereus knows up to {}. "
                    "Use the newer program that made it, or move the file away: `nereus jobs "
                    "rebuild` makes another from the runs' folders.",
                    path_, found, kSchema));
  const int code = sqlite3_exec(db_, kTables, nullptr, nullptr, nullptr);
  if (code != SQLITE_OK) refuse(path_, code, sqlite3_errmsg(db_));
  if (schema() < 1) refuse(path_, SQLITE_CORRUPT, "its schema_version is no number");
  Statement columns(*this,
                    "SELECT COUNT(*) FROM pragma_table_info('jobs') WHERE name = "
                    "'tokens_per_sec_per_gpu'");
  columns.step();
  if (columns.number() > 0) return;
  Statement(*this, "ALTER TABLE jobs ADD COLUMN tokens_per_sec_per_gpu REAL").step();  // schema 1
  Statement(*this, "UPDATE metadata SET value = '2' WHERE key = 'schema_version'").step();
}

JobDatabase::~JobDatabase() { sqlite3_close(db_); }

void JobDatabase::record(const JobRecord& j) {
  const std::string now = utc_now();
  // Slurm gives a number again after years, or after its own files were lost: another folder is
  // another job.
  Statement(*this, "DELETE FROM jobs WHERE job_id = ? AND log_dir IS NOT ?")
      .bind(j.id)
      .bind(j.log_folder)
      .step();
  Statement s(*this,
              "INSERT INTO jobs (job_id, launcher_type, workload_key, model_name, model_size, "
              "dtype, scale, profile_enabled, proxy, log_dir, llmb_config_path, submit_time, "
              "created_at, updated_at, env_overrides_json, model_overrides_json) "
              "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
              "ON CONFLICT(job_id) DO UPDATE SET launcher_type = excluded.launcher_type, "
              "workload_key = excluded.workload_key, model_name = excluded.model_name, "
              "model_size = excluded.model_size, dtype = excluded.dtype, scale = excluded.scale, "
              "profile_enabled = excluded.profile_enabled, proxy = excluded.proxy, "
              "llmb_config_path = excluded.llmb_config_path, updated_at = excluded.updated_at, "
              "env_overrides_json = excluded.env_overrides_json, "
              "model_overrides_json = excluded.model_overrides_json");
  s.bind(j.id).bind(j.launcher_type).bind(j.workload).bind(j.model).bind(j.size).bind(j.dtype);
  s.bind(j.scale).bind(int64_t{j.profile}).bind(int64_t{j.proxy}).bind(j.log_folder);
  s.bind(j.config_path).bind(j.submitted).bind(j.created.empty() ? now : j.created).bind(now);
  s.bind(json_of(j.environment)).bind(json_of(j.parameters));
  s.step();
}

void JobDatabase::set_state(int64_t id, const JobState& state) {
  const std::string now = utc_now();
  Statement s(*this,
              "UPDATE jobs SET slurm_state = ?, elapsed = COALESCE(?, elapsed), submit_time = "
              "COALESCE(?, submit_time), node_list = COALESCE(?, node_list), exit_code = "
              "COALESCE(?, exit_code), last_status_refresh = ?, updated_at = ? WHERE job_id = ?");
  s.bind(state.state).bind(state.elapsed).bind(state.submitted).bind(state.nodes);
  s.bind(state.exit_code).bind(now).bind(now).bind(id).step();
}

void JobDatabase::set_speed(int64_t id, const RunSpeed& speed) {
  Statement s(*this,
              "UPDATE jobs SET perf_parse_status = ?, train_step_time_seconds = ?, tflops_per_gpu "
              "= ?, tokens_per_sec_per_gpu = ?, updated_at = ? WHERE job_id = ?");
  s.bind(speed.status).bind(speed.step_seconds).bind(speed.tflops_per_gpu);
  s.bind(speed.tokens_per_second_per_gpu).bind(utc_now()).bind(id).step();
}

std::vector<JobRecord> JobDatabase::select(const std::string& rest, std::optional<int64_t> id) {
  Statement s(*this, fmt::format("SELECT {} FROM jobs {}", kColumns, rest));
  if (id) s.bind(*id);
  std::vector<JobRecord> out;
  while (s.step()) {
    JobRecord& j = out.emplace_back();
    j.id = s.number();
    for (std::string* text : {&j.launcher_type, &j.workload, &j.model, &j.size, &j.dtype})
      *text = s.text();
    j.scale = s.number();
    j.profile = s.number() != 0;
    j.proxy = s.number() != 0;
    for (std::string* text : {&j.log_folder, &j.config_path, &j.created, &j.submitted, &j.state,
                              &j.elapsed, &j.nodes, &j.exit_code})
      *text = s.text();
    j.step_seconds = s.real();
    j.tflops_per_gpu = s.real();
    j.tokens_per_second_per_gpu = s.real();
    j.speed_status = s.text();
  }
  return out;
}

std::vector<JobRecord> JobDatabase::jobs() { return select(kOrder, std::nullopt); }

std::vector<JobRecord> JobDatabase::unsettled() {
  return select(fmt::format("WHERE perf_parse_status IS NULL OR slurm_state IS NULL OR "
                            "(slurm_state NOT IN ('{}') AND slurm_state NOT LIKE 'CANCELLED %') "
                            "ORDER BY job_id",
                            fmt::join(kTerminal, "', '")),
                std::nullopt);
}

std::optional<JobRecord> JobDatabase::job(int64_t id) {
  const std::vector<JobRecord> found = select("WHERE job_id = ?", id);
  return found.empty() ? std::nullopt : std::optional(found[0]);
}

void JobDatabase::begin() { Statement(*this, "BEGIN IMMEDIATE").step(); }
void JobDatabase::commit() { Statement(*this, "COMMIT").step(); }

std::string JobDatabase::path_in(const std::string& install) {
  return install + "/.llmb/jobs.sqlite3";
}

std::string JobDatabase::put_aside(const std::string& path) {
  const std::string aside = fmt::format("{}.unusable-{}", path, std::time(nullptr));
  const auto move = [&](const std::string& ending) {
    std::error_code error;
    fs::rename(path + ending, aside + ending, error);
    NEREUS_CHECK(kConfig, !error, "{}: cannot be renamed: {}. Its folder must be writable.",
                 path + ending, error.message());
  };
  std::error_code error;
  for (const char* ending : kBeside)
    if (fs::exists(path + ending, error)) move(ending);
  move("");
  return aside;
}

std::string utc_time(int64_t seconds) {
  const std::time_t time = seconds;
  std::tm parts{};
  gmtime_r(&time, &parts);
  char text[40];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S+00:00", &parts);
  return text;
}
std::string utc_now() { return utc_time(std::time(nullptr)); }

bool is_terminal(const std::string& state) {
  const std::string word = state.substr(0, state.find(' '));  // "CANCELLED by 1000"
  return std::any_of(std::begin(kTerminal), std::end(kTerminal),
                     [&word](const char* s) { return word == s; });
}

}  // namespace nereus::recipe
