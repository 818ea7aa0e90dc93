#include "launch/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/error.h"
#include "comm/mpi_ranks.h"
#include "launch/build_id.h"
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
using testing::HasSubstr;

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
  options.init_timeout = milliseconds(20'000);
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

TEST(Session, TheOthersAreToldBeforeWhatFailedIsTakenDown) {
  const test::TemporaryFolder folder;
  std::vector<Child> ranks = test::start_ranks("session_fails", 2, {{"ENDED", folder.file("e")}});
  EXPECT_EQ(ranks[0].wait(), "the others have ended\nthe loss is NaN\n");
  EXPECT_EQ(ranks[1].wait(),
            "rank 0 of the world failed, which ends the others: the loss is NaN\n");
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
