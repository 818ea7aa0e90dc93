#include "train/folder_lock.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <memory>

#include "base/error.h"
#include "base/log.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using std::chrono::milliseconds;
using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;
using Options = FolderLock::Options;
using Clock = std::chrono::steady_clock;

// As on another host; without `beats` it is as good as dead.
Options on(const std::string& host, bool flock, milliseconds beat = milliseconds(100)) {
  Options o;
  o.me.host = host;
  o.flock = flock;
  o.beat = beat;
  o.settle = milliseconds(1);
  return o;
}
Options silent_on(const std::string& host) { return on(host, false, milliseconds(3'600'000)); }

class Folder : public testing::Test {
 protected:
  const test::TemporaryFolder f_;
  const std::string path_ = f_.file(""), file_ = f_.file(".nereus.lock");
  const std::string here_ = FolderLock::this_process().host;

  void expect_refused(const Options& o, const std::string& host) const {
    EXPECT_THAT([&] { FolderLock(path_, o); },
                ThrowsMessage<Error>(AllOf(
                    HasSubstr("another run is in it (process " + std::to_string(getpid()) + " on " +
                              host + "). Two would overwrite each other's metrics and weights"))))
        << o.me.host;
  }
  // What a process that was killed leaves.
  void leave_by_killed(const Options& o) const {
    const pid_t child = fork();
    if (child == 0) {
      Options mine = o;
      const FolderLock::Holder me = FolderLock::this_process();
      mine.me.process = me.process;
      mine.me.start = me.start;
      const FolderLock* never_gone = new FolderLock(path_, mine);
      _exit(never_gone == nullptr ? 1 : 0);
    }
    int status = -1;
    waitpid(child, &status, 0);
    ASSERT_EQ(status, 0);
    ASSERT_NE(test::read_file(file_), "");
  }
};

TEST_F(Folder, OfTwoRunsTheSecondIsRefusedWithAndWithoutLocks) {
  for (const bool flock : {true, false}) {
    SCOPED_TRACE(flock);
    {
      const FolderLock first(path_, on(here_, flock));
      expect_refused(on(here_, flock), here_);
    }
    EXPECT_EQ(test::read_file(file_), "") << "it says nothing of a run that has ended";
    const FolderLock next(path_, on(here_, flock));
  }
}

TEST_F(Folder, ARunOfAnotherHostIsKnownByItsBeats) {
  const FolderLock first(path_, on("other", false, milliseconds(20)));
  // A lock of this host alone, or none.
  expect_refused(on(here_, true), "other");
  expect_refused(on(here_, false), "other");
}

TEST_F(Folder, AProcessOfThisHostThatWasKilledHoldsNothing) {
  for (const bool flock : {true, false}) {
    leave_by_killed(on(here_, flock));
    const auto begin = Clock::now();
    const FolderLock next(path_, on(here_, flock, milliseconds(60'000)));
    EXPECT_LT(Clock::now() - begin, milliseconds(30'000)) << "nothing is waited for";
  }
}

TEST_F(Folder, AKilledProcessOfAnotherHostIsWaitedForAndGivenUp) {
  leave_by_killed(silent_on("other"));
  const log::Capture capture;
  const auto begin = Clock::now();
  const FolderLock next(path_, on(here_, false));
  EXPECT_GE(Clock::now() - begin, milliseconds(300)) << "three beats";
  EXPECT_THAT(capture.text(),
              HasSubstr(" on other was in it and did not say that it ended: waiting up to 0.3 s"));
}

TEST_F(Folder, AnEarlierAttemptOfTheJobAndAnOldFileAreNotWaitedFor) {
  const auto begin = Clock::now();
  const auto patient = [&](const char* job, int64_t attempt) {
    Options o = on(here_, false, milliseconds(60'000));
    o.me.job = job;
    o.me.attempt = attempt;
    return o;
  };
  Options first = silent_on("other");
  first.me.job = "77";
  leave_by_killed(first);
  { const FolderLock next(path_, patient("77", 1)); }
  leave_by_killed(silent_on("other"));
  std::filesystem::last_write_time(
      file_, std::filesystem::file_time_type::clock::now() - std::chrono::hours(1));
  { const FolderLock next(path_, patient("78", 0)); }
  EXPECT_LT(Clock::now() - begin, milliseconds(60'000));
}

TEST_F(Folder, AProcessNumberThatIsUsedAgainIsNoRun) {
  Options gone = silent_on(here_);
  gone.me.start -= 1;
  auto first = std::make_unique<FolderLock>(path_, gone);
  const FolderLock next(path_, on(here_, false));
}

TEST_F(Folder, ARunWhoseFolderWasTakenEnds) {
  Options stopped = on("other", false, milliseconds(50));
  FolderLock first(path_, stopped);
  first.check();
  f_.write(".nereus.lock", "process 5 on third\nstart 1 space x job - attempt 0 beats 1\n");
  std::string said;
  for (int i = 0; i < 400 && said.empty(); ++i) {
    std::this_thread::sleep_for(milliseconds(10));
    try {
      first.check();
    } catch (const Error& e) {
      EXPECT_EQ(e.exit_code(), 74);
      said = e.what();
    }
  }
  EXPECT_THAT(said, HasSubstr("another run (process 5 on third) has taken the folder"));
}

TEST_F(Folder, NothingStaysOfARunThatWasRefusedForAnotherReason) {
  {
    FolderLock lock(path_, on(here_, true));
    lock.remove_file();
  }
  EXPECT_FALSE(std::filesystem::exists(file_));
}

}  // namespace
}  // namespace nereus
