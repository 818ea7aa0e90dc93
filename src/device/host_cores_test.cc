#include "device/host_cores.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nereus {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(HostCores, ListsAreReadAsTheKernelWritesThem) {
  EXPECT_THAT(parse_core_list("0-3,8,10-11\n"), ElementsAre(0, 1, 2, 3, 8, 10, 11));
  EXPECT_THAT(parse_core_list("5"), ElementsAre(5));
  EXPECT_THAT(parse_core_list(""), IsEmpty());
  for (const char* wrong : {"a", "1-", "3-1", "-1", "1,x"})
    EXPECT_THAT(parse_core_list(wrong), IsEmpty()) << wrong;
}

TEST(HostCores, ListsAreWrittenBack) {
  for (const char* text : {"0-3,8,10-11", "5", "0-31", ""})
    EXPECT_EQ(core_list_text(parse_core_list(text)), text);
}

}  // namespace
}  // namespace nereus
