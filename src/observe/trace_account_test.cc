#include "observe/trace_account.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/check.h"
#include "observe/chrome_trace.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::ThrowsMessage;

// 100 ms of a GEMM, a gather that overlaps with its last 20 and goes on for 80 alone, a gap of 20,
// 50 of attention, 25 of a norm.
std::string gpu_trace(const test::TemporaryFolder& folder, const char* name, double norm_ms = 25) {
  const auto ms = [](double t) { return static_cast<uint64_t>(1e6 * t) + 1000; };
  const std::vector<KernelRun> runs = {
      {.name = "nvjet_128", .begin = ms(0), .end = ms(100), .stream = 7},
      {.name = "ncclDevKernel_AllGather", .begin = ms(80), .end = ms(180), .stream = 9},
      {.name = "cudnn_sdpa", .begin = ms(200), .end = ms(250), .stream = 7},
      {.name = "rmsnorm", .begin = ms(250), .end = ms(250 + norm_ms), .stream = 7}};
  TraceRecording r;
  r.threads = {{"rank", 1}};
  r.events = {{"rmsnorm_forward", TraceKind::op, 0, 1000, 2000, {.bytes = 60'000'000'000}},
              {"all_gather", TraceKind::collective, 0, 2000, 3000, {.bytes = 5'000'000'000}}};
  const TraceFacts facts{.rank = 1,
                         .ranks = 2,
                         .device = "NVIDIA H200",
                         .first_step = 10,
                         .last_step = 10,
                         .step_seconds = 0.4,
                         .gemm_flops = 5e13,
                         .attention_flops = 1e13,
                         .peak_flops = 1e15,
                         .peak_bandwidth = 4.8e12,
                         .layout = "[dp 2]"};
  return write_trace(folder.file(name), chrome_trace(facts, r, runs, 1000));
}

TEST(TraceAccount, SaysWhereAStepsTimeWentAndHowNearItsLimit) {
  const test::TemporaryFolder folder;
  const TraceAccount a = account_of_trace(gpu_trace(folder, "a.json"));
  const std::string text = account_text(std::span(&a, 1), 2);
  EXPECT_THAT(text, HasSubstr("rank 1, NVIDIA H200, [dp 2]; step 10, 400.00 ms a step"));
  EXPECT_THAT(text, HasSubstr("GEMM                100.00   25.0 %  50.0 % of 1000 TFLOP/s\n"));
  EXPECT_THAT(text, HasSubstr("attention            50.00   12.5 %  20.0 % of 1000 TFLOP/s\n"));
  EXPECT_THAT(text, HasSubstr("memory-bound         25.00    6.2 %  50.0 % of 4.80 TB/s\n"));
  EXPECT_THAT(text, HasSubstr("communication       100.00   25.0 %  50.0 GB/s\n"));
  EXPECT_THAT(text, HasSubstr("  exposed            80.00   20.0 %"));
  EXPECT_THAT(text, HasSubstr("  hidden             20.00    5.0 %"));
  EXPECT_THAT(text, HasSubstr("gaps                 20.00    5.0 %"));
  EXPECT_THAT(text, HasSubstr("nvjet_128"));
  EXPECT_THAT(text, testing::Not(HasSubstr("sdpa")));  // the third of two
  const json j = json::parse(account_json(std::span(&a, 1), 10))["traces"][0];
  EXPECT_NEAR(j["classes"]["gemm"]["seconds"], 0.1, 1e-9);
  EXPECT_NEAR(j["classes"]["gemm"]["share_of_limit"], 0.5, 1e-9);
  EXPECT_NEAR(j["classes"]["communication_hidden"]["seconds"], 0.02, 1e-9);
  EXPECT_EQ(j["kernels"].size(), 4u);
  EXPECT_EQ(j["step_seconds"], 0.4);
}

TEST(TraceAccount, OfTwoStandsSideBySide) {
  const test::TemporaryFolder folder;
  const std::vector<TraceAccount> both = {account_of_trace(gpu_trace(folder, "a.json")),
                                          account_of_trace(gpu_trace(folder, "b.json", 50))};
  const std::string text = account_text(both, 4);
  EXPECT_THAT(text, HasSubstr("memory-bound         25.00     50.00    +25.00  +100.0 %  50.0 % of "
                              "4.80 TB/s | 25.0 % of 4.80 TB/s\n"));
  EXPECT_THAT(text, HasSubstr("GEMM                100.00    100.00     +0.00    +0.0 %"));
  EXPECT_THAT(text, HasSubstr("     25.00     50.00    +25.00  +100.0 %  rmsnorm\n"));
  EXPECT_EQ(json::parse(account_json(both, 1))["traces"].size(), 2u);
}

// Of a rank on a CPU: its own thread's ops, those in others and other threads' left out.
TEST(TraceAccount, OfACpuIsThatOfItsOps) {
  const test::TemporaryFolder folder;
  TraceRecording r;
  r.threads = {{"rank", 1}, {"compute 1", 2}};
  r.events = {{"matmul", TraceKind::op, 0, 1'000'000, 3'000'000, {.bytes = 8}},
              {"matmul", TraceKind::tasks, 1, 1'000'000, 3'000'000, {}},
              {"adam", TraceKind::op, 0, 4'000'000, 5'000'000, {.bytes = 4'000'000}},
              {"fill", TraceKind::op, 0, 4'100'000, 4'200'000, {.bytes = 4'000'000}},
              {"all_gather", TraceKind::collective, 0, 5'000'000, 6'000'000, {.group = "dp"}}};
  const TraceFacts facts{.device = "CPU", .first_step = 1, .last_step = 2};
  const TraceAccount a =
      account_of_trace(write_trace(folder.file("t.json"), chrome_trace(facts, r, {}, 1'000'000)));
  EXPECT_FALSE(a.of_gpu);
  EXPECT_EQ(a.steps, 2);
  EXPECT_NEAR(a.times.gemms, 2e-3, 1e-12);
  EXPECT_NEAR(a.times.memory_bound, 1e-3, 1e-12);
  EXPECT_NEAR(a.times.exposed, 1e-3, 1e-12);
  EXPECT_NEAR(a.times.gaps, 1e-3, 1e-12);
  EXPECT_EQ(a.memory_bytes, 4'000'000);
  const std::string text = account_text(std::span(&a, 1), 3);
  EXPECT_THAT(text, HasSubstr("steps 1 to 2, 2.50 ms a step"));
  EXPECT_THAT(text, HasSubstr("memory-bound          0.50   20.0 %  4.0 GB/s\n"));
}

TEST(TraceAccount, ReadsWhatPyTorchsProfilerWrites) {
  const test::TemporaryFolder folder;
  const std::string path = folder.write("rank0_trace.json", R"json({
 "schemaVersion": 1, "deviceProperties": [{"id": 0, "name": "NVIDIA H100"}],
 "traceEvents": [
  {"ph": "X", "cat": "user_annotation", "name": "ProfilerStep#9", "pid": 12, "tid": 12,
   "ts": 5951345.000, "dur": 400.5, "args": {"External id": 1}},
  {"ph": "X", "cat": "cpu_op", "name": "aten::mm", "pid": 12, "tid": 12, "ts": 5951346.0,
   "dur": 10, "args": {}},
  {"ph": "X", "cat": "kernel", "name": "nvjet_hsh_128", "pid": 0, "tid": 7, "ts": 5951400.125,
   "dur": 100.5, "args": {"stream": 7, "correlation": 3, "grid": [1, 2, 3]}},
  {"ph": "X", "cat": "gpu_memcpy", "name": "Memcpy DtoD", "pid": 0, "tid": 7, "ts": 5951600.625,
   "dur": 50, "args": {"stream": 7}},
  {"ph": "X", "cat": "Trace", "name": "PyTorch Profiler (0)", "pid": "Spans", "tid": "x",
   "ts": 5951300, "dur": 900},
  {"name": "Iteration Start", "ph": "i", "s": "g", "pid": "Traces", "tid": "x", "ts": 5951300}
 ]})json");
  const TraceAccount a = account_of_trace(path);
  EXPECT_TRUE(a.of_gpu);
  EXPECT_NEAR(a.times.gemms, 100.5e-6, 1e-12);
  EXPECT_NEAR(a.times.copies, 50e-6, 1e-12);
  EXPECT_NEAR(a.times.gaps, 100e-6, 1e-12);
  EXPECT_EQ(a.steps, 1);
}

TEST(TraceAccount, RefusesWhatIsNoTrace) {
  const test::TemporaryFolder folder;
  const auto says = [&](const std::string& text, const char* message) {
    const std::string path = folder.write("t.json", text);
    EXPECT_THAT([&] { account_of_trace(path); }, ThrowsMessage<Error>(HasSubstr(message))) << text;
  };
  says("not json", "no trace: ");
  says(R"({"traceEvents": [)", "no trace: ");
  says("{}", "it is no trace of a training step");
  says(R"({"traceEvents": [{"ph": "X", "cat": "kernel", "name": 3, "ts": 1, "dur": 2}]})",
       "no trace: ");
  const char* const kernel =
      R"({"otherData": %, "traceEvents": [{"ph": "X", "cat": "kernel", "ts": $, "dur": 2}]})";
  const auto trace = [&](const char* other, const char* ts) {
    std::string text = kernel;
    text.replace(text.find('%'), 1, other);
    return text.replace(text.find('$'), 1, ts);
  };
  says(trace("{}", R"("soon")"), "no trace: a time is \"soon\", which is no number");
  says(trace("{}", "-5"), "no trace: a time or duration of -5 us");
  says(trace("{}", R"("1e999")"), "which is no number");
  says(trace("[1]", "1"), "no trace: ");
  says(trace(R"({"program": "nereus", "rank": "x"})", "1"), "no trace: ");
  const TraceAccount good = account_of_trace(folder.write("t.json", trace("{}", R"("1.5")")));
  EXPECT_NEAR(good.times.span, 2e-6, 1e-12);
  EXPECT_THAT([&] { account_of_trace(folder.path()); },
              ThrowsMessage<Error>(HasSubstr("it is a folder; name a trace")));
}

}  // namespace
}  // namespace nereus
