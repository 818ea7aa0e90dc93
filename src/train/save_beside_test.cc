// Saves beside steps: what a host has memory for, and what becomes of one that fails.
#include "train/save_beside.h"

#include <sys/resource.h>

#include <csignal>
#include <thread>

#include "control/local_world.h"
#include "train/resume_test.h"

namespace nereus {
namespace {

using test::Arguments;
using test::saving_run;
using test::operator+;
using testing::AllOf;
using testing::HasSubstr;

std::vector<std::string> said(const std::vector<HostShare>& shares) {
  const auto ranks = static_cast<int>(shares.size());
  const LocalWorld world(ranks, std::chrono::seconds(60));
  std::vector<std::string> out(shares.size());
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r)
    threads.emplace_back([&, r] {
      out[static_cast<size_t>(r)] = test::error_of([&] {
        check_host_memory(world.rank(r), shares[static_cast<size_t>(r)],
                          "checkpoint.async_mode = \"async\"");
      });
    });
  for (std::thread& t : threads) t.join();
  return out;
}

TEST(HostMemoryOfCopies, IsCountedForAllRanksOfAHost) {
  const int64_t gib = int64_t{1} << 30;
  for (const std::string& text : said({{"a", 3 * gib, 10 * gib},
                                       {"b", 3 * gib, 10 * gib},
                                       {"a", 3 * gib, 10 * gib},
                                       {"b", 6 * gib, 10 * gib}}))
    EXPECT_EQ(text, "no error");
  for (const std::string& text : said({{"a", 3 * gib, 10 * gib},
                                       {"b", 3 * gib, 10 * gib},
                                       {"a", 3 * gib, 10 * gib},
                                       {"b", 7 * gib, 10 * gib}}))
    EXPECT_EQ(text,
              "checkpoint.async_mode = \"async\" keeps a copy of what a rank saves in host memory: "
              "10.7 GB for the 2 ranks on b, where 10.7 GB are free. Set checkpoint.async_mode to "
              "disabled, or optimizer.moment_dtype to bfloat16, or take more hosts.");
}

// No file of this process may grow beyond some bytes, as with a quota, until lift().
class SmallFiles {
 public:
  explicit SmallFiles(rlim_t bytes) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    handler_ = std::signal(SIGXFSZ, SIG_IGN);
    const rlimit small{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &small);
  }
  ~SmallFiles() {
    lift();
    std::signal(SIGXFSZ, handler_);
  }
  void lift() { ::setrlimit(RLIMIT_FSIZE, &before_); }

 private:
  rlimit before_{};
  void (*handler_)(int) = nullptr;
};

int64_t count(const std::string& text, const std::string& part) {
  int64_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

TEST(SaveBeside, AFailureIsSaidOnceAndTheNextIntervalTriesAgain) {
  for (const int ranks : {1, 2}) {
    SCOPED_TRACE(ranks);
    const test::TemporaryFolder f;
    SmallFiles limit(20'000);
    std::thread lifter([&] {  // once the first save has failed
      for (int i = 0; i < 3000 && !test::exists(f.file("metrics.jsonl")); ++i)
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      for (int i = 0; i < 3000 && test::read_file(f.file("metrics.jsonl")).find("\"step\":7,") ==
                                      std::string::npos;
           ++i)
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      limit.lift();
    });
    const test::WholeRun run = test::train_on(
        ranks, saving_run(f.path(), {"--checkpoint.async_mode=async", "--training.steps=60",
                                     "--checkpoint.interval=5", "--checkpoint.keep_latest_k=2"}));
    lifter.join();
    EXPECT_EQ(run.code, 0);
    EXPECT_EQ(count(run.log, "The checkpoint of step 5 was not saved: "), 1) << run.log;
    EXPECT_THAT(run.log,
                AllOf(HasSubstr(": File too large; it needs "),
                      HasSubstr("nothing of it was kept\n  Training goes on, and the checkpoints "
                                "before it are as they were; the next save is tried after "
                                "checkpoint.interval = 5 steps."),
                      HasSubstr("The checkpoint of step 55 is complete, ")));
    EXPECT_FALSE(test::exists(test::step_of(f.path(), 5)));
    EXPECT_FALSE(test::exists(test::step_of(f.path(), 5) + ".partial"));
    EXPECT_TRUE(test::exists(test::step_of(f.path(), 55) + "/manifest.json"));
  }
}

}  // namespace
}  // namespace nereus
