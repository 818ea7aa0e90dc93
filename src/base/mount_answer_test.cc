#include "base/mount_answer.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <string>

#include "test/silent_mount.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

TEST(MountAnswer, WhatIsThereAndWhatIsNotAnswers) {
  const test::TemporaryFolder f;
  f.write("file", "x");
  const auto begin = Clock::now();
  for (const char* name : {"", "file", "none", "file/none"})
    EXPECT_TRUE(mount_answers(f.file(name), milliseconds(60'000))) << name;
  std::filesystem::create_symlink(f.file("loop"), f.file("loop"));
  EXPECT_TRUE(mount_answers(f.file("loop"), milliseconds(60'000)));
  EXPECT_LT(Clock::now() - begin, milliseconds(30'000));
}

TEST(MountAnswer, AMountWhoseServerSaysNothingIsWaitedForNoLongerThanTheLimit) {
  const test::TemporaryFolder f;
  const test::SilentMount mount(f.file("mount"));
  if (!mount.is_mounted()) GTEST_SKIP() << "no FUSE file system can be mounted here";
  for (const char* below : {"mount", "mount/run/outputs"}) {
    const auto begin = Clock::now();
    EXPECT_FALSE(mount_answers(f.file(below), milliseconds(200))) << below;
    EXPECT_GE(Clock::now() - begin, milliseconds(200));
  }
}

TEST(MountAnswer, TheMountIsTheLongestThatHoldsThePath) {
  const test::TemporaryFolder f;
  const std::string table = f.write("mountinfo",
                                    "1 0 8:1 / / rw - ext4 /dev/sda rw\n"
                                    "2 1 0:5 / /lustre rw,noatime shared:1 - lustre a@tcp:/x rw\n"
                                    "3 1 0:6 / /lustre/more rw - nfs4 server:/more rw\n");
  EXPECT_EQ(mount_of("/lustre/run/outputs", table), "/lustre (lustre)");
  EXPECT_EQ(mount_of("/lustre", table), "/lustre (lustre)");
  EXPECT_EQ(mount_of("/lustre/more/me", table), "/lustre/more (nfs4)");
  EXPECT_EQ(mount_of("/lustrehome", table), "/ (ext4)");
  EXPECT_EQ(mount_of("/lustre", f.file("none")), "");
}

}  // namespace
}  // namespace nereus
