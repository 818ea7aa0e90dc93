#include "recipe/jobs.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <ctime>
#include <fstream>

#include "recipe/installation_test.h"
#include "recipe/run_config.h"

namespace nereus::recipe {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::StartsWith;

constexpr const char* kFinished =
    "[titan] 2025-10-02 12:00:01,000 - root - INFO - step:  1  loss:  8.0  grad_norm:  1.5  "
    "memory: 1.00GiB(1.00%)  tps: 50  tflops: 5.00  mfu: 1.00%\n"
    "[titan] 2025-10-02 12:00:03,500 - root - INFO - step:  2  loss:  8.0  grad_norm:  1.5  "
    "memory: 1.00GiB(1.00%)  tps: 1,234  tflops: 56.78  mfu: 1.00%\n"
    "[titan] 2025-10-02 12:00:04,000 - root - INFO - Training completed\n";

class Jobs : public testing::Test {
 protected:
  Installation there_;
  const std::string path_ = JobDatabase::path_in(there_.config.llmb_install);

  JobRecord job(int64_t id, int64_t scale = 512) {
    const std::string folder = there_.run_folder(std::to_string(id), scale);
    return {.id = id,
            .launcher_type = "configured_sbatch",
            .workload = kKey,
            .model = "deepseek-v3-torchtitan",
            .size = "671b",
            .dtype = "bf16",
            .scale = scale,
            .log_folder = folder,
            .config_path = folder + "/llmb-config_" + std::to_string(id) + ".yaml",
            .created = "2020-01-01T00:00:00+00:00",
            .submitted = "2026-11-28T17:00:00"};
  }
  void execute(const std::string& sql) const {
    sqlite3* raw = nullptr;
    sqlite3_open(path_.c_str(), &raw);
    EXPECT_EQ(sqlite3_exec(raw, sql.c_str(), nullptr, nullptr, nullptr), SQLITE_OK);
    sqlite3_close(raw);
  }
  void write_log(const JobRecord& j) const {
    std::ofstream(j.log_folder + "/log-torchtitan_x_512gpus_" + std::to_string(j.id) + "_0.out")
        << kFinished;
  }
};

TEST_F(Jobs, WhatIsRecordedIsListedByWorkloadAndScaleTheLatestFirst) {
  JobDatabase database(path_);
  for (const auto& [id, scale] : {std::pair<int64_t, int64_t>{1, 1024}, {2, 512}, {3, 512}}) {
    JobRecord j = job(id, scale);
    j.submitted = fmt::format("2026-11-28T17:00:0{}", id);
    database.record(j);
  }
  std::vector<int64_t> ids;
  for (const JobRecord& j : database.jobs()) ids.push_back(j.id);
  EXPECT_THAT(ids, testing::ElementsAre(3, 2, 1));
  const JobRecord one = *JobDatabase(path_).job(2);
  EXPECT_EQ(one.workload, kKey);
  EXPECT_EQ(one.scale, 512);
  EXPECT_EQ(one.submitted, "2026-11-28T17:00:02");
  EXPECT_FALSE(database.job(4));
}

TEST_F(Jobs, AKnownNumberInAnotherFolderIsAnotherJob) {
  JobDatabase database(path_);
  JobRecord j = job(1);
  database.record(j);
  database.set_state(1, {.state = "FAILED"});
  j.profile = true;
  database.record(j);
  EXPECT_EQ(database.job(1)->state, "FAILED");
  EXPECT_TRUE(database.job(1)->profile);
  j.log_folder += "/other";
  database.record(j);
  EXPECT_EQ(database.job(1)->state, "");
}

TEST_F(Jobs, SacctGivesStatesAndEndedJobsTheirSpeed) {
  there_.program("sacct", R"(case "$*" in *--jobs=1,2,3,4*) ;; *) exit 9 ;; esac
echo '1|COMPLETED|00:10:00|2026-11-28T17:01:00|n[0-63]|0:0'
echo '2|CANCELLED by 1000|00:00:05|2026-11-28T17:02:00|None assigned|0:15'
echo '3|RUNNING|00:01:00|2026-11-28T17:03:00|n1|0:0')");
  JobDatabase database(path_);
  for (int64_t id : {1, 2, 3, 4}) database.record(job(id));
  write_log(job(1));
  const Refreshed r = refresh(database, {}, there_.environment);
  EXPECT_EQ(r.warning, "");
  EXPECT_EQ(r.count, 4);
  EXPECT_EQ(database.job(1)->state, "COMPLETED");
  EXPECT_EQ(database.job(1)->submitted, "2026-11-28T17:01:00");
  EXPECT_EQ(database.job(1)->speed_status, "short");
  EXPECT_DOUBLE_EQ(*database.job(1)->step_seconds, 2.5);
  EXPECT_DOUBLE_EQ(*database.job(1)->tokens_per_second_per_gpu, 1234);
  EXPECT_DOUBLE_EQ(*database.job(1)->tflops_per_gpu, 56.78);
  EXPECT_EQ(database.job(2)->speed_status, "no_log");
  EXPECT_EQ(database.job(3)->state, "RUNNING");
  EXPECT_EQ(database.job(3)->speed_status, "");
  EXPECT_EQ(database.job(4)->state, "PURGED");  // sacct does not know it, minutes after sbatch

  const std::string text = table(database.jobs());
  EXPECT_THAT(text, StartsWith("Workload                              DType  Scale  Job ID  "
                               "Profile  Submit Time       Slurm Status  Elapsed   Step  s/iter  "
                               "TFLOPS/GPU  Tokens/s/GPU\n"));
  EXPECT_THAT(text,
              HasSubstr("pretrain_deepseek-v3-torchtitan_671b  bf16     512       1  -      "
                        "  2026-11-28 17:01  COMPLETED     00:10:00          2.50       56.78     "
                        "  1234.00\n"));
  EXPECT_THAT(text, HasSubstr("2026-11-28 17:02  CANCELLED     00:00:05\n"));
  EXPECT_THAT(details(*database.job(1)),
              HasSubstr("\nPerf Parse   : short\ns/iter       : 2.50\n"));
  const std::string known = table(database.jobs(), {}, {{1, "93.1%"}});
  EXPECT_THAT(known, HasSubstr("TFLOPS/GPU  Tokens/s/GPU  Goodput\n"));
  EXPECT_THAT(known, HasSubstr("       1234.00    93.1%\n"));
  EXPECT_THAT(known, HasSubstr("2026-11-28 17:02  CANCELLED     00:00:05\n"));
  EXPECT_THAT(details(*database.job(1), {}, "", "93.1%"),
              testing::EndsWith("\nGoodput      : 93.1%"));
}

TEST_F(Jobs, AWaitingJobSaysWhyAndARunningOneHowFarItIs) {
  there_.program("sacct", R"(
echo '1|RUNNING|00:01:00|2026-11-28T17:03:00|n1|0:0'
echo '2|PENDING|00:00:00|2026-11-28T17:03:00|None assigned|0:0'
echo '3|PENDING|00:00:00|2026-11-28T17:03:00|None assigned|0:0')");
  there_.program("squeue", R"(case "$*" in *--me*PENDING*) ;; *) exit 9 ;; esac
echo '2|Resources'; echo '3|None'; echo '99|Priority')");
  JobDatabase database(path_);
  for (int64_t id : {1, 2, 3}) database.record(job(id));
  std::ofstream(job(1).log_folder + "/log-torchtitan_x_512gpus_1_0.out")
      << "[titan] x - root - INFO - sequence length 4096, total steps 60 (warmup 60)\n"
      << kFinished;
  const Refreshed r = refresh(database, {}, there_.environment);
  const std::string text = table(database.jobs(), r.live);
  EXPECT_THAT(text, HasSubstr("  RUNNING              00:01:00  2/60"));
  EXPECT_THAT(text, HasSubstr("  PENDING (Resources)  00:00:00\n"));
  EXPECT_THAT(text, HasSubstr("  PENDING              00:00:00"));
  EXPECT_THAT(details(*database.job(2), r.live.at(2)), HasSubstr("\nReason       : Resources\n"));
  EXPECT_THAT(details(*database.job(1), r.live.at(1)), HasSubstr("\nStep         : 2/60\n"));
}

TEST_F(Jobs, ShortStepsHaveThreeDigitsAndTheRecipesMfuIsOfItsTable) {
  JobRecord j = job(1);
  j.step_seconds = 0.0504321;
  j.tflops_per_gpu = 245;
  j.tokens_per_second_per_gpu = 1234.567;
  EXPECT_THAT(details(j), HasSubstr("\ns/iter       : 0.0504\nTFLOPS/GPU   : 245.00\nMFU          "
                                    ": \nTokens/s/GPU : 1234.57\n"));
  EXPECT_THAT(
      details(j, {}, "gb200"),
      HasSubstr("\nMFU          : 10.0 % of 2450 TFLOPS (gb200, bf16: the recipe's table)\n"));
  EXPECT_THAT(details(j, {}, "h100"), HasSubstr("\nMFU          : 24.8 % of 989 TFLOPS "));
  j.dtype = "fp8";
  EXPECT_THAT(details(j, {}, "B200"), HasSubstr("\nMFU          : 5.4 % of 4500 TFLOPS "));
}

// `sbatch launch.sh` leaves no llmb-config: names of log and folders say what it was.
TEST_F(Jobs, RunsOfTheScriptAloneAreRebuiltToo) {
  there_.program("sacct", "echo '4|COMPLETED|00:10:00||n1|0:0'; echo '5|FAILED|00:00:10||n1|2:0'");
  const std::string experiments = "llmb/workloads/" + std::string(kKey) + "/experiments/";
  const std::string run = experiments + "deepseek-v3-torchtitan_671b_bf16_gpus256/job_4/";
  for (const char* restart : {"0", "1"})
    there_.folder.write(run + "log-torchtitan_deepseek-v3-torchtitan_256gpus_4_" + restart + ".out",
                        kFinished);
  there_.folder.write(run + "outputs/torchtitan_x_256gpus_4_profile_trace/rank0.json", "{}");
  there_.folder.write(experiments + "mine/log-torchtitan_deepseek-v3-torchtitan_8gpus_5_0.out", "");
  const JobRecord recorded = job(6);
  RunConfig config;
  config.job_id = "6";
  config.launcher_type = "configured_sbatch";
  write_run_config(config, recorded.config_path);
  write_log(recorded);
  const Rebuilt rebuilt = rebuild(there_.config, there_.workloads, there_.environment);
  EXPECT_EQ(rebuilt.scanned, 3);
  EXPECT_EQ(rebuilt.imported, 3);
  JobDatabase database(path_);
  const JobRecord found = *database.job(4);
  EXPECT_EQ(found.launcher_type, "sbatch");
  EXPECT_EQ(found.workload, kKey);
  EXPECT_EQ(found.model, "deepseek-v3-torchtitan");
  EXPECT_EQ(found.size + " " + found.dtype, "671b bf16");
  EXPECT_EQ(found.scale, 256);
  EXPECT_TRUE(found.profile);
  EXPECT_EQ(found.submitted, "2025-10-02T12:00:01");
  EXPECT_EQ(found.state, "COMPLETED");
  EXPECT_DOUBLE_EQ(*found.step_seconds, 2.5);
  EXPECT_EQ(database.job(5)->scale, 8);
  EXPECT_EQ(database.job(5)->size, "");
  EXPECT_EQ(database.job(6)->launcher_type, "configured_sbatch");
}

TEST_F(Jobs, AYoungJobThatSacctDoesNotKnowIsNotGone) {
  there_.program("sacct", "exit 0");
  JobDatabase database(path_);
  JobRecord young = job(5);
  young.created = utc_now();
  database.record(young);
  EXPECT_EQ(refresh(database, {}, there_.environment).count, 0);
  EXPECT_EQ(database.job(5)->state, "");
  there_.program("scontrol", "echo 'JobId=5 JobState=PENDING RunTime=00:00:00'");
  EXPECT_EQ(refresh(database, {}, there_.environment).count, 1);
  EXPECT_EQ(database.job(5)->state, "PENDING");
}

TEST_F(Jobs, WithoutAccountingScontrolAndTheLogsSpeak) {
  there_.program("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1");
  there_.program("scontrol", R"(
echo 'JobId=1 JobName=x UserId=root(0) JobState=RUNNING Reason=None ExitCode=0:0 RunTime=00:01:02 SubmitTime=2026-11-28T17:00:00 NodeList=n[0-1] BatchHost=n0'
echo 'JobId=2 JobName=x JobState=PENDING ExitCode=0:0 RunTime=00:00:00 NodeList=(null)')");
  JobDatabase database(path_);
  for (int64_t id : {1, 2, 3, 4}) database.record(job(id));
  write_log(job(3));
  EXPECT_EQ(refresh(database, {}, there_.environment).warning, "");
  EXPECT_EQ(database.job(1)->state, "RUNNING");
  EXPECT_EQ(database.job(1)->nodes, "n[0-1]");
  EXPECT_EQ(database.job(1)->elapsed, "00:01:02");
  EXPECT_EQ(database.job(2)->state, "PENDING");
  EXPECT_EQ(database.job(2)->nodes, "");
  EXPECT_EQ(database.job(3)->state, "COMPLETED");  // forgotten, but its log came to its end
  EXPECT_DOUBLE_EQ(*database.job(3)->step_seconds, 2.5);
  EXPECT_EQ(database.job(4)->state, "PURGED");
}

TEST_F(Jobs, WithoutSlurmNothingIsMadeUp) {
  there_.program("sacct", "echo 'no connection' >&2; exit 1");
  there_.program("scontrol", "exit 1");
  JobDatabase database(path_);
  database.record(job(1));
  database.record(job(2));
  write_log(job(2));
  EXPECT_EQ(refresh(database, {}, there_.environment).warning,
            "sacct unavailable; status may be stale (no connection).");
  EXPECT_EQ(database.job(1)->state, "");
  EXPECT_EQ(database.job(2)->state, "COMPLETED");
  there_.environment["PATH"] = "/nowhere";
  EXPECT_EQ(refresh(database, {}, there_.environment).warning,
            "sacct unavailable; status may be stale (sacct: not found in PATH; scontrol: not found "
            "in PATH).");
}

TEST_F(Jobs, ARefreshedJobsLogIsReadAgain) {
  there_.program("sacct", "echo '1|COMPLETED|00:10:00|2026-11-28T17:01:00|n1|0:0'");
  JobDatabase database(path_);
  database.record(job(1));
  refresh(database, {}, there_.environment);
  EXPECT_EQ(database.job(1)->speed_status, "no_log");
  write_log(job(1));
  refresh(database, {}, there_.environment);
  EXPECT_EQ(database.job(1)->speed_status, "no_log");
  EXPECT_EQ(refresh(database, {1}, there_.environment).count, 1);
  EXPECT_EQ(database.job(1)->speed_status, "short");
}

TEST_F(Jobs, ALockedDatabaseIsNamedWithTheRemedy) {
  JobDatabase database(path_);
  database.begin();
  const std::string text = refusal([&] { JobDatabase(path_, 10).record(job(1)); });
  EXPECT_EQ(text, path_ +
                      ": the job database is locked by another program (database is locked). Try "
                      "again; when no other `nereus` or `llmb-run` runs, `nereus jobs rebuild` "
                      "makes a new one from the runs' folders.");
  database.commit();
  JobDatabase(path_, 10).record(job(1));
}

TEST_F(Jobs, ADamagedDatabaseIsRebuiltFromTheRunsFolders) {
  there_.program("sacct", "echo '7|FAILED|00:10:00|2026-11-28T17:01:00|n1|1:0'");
  const JobRecord recorded = job(7);
  RunConfig run;
  run.job_id = "7";
  run.launcher_type = "configured_sbatch";
  run.launch_time = "2026-11-28T17:00:00";
  run.model_size = "671b";
  run.dtype = "bf16";
  run.scale = 512;
  run.profile_enabled = true;
  write_run_config(run, recorded.config_path);
  there_.folder.write("llmb/workloads/" + std::string(kKey) + "/experiments/llmb-config_8.yaml",
                      "job_info: [");
  { JobDatabase(path_).record(recorded); }
  {  // some of its pages
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(0);
    file << std::string(200, 'x');
  }
  EXPECT_EQ(refusal([&] { JobDatabase{path_}; }),
            path_ +
                ": the job database is damaged (file is not a database). `nereus jobs rebuild` "
                "puts it aside and makes a new one from the runs' folders.");
  const Rebuilt rebuilt = rebuild(there_.config, there_.workloads, there_.environment);
  EXPECT_EQ(rebuilt.scanned, 2);
  EXPECT_EQ(rebuilt.imported, 1);
  EXPECT_EQ(rebuilt.skipped, 1);
  EXPECT_THAT(rebuilt.aside, StartsWith(path_ + ".unusable-"));
  EXPECT_TRUE(fs::exists(rebuilt.aside));
  const JobRecord again = *JobDatabase(path_).job(7);
  EXPECT_EQ(again.workload, kKey);
  EXPECT_TRUE(again.profile);
  EXPECT_EQ(again.state, "FAILED");
  EXPECT_EQ(again.log_folder, recorded.log_folder);
  EXPECT_EQ(rebuild(there_.config, there_.workloads, there_.environment).aside, "");
}

TEST_F(Jobs, ADatabaseThatStaysLockedIsRebuiltToo) {
  JobDatabase database(path_);
  database.begin();
  const Rebuilt rebuilt = rebuild(there_.config, there_.workloads, there_.environment, 10);
  EXPECT_THAT(rebuilt.aside, StartsWith(path_ + ".unusable-"));
  EXPECT_TRUE(JobDatabase(path_).jobs().empty());
}

// Its first schema lacks a column.
TEST_F(Jobs, LlmbRunsDatabasesAreRead) {
  fs::create_directories(fs::path(path_).parent_path());
  execute(
      "CREATE TABLE metadata (key TEXT PRIMARY KEY, value TEXT NOT NULL);"
      "INSERT INTO metadata VALUES ('schema_version', '1');"
      "CREATE TABLE jobs (job_id INTEGER PRIMARY KEY, launcher_type TEXT NOT NULL, "
      "workload_key TEXT, model_name TEXT, model_size TEXT, dtype TEXT, scale INTEGER, "
      "profile_enabled INTEGER NOT NULL DEFAULT 0, proxy INTEGER NOT NULL DEFAULT 0, "
      "log_dir TEXT, llmb_config_path TEXT, created_at TEXT, updated_at TEXT, slurm_state "
      "TEXT, elapsed TEXT, submit_time TEXT, node_list TEXT, exit_code TEXT, "
      "last_status_refresh TEXT, env_overrides_json TEXT, model_overrides_json TEXT, "
      "train_step_time_seconds REAL, tflops_per_gpu REAL, perf_parse_status TEXT);"
      "INSERT INTO jobs (job_id, launcher_type, slurm_state, tflops_per_gpu) VALUES (9, "
      "'nemo', 'COMPLETED', 3.5);");
  const JobRecord old = *JobDatabase(path_).job(9);
  EXPECT_EQ(old.launcher_type, "nemo");
  EXPECT_DOUBLE_EQ(*old.tflops_per_gpu, 3.5);
  EXPECT_FALSE(old.tokens_per_second_per_gpu);
  execute("UPDATE metadata SET value = '3'");
  EXPECT_EQ(refusal([&] { JobDatabase{path_}; }),
            path_ +
                ": the job database has schema_version 3, and this Nereus knows up to 2. Use the "
                "newer program that made it, or move the file away: `nereus jobs rebuild` makes "
                "another from the runs' folders.");
  execute("UPDATE metadata SET value = 'two'");
  EXPECT_THAT(refusal([&] { JobDatabase{path_}; }),
              HasSubstr("is damaged (its schema_version is no number)"));
}

// A newer program's is neither replaced nor written to, whatever its tables are.
TEST_F(Jobs, ANewerProgramsDatabaseIsLeftAsItIs) {
  fs::create_directories(fs::path(path_).parent_path());
  execute("CREATE TABLE metadata (key TEXT PRIMARY KEY, value TEXT NOT NULL, since TEXT NOT NULL)");
  execute("INSERT INTO metadata VALUES ('schema_version', '3', 'now')");
  const std::string before = test::read_file(path_);
  EXPECT_THAT(refusal([&] { rebuild(there_.config, there_.workloads, there_.environment); }),
              StartsWith(path_ + ": the job database has schema_version 3, and this Nereus knows "
                                 "up to 2."));
  EXPECT_EQ(test::read_file(path_), before);
  EXPECT_EQ(std::distance(fs::directory_iterator(fs::path(path_).parent_path()), {}), 1);
}

// A journal is a part of its database: the kept copy is not whole without it, and the new one would
// be damaged by it.
TEST_F(Jobs, WhatSqliteHasBesideADatabaseIsPutAsideWithIt) {
  for (const auto& [mode, ending] : {std::pair("DELETE", "-journal"), std::pair("WAL", "-wal")}) {
    JobDatabase(path_).record(job(1));
    sqlite3* other = nullptr;  // a program that hangs
    sqlite3_open(path_.c_str(), &other);
    for (const std::string& sql :
         {std::string("PRAGMA journal_mode = ") + mode,
          std::string("INSERT INTO jobs (job_id, launcher_type) VALUES (9, 'nemo')"),
          std::string("BEGIN IMMEDIATE"), std::string("UPDATE jobs SET scale = 1")})
      ASSERT_EQ(sqlite3_exec(other, sql.c_str(), nullptr, nullptr, nullptr), SQLITE_OK) << sql;
    ASSERT_TRUE(fs::exists(path_ + ending));
    const std::string aside =
        rebuild(there_.config, there_.workloads, there_.environment, 10).aside;
    EXPECT_FALSE(fs::exists(path_ + ending));
    const std::string copy = there_.folder.file(std::string("copy") + mode);
    fs::copy(aside, copy);
    fs::copy(aside + ending, copy + ending);
    sqlite3_close(other);
    EXPECT_TRUE(JobDatabase(copy).job(9));
    EXPECT_EQ(JobDatabase(copy).job(1)->scale, 512);
    EXPECT_TRUE(JobDatabase(path_).jobs().empty());
    for (const char* name : {"", "-journal", "-wal", "-shm"}) {
      fs::remove(path_ + name);
      fs::remove(aside + name);
    }
  }
}

TEST_F(Jobs, ARebuiltJobWasMadeAtItsLaunchInUtc) {
  setenv("TZ", "EST5EDT", 1);
  tzset();
  int64_t id = 0;
  std::vector<std::string> created;
  RunConfig run;
  run.launcher_type = "configured_sbatch";
  for (const char* time :
       {"2026-11-28T17:00:00", "2026-07-28T17:00:00", "2026-11-28T17:00:00.250",
        "2026-11-28T17:00:00Z", "2026-11-28T17:00:00+00:00", "2026-11-28 17:00:00-01:30"}) {
    run.job_id = std::to_string(++id);
    run.launch_time = time;
    write_run_config(run, job(id).config_path);
  }
  rebuild(there_.config, there_.workloads, there_.environment);
  JobDatabase database(path_);
  for (int64_t i = 1; i <= id; ++i) created.push_back(database.job(i)->created);
  unsetenv("TZ");
  tzset();
  EXPECT_THAT(created,
              testing::ElementsAre("2026-11-28T22:00:00+00:00", "2026-07-28T21:00:00+00:00",
                                   "2026-11-28T22:00:00+00:00", "2026-11-28T17:00:00+00:00",
                                   "2026-11-28T17:00:00+00:00", "2026-11-28T18:30:00+00:00"));
  EXPECT_EQ(database.job(1)->submitted, "2026-11-28T17:00:00");
}

// root may look into every folder, but not into one whose path is too long.
TEST_F(Jobs, AFolderThatCannotBeReadIsNamedAndTheOthersAreLookedThrough) {
  RunConfig run;
  run.launcher_type = "configured_sbatch";
  for (const char* id : {"1", "2"}) {
    run.job_id = id;
    write_run_config(run, job(std::atoi(id), *id == '1' ? 512 : 1024).config_path);
  }
  const std::string folder = job(1).log_folder;
  fs::create_symlink("outputs", folder + "/outputs");  // a link to itself
  const std::string name(200, 'd');
  int at = open(folder.c_str(), O_RDONLY);
  std::string longest = folder;
  for (int i = 0; i < 25; ++i) {
    ASSERT_EQ(mkdirat(at, name.c_str(), 0755), 0);
    const int below = openat(at, name.c_str(), O_RDONLY);
    close(at);
    at = below;
    if (longest.size() < PATH_MAX) longest += "/" + name;
  }
  close(at);
  const Rebuilt rebuilt = rebuild(there_.config, there_.workloads, there_.environment);
  EXPECT_EQ(rebuilt.imported, 2);
  ASSERT_EQ(rebuilt.warnings.size(), 2u);  // sacct does not answer
  EXPECT_EQ(rebuilt.warnings[0],
            longest + ": cannot be read: File name too long. Runs in it are not recorded.");
}

TEST_F(Jobs, TenThousandAreATableInHalfASecond) {
  JobDatabase database(path_);
  database.begin();
  JobRecord j = job(1);
  for (j.id = 1; j.id <= 10000; ++j.id) {
    database.record(j);
    database.set_state(j.id, {.state = "COMPLETED", .elapsed = "00:10:00"});
    database.set_speed(j.id, {.status = "success", .step_seconds = 27.4});
  }
  database.commit();
  const auto begin = std::chrono::steady_clock::now();
  refresh(database, {}, there_.environment);
  const std::string text = table(database.jobs());
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 10000);
  RecordProperty("milliseconds", static_cast<int>(seconds * 1000));
  EXPECT_LT(seconds, 5) << "ten times what it should take, for slow or sanitized builds";
}

}  // namespace
}  // namespace nereus::recipe
