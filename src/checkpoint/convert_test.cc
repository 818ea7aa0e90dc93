#include "checkpoint/convert.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/error.h"
#include "base/log.h"
#include "checkpoint/manifest.h"
#include "checkpoint/native_source.h"
#include "checkpoint/released_layout_test.h"
#include "tensor/convert.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;

std::string golden(const std::string& name) { return test::source_path("tests/golden/" + name); }

ConvertProgress convert(
    const ConvertRequest& r,
    const std::function<void(const ConvertProgress&)>& report = [](const auto&) {}) {
  const log::Capture quiet;
  return convert_weights(r, report);
}

std::string refusal(const ConvertRequest& r) {
  try {
    convert(r);
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::kConfig) << e.what();
    return e.what();
  }
  return "no error";
}

std::vector<float> rounded(const std::vector<float>& x) {
  std::vector<std::byte> bits(x.size() * 2);
  std::vector<float> out(x.size());
  convert_from_f32(DType::bf16, x.data(), std::ssize(x), bits.data());
  convert_to_f32(DType::bf16, bits.data(), std::ssize(x), out.data());
  return out;
}

std::vector<float> values(const HfWeights& w, const std::string& name) {
  std::vector<float> out(static_cast<size_t>(w.find(name)->count()));
  w.read_f32(name, out.data());
  return out;
}

nlohmann::json json_of(const std::string& path) {
  return nlohmann::json::parse(test::read_file(path));
}

std::vector<std::string> files_in(const std::string& folder) {
  std::vector<std::string> out;
  for (const auto& entry : fs::directory_iterator(folder))
    out.push_back(entry.path().filename().string());
  std::sort(out.begin(), out.end());
  return out;
}

TEST(Convert, EveryTensorIsRoundedToTheTypeThatIsAskedFor) {
  const test::TemporaryFolder f;
  const std::string from = golden("hf_tiny/v3");
  const ConvertProgress done =
      convert({.from = from, .to = f.file("bf16"), .dtype = DType::bf16, .shard_bytes = 100'000});
  EXPECT_GT(done.of_files, 3u);
  EXPECT_EQ(done.bytes, done.of_bytes);
  const HfWeights was = HfWeights::open(from), is = HfWeights::open(f.file("bf16"));
  ASSERT_EQ(is.names(), was.names());
  for (const std::string& name : was.names()) {
    const bool bias = name.ends_with(".e_score_correction_bias");
    EXPECT_EQ(is.find(name)->shape, was.find(name)->shape);
    EXPECT_EQ(is.find(name)->dtype, bias ? FileDType::f32 : FileDType::bf16) << name;
    std::vector<float> want = values(was, name);
    if (!bias) want = rounded(want);
    ASSERT_EQ(values(is, name), want) << name;
  }
  const auto index = json_of(f.file("bf16/model.safetensors.index.json"));
  EXPECT_EQ(index["metadata"]["total_size"], done.of_bytes);
  EXPECT_EQ(index["weight_map"].size(), was.names().size());
  EXPECT_EQ(json_of(f.file("bf16/config.json"))["torch_dtype"], "bfloat16");
  for (const auto& entry : fs::directory_iterator(f.file("bf16")))
    EXPECT_LE(entry.file_size(), 120'000u) << entry.path();
  EXPECT_EQ(files_in(f.path()), std::vector<std::string>{"bf16"});

  // Back, in one file: the same numbers.
  convert({.from = f.file("bf16"), .to = f.file("f32"), .dtype = DType::f32});
  const HfWeights back = HfWeights::open(f.file("f32"));
  for (const std::string& name : is.names()) ASSERT_EQ(values(back, name), values(is, name));
  EXPECT_THAT(files_in(f.file("f32")),
              testing::ElementsAre("config.json", "info.json", "model.safetensors"));
  // Without a type: the same bytes and the same configuration.
  convert({.from = f.file("bf16"), .to = f.file("same"), .shard_bytes = 100'000});
  for (const std::string& name : files_in(f.file("bf16")))
    EXPECT_EQ(test::read_file(f.file("same/" + name)), test::read_file(f.file("bf16/" + name)))
        << name;
}

TEST(Convert, ScaledFp8BecomesWhatTheReferenceReads) {
  const test::TemporaryFolder f;
  const SafetensorsFile want = SafetensorsFile::open(golden("hf_fp8/expected_fp32.safetensors"));
  for (const auto& [name, dtype] : std::vector<std::pair<std::string, std::optional<DType>>>{
           {"f32", DType::f32}, {"bf16", std::nullopt}}) {
    convert({.from = golden("hf_fp8"), .to = f.file(name), .dtype = dtype});
    const HfWeights got = HfWeights::open(f.file(name));
    ASSERT_EQ(got.names().size(), want.entries().size()) << "no scales are left";
    for (const SafetensorsEntry& e : want.entries()) {
      std::vector<float> expected = e.values<float>();
      if (got.find(e.name)->dtype == FileDType::bf16) expected = rounded(expected);
      EXPECT_EQ(values(got, e.name), expected) << e.name;
    }
    const auto config = json_of(f.file(name + "/config.json"));
    EXPECT_FALSE(config.contains("quantization_config"));
    EXPECT_EQ(config["torch_dtype"], dtype ? "float32" : "bfloat16");
    EXPECT_EQ(config["model_type"], "deepseek_v3");
  }
  EXPECT_EQ(HfWeights::open(f.file("bf16")).find("model.norm.weight")->dtype,
            HfWeights::open(golden("hf_fp8")).find("model.norm.weight")->dtype)
      << "what is no FP8 keeps its type";
}

TEST(Convert, GoesOnAfterAnInterruption) {
  const test::TemporaryFolder f;
  const ConvertRequest whole{
      .from = golden("hf_tiny/v3"), .to = f.file("whole"), .shard_bytes = 100'000};
  convert(whole);
  ConvertRequest r = whole;
  r.to = f.file("part");
  struct Killed {};
  // In the middle of the fourth file.
  EXPECT_THROW(convert(r,
                       [bytes = int64_t{0}](const ConvertProgress& p) mutable {
                         if (p.files == 3 && p.bytes > bytes && bytes > 0) throw Killed();
                         if (p.files == 3) bytes = p.bytes;
                       }),
               Killed);
  EXPECT_FALSE(fs::exists(r.to));
  EXPECT_EQ(files_in(r.to + ".partial").size(), 4u) << "three files and conversion.json";
  const auto first = r.to + ".partial/" + files_in(r.to + ".partial")[1];
  const auto time = fs::last_write_time(first);
  fs::create_hard_link(first, f.file("kept"));
  const ConvertProgress done = convert(r);
  EXPECT_GT(done.found, 200'000);
  EXPECT_LT(done.found, done.of_bytes);
  EXPECT_EQ(fs::last_write_time(f.file("kept")), time);
  EXPECT_EQ(fs::hard_link_count(f.file("kept")), 2u) << "it was not written again";
  ASSERT_EQ(files_in(r.to), files_in(whole.to));
  for (const std::string& name : files_in(r.to))
    EXPECT_EQ(test::read_file(r.to + "/" + name), test::read_file(whole.to + "/" + name)) << name;
}

TEST(Convert, BeginsAnewForOtherOptionsAndRefusesWhatIsNotItsOwn) {
  const test::TemporaryFolder f;
  ConvertRequest r{.from = golden("hf_tiny/eps"), .to = f.file("to"), .shard_bytes = 50'000};
  struct Killed {};
  const auto kill = [](const ConvertProgress& p) {
    if (p.files == 2) throw Killed();
  };
  EXPECT_THROW(convert(r, kill), Killed);
  r.dtype = DType::bf16;
  {
    const log::Capture log;
    EXPECT_EQ(convert_weights(r, [](const auto&) {}).found, 0);
    EXPECT_THAT(log.text(), HasSubstr("is of a conversion of other files, or with other options"));
  }
  EXPECT_EQ(HfWeights::open(r.to).find("lm_head.weight")->dtype, FileDType::bf16);
  EXPECT_THAT(refusal(r), HasSubstr("--to " + r.to + ": it is a folder, and not an empty one"));

  r.to = f.file("mine");
  f.write("mine.partial/notes.txt", "mine");
  EXPECT_THAT(refusal(r), HasSubstr("mine.partial, which is there and of no conversion"));
  EXPECT_EQ(files_in(r.to + ".partial").size(), 1u);

  r.to = f.file("busy");
  fs::create_directory(f.file("busy.partial"));
  const int held = ::open(f.file("busy.partial").c_str(), O_RDONLY | O_DIRECTORY);
  ASSERT_EQ(::flock(held, LOCK_EX), 0);
  EXPECT_THAT(refusal(r), HasSubstr("another conversion is writing there"));
  ::close(held);
}

TEST(Convert, LeavesNothingWhereItCannotBegin) {
  const test::TemporaryFolder f;
  const std::string to = f.file("to");
  EXPECT_THAT(refusal({.from = f.file("none"), .to = to}), HasSubstr("none: no weights"));
  f.write("bad/model.safetensors", "short");
  EXPECT_THAT(refusal({.from = f.file("bad"), .to = to}), HasSubstr("model.safetensors"));
  test::write_sparse(f.file("noscale.safetensors"),
                     {{"model.norm.weight", FileDType::f8e4m3, {256, 128}}});
  EXPECT_THAT(refusal({.from = f.file("noscale.safetensors"), .to = to}),
              HasSubstr("has no scales: 'model.norm.weight_scale_inv' is missing"));
  test::write_sparse(f.file("packed.safetensors"),
                     {{"model.layers.0.mlp.up_proj.weight_packed", FileDType::i32, {8, 8}}});
  EXPECT_THAT(refusal({.from = f.file("packed.safetensors"), .to = to}),
              HasSubstr("packed into 4 bits"));
  // More than disks have: said before a byte is written.
  const int64_t rows = int64_t{1} << 20;
  test::write_sparse(f.file("large.safetensors"), {{"a", FileDType::bf16, {rows, rows / 2}}});
  if (fs::space(f.path()).available < static_cast<uintmax_t>(rows * rows)) {
    EXPECT_THAT(refusal({.from = f.file("large.safetensors"), .to = to}),
                HasSubstr("1099.5 GB are to be written there, and its file system has"));
  }
  EXPECT_FALSE(fs::exists(to));
  EXPECT_FALSE(fs::exists(to + ".partial"));
}

// Four tensors of 32 MiB: what was read and written is given back.
TEST(Convert, MemoryDoesNotGrowWithTheModel) {
  const test::TemporaryFolder f;
  std::vector<test::SparseTensor> tensors;
  for (int i = 0; i < 4; ++i)
    tensors.push_back(
        {fmt::format("model.layers.{}.mlp.up_proj.weight", i), FileDType::f32, {8 << 10, 1 << 10}});
  test::write_sparse(f.file("model.safetensors"), tensors);
  const auto resident = [] {
    std::ifstream statm("/proc/self/statm");
    int64_t pages = 0, in_memory = 0;
    statm >> pages >> in_memory;
    return in_memory * ::sysconf(_SC_PAGESIZE) >> 20;
  };
  const int64_t before = resident();
  int64_t most = 0;
  convert({.from = f.file("model.safetensors"), .to = f.file("to"), .dtype = DType::bf16},
          [&](const ConvertProgress&) { most = std::max(most, resident() - before); });
  EXPECT_LT(most, 80) << "MiB";
}

// The 163 files of the released weights, sparse, with their names, types and shapes.
TEST(Convert, ReadsTheReleasedLayout) {
  const test::TemporaryFolder f;
  const test::ReleasedLayout released = test::released_layout(model_args_of_flavor("671B"), 163);
  fs::create_directory(f.file("from"));
  test::write_released(f.file("from"), released, /*filled=*/false);
  const ConvertRequest request{.from = f.file("from"), .to = f.file("to"), .dtype = DType::bf16};
  const ConversionPlan plan = plan_conversion(request);
  EXPECT_EQ(plan.tensors, released.tensors);
  EXPECT_EQ(plan.scaled, released.scaled);
  EXPECT_EQ(plan.largest, int64_t{129280} * 7168 * 2);
  // 671 billion parameters and those of the layer of multi-token prediction.
  EXPECT_NEAR(static_cast<double>(plan.bytes), 2 * 684.5e9, 2e9);
  EXPECT_GT(plan.files, 268u);
  EXPECT_EQ(plan.unused.size(), released.unused);
  for (const std::string& name : plan.unused)
    ASSERT_TRUE(name.starts_with("model.layers.61.")) << name;
}

// True proportions, ragged blocks, few layers: FP8 to bf16, and layer 61's own are kept.
TEST(Convert, KeepsTheLayerOfMultiTokenPrediction) {
  const test::TemporaryFolder f;
  const test::ReleasedLayout small = test::released_layout(test::small_deepseek_v3(), 3);
  fs::create_directory(f.file("from"));
  test::write_released(f.file("from"), small, /*filled=*/true);
  convert({.from = f.file("from"), .to = f.file("to")});
  const HfWeights from = HfWeights::open(f.file("from")), to = HfWeights::open(f.file("to"));
  EXPECT_EQ(to.names(), from.names());
  for (const std::string& name : from.names()) {
    EXPECT_NE(to.find(name)->dtype, FileDType::f8e4m3);
    std::vector<float> want = values(from, name);
    if (to.find(name)->dtype == FileDType::bf16) want = rounded(want);
    ASSERT_EQ(values(to, name), want) << name;
  }
  EXPECT_NE(to.find("model.layers.2.eh_proj.weight"), nullptr);
}

// Native and back: the files of a conversion in one step, byte for byte.
TEST(Convert, ThroughTheNativeFormatNothingChanges) {
  const test::TemporaryFolder f;
  fs::create_directory(f.file("from"));
  const test::ReleasedLayout small = test::released_layout(test::small_deepseek_v3(), 3);
  test::write_released(f.file("from"), small, /*filled=*/true);
  convert({.from = f.file("from"), .to = f.file("direct"), .shard_bytes = 300'000});
  const ConvertRequest native{.from = f.file("from"),
                              .to = f.file("native"),
                              .shard_bytes = 300'000,
                              .format = ConvertRequest::Format::native,
                              .run = R"({"step": 0})"};
  struct Killed {};
  EXPECT_THROW(convert(native,
                       [](const ConvertProgress& p) {
                         if (p.files == 2) throw Killed();
                       }),
               Killed);
  EXPECT_GT(convert(native).found, 0) << "it goes on";

  const Manifest m = read_manifest(f.file("native"));
  std::map<std::string, const Manifest::Tensor*> tensors;
  for (const Manifest::Tensor& t : m.tensors) tensors[t.name] = &t;
  const ModelArgs args = test::small_deepseek_v3();
  for (const Parameter& p : parameters(args)) {
    ASSERT_TRUE(tensors.contains(p.name)) << p.name;
    EXPECT_EQ(tensors[p.name]->shape, p.shape) << p.name;
  }
  EXPECT_EQ(tensors.size(), parameters(args).size() + 1) << "and a bias of experts";
  EXPECT_EQ(nlohmann::json::parse(m.run)[kUnusedTensors].size(), small.unused);
  for (const std::string& name : files_in(f.file("native")))
    EXPECT_THAT(name, Not(HasSubstr(".part.json")));

  convert({.from = f.file("native"), .to = f.file("back"), .shard_bytes = 300'000});
  ASSERT_EQ(files_in(f.file("back")), files_in(f.file("direct")));
  for (const std::string& name : files_in(f.file("direct")))
    EXPECT_EQ(test::read_file(f.file("back/" + name)), test::read_file(f.file("direct/" + name)))
        << name;

  // One bit of one slice.
  const Manifest::Tensor& t = m.tensors[3];
  const std::string file = f.file("native/" + m.files[static_cast<size_t>(t.slices[0].file)].name);
  std::string bytes = test::read_file(file);
  bytes[static_cast<size_t>(t.slices[0].offset)] ^= 1;
  std::ofstream(file, std::ios::binary) << bytes;
  try {
    convert({.from = f.file("native"), .to = f.file("damaged")});
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::kIo);
    EXPECT_THAT(e.what(), HasSubstr(t.name + " is not as it was written"));
  }
}

}  // namespace
}  // namespace nereus
