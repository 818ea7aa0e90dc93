#include "cli/top.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "base/check.h"
#include "base/files.h"
#include "base/log_status.h"
#include "cli/command.h"
#include "cli/installation.h"
#include "recipe/job_database.h"
#include "report/top_screen.h"

namespace nereus {
namespace {

// Does the terminal take UTF-8? By the locale's variables, in their order.
bool takes_utf8() {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const char* const value = std::getenv(name);
    if (value == nullptr || *value == 0) continue;
    const std::string text = value;
    return text.find("UTF-8") != std::string::npos || text.find("utf8") != std::string::npos;
  }
  return false;
}

// A run's folder as it is; of a job's number its folder.
std::string folder_of(const std::string& run) {
  if (is_there(run) || run.find_first_not_of("0123456789") != std::string::npos) return run;
  const recipe::ClusterConfig config = read_installation();
  recipe::JobDatabase database(recipe::JobDatabase::path_in(config.llmb_install));
  const auto job = database.job(std::strtoll(run.c_str(), nullptr, 10));
  NEREUS_CHECK(kConfig, job && !job->log_folder.empty(),
               "Job {} was not found in the job history. `nereus jobs` shows those that are there; "
               "`nereus jobs rebuild` looks through the runs' folders.",
               run);
  return job->log_folder;
}

volatile std::sig_atomic_t stop_asked = 0;

// The terminal's other screen, without echo and without a cursor; as it was when this ends.
class OtherScreen {
 public:
  OtherScreen() {
    has_keys_ = ::tcgetattr(STDIN_FILENO, &before_) == 0;
    if (has_keys_) {
      termios raw = before_;
      raw.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
      ::tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    }
    struct sigaction action {};
    action.sa_handler = [](int) { stop_asked = 1; };
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::sigaction(signal, &action, nullptr);
    std::fputs("\033[?1049h\033[?25l", stdout);
  }
  ~OtherScreen() {
    std::fputs("\033[?25h\033[?1049l", stdout);
    std::fflush(stdout);
    if (has_keys_) ::tcsetattr(STDIN_FILENO, TCSANOW, &before_);
  }
  OtherScreen(const OtherScreen&) = delete;
  OtherScreen& operator=(const OtherScreen&) = delete;

  // Waits so long for a key; q, or the end of input, ends.
  bool wait(int milliseconds) {
    pollfd keys{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
    if (!has_keys_) keys.fd = -1;
    if (::poll(&keys, 1, milliseconds) <= 0) return stop_asked == 0;  // EINTR: the window's size
    char key = 'q';
    return ::read(STDIN_FILENO, &key, 1) == 1 && key != 'q' && key != 'Q' && stop_asked == 0;
  }

 private:
  termios before_{};
  bool has_keys_ = false;
};

std::string text_of(const std::vector<std::string>& lines, const char* end) {
  std::string out;
  for (const std::string& line : lines) out += line + end;
  return out;
}

}  // namespace

int run_top(int argc, char** argv) {
  CLI::App app("A run's figures while it goes on: loss, speed, memory, experts, events.",
               "nereus top");
  std::string run;
  bool once = false;
  double interval = 1;
  report::Screen screen{.columns = 0, .rows = 0, .blocks = takes_utf8(), .color = false};
  app.add_option("run", run, "a run's folder, or the number of a job")->required();
  app.add_flag("--once", once, "print it once, and end");
  app.add_option("--interval", interval, "seconds between looks")
      ->check(CLI::Range(0.1, 3600.0))
      ->capture_default_str();
  app.add_option("--columns", screen.columns, "width, else that of the terminal")
      ->check(CLI::Range(20, 1000));
  if (const auto done = parse_command(app, argc, argv)) return *done;
  report::RunFollower follower(folder_of(run));
  const int columns = screen.columns;
  if (once || !log::on_terminal()) {
    screen.columns = columns > 0 ? columns : log::terminal_columns();
    screen.rows = 100;
    std::fputs(text_of(report::top_screen(follower, screen), "\n").c_str(), stdout);
    return 0;
  }
  OtherScreen terminal;
  do {
    winsize size{};
    const bool known = ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 0;
    screen.rows = (known ? size.ws_row : 24) - 1;
    screen.columns = columns > 0 ? columns : known ? size.ws_col : 80;
    screen.color = true;
    follower.look();
    const std::string lines = text_of(report::top_screen(follower, screen), "\033[K\r\n");
    std::fputs(("\033[H" + lines + "\033[J\033[2mq ends\033[0m").c_str(), stdout);
    std::fflush(stdout);
  } while (terminal.wait(static_cast<int>(1000 * interval)));
  return 0;
}

}  // namespace nereus
