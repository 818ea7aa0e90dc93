#include "observe/sink_group.h"

#include <gmock/gmock.h>

#include "base/error.h"
#include "base/log.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Writes down what it is told; with a file it writes there too.
class Recorder final : public Sink {
 public:
  explicit Recorder(std::vector<std::string>& told, const std::string& path = "") : told_(told) {
    if (!path.empty()) file_ = std::make_unique<AppendFile>(path);
  }
  void step(const StepMetrics& m) override { tell("step " + std::to_string(m.step)); }
  void event(const RunEvent& e) override { tell(std::string(word(e.kind)) + " " + e.text); }
  void log_line(const LogLine& l) override { tell("line " + l.text); }
  const AppendFile* file() const override { return file_.get(); }

 private:
  void tell(const std::string& what) {
    if (file_) file_->write_line(what);
    told_.push_back(what);
  }
  std::vector<std::string>& told_;
  std::unique_ptr<AppendFile> file_;
};

TEST(SinkGroup, HandsOnTheLinesOfItsRankAndItsWarningsAsEvents) {
  const log::Capture capture;
  std::vector<std::string> told;
  {
    SinkGroup sinks;
    log::info("before");
    sinks.add(std::make_unique<Recorder>(told));
    sinks.step({.step = 4});
    log::warning("odd");
    sinks.event({.kind = EventKind::end, .step = 4, .text = "done"});
    log::info("last");
  }
  EXPECT_THAT(told, ElementsAre("line before", "step 4", "line odd", "warning odd", "end done",
                                "line last"));
}

TEST(SinkGroup, ASinkThatCannotWriteStopsWithOneWarningAndTheOthersGoOn) {
  const log::Capture capture;
  const test::TemporaryFolder folder;
  std::vector<std::string> full, same, other;
  {
    SinkGroup sinks;
    sinks.add(std::make_unique<Recorder>(other, folder.file("other")));
    sinks.add(std::make_unique<Recorder>(full, "/dev/full"));
    sinks.add(std::make_unique<Recorder>(same, "/dev/null"));  // on the same file system
    for (int64_t step = 1; step <= 3; ++step) sinks.step({.step = step});
  }
  EXPECT_THAT(full, ElementsAre());
  EXPECT_THAT(same, ElementsAre("step 1"));
  EXPECT_THAT(other, testing::IsSupersetOf({"step 1", "step 2", "step 3"}));
  const std::string text = capture.text();
  EXPECT_THAT(text, HasSubstr("WARNING - cannot write /dev/full: No space left on device"));
  EXPECT_THAT(text, HasSubstr("nothing more is written to /dev/full, /dev/null"));
  EXPECT_EQ(text.find("WARNING"), text.rfind("WARNING"));
}

TEST(SinkGroup, WhatIsNoMatterOfFilesEndsTheRun) {
  class Broken final : public Sink {
    void step(const StepMetrics&) override { throw Error(Fault::kContract, "broken"); }
  };
  SinkGroup sinks;
  sinks.add(std::make_unique<Broken>());
  EXPECT_THROW(sinks.step({}), Error);
}

}  // namespace
}  // namespace nereus
