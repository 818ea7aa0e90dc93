#include "base/plain_write.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <string>

namespace nereus {
namespace {

TEST(PlainWrite, WritesAllAndGivesUpWhereNothingCanBeWritten) {
  std::array<int, 2> pipe{};
  ASSERT_EQ(::pipe2(pipe.data(), O_NONBLOCK | O_CLOEXEC), 0);
  plain_write(pipe[1], "error: the loss is NaN\n");
  std::string text(100, ' ');
  const ssize_t n = ::read(pipe[0], text.data(), text.size());
  EXPECT_EQ(text.substr(0, static_cast<size_t>(std::max<ssize_t>(n, 0))),
            "error: the loss is NaN\n");
  const std::string much(1 << 22, 'x');  // more than the pipe takes: the rest is left out
  plain_write(pipe[1], much);
  plain_write(-1, much);
  EXPECT_EQ(::read(pipe[0], text.data(), text.size()), 100);
  for (const int end : pipe) ::close(end);
}

}  // namespace
}  // namespace nereus
