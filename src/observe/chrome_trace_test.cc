#include "observe/chrome_trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/check.h"
#include "observe/trace_check_test.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using nlohmann::json;
using test::TraceCheck;
using testing::HasSubstr;
using testing::ThrowsMessage;

// Two microbatches on one stage; a compute thread; a step before, which is not in the trace.
TraceRecording recording() {
  TraceRecording r;
  r.threads = {{"rank", 100}, {"compute 1", 101}};
  const auto range = [&](const char* name, TraceKind kind, int64_t begin, int64_t end,
                         TraceArgs args = {}, int thread = 0) {
    r.events.push_back({name, kind, thread, begin, end, args});
  };
  range("step", TraceKind::step, 100, 900, {.step = 9});
  range("matmul", TraceKind::op, 1010, 1200, {.bytes = 64});
  range("matmul", TraceKind::tasks, 1020, 1190, {}, 1);
  range("forward", TraceKind::action, 1005, 1300, {.stage = 0, .microbatch = 0});
  range("forward", TraceKind::action, 1300, 1400, {.stage = 0, .microbatch = 1});
  range("backward", TraceKind::action, 1400, 1500, {.stage = 0, .microbatch = 1});
  range("all_reduce", TraceKind::collective, 1510, 1600, {.bytes = 8, .group = "dp \"x\""});
  range("backward", TraceKind::action, 1500, 1700, {.stage = 0, .microbatch = 0});
  range("step", TraceKind::step, 1000, 2000, {.step = 10});
  r.counts = {{1300, "tokens", 16}, {1400, "tokens", 32}};
  r.memory = {{1300, "forward", 0, 0, 7, 8, 9}};
  return r;
}

TraceFacts facts() {
  return {.rank = 3,
          .ranks = 4,
          .device = "NVIDIA H200",
          .first_step = 10,
          .last_step = 10,
          .step_seconds = 1e-6,
          .gemm_flops = 5,
          .attention_flops = 6,
          .peak_flops = 1e15,
          .peak_bandwidth = std::nullopt,
          .layout = "[dp 4]"};
}

KernelRun kernel(const char* name, uint64_t begin, uint64_t end, uint32_t stream,
                 uint64_t launched = 0) {
  return {.name = name,
          .begin = begin,
          .end = end,
          .stream = stream,
          .launched = launched,
          .thread = launched > 0 ? 100 : 0};
}

std::vector<json> events(const json& trace, const std::string& phase) {
  std::vector<json> out;
  for (const json& e : trace["traceEvents"])
    if (e["ph"] == phase) out.push_back(e);
  return out;
}

TEST(ChromeTrace, HasTheStepWithItsThreadsArrowsAndCounters) {
  const std::string text = chrome_trace(facts(), recording(), {}, 1000);
  EXPECT_EQ(TraceCheck::wrong(text), "");
  const json trace = json::parse(text);
  EXPECT_EQ(trace["otherData"]["first_step"], 10);
  EXPECT_EQ(trace["otherData"]["peak_flops"], 1e15);
  EXPECT_FALSE(trace["otherData"].contains("peak_bandwidth"));
  EXPECT_THAT(text, HasSubstr(R"({"ph":"X","name":"step 10","cat":"step","pid":6,"tid":0,)"
                              R"("ts":0.000,"dur":1.000,"args":{"step":10}})"));
  EXPECT_THAT(text, HasSubstr(R"("name":"forward m0 s0","cat":"action","pid":6,"tid":0,"ts":0.005,)"
                              R"("dur":0.295,"args":{"microbatch":0,"stage":0}})"));
  EXPECT_THAT(text, HasSubstr(R"js("name":"all_reduce (dp \"x\")")js"));
  EXPECT_THAT(text, testing::Not(HasSubstr("step 9")));
  EXPECT_EQ(events(trace, "s").size(), 2u);  // of each microbatch
  EXPECT_EQ(events(trace, "f").size(), 2u);
  EXPECT_EQ(events(trace, "C").size(), 3u);
}

TEST(ChromeTrace, KernelsHaveARowAStreamAndAnArrowFromWhereTheyWereLaunched) {
  const std::vector<KernelRun> runs = {
      kernel("gemm<a, \"b\">", 1100, 1400, 7, 1050), kernel("early", 500, 600, 7, 450),
      kernel("overlaps", 1300, 1500, 7, 1060), kernel("copy", 1500, 1600, 7, 950),
      kernel("ncclDevKernel", 1200, 1300, 9)};
  const std::string text = chrome_trace(facts(), recording(), runs, 1000);
  EXPECT_EQ(TraceCheck::wrong(text), "");
  const json trace = json::parse(text);
  std::map<std::string, int> rows;
  for (const json& e : events(trace, "M"))
    if (e["name"] == "thread_name" && e["pid"] == 7) rows[e["args"]["name"]] = e["tid"];
  EXPECT_EQ(rows.size(), 3u);
  std::map<std::string, json> kernels;
  for (const json& e : events(trace, "X"))
    if (e["pid"] == 7) kernels[e["name"]] = e;
  EXPECT_EQ(kernels.size(), 4u);  // without the early one
  EXPECT_EQ(kernels["gemm<a, \"b\">"]["tid"], rows["stream 7"]);
  EXPECT_EQ(kernels["overlaps"]["tid"], rows["stream 7 (2)"]);
  EXPECT_EQ(kernels["ncclDevKernel"]["tid"], rows["stream 9"]);
  EXPECT_EQ(kernels["copy"]["cat"], "gpu_memcpy");
  int arrows = 0;
  for (const json& e : events(trace, "s")) arrows += e["cat"] == "ac2g" ? 1 : 0;
  EXPECT_EQ(arrows, 2);  // the copy was asked for before the step began
}

TEST(ChromeTrace, TheJudgeFindsWhatIsWrong) {
  const std::string good = chrome_trace(facts(), recording(), {}, 1000);
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return TraceCheck::wrong(text.replace(at, from.size(), to));
  };
  EXPECT_THAT(with("\"dur\":0.295", "\"dur\":0.350"), HasSubstr("ends after it"));
  EXPECT_THAT(with("\"ph\":\"f\"", "\"ph\":\"t\""), HasSubstr("without start or end"));
  EXPECT_THAT(with("\"tokens\":32", "\"tokens\":15"), HasSubstr("tokens that fall"));
  EXPECT_THAT(with("\"ts\":0.005,\"dur\"", "\"ts\":-0.005,\"dur\""), HasSubstr("a bad ts"));
  EXPECT_THAT(with("\"id\":1,\"pid\":6,\"tid\":0,\"ts\":0.005",
                   "\"id\":1,\"pid\":6,\"tid\":1,\"ts\":0.005"),
              HasSubstr("at nothing"));
  EXPECT_THAT(with("\"thread_name\",\"pid\":6,\"tid\":1", "\"thread_name\",\"pid\":6,\"tid\":2"),
              HasSubstr("a row without name"));
  EXPECT_THAT(with("\"ph\":\"C\"", "\"ph\":\"Z\""), HasSubstr("an unknown phase"));
  EXPECT_THAT(with("]}", "]"), HasSubstr("parse error"));
}

// Files with colons between them: those of a run on a GPU (scripts/gpu.sh run profile).
TEST(ChromeTrace, FilesNamedByTheEnvironmentAreRight) {
  const char* names = std::getenv("NEREUS_TRACES");
  if (names == nullptr) GTEST_SKIP() << "NEREUS_TRACES names no traces";
  std::istringstream list(names);
  for (std::string name; std::getline(list, name, ':');)
    EXPECT_EQ(TraceCheck::wrong(read_trace_text(name)), "") << name;
}

TEST(ChromeTrace, ALongOneIsCompressedAndReadsTheSame) {
  const test::TemporaryFolder folder;
  const std::string small(100, 'x'), large(kLongestPlainTrace + 1, 'y');
  EXPECT_EQ(write_trace(folder.file("a/b/small.json"), small), folder.file("a/b/small.json"));
  EXPECT_EQ(write_trace(folder.file("large.json"), large), folder.file("large.json.gz"));
  EXPECT_LT(test::read_file(folder.file("large.json.gz")).size(), large.size() / 100);
  EXPECT_EQ(read_trace_text(folder.file("a/b/small.json")), small);
  EXPECT_EQ(read_trace_text(folder.file("large.json.gz")), large);
  const std::string cut = test::read_file(folder.file("large.json.gz")).substr(0, 5000);
  folder.write("cut.json.gz", cut);
  EXPECT_THAT([&] { read_trace_text(folder.file("cut.json.gz")); },
              ThrowsMessage<Error>(HasSubstr("is cut off or damaged")));
  EXPECT_THAT([&] { read_trace_text(folder.file("none")); },
              ThrowsMessage<Error>(HasSubstr("there is no such file or folder; name a trace")));
  folder.write("file", "");
  EXPECT_THAT([&] { write_trace(folder.file("file/trace.json"), small); },
              ThrowsMessage<Error>(HasSubstr("cannot write " + folder.file("file/trace.json"))));
}

// A step of the layers that a rank of 671B on 16 pipeline ranks has: two stages of two blocks, 32
// microbatches, 40 ops and kernels a block forward and 80 backward, a collective for four of them.
TEST(ChromeTrace, OfARankOf671BTakesLessThanFiveMegabytes) {
  TraceRecording r;
  r.threads = {{"rank", 1}};
  std::vector<KernelRun> runs;
  constexpr const char* kOps[] = {"rmsnorm_forward",   "matmul",         "mla_assemble",
                                  "attention_forward", "grouped_matmul", "permute",
                                  "swiglu_forward",    "combine"};
  int64_t host = 1000, gpu = 20'000;
  uint64_t random = 1;
  const auto next = [&](uint64_t most) {
    random = random * 6364136223846793005U + 1442695040888963407U;
    return static_cast<int64_t>((random >> 33) % most);
  };
  const auto block = [&](int layer, int ops) {
    const int64_t begin = host;
    for (int i = 0; i < ops; ++i) {
      const int64_t at = host;
      const int64_t end = at + 3000 + next(2000), run = gpu + next(500),
                    took = 20'000 + next(200'000);
      r.events.push_back({kOps[i % 8], TraceKind::op, 0, at, end, {.bytes = next(1 << 30)}});
      runs.push_back(kernel(i % 8 == 1 ? "nvjet_sm90_tst_128x256_64x4_2x1_v_bz_coopA_NNT"
                                       : "nereus::ops::cuda::rmsnorm_kernel<__nv_bfloat16, 8>",
                            static_cast<uint64_t>(run), static_cast<uint64_t>(run + took),
                            i % 4 == 3 ? 9 : 7, static_cast<uint64_t>(at + 100)));
      runs.back().thread = 1;
      gpu = run + took;
      host = end + next(500);
    }
    r.events.push_back({"block", TraceKind::layer, 0, begin, host, {.layer = layer}});
  };
  for (int microbatch = 0; microbatch < 32; ++microbatch)
    for (const bool forward : {true, false})
      for (const int stage : {0, 31}) {
        const int64_t begin = host;
        for (int b = 0; b < 2; ++b) block(stage * 2 + b, forward ? 40 : 80);
        r.events.push_back({forward ? "forward" : "backward",
                            TraceKind::action,
                            0,
                            begin,
                            host,
                            {.stage = stage, .microbatch = microbatch}});
        r.memory.push_back({host, "forward", stage, microbatch, next(1 << 30), 5, next(1 << 30)});
      }
  r.events.push_back({"step", TraceKind::step, 0, 1000, host, {.step = 10}});
  const test::TemporaryFolder folder;
  const std::string text = chrome_trace(facts(), r, runs, 1000);
  const std::string path =
      write_trace(folder.file("t.json"), text + std::string(kLongestPlainTrace, ' '));
  const size_t bytes = test::read_file(path).size();
  EXPECT_LT(bytes, 5'000'000u) << runs.size() << " kernels, " << text.size() << " bytes of text";
  EXPECT_EQ(TraceCheck::wrong(text), "");
  RecordProperty("compressed", static_cast<int>(bytes));
}

}  // namespace
}  // namespace nereus
