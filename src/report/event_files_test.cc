#include "report/event_files.h"

#include <cstring>

#include "base/crc32c.h"
#include "report/read_run.h"
#include "report/run_files_test.h"

namespace nereus::report {
namespace {

using test::RunFiles;
using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;

// Events byte by byte, as protobuf's wire format has them.
std::string varint(uint64_t n) {
  std::string out;
  for (; n >= 128; n >>= 7) out += static_cast<char>(n | 128);
  return out + static_cast<char>(n);
}
template <class T>
std::string fixed(T x) {
  std::string out(sizeof x, 0);
  std::memcpy(out.data(), &x, sizeof x);
  return out;
}
std::string bytes(int field, const std::string& content) {
  return varint(static_cast<uint64_t>(field * 8 + 2)) + varint(content.size()) + content;
}
std::string record(const std::string& event) {
  const std::string size = fixed<uint64_t>(event.size());
  return size + fixed(masked_crc32c(size)) + event + fixed(masked_crc32c(event));
}
std::string event(double time, int64_t step, const std::string& rest) {
  return record("\x09" + fixed(time) + "\x10" + varint(static_cast<uint64_t>(step)) + rest);
}
std::string scalar(const std::string& tag, float x) {
  return bytes(1, bytes(1, tag) + "\x15" + fixed(x));
}
std::string scalars(double time, int64_t step, float loss) {
  return event(
      time, step,
      bytes(5, scalar("loss_metrics/global_avg_loss", loss) + scalar("grad_norm", 1) +
                   scalar("throughput(tps)", 100) + scalar("time_metrics/end_to_end(s)", 2)));
}

class EventFiles : public RunFiles {};

TEST_F(EventFiles, ReadsTorchTitansTagsUnderTheNamesOfMetrics) {
  write("20251002-1010/events.out.tfevents.1759400000.host.1.0",
        record("\x09" + fixed(1.0) + bytes(3, "brain.Event:2")) + scalars(1000, 1, 12) +
            scalars(1020, 10, 11) +
            event(1021, 10, bytes(5, scalar("validation_metrics/loss", 10.5))));
  const Run run = read_run(folder_);
  EXPECT_EQ(run.source, Source::tensorboard);
  EXPECT_EQ(run.steps, 10);
  EXPECT_EQ(run.find("loss")->last().y, 11);
  EXPECT_EQ(run.find("tps")->last().y, 100);
  EXPECT_EQ(run.find("step_seconds")->last().y, 2);
  EXPECT_EQ(run.find("validation_loss")->last().y, 10.5);
  EXPECT_THAT(run.notes, IsEmpty());
}

TEST_F(EventFiles, OurOwnTagsHaveTheNamesOfMetricsToo) {
  EXPECT_EQ(name_of_tag("throughput/tflops_causal(TFLOP/s)"), "tflops_causal");
  EXPECT_EQ(name_of_tag("step_parts/wait(s)"), "wait_seconds");
  EXPECT_EQ(name_of_tag("experts/load_p95(ratio)"), "expert_load_p95");
  EXPECT_EQ(name_of_tag("memory/num_ooms"), "memory/num_ooms");
}

TEST_F(EventFiles, ALaterStartReplacesSteps) {
  write("tb/events.out.tfevents.1759400000.host.1.0", scalars(1000, 1, 12) + scalars(1020, 10, 11));
  write("tb/events.out.tfevents.1759500000.host.2.0",
        event(2000, 6, bytes(7, "\x08\x01")) + scalars(2001, 6, 10) + scalars(2010, 10, 9));
  const Run run = read_run(folder_);
  EXPECT_EQ(run.find("loss")->count(), 3);
  EXPECT_EQ(run.find("loss")->last().y, 9);
  EXPECT_EQ(run.starts.size(), 2U);
}

TEST_F(EventFiles, OfEveryRanksFoldersOneIsRead) {
  for (const int rank : {0, 1, 2})
    write(fmt::format("tb/rank_{}/events.out.tfevents.{}.host.1.0", rank, 100 - rank),
          scalars(1000, 1, 12.0F + static_cast<float>(rank)));
  const Run run = read_run(folder_);
  EXPECT_EQ(run.find("loss")->count(), 1);
  EXPECT_EQ(run.find("loss")->last().y, 12);
}

TEST_F(EventFiles, ATornLastRecordIsLeftOutAndSaid) {
  const std::string whole = scalars(1000, 1, 12);
  for (const size_t cut : {size_t{3}, size_t{20}, whole.size() - 1}) {
    write("events.out.tfevents.1.host", whole + scalars(1020, 10, 11).substr(0, cut));
    const Run run = read_run(folder_);
    EXPECT_EQ(run.steps, 1) << cut;
    EXPECT_THAT(run.notes, Contains(HasSubstr("a record is torn or has a wrong checksum")));
  }
}

TEST_F(EventFiles, ARecordWithAFlippedBitIsTakenForATornOne) {
  const std::string first = scalars(1000, 1, 12), second = scalars(1020, 10, 11);
  // Of the length, its checksum, the event and its checksum.
  for (const size_t at :
       {size_t{0}, size_t{9}, second.size() / 2, second.size() - 6, second.size() - 1}) {
    std::string flipped = second;
    flipped[at] = static_cast<char>(flipped[at] ^ 1);
    write("events.out.tfevents.1.host", first + flipped + scalars(1040, 20, 10));
    const Run run = read_run(folder_);
    EXPECT_EQ(run.steps, 1) << at;
    EXPECT_THAT(run.notes, Contains(HasSubstr("a record is torn or has a wrong checksum"))) << at;
  }
}

}  // namespace
}  // namespace nereus::report
