#include "observe/tensorboard_sink.h"

#include <gmock/gmock.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <protozero/pbf_reader.hpp>

#include "base/crc32c.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using protozero::pbf_reader;

struct Event {
  double time = 0;
  int64_t step = 0, session = 0;
  std::string version;
  std::map<std::string, float> scalars;
  std::map<std::string, std::vector<double>> buckets;
};

void read_value(pbf_reader value, Event& into) {
  std::string tag;
  while (value.next()) {
    if (value.tag() == 1) {
      tag = value.get_string();
    } else if (value.tag() == 2) {
      into.scalars[tag] = value.get_float();
    } else if (pbf_reader histogram = value.get_message(); histogram.next(7)) {
      for (const double x : histogram.get_packed_double()) into.buckets[tag].push_back(x);
    }
  }
}

// Checks the framing too.
std::vector<Event> read(const std::string& path) {
  const std::string all = test::read_file(path);
  std::vector<Event> out;
  for (size_t at = 0; at < all.size();) {
    uint64_t length = 0;
    uint32_t crc = 0, data_crc = 0;
    std::memcpy(&length, all.data() + at, 8);
    std::memcpy(&crc, all.data() + at + 8, 4);
    EXPECT_EQ(crc, masked_crc32c(all.substr(at, 8)));
    const std::string data = all.substr(at + 12, length);
    std::memcpy(&data_crc, all.data() + at + 12 + length, 4);
    EXPECT_EQ(data_crc, masked_crc32c(data));
    at += 16 + length;
    Event& event = out.emplace_back();
    pbf_reader r(data);
    while (r.next()) switch (r.tag()) {
        case 1:
          event.time = r.get_double();
          break;
        case 2:
          event.step = r.get_int64();
          break;
        case 3:
          event.version = r.get_string();
          break;
        case 5:
          for (pbf_reader summary = r.get_message(); summary.next(1);)
            read_value(summary.get_message(), event);
          break;
        case 7: {
          pbf_reader session = r.get_message();
          session.next(1);
          event.session = session.get_enum();
          break;
        }
        default:
          ADD_FAILURE() << "field " << r.tag();
      }
  }
  return out;
}

std::vector<std::string> files(const std::string& folder) {
  std::vector<std::string> out;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) out.push_back(entry.path());
  std::sort(out.begin(), out.end());
  return out;
}

TEST(TensorBoardSink, WritesTorchTitansTagsAndOurs) {
  const test::TemporaryFolder folder;
  {
    TensorBoardSink sink(folder.path(), 1000, 0);
    StepMetrics m{.step = 7, .time = 1002.5, .loss = 8.0123};
    m.step_seconds = 2;
    m.data_seconds = 0.5;
    m.experts = ExpertFigures{.p95 = 1.75};
    sink.step(m);
    sink.experts(7, 1002.5, {.experts = 2, .layers = {3}, .counts = {30, 10}});
    sink.validation({.step = 7, .time = 1003, .loss = 6.5});
  }
  const std::vector<std::string> there = files(folder.path());
  ASSERT_EQ(there.size(), 1u);
  EXPECT_THAT(there[0], testing::HasSubstr("/events.out.tfevents.0000001000."));
  std::vector<Event> events = read(there[0]);
  ASSERT_EQ(events.size(), 5u);
  EXPECT_EQ(events[0].version, "brain.Event:2");
  EXPECT_EQ(events[1].session, 1);
  EXPECT_EQ(events[2].step, 7);
  EXPECT_EQ(events[2].time, 1002.5);
  std::vector<std::string> tags;
  for (const auto& [tag, value] : events[2].scalars) tags.push_back(tag);
  // TorchTitan's, written down from its source (components/metrics.py, train.py).
  for (const char* tag :
       {"loss_metrics/global_avg_loss", "loss_metrics/global_max_loss", "grad_norm",
        "throughput(tps)", "tflops", "time_metrics/end_to_end(s)", "time_metrics/data_loading(s)",
        "time_metrics/data_loading(%)", "memory/max_active(GiB)", "memory/max_active(%)",
        "memory/max_reserved(GiB)", "memory/max_reserved(%)", "memory/num_alloc_retries",
        "memory/num_ooms", "n_tokens_seen", "lr"})
    EXPECT_THAT(tags, testing::Contains(tag));
  EXPECT_FALSE(events[2].scalars.contains("mfu(%)")) << "the device's peak is not known";
  for (const std::string& tag : tags)
    EXPECT_TRUE(tag.find('/') == std::string::npos || tag.starts_with("experts/") == false ||
                tag.ends_with(")"))
        << tag << ": ours are group/name(unit)";
  EXPECT_FLOAT_EQ(events[2].scalars["loss_metrics/global_avg_loss"], 8.0123f);
  EXPECT_FLOAT_EQ(events[2].scalars["time_metrics/data_loading(%)"], 25);
  EXPECT_FLOAT_EQ(events[2].scalars["experts/load_p95(ratio)"], 1.75f);
  const std::vector<double>& buckets = events[3].buckets["expert_load/layer_3(ratio)"];
  ASSERT_EQ(buckets.size(), 30u);
  EXPECT_EQ(buckets[9], 0);
  EXPECT_EQ(buckets[10], 1);  // 0.5 of 1.5: where a third of the buckets are below
  EXPECT_EQ(buckets[29], 1);
  EXPECT_FLOAT_EQ(events[4].scalars["validation_metrics/loss"], 6.5f);
}

TEST(TensorBoardSink, ALaterStartsFileSortsBehindTheEarlierOnesThoughTheClockWentBack) {
  const test::TemporaryFolder folder;
  { const TensorBoardSink first(folder.path(), 5000, 0); }
  { const TensorBoardSink second(folder.path(), 100, 51); }
  const std::vector<std::string> there = files(folder.path());
  ASSERT_EQ(there.size(), 2u);
  std::vector<Event> events = read(there[1]);
  EXPECT_THAT(there[1], testing::HasSubstr("tfevents.0000005001."));
  EXPECT_EQ(events[1].session, 1);
  EXPECT_EQ(events[1].step, 51);
}

}  // namespace
}  // namespace nereus
