#include "launch/local_processes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <thread>

#include "base/log.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

using Clock = std::chrono::steady_clock;

std::vector<std::string> shell(const std::string& script) { return {"/bin/sh", "-c", script}; }

TEST(LocalProcesses, EachKnowsItsPlaceAndWhereAllMeet) {
  const test::TemporaryFolder folder;
  EXPECT_EQ(run_local_processes(shell("echo $RANK/$WORLD_SIZE $LOCAL_RANK/$LOCAL_WORLD_SIZE "
                                      "$MASTER_ADDR ${MASTER_PORT:+port} >" +
                                      folder.path() + "/$RANK"),
                                3),
            0);
  for (int r = 0; r < 3; ++r) {
    const std::string place = std::to_string(r) + "/3";
    EXPECT_EQ(test::read_file(folder.file(std::to_string(r))),
              place + " " + place + " 127.0.0.1 port\n");
  }
}

TEST(LocalProcesses, TheFirstFailureIsTheOutcome) {
  const test::TemporaryFolder folder;
  // Rank 0 ends a while after rank 1 has.
  const auto outcome = [&](const std::string& end, const std::string& other) {
    const std::string at = folder.file(other);
    return run_local_processes(shell("[ $RANK = 1 ] && : >" + at + " && " + end + "; until [ -e " +
                                     at + " ]; do sleep 0.05; done; sleep 0.3; exit " + other),
                               2);
  };
  EXPECT_EQ(outcome("exit 72", "3"), 72);
  EXPECT_EQ(outcome("kill -INT $$", "0"), 130);
  EXPECT_EQ(run_local_processes({"/nowhere"}, 2), 127);
}

TEST(LocalProcesses, AKilledRankEndsTheOthersSoonIfNotByThemselves) {
  static_assert(Grace{}.after_death < std::chrono::milliseconds(2500), "3 s in all");
  for (const bool by_themselves : {true, false}) {
    Grace grace;
    if (!by_themselves) grace.after_death = std::chrono::milliseconds(600);
    const log::Capture capture;
    const auto begin = Clock::now();
    EXPECT_EQ(run_local_processes(shell(std::string("[ $RANK = 1 ] && kill -9 $$; ") +
                                        (by_themselves ? "sleep 0.2; exit 1" : "exec sleep 60")),
                                  3, grace),
              72);
    EXPECT_LT(Clock::now() - begin, std::chrono::seconds(30));  // of the sleep's 60
    EXPECT_THAT(capture.text(), HasSubstr("rank 1: its process was ended by signal 9 (Killed)"));
    for (const std::string rank : {"rank 0", "rank 2"}) {
      const std::string told =
          rank + ": its process did not end within 0.6 s of that and is killed";
      EXPECT_EQ(capture.text().find(told) == std::string::npos, by_themselves) << capture.text();
    }
  }
}

TEST(LocalProcesses, OneThatFailsGivesTheOthersAWhileAndOneThatStopsAllTheirTime) {
  const test::TemporaryFolder folder;
  const Grace grace{.after_failure = std::chrono::milliseconds(300)};
  const auto outcome = [&](const std::string& code, const std::string& seconds) {
    return run_local_processes(
        shell("[ $RANK = 1 ] && exit " + code + "; sleep " + seconds + "; : >" + folder.file(code)),
        2, grace);
  };
  EXPECT_EQ(outcome("70", "60"), 70);
  EXPECT_FALSE(std::filesystem::exists(folder.file("70")));
  EXPECT_EQ(outcome("143", "1"), 143);
  EXPECT_TRUE(std::filesystem::exists(folder.file("143"))) << "rank 0 could not save";
}

TEST(LocalProcesses, AnIgnoredSigchldHidesNoOutcome) {
  const auto before = std::signal(SIGCHLD, SIG_IGN);
  EXPECT_EQ(run_local_processes(shell("exit 72"), 2), 72);
  EXPECT_EQ(std::signal(SIGCHLD, before), SIG_IGN) << "is as it was";
}

TEST(LocalProcesses, SignalsArePassedOn) {
  const test::TemporaryFolder folder;
  std::thread sender([] {
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    std::raise(SIGTERM);
  });
  EXPECT_EQ(run_local_processes(shell("trap 'echo told >" + folder.path() +
                                      "/$RANK; exit 143' TERM; while :; do sleep 0.05; done"),
                                2),
            143);
  sender.join();
  for (const char* rank : {"0", "1"}) EXPECT_EQ(test::read_file(folder.file(rank)), "told\n");
}

TEST(LocalProcesses, TheirCommandLineHasNoNumberOfRanks) {
  EXPECT_THAT(without_nproc({"nereus", "train", "a.toml", "--nproc", "2", "--x=1"}),
              ElementsAre("nereus", "train", "a.toml", "--x=1"));
  EXPECT_THAT(without_nproc({"nereus", "train", "--nproc=2", "a.toml"}),
              ElementsAre("nereus", "train", "a.toml"));
}

}  // namespace
}  // namespace nereus
