#include "cli/recipe_job.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <vector>

#include "base/check.h"
#include "recipe/command_output.h"
#include "recipe/run_record.h"

namespace nereus {
namespace {

recipe::CommandOutput slurm(const std::vector<std::string>& command) {
  return recipe::run_command(command, recipe::process_environment());
}

// Neither cancelled nor at its limit.
bool runs(const std::string& job) {
  return slurm({"squeue", "--noheader", "--jobs=" + job, "--format=%T"}).out.starts_with("RUNNING");
}

// Signals that are to be looked at, blocked while this lives; a child has them as they were.
class WaitedSignals {
 public:
  WaitedSignals() {
    sigemptyset(&set_);
    for (const int s : {SIGCHLD, SIGTERM, SIGUSR1, SIGINT}) sigaddset(&set_, s);
    sigprocmask(SIG_BLOCK, &set_, &before_);
  }
  ~WaitedSignals() { restore(); }
  WaitedSignals(const WaitedSignals&) = delete;
  WaitedSignals& operator=(const WaitedSignals&) = delete;

  void restore() const { sigprocmask(SIG_SETMASK, &before_, nullptr); }
  // After a while without any: SIGCHLD, which another thread may have got.
  int next() const {
    constexpr timespec kWhile{.tv_sec = 0, .tv_nsec = 200'000'000};
    const int signal = sigtimedwait(&set_, nullptr, &kWhile);
    return signal > 0 ? signal : SIGCHLD;
  }

 private:
  sigset_t set_{}, before_{};
};

int run_srun(const std::vector<std::string>& command, const std::string& job) {
  std::vector<char*> words;
  for (const std::string& word : command) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  std::fflush(stdout);
  const WaitedSignals signals;
  const pid_t child = fork();
  NEREUS_CHECK(kConfig, child >= 0, "{}: cannot be started: {}", command[0], std::strerror(errno));
  if (child == 0) {
    signals.restore();
    execvp(words[0], words.data());
    std::fprintf(
        stderr, "error: %s: cannot be started: %s. launch.sh runs inside a Slurm job: sbatch it.\n",
        words[0], std::strerror(errno));
    _exit(2);
  }
  for (;;) {
    const int signal = signals.next();
    if (signal != SIGCHLD) {
      if (runs(job))
        slurm({"scancel", fmt::format("--signal={}", signal == SIGUSR1 ? "USR1" : "TERM"), job});
      continue;
    }
    int status = 0;
    if (waitpid(child, &status, WNOHANG) != child) continue;
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  }
}

// A time of scontrol's, as seconds since 1970; 0: none.
std::time_t time_of(const std::string& text, const std::string& key) {
  const size_t at = text.find(" " + key + "=");
  std::tm parts{};
  parts.tm_isdst = -1;
  if (at == std::string::npos ||
      strptime(text.c_str() + at + key.size() + 2, "%Y-%m-%dT%H:%M:%S", &parts) == nullptr)
    return 0;
  return std::mktime(&parts);
}

// The signal came because the whole job is hardly longer than the lead; Slurm may be a minute early
// and looks twice a minute. There must be time left to run in.
bool told_too_early(const std::string& job) {
  constexpr std::time_t kEarly = 90, kLeast = 120;
  const std::string said = slurm({"scontrol", "show", "job", "-o", job}).out;
  const std::time_t begin = time_of(said, "StartTime"), end = time_of(said, "EndTime");
  return said.find(" JobState=RUNNING ") != std::string::npos && begin > 0 &&
         end - begin <= kSignalLead + kEarly && end - std::time(nullptr) >= kLeast;
}

}  // namespace

int run_job(const RecipeJob& j) {
  constexpr std::time_t kStart = 60;
  constexpr int kTerm = 128 + SIGTERM, kUsr1 = 128 + SIGUSR1;
  const std::time_t begin = std::time(nullptr);
  const int64_t before = recipe::newest_checkpoint(j.checkpoints);
  if (j.run.requeues) {
    const auto said = slurm({"scontrol", "update", "jobid=" + j.id, "requeue=1"});
    if (said.code != 0)
      std::fprintf(stderr, "WARNING: NEREUS_REQUEUE: Slurm does not let this job be requeued: %s\n",
                   said.err.c_str());
  }
  int code = run_srun(j.run.command(), j.id);
  if (code == kTerm && std::time(nullptr) - begin < kStart && told_too_early(j.id)) {
    std::printf(
        "The job's time limit is hardly longer than the lead of --signal=TERM@%d, so that Slurm "
        "told "
        "it to stop when it began. The ranks start again and run until the limit; sbatch "
        "--signal=TERM@60 leaves a short job time to save.\n",
        kSignalLead);
    recipe::RecipeRun again = j.run;
    again.srun.emplace_back("--open-mode=append");
    code = run_srun(again.command(), j.id);
  }
  const int64_t saved = recipe::newest_checkpoint(j.checkpoints);
  if (code == 0 || code == 2 || saved < 0 || saved >= j.steps) return code;
  const std::string where = fmt::format("{} of {} steps are saved", saved, j.steps);
  if (j.run.requeues && (code == kTerm || code == kUsr1) && runs(j.id)) {
    if (saved <= before) {
      std::printf("NEREUS_REQUEUE: %s, none of them by this attempt: it is not requeued.\n",
                  where.c_str());
    } else {
      std::printf("%s: job %s is requeued and goes on from there.\n", where.c_str(), j.id.c_str());
      std::fflush(stdout);
      const auto said = slurm({"scontrol", "requeue", j.id});
      if (said.code == 0) return code;
      std::printf("Slurm does not requeue it: %s\n", said.err.c_str());
    }
  }
  std::printf("The run is not finished: %s. To go on: %s\n", where.c_str(),
              j.resume_command.c_str());
  return code;
}

}  // namespace nereus
