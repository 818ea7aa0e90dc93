#include "observe/terminal_sink.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <poll.h>
#include <stdlib.h>  // posix_openpt
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/log.h"
#include "test/child_process.h"

namespace nereus {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

// A run of 5 steps of which each is logged, and a warning after the third, on the terminal FILE.
const test::ChildFunction run("a run on a terminal", [] {
  const int file = ::open(test::given("FILE").c_str(), O_RDWR | O_NOCTTY);
  ::dup2(file, STDOUT_FILENO);
  if (!log::on_terminal()) return test::tell("no terminal");
  {
    TerminalSink sink(5, false);
    for (int64_t n = 1; n <= 5; ++n) {
      sink.progress(n);
      sink.step({.step = n, .loss = 10.0 - static_cast<double>(n)});
      if (n == 3) log::warning("something is odd");
    }
    sink.event({.kind = EventKind::end, .step = 5});
    log::info("Training completed");
  }
  test::tell("done");
});

// What a terminal of so many columns was sent, up to `end`.
std::string sent_to_terminal(unsigned short columns, const char* term, const std::string& end,
                             std::string& said) {
  const int master = ::posix_openpt(O_RDWR | O_NOCTTY);
  char name[64];
  EXPECT_TRUE(::grantpt(master) == 0 && ::unlockpt(master) == 0 &&
              ::ptsname_r(master, name, sizeof name) == 0);
  const int slave = ::open(name, O_RDWR | O_NOCTTY);
  const winsize size{.ws_row = 24, .ws_col = columns, .ws_xpixel = 0, .ws_ypixel = 0};
  EXPECT_EQ(::ioctl(slave, TIOCSWINSZ, &size), 0);
  test::Child child("a run on a terminal", {{"TERM", term}, {"FILE", name}});
  std::string all;
  for (int i = 0; i < 300 && !end.empty() && all.find(end) == std::string::npos; ++i) {
    pollfd p{.fd = master, .events = POLLIN, .revents = 0};
    if (::poll(&p, 1, 100) <= 0) continue;
    char part[4096];
    const ssize_t n = ::read(master, part, sizeof part);
    if (n > 0) all.append(part, static_cast<size_t>(n));
  }
  said = child.wait();
  ::close(slave);
  ::close(master);
  return all;
}

size_t count(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; ++at) ++n;
  return n;
}

TEST(TerminalSink, TheStepLineStaysInPlaceUnderABar) {
  std::string said;
  const std::string text = sent_to_terminal(80, "xterm", "Training completed\r\n", said);
  EXPECT_EQ(said, "done\n");
  // The warning goes by above the bar and the line, which are drawn again below it.
  const size_t warning = text.find("something is odd\r\n[");
  ASSERT_NE(warning, std::string::npos) << text;
  const std::string below = text.substr(warning);
  EXPECT_LT(below.find(" of 5"), below.find("step:  3  loss:  7.0000"));
  EXPECT_THAT(text, HasSubstr("\033[2A\r\033[J"));
  EXPECT_THAT(text, HasSubstr("[##############################] 100 %  step 5 of 5\r\n"));
  // Cut to the terminal's width while it stays; whole, once, when the run has ended.
  EXPECT_EQ(count(text, "mfu: N/A"), 1u) << text;
  const size_t last = text.find("mfu: N/A");
  EXPECT_THAT(text.substr(0, last), HasSubstr("step:  5  loss:  5.0000"));
  const std::string rest = text.substr(last, text.find("Training completed") - last);
  EXPECT_THAT(rest, AllOf(Not(HasSubstr("step 5 of 5")), Not(HasSubstr("\033"))));
}

TEST(TerminalSink, ATerminalThatMovesNoCursorIsNone) {
  std::string said;
  sent_to_terminal(80, "dumb", "", said);
  EXPECT_EQ(said, "no terminal\n");
}

TEST(ProgressBar, HasTheTimeLeftAndFits) {
  EXPECT_EQ(progress_bar(82, 200, 1.2, 100),
            "[############------------------]  41 %  step 82 of 200, 1.20 s a step, 2:22 left");
  EXPECT_EQ(progress_bar(0, 200, 0, 60), "[------------------------------]   0 %  step 0 of 200");
  EXPECT_EQ(progress_bar(200, 200, 1.2, 60),
            "[##############################] 100 %  step 200 of 200");
  EXPECT_EQ(progress_bar(1, 100'000, 27.4, 70),
            "[-----------]   0 %  step 1 of 100000, 27.40 s a step, 761:06:13 left");
  EXPECT_EQ(progress_bar(1, 100'000, 27.4, 60),
            "[-----------------]   0 %  step 1 of 100000, 761:06:13 left");
  for (int columns = 0; columns < 120; ++columns)
    EXPECT_LE(progress_bar(12'345, 1'000'000, 27.4, columns).size(), static_cast<size_t>(columns));
}

TEST(CutToColumns, CountsCharactersAndKeepsColours) {
  EXPECT_EQ(log::cut_to_columns("abcdef", 3), "abc");
  EXPECT_EQ(log::cut_to_columns("\033[31mab\033[39mcd", 3), "\033[31mab\033[39mc");
  EXPECT_EQ(log::cut_to_columns("abcd\033[39m", 2), "ab\033[39m");
  EXPECT_EQ(log::cut_to_columns("äöü", 2), "äö");
  EXPECT_EQ(log::cut_to_columns("ab\033[3", 5), "ab\033[3");
  EXPECT_EQ(log::cut_to_columns("", 5), "");
}

}  // namespace
}  // namespace nereus
