// Real processes for tests: this test program once more, running one registered function.
//
//   const ChildFunction barrier("barrier", [] { ...; tell("done"); });
//   std::vector<Child> ranks = start_ranks("barrier", 4);
//   ranks[2].kill(SIGKILL);
//   EXPECT_EQ(ranks[0].wait(), "done\n");
//
// Not for libFuzzer's programs, which have no GoogleTest.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace nereus::test {

using Environment = std::map<std::string, std::string>;

struct ChildFunction {
  ChildFunction(const std::string& name, std::function<void()> run);
};

// In a child: what wait() returns in the parent; and what the parent gave it.
void tell(const std::string& line);
std::string given(const std::string& name);

class Child {
 public:
  Child(const std::string& function, const Environment&, const std::string& test_filter = "");
  ~Child();
  Child(Child&&) noexcept;
  Child& operator=(Child&&) = delete;
  void kill(int signal) const;
  // Until the child has said `text`; false when it ended before, or after 60 s.
  bool said(const std::string& text);
  // What it reported, when it has ended (it is killed after 120 s).
  std::string wait();
  int status() const { return status_; }  // exit code, or minus the signal

 private:
  bool read(int milliseconds);
  pid_t pid_ = -1;
  int pipe_ = -1, status_ = 0;
  std::string text_;
};

// Children with torchrun's variables, which meet at a free port of this host.
std::vector<Child> start_ranks(const std::string& function, int ranks, const Environment& = {},
                               const std::string& test_filter = "");
int free_port();

// How long what takes less than `limit` on an idle machine may take now: `limit`, or ten times what
// starting and ending a process takes, whichever is more.
std::chrono::milliseconds soon(std::chrono::milliseconds limit);

// Who a child of start_ranks() is, and where the ranks meet.
struct ChildRank {
  int rank = 0, world_size = 1;
  std::string address;
  int port = 0;
};
ChildRank this_child_rank();

}  // namespace nereus::test
