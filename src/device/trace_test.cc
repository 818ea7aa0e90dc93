#include "device/trace.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <thread>

#include "device/device.h"

namespace nereus {
namespace {

const TraceEvent* find(const TraceRecording& r, const std::string& name) {
  for (const TraceEvent& e : r.events)
    if (e.name == name) return &e;
  return nullptr;
}

TEST(Trace, RangesOfAThreadNestAndSayWhatTheyAreOf) {
  TraceRecorder recorder;
  recorder.start({.ranges = true});
  {
    const TraceRange outer(&recorder, TraceKind::action, "forward", {.stage = 1, .microbatch = 3});
    EXPECT_STREQ(recorder.innermost(), "forward");
    {
      const TraceRange inner(&recorder, TraceKind::op, "matmul", {.bytes = 12});
      EXPECT_STREQ(recorder.innermost(), "matmul");
    }
    EXPECT_STREQ(recorder.innermost(), "forward");
  }
  EXPECT_EQ(recorder.innermost(), nullptr);
  const TraceRecording r = recorder.take();
  ASSERT_EQ(r.events.size(), 2u);
  const TraceEvent &inner = r.events[0], &outer = r.events[1];
  EXPECT_STREQ(inner.name, "matmul");
  EXPECT_EQ(inner.args.bytes, 12);
  EXPECT_EQ(outer.args.stage, 1);
  EXPECT_EQ(outer.args.microbatch, 3);
  EXPECT_LE(outer.begin, inner.begin);
  EXPECT_LE(inner.begin, inner.end);
  EXPECT_LE(inner.end, outer.end);
  EXPECT_EQ(inner.thread, outer.thread);
  EXPECT_EQ(r.threads[static_cast<size_t>(outer.thread)].name, "rank");
}

TEST(Trace, WithoutARecorderOrARecordingThereIsNothing) {
  { const TraceRange nowhere(nullptr, TraceKind::op, "add"); }
  TraceRecorder recorder;
  {
    const TraceRange before(&recorder, TraceKind::op, "before");
    recorder.start({.ranges = true});
  }
  const TraceRange open(&recorder, TraceKind::op, "open");
  recorder.count("tokens", 5);
  recorder.count("tokens", 7);
  recorder.memory({.action = "forward", .kept = 1});  // not asked for
  const TraceRecording first = recorder.take();
  EXPECT_TRUE(first.events.empty());
  EXPECT_TRUE(first.memory.empty());
  ASSERT_EQ(first.counts.size(), 2u);
  EXPECT_EQ(first.counts[0].value, 5);
  EXPECT_EQ(first.counts[1].value, 12);
  recorder.count("tokens", 1);
  recorder.start({.memory = true});
  { const TraceRange range(&recorder, TraceKind::op, "range"); }
  recorder.memory({.action = "forward", .kept = 1});
  const TraceRecording second = recorder.take();
  EXPECT_TRUE(second.events.empty());
  EXPECT_TRUE(second.counts.empty());
  EXPECT_EQ(second.memory.size(), 1u);
}

// A range that is open across take() and the next start() belongs to neither recording.
TEST(Trace, ARangeEndsInTheRecordingThatItBeganInOrInNone) {
  TraceRecorder recorder;
  recorder.start({.ranges = true});
  {
    const TraceRange open(&recorder, TraceKind::op, "open");
    recorder.take();
    recorder.start({.ranges = true});
  }
  EXPECT_TRUE(recorder.take().events.empty());
}

TEST(Trace, AThreadIsNamedAfterWhatItDoesFirst) {
  TraceRecorder recorder;
  recorder.start({.ranges = true});
  std::thread([&] { const TraceRange r(&recorder, TraceKind::data, "prepare"); }).join();
  std::thread([&] { const TraceRange r(&recorder, TraceKind::saving, "write"); }).join();
  const TraceRecording r = recorder.take();
  ASSERT_EQ(r.threads.size(), 3u);
  EXPECT_EQ(r.threads[static_cast<size_t>(find(r, "prepare")->thread)].name, "data");
  EXPECT_EQ(r.threads[static_cast<size_t>(find(r, "write")->thread)].name, "saving");
}

// Each task waits for the other: both threads take part.
TEST(Trace, ThreadsOfThePoolAreThereUnderTheNameOfTheOp) {
  ThreadPool pool(2);
  TraceRecorder recorder;
  Stream stream(Device::cpu(), &pool);
  const auto both = [&] {
    std::atomic<int> arrived{0};
    stream.parallel_for(2, [&](int64_t, Scratch) {
      ++arrived;
      while (arrived < 2) std::this_thread::yield();
    });
  };
  stream.set_trace(&recorder);
  both();
  recorder.start({.ranges = true});
  {
    const TraceRange range(&recorder, TraceKind::op, "adam");
    both();
  }
  const TraceRecording r = recorder.take();
  ASSERT_EQ(r.events.size(), 2u);
  const auto tasks = std::find_if(r.events.begin(), r.events.end(),
                                  [](const TraceEvent& e) { return e.kind == TraceKind::tasks; });
  ASSERT_NE(tasks, r.events.end());
  EXPECT_STREQ(tasks->name, "adam");
  EXPECT_EQ(r.threads[static_cast<size_t>(tasks->thread)].name, "compute 1");
}

}  // namespace
}  // namespace nereus
