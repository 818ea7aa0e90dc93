#include "recipe/jobs.h"

#include <fmt/format.h>
#include <sqlite3.h>

#include <algorithm>
#include <chrono>
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
                               "Profile  Submit Time       Slurm Status  Elapsed   s/iter  "
                               "TFLOPS/GPU  Tokens/s/GPU\n"));
  EXPECT_THAT(text, HasSubstr("pretrain_deepseek-v3-torchtitan_671b  bf16     512       1  -      "
                              "  2026-11-28 17:01  COMPLETED     00:10:00    2.50       56.78     "
                              "  1234.00\n"));
  EXPECT_THAT(text, HasSubstr("2026-11-28 17:02  CANCELLED     00:00:05\n"));
  EXPECT_THAT(details(*database.job(1)),
              HasSubstr("\nPerf Parse   : short\ns/iter       : 2.50\n"));
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
            "sacct unavailable; status may be stale (sacct: not found in PATH).");
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
  sqlite3* raw = nullptr;
  sqlite3_open(path_.c_str(), &raw);
  sqlite3_exec(raw,
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
               "'nemo', 'COMPLETED', 3.5);",
               nullptr, nullptr, nullptr);
  sqlite3_close(raw);
  const JobRecord old = *JobDatabase(path_).job(9);
  EXPECT_EQ(old.launcher_type, "nemo");
  EXPECT_DOUBLE_EQ(*old.tflops_per_gpu, 3.5);
  EXPECT_FALSE(old.tokens_per_second_per_gpu);
  sqlite3_open(path_.c_str(), &raw);
  sqlite3_exec(raw, "UPDATE metadata SET value = '3'", nullptr, nullptr, nullptr);
  sqlite3_close(raw);
  EXPECT_EQ(refusal([&] { JobDatabase{path_}; }),
            path_ +
                ": the job database has schema_version 3, and this Nereus knows up to 2. Use "
                "the newer program that made it.");
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
