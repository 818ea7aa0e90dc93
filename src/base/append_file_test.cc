#include "base/append_file.h"

#include <gmock/gmock.h>

#include "base/error.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using testing::HasSubstr;

TEST(AppendFile, GoesOnOnANewLineBehindOneThatAKillTore) {
  const test::TemporaryFolder folder;
  const std::string path = folder.write("lines", "one\ntw");
  {
    AppendFile file(path);
    file.write_line("three");
    file.write_line("four");
  }
  EXPECT_EQ(test::read_file(path), "one\ntw\nthree\nfour\n");
}

TEST(AppendFile, NamesAFileThatCannotBeWrittenAndSaysWhenSpaceIsOut) {
  EXPECT_THAT([] { AppendFile("/proc/none/lines"); },
              testing::ThrowsMessage<Error>(
                  HasSubstr("cannot write /proc/none/lines: No such file or directory")));
  AppendFile full("/dev/full");
  EXPECT_THAT(
      [&] { full.write("x"); },
      testing::ThrowsMessage<Error>(HasSubstr("cannot write /dev/full: No space left on device")));
  EXPECT_TRUE(full.out_of_space());
}

}  // namespace
}  // namespace nereus
