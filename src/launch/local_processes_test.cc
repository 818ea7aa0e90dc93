#include "launch/local_processes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <thread>

#include "test/test_tensor.h"

namespace nereus {
namespace {

using testing::ElementsAre;

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
  EXPECT_EQ(run_local_processes(shell("[ $RANK = 1 ] && exit 72; sleep 1; exit 3"), 2), 72);
  EXPECT_EQ(run_local_processes(shell("[ $RANK = 1 ] && kill -9 $$; sleep 1; exit 0"), 2), 137);
  EXPECT_EQ(run_local_processes({"/nowhere"}, 2), 127);
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
