#include "launch/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/shown_error.h"
#include "comm/mpi_ranks.h"
#include "launch/build_id.h"
#include "launch/local_processes.h"
#include "test/child_process.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using std::chrono::milliseconds;
using test::Child;
using test::ChildFunction;
using test::given;
using test::tell;
using test::Tensor;
using testing::AllOf;
using testing::HasSubstr;

using Clock = std::chrono::steady_clock;

// Sums ranks, and tells who it is; with FAILS, that rank throws instead.
void report(ThisRank& me, const std::function<void(const std::string&)>& say) {
  Stream stream(me.device, &test::pool());
  Tensor x = Tensor(Device::cpu(), DType::i32, {1}).fill(me.world.rank() + 1);
  if (given("FAILS") == std::to_string(me.world.rank()))
    throw Error(Fault::kNumeric, "the loss is NaN");
  me.ranks.all_reduce(stream, x);
  say("rank " + std::to_string(me.world.rank()) + "/" + std::to_string(me.world.size()) +
      " local " + std::to_string(me.local_rank) + "/" + std::to_string(me.local_world_size) +
      " sum " + std::to_string(static_cast<int>(x[0])));
}

const ChildFunction reports("session", [] {
  RankOptions options;
  options.init_timeout = milliseconds(20'000);
  options.version = "1.0";
  options.configuration = given("CONFIGURATION");
  try {
    run_ranks(read_launch_environment(launch_variables(), {}), options,
              [](ThisRank& me) { report(me, tell); });
  } catch (const Error& e) {
    tell(e.what());
  }
});

// Rank 0 fails with something at hand whose destructor waits for rank 1's end, as a GPU's streams
// may.
struct WaitsForTheOthers {
  ~WaitsForTheOthers() {
    for (int i = 0; i < 200 && !std::filesystem::exists(given("ENDED")); ++i)
      std::this_thread::sleep_for(milliseconds(50));
    tell(std::filesystem::exists(given("ENDED")) ? "the others have ended" : "nobody knew");
  }
};
const ChildFunction fails_first("session_fails", [] {
  RankOptions options;
  options.init_timeout = options.end_time = milliseconds(20'000);
  try {
    run_ranks(read_launch_environment(launch_variables(), {}), options, [](ThisRank& me) {
      if (me.world.rank() == 0) {
        const WaitsForTheOthers waits;
        me.run([] { throw Error(Fault::kNumeric, "the loss is NaN"); });
      }
      Stream stream(me.device, &test::pool());
      try {
        me.ranks.barrier(stream);
      } catch (const Error&) {
        std::ofstream(given("ENDED")) << "now";
        throw;
      }
    });
  } catch (const Error& e) {
    tell(e.what());
  }
});

// Rank 1 works longer than the others: who is back from run_ranks() says whether it is done.
const ChildFunction leaves_last("session_leaves", [] {
  run_ranks(read_launch_environment(launch_variables(), {}), {.init_timeout = milliseconds(20'000)},
            [](ThisRank& me) {
              if (me.world.rank() != 1) return;
              std::this_thread::sleep_for(milliseconds(400));
              std::ofstream(given("DONE")) << "now";
            });
  tell(std::filesystem::exists(given("DONE")) ? "after the slow one" : "before the slow one");
});

// What is written to standard error is told.
void tell_errors() {
  const std::string pipe = given("NEREUS_TEST_PIPE");
  if (!pipe.empty()) dup2(std::atoi(pipe.c_str()), STDERR_FILENO);
}

// Sums until another rank dies, and ends as main() does. STUCK: from then on the collective does
// not come back, as one on a GPU may not. Who is DOOMED kills itself after a while, and says when.
const ChildFunction works("session_works", [] {
  tell_errors();
  try {
    run_ranks(read_launch_environment(launch_variables(), {}),
              {.init_timeout = milliseconds(60'000)}, [](ThisRank& me) {
                Stream stream(me.device, &test::pool());
                Tensor x = Tensor(Device::cpu(), DType::f32, {8}).fill(0);
                std::thread doom;
                me.run([&] {
                  for (int step = 0;; ++step) {
                    me.world.set_step(std::min(step, 5));
                    try {
                      me.ranks.all_reduce(stream, x);
                    } catch (const Error&) {
                      while (!given("STUCK").empty()) pause();
                      throw;
                    }
                    if (step != 5) continue;
                    tell("at work");
                    if (given("DOOMED") != std::to_string(me.world.rank())) continue;
                    doom = std::thread([] {
                      std::this_thread::sleep_for(milliseconds(std::atoi(given("AFTER").c_str())));
                      std::ofstream(given("KILLED")) << Clock::now().time_since_epoch().count();
                      ::kill(getpid(), SIGKILL);
                    });
                  }
                });
              });
  } catch (const Error& e) {
    tell(std::string("error: ") + e.what());
    std::_Exit(e.exit_code());
  }
});

// A rank of its own fails, and what it has at hand does not let it end.
struct NeverGoes {
  ~NeverGoes() { pause(); }
};
const ChildFunction fails_stuck("session_fails_stuck", [] {
  tell_errors();
  run_ranks(read_launch_environment(launch_variables(), {}), {.init_timeout = milliseconds(20'000)},
            [](ThisRank& me) {
              const NeverGoes stuck;
              Stream stream(me.device, &test::pool());
              me.run([&] {
                if (me.world.rank() == 0) throw Error(Fault::kNumeric, "the loss is NaN");
                me.ranks.barrier(stream);
              });
            });
});

// A mistake that the ranks named in WRONG find, as main() would show it: before they meet (EARLY)
// or when they have. Who is LATE comes two seconds later.
const ChildFunction refuses("session_refuses", [] {
  tell_errors();
  const LaunchEnvironment launch = read_launch_environment(launch_variables(), {});
  if (given("LATE") == std::to_string(launch.rank)) std::this_thread::sleep_for(milliseconds(2000));
  const bool wrong = given("WRONG").find(std::to_string(launch.rank)) != std::string::npos;
  const bool device = !given("DEVICE").empty();
  const Error mistake(device ? Fault::kDevice : Fault::kConfig,
                      device ? "no GPU is here" : "training.steps = 0: 1 or more are needed");
  try {
    if (wrong && !given("EARLY").empty()) fail_before_meeting(launch, mistake);
    run_ranks(launch, {.init_timeout = milliseconds(60'000), .version = "1.0"}, [&](ThisRank& me) {
      Stream stream(me.device, &test::pool());
      if (wrong) throw mistake;
      me.ranks.barrier(stream);
    });
  } catch (const ShownError& e) {
    std::_Exit(e.exit_code());
  } catch (const Error& e) {
    tell(std::string("error: ") + e.what());
    std::_Exit(e.exit_code());
  }
});

TEST(Session, OneRankAndThreadsRunInThisProcess) {
  for (const int nproc : {0, 3}) {
    std::atomic<int> right{0};
    const auto caller = std::this_thread::get_id();
    run_ranks(read_launch_environment({}, {.nproc = nproc}), {}, [&](ThisRank& me) {
      EXPECT_EQ(std::this_thread::get_id() == caller, nproc == 0);
      EXPECT_EQ(me.ranks.size(), me.world.size());
      report(me, [&](const std::string& text) {
        const std::string r = std::to_string(me.world.rank());
        right += text == (nproc == 0 ? "rank 0/1 local 0/1 sum 1"
                                     : "rank " + r + "/3 local " + r + "/3 sum 6");
      });
    });
    EXPECT_EQ(right, nproc == 0 ? 1 : 3);
  }
}

TEST(Session, TorchrunsAndSlurmsVariablesMakeAWorldOfProcesses) {
  std::vector<Child> ranks = test::start_ranks("session", 3);
  for (int r = 0; r < 3; ++r)
    EXPECT_EQ(ranks[static_cast<size_t>(r)].wait(),
              "rank " + std::to_string(r) + "/3 local " + std::to_string(r) + "/3 sum 6\n");
  std::vector<Child> tasks;
  for (const char* r : {"0", "1"}) {
    tasks.emplace_back("session", Environment{{"SLURM_PROCID", r},
                                              {"SLURM_NTASKS", "2"},
                                              {"SLURM_LOCALID", r},
                                              {"SLURM_STEP_ID", "0"},
                                              {"SLURM_JOB_ID", std::to_string(getpid())},
                                              {"SLURM_JOB_NODELIST", "127.0.0.1"}});
  }
  EXPECT_EQ(tasks[0].wait(), "rank 0/2 local 0/2 sum 3\n");
  EXPECT_EQ(tasks[1].wait(), "rank 1/2 local 1/2 sum 3\n");
}

TEST(Session, AnExceptionOfOneRankEndsTheOthers) {
  std::vector<Child> ranks = test::start_ranks("session", 3, {{"FAILS", "1"}});
  EXPECT_EQ(ranks[1].wait(), "the loss is NaN\n");
  for (const size_t r : {size_t{0}, size_t{2}})
    EXPECT_EQ(ranks[r].wait(),
              "rank 1 of the world failed, which ends the others: the loss is NaN\n");
}

TEST(Session, AMistakeOfTheUsersIsShownOnceByRankZeroAndEndsAllWithTwo) {
  for (const char* early : {"", "yes"}) {
    for (const char* wrong : {"0", "2", "012"}) {
      const auto begin = Clock::now();
      std::vector<Child> ranks =
          test::start_ranks("session_refuses", 3, {{"WRONG", wrong}, {"EARLY", early}});
      const std::string shown = ranks[0].wait();
      EXPECT_THAT(shown, testing::MatchesRegex(
                             "error: training.steps = 0: 1 or more are needed\n  Found by rank [" +
                             std::string(wrong) + "] \\(host .*\\)\\.\n"))
          << early << " " << wrong;
      for (const size_t r : {size_t{1}, size_t{2}}) EXPECT_EQ(ranks[r].wait(), "") << wrong;
      for (const Child& c : ranks) EXPECT_EQ(c.status(), 2) << early << " " << wrong;
      EXPECT_LT(Clock::now() - begin, test::soon(milliseconds(4000)));
    }
  }
}

TEST(Session, WhatARankMeetsBeforeTheOthersEndsThemWithItsNameAndHost) {
  for (const char* wrong : {"0", "1"}) {
    for (const char* late : {"", "2"}) {
      const auto begin = Clock::now();
      std::vector<Child> ranks =
          test::start_ranks("session_refuses", 3,
                            {{"WRONG", wrong}, {"EARLY", "y"}, {"DEVICE", "y"}, {"LATE", late}});
      for (Child& c : ranks) {
        EXPECT_EQ(c.wait(), "error: rank " + std::string(wrong) + " (host " + tcp::host_name() +
                                ") failed before the ranks met: no GPU is here\n");
        EXPECT_EQ(c.status(), 71);
      }
      EXPECT_LT(Clock::now() - begin, test::soon(milliseconds(*late == 0 ? 4000 : 6000)));
    }
  }
}

// Nobody listens where rank 0 should be.
TEST(Session, ARankThatCannotTellTheOthersSaysWhoItIs) {
  Child alone("session_refuses", {{"RANK", "1"},
                                  {"WORLD_SIZE", "2"},
                                  {"MASTER_ADDR", "no.such.host.invalid"},
                                  {"MASTER_PORT", std::to_string(test::free_port())},
                                  {"WRONG", "1"},
                                  {"EARLY", "y"}});
  EXPECT_THAT(alone.wait(), HasSubstr("error: training.steps = 0: 1 or more are needed\n  Found by "
                                      "rank 1 (host "));
  EXPECT_EQ(alone.status(), 2);
}

TEST(Session, RanksLeaveWhenTheLastOneIsDone) {
  const test::TemporaryFolder folder;
  std::vector<Child> ranks = test::start_ranks("session_leaves", 3, {{"DONE", folder.file("d")}});
  for (Child& c : ranks) EXPECT_EQ(c.wait(), "after the slow one\n");
}

TEST(Session, TheOthersAreToldBeforeWhatFailedIsTakenDown) {
  const test::TemporaryFolder folder;
  std::vector<Child> ranks = test::start_ranks("session_fails", 2, {{"ENDED", folder.file("e")}});
  EXPECT_EQ(ranks[0].wait(), "the others have ended\nthe loss is NaN\n");
  EXPECT_EQ(ranks[1].wait(),
            "rank 0 of the world failed, which ends the others: the loss is NaN\n");
}

// A survivor's last words.
void expect_last_words(const std::string& text, size_t survivor, size_t killed) {
  const std::string host = tcp::host_name();
  EXPECT_THAT(
      text, AllOf(HasSubstr("error: rank " + std::to_string(killed) + " of the world (host " +
                            host + ", process "),
                  HasSubstr(") died at step 5: its connection closed without a word"),
                  HasSubstr("\n  rank " + std::to_string(survivor) + " of the world (host " + host +
                            "): it is waiting in all_reduce number "),
                  HasSubstr(" (sum) of f32 [8] of group world at step 5\n")));
}

TEST(Session, AKilledRankEndsTheOthersWhateverTheyWaitFor) {
  const struct {
    size_t killed;
    const char* stuck;
  } cases[] = {{1, ""}, {1, "1"}, {0, "1"}};  // rank 0 is the one that all meet at
  for (const auto& [killed, stuck] : cases) {
    SCOPED_TRACE("rank " + std::to_string(killed) + (*stuck == 0 ? "" : ", stuck"));
    std::vector<Child> ranks = test::start_ranks("session_works", 3, {{"STUCK", stuck}});
    for (Child& c : ranks) ASSERT_TRUE(c.said("at work"));
    if (killed == 0) std::this_thread::sleep_for(milliseconds(1200));  // its step comes by a beat
    const auto begin = Clock::now();
    ranks[killed].kill(SIGKILL);
    for (size_t r = 0; r < ranks.size(); ++r) {
      if (r == killed) continue;
      expect_last_words(ranks[r].wait(), r, killed);
      EXPECT_EQ(ranks[r].status(), 72);
    }
    const Clock::duration took = Clock::now() - begin;
    EXPECT_LT(took, test::soon(milliseconds(3000)));
  }
}

TEST(Session, AKilledRankEndsTheLaunchersJobWithinThreeSeconds) {
  for (const char* stuck : {"", "1"}) {
    SCOPED_TRACE(stuck);
    const test::TemporaryFolder folder;
    const std::string program = std::filesystem::read_symlink("/proc/self/exe").string();
    const std::string script =
        "NEREUS_TEST_CHILD=session_works DOOMED=1 AFTER=70 STUCK=" + std::string(stuck) +
        " KILLED=" + folder.file("killed") + " exec " + program +
        " --gtest_filter=ChildProcess.Runs >" + folder.path() + "/$RANK 2>&1";
    EXPECT_EQ(run_local_processes({"/bin/sh", "-c", script}, 3), 72);
    const Clock::duration end = Clock::now().time_since_epoch();
    Clock::rep begin = 0;
    std::ifstream(folder.file("killed")) >> begin;
    EXPECT_GT(begin, 0);
    EXPECT_LT(end - Clock::duration(begin), test::soon(milliseconds(3000)));
    for (const size_t r : {size_t{0}, size_t{2}})
      expect_last_words(test::read_file(folder.file(std::to_string(r))), r, 1);
  }
}

TEST(Session, ARankThatFailsAndDoesNotEndKeepsItsMessageAndItsExitCode) {
  std::vector<Child> ranks = test::start_ranks("session_fails_stuck", 2);
  const std::string stuck =
      " of the world does not come back from what it waits for: its process ends here\n";
  EXPECT_EQ(ranks[0].wait(), "error: the loss is NaN\n  rank 0" + stuck);
  EXPECT_EQ(ranks[0].status(), 73);
  EXPECT_EQ(ranks[1].wait(), "error: " + failed_text(0, "the loss is NaN") + "\n  rank 1" + stuck);
  EXPECT_EQ(ranks[1].status(), 72);
}

std::string under_mpirun(const std::string& variables) {
  char self[4096] = {};
  if (readlink("/proc/self/exe", self, sizeof self - 1) < 0) return "";
  const std::string command = "NEREUS_TEST_CHILD=session " + variables +
                              " mpirun --allow-run-as-root --oversubscribe -n 2 " + self +
                              " --gtest_filter=ChildProcess.Runs 2>&1";
  std::string text;
  FILE* out = popen(command.c_str(), "r");
  char piece[4096];
  while (const size_t n = fread(piece, 1, sizeof piece, out)) text.append(piece, n);
  pclose(out);
  return text;
}

TEST(Session, MpirunsRanksMeetThroughMpi) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "OpenMPI was built without sanitizers";
#endif
  if (!has_mpi() || std::system("command -v mpirun >/dev/null") != 0)
    GTEST_SKIP() << "there is no MPI";
  const std::string text = under_mpirun("");
  EXPECT_THAT(text, HasSubstr("rank 0/2 local 0/2 sum 3"));
  EXPECT_THAT(text, HasSubstr("rank 1/2 local 1/2 sum 3"));
  // MPI ends the others at once: whether they still say why is not certain.
  EXPECT_THAT(under_mpirun("FAILS=1"), HasSubstr("the loss is NaN"));
}

TEST(Session, AnotherMpisLauncherIsNoticed) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "OpenMPI was built without sanitizers";
#endif
  if (!has_mpi()) GTEST_SKIP() << "there is no MPI";
  EXPECT_THAT(Child("session", Environment{{"PMI_RANK", "0"}, {"PMI_SIZE", "2"}}).wait(),
              HasSubstr("the launcher started 2 ranks, and MPI makes a world of 1"));
}

TEST(Session, TheBuildsIdIsOfTheProgram) {
  const std::string id = build_id();
  EXPECT_TRUE(id.empty() || id.size() == 12) << id;
  EXPECT_EQ(id.find_first_not_of("0123456789abcdef"), std::string::npos);
}

}  // namespace
}  // namespace nereus
