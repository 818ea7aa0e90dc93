// What a user asks of a run by making a file in its folder:
//
//   touch FOLDER/save            save a checkpoint after this step, and go on
//   touch FOLDER/save-and-stop   finish the step, save all that a resume needs, and end with
//                                kExitStopped
//
// One rank looks, at most once in `every`, and removes the file that it has seen. Files that were
// there before the run began are removed unheeded: they were meant for an earlier one.
#pragma once

#include <chrono>
#include <string>

namespace nereus {

inline constexpr int kExitStopped = 75;  // of a run that save-and-stop ended (EX_TEMPFAIL)

class FileTriggers {
 public:
  enum class Ask { nothing, save, stop };
  static constexpr const char* kSave = "save";
  static constexpr const char* kStop = "save-and-stop";

  explicit FileTriggers(const std::string& folder,
                        std::chrono::milliseconds every = std::chrono::milliseconds(500));

  // Before the first step.
  void forget_earlier();
  // The most that is asked for. A file that cannot be removed is warned of, and asks once.
  Ask look();

 private:
  struct File {
    std::string path;
    bool ignored = false;
  };
  bool take(File&);

  using Clock = std::chrono::steady_clock;
  File save_, stop_;
  std::chrono::milliseconds every_;
  Clock::time_point next_ = Clock::now();
};

}  // namespace nereus
