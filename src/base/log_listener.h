// What a rank says in the log, for what keeps its lines besides (W&B, events.jsonl).
#pragma once

#include <functional>
#include <string_view>

namespace nereus::log {

// While one lives it is told of the messages of the rank that made it, of info and above, from
// whichever of the rank's threads, also where the rank does not speak. `warning`: or an error. The
// function is called by the thread that writes and must not write to the log.
class Listener {
 public:
  using Function = std::function<void(bool warning, std::string_view message)>;
  explicit Listener(Function);
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  void tell(int rank, bool warning, std::string_view message) const {
    if (rank == rank_) function_(warning, message);
  }

 private:
  int rank_;
  Function function_;
};

}  // namespace nereus::log
