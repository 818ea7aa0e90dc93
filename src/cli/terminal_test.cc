// What is on a terminal that a run, or `nereus top`, writes to.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <poll.h>
#include <stdlib.h>  // posix_openpt
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <sstream>

#include "base/check.h"
#include "cli/top.h"
#include "cli/train.h"
#include "test/child_process.h"
#include "train/broken_shard_test.h"

namespace nereus {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

// `nereus WORDS` (a word a line), with FILE as standard input and output.
const test::ChildFunction runs("on a terminal", [] {
  const int file = ::open(test::given("FILE").c_str(), O_RDWR | O_CREAT | O_APPEND, 0644);
  ::dup2(file, STDIN_FILENO);
  ::dup2(file, STDOUT_FILENO);
  std::vector<std::string> words;
  std::istringstream lines(test::given("WORDS"));
  for (std::string line; std::getline(lines, line);) words.push_back(line);
  std::vector<char*> argv;
  for (std::string& w : words) argv.push_back(w.data());
  const auto command = words[0] == "top" ? run_top : run_train;
  const int code = command(static_cast<int>(argv.size()), argv.data());
  std::fflush(stdout);
  test::tell(std::to_string(code));
});

class Terminal {
 public:
  Terminal(unsigned short columns, unsigned short rows)
      : master_(::posix_openpt(O_RDWR | O_NOCTTY)) {
    EXPECT_EQ(::grantpt(master_), 0);
    EXPECT_EQ(::unlockpt(master_), 0);
    char name[64];
    EXPECT_EQ(::ptsname_r(master_, name, sizeof name), 0);
    name_ = name;
    slave_ = ::open(name, O_RDWR | O_NOCTTY);
    const winsize size{.ws_row = rows, .ws_col = columns, .ws_xpixel = 0, .ws_ypixel = 0};
    EXPECT_EQ(::ioctl(slave_, TIOCSWINSZ, &size), 0);
  }
  ~Terminal() {
    ::close(slave_);
    ::close(master_);
  }
  const std::string& name() const { return name_; }
  void type(char key) const { EXPECT_EQ(::write(master_, &key, 1), 1); }
  termios modes() const {
    termios t{};
    EXPECT_EQ(::tcgetattr(slave_, &t), 0);
    return t;
  }
  // Everything up to `text`, or what came within a minute; "": what is there.
  const std::string& until(const std::string& text) {
    for (int i = 0; i < 600 && (text.empty() || all_.find(text) == std::string::npos); ++i) {
      pollfd p{.fd = master_, .events = POLLIN, .revents = 0};
      if (::poll(&p, 1, 100) <= 0) {
        if (text.empty()) break;
        continue;
      }
      char part[4096];
      const ssize_t n = ::read(master_, part, sizeof part);
      if (n <= 0) break;
      all_.append(part, static_cast<size_t>(n));
    }
    return all_;
  }

 private:
  int master_, slave_ = -1;
  std::string name_, all_;
};

size_t count(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; ++at) ++n;
  return n;
}

std::string train_words(const std::string& folder, int steps) {
  return fmt::format(
      "train\n{}\n--training.steps={}\n--training.seq_len=16\n--training.local_batch_size=1\n"
      "--training.dataset=random\n--model_overrides.attn_mask_type=causal\n--metrics.log_freq=1\n"
      "--job.dump_folder={}\n",
      test::source_path("tests/golden/cases/minimal.toml"), steps, folder);
}

TEST(OnATerminal, TheStepLineStaysInPlaceUnderABar) {
  const test::TemporaryFolder folder;
  Terminal terminal(80, 24);
  test::Child child("on a terminal", {{"TERM", "xterm"},
                                      {"FILE", terminal.name()},
                                      {"WORDS", train_words(folder.file("run"), 5)}});
  const std::string text = terminal.until("report.html\r\n");
  EXPECT_EQ(child.wait(), "0\n");
  EXPECT_THAT(text, HasSubstr("100 %  step 5 of 5"));
  EXPECT_THAT(text, HasSubstr("#] "));
  EXPECT_THAT(text, HasSubstr("\033[2A\r\033[J"));
  // Cut to the terminal's width while it stays; whole when the run has ended.
  EXPECT_EQ(count(text, "mfu: "), 1u) << text;
  const size_t last = text.find("mfu: ");
  EXPECT_THAT(text.substr(last), Not(HasSubstr("step 5 of 5")));
  EXPECT_THAT(text.substr(0, last), HasSubstr("step 5 of 5"));
}

TEST(OnATerminal, FilesAndDumbTerminalsHavePlainLines) {
  const test::TemporaryFolder folder;
  for (const char* term : {"xterm", "dumb"}) {
    const std::string run = folder.file(std::string("run-") + term);
    Terminal terminal(80, 24);
    const bool dumb = std::string(term) == "dumb";
    const std::string out = folder.file("out");
    test::Child child(
        "on a terminal",
        {{"TERM", term}, {"FILE", dumb ? terminal.name() : out}, {"WORDS", train_words(run, 3)}});
    EXPECT_EQ(child.wait(), "0\n");
    const std::string text = dumb ? terminal.until("report.html\r\n") : test::read_file(out);
    EXPECT_EQ(count(text, "mfu: N/A"), 3u) << text;
    EXPECT_THAT(text, AllOf(Not(HasSubstr("step 3 of 3")), Not(HasSubstr("\033[J"))));
  }
}

TEST(OnATerminal, TopDrawsARunAndEndsWithQAsItCame) {
  const test::TemporaryFolder folder;
  folder.write("metrics.jsonl", "{\"step\":1,\"loss\":3.5,\"tps\":10,\"step_seconds\":1}\n");
  Terminal terminal(60, 20);
  const termios before = terminal.modes();
  test::Child child("on a terminal", {{"TERM", "xterm"},
                                      {"LC_ALL", "C"},
                                      {"FILE", terminal.name()},
                                      {"WORDS", "top\n" + folder.path() + "\n--interval=0.1\n"}});
  EXPECT_THAT(terminal.until("q ends"), AllOf(HasSubstr("\033[?1049h"), HasSubstr("3.5000")));
  std::ofstream(folder.file("metrics.jsonl"), std::ios::app) << "{\"step\":2,\"loss\":2.25}\n";
  EXPECT_THAT(terminal.until("2.2500"), HasSubstr("2.2500"));
  terminal.type('q');
  EXPECT_EQ(child.wait(), "0\n");
  EXPECT_THAT(terminal.until(""), HasSubstr("\033[?25h\033[?1049l"));
  EXPECT_EQ(terminal.modes().c_lflag, before.c_lflag);
}

}  // namespace
}  // namespace nereus
