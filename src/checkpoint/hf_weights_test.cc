#include "checkpoint/hf_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>

#include "base/error.h"
#include "base/log.h"
#include "base/philox.h"
#include "checkpoint/hf_model_test.h"
#include "checkpoint/hf_names.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::UnorderedElementsAre;

namespace fs = std::filesystem;

std::string golden(const std::string& name) { return test::source_path("tests/golden/" + name); }

std::string error_of(Fault fault, const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), fault) << e.what();
    return e.what();
  }
  return "no error";
}

std::vector<std::string> files_in(const std::string& folder) {
  std::vector<std::string> out;
  for (const auto& entry : fs::directory_iterator(folder))
    out.push_back(entry.path().filename().string());
  return out;
}

struct FileTensor {
  std::string name;
  std::vector<int64_t> shape;
  FileDType dtype = FileDType::f32;
};
// A file of tensors whose bytes are all `fill`.
void write_file(const std::string& path, const std::vector<FileTensor>& tensors,
                std::byte fill = std::byte{0}) {
  std::vector<SafetensorsWriter::Tensor> declared;
  for (const FileTensor& t : tensors) declared.push_back({t.name, t.dtype, t.shape});
  SafetensorsWriter writer(path, declared);
  for (size_t i = 0; i < declared.size(); ++i) {
    int64_t bytes = size_of(declared[i].dtype);
    for (const int64_t d : declared[i].shape) bytes *= d;
    writer.append(i, std::vector<std::byte>(static_cast<size_t>(bytes), fill));
  }
  writer.finish();
}

// The elements of a model's file under the names and shapes of ours, one by one, equal the file's.
void expect_equal_to_file(test::HostModel& model, const SafetensorsFile& file) {
  for (const NamedView& v : model.views()) {
    const std::vector<std::string> names = hf_names_of(v.name, v.view);
    for (size_t i = 0; i < names.size(); ++i) {
      const std::vector<float> expected = file.require(names[i]).values<float>();
      const TensorView t = has_experts(v.name) ? v.view[static_cast<int64_t>(i)] : v.view;
      const int64_t width = t.rank() > 1 ? t.dim(1) : t.dim(0);
      for (size_t j = 0; j < expected.size(); ++j) {
        const int64_t row = static_cast<int64_t>(j) / width;
        const int64_t at = t.rank() > 1 ? row * t.stride[0] + static_cast<int64_t>(j) % width
                                        : static_cast<int64_t>(j);
        ASSERT_EQ(t.as<float>()[at], expected[j]) << names[i] << " " << j;
      }
    }
  }
}

TEST(HfWeights, BlockScaledFp8IsReadAsTheReferenceReadsIt) {
  const HfWeights weights = HfWeights::open(golden("hf_fp8"));
  const SafetensorsFile expected =
      SafetensorsFile::open(golden("hf_fp8/expected_fp32.safetensors"));
  ASSERT_EQ(weights.names().size(), expected.entries().size());
  for (const SafetensorsEntry& e : expected.entries()) {
    const std::vector<float> want = e.values<float>();
    std::vector<float> whole(want.size(), -1);
    weights.read_f32(e.name, whole.data());
    EXPECT_EQ(whole, want) << e.name;
    weights.release_pages(e.name);
    // Any rows, into rows further apart.
    const int64_t rows = e.shape[0], width = e.count() / rows, stride = width + 3;
    for (const auto& [begin, end] : std::vector<std::pair<int64_t, int64_t>>{
             {0, 0}, {0, 1}, {rows / 3, rows / 3 * 2 + 1}, {rows - 1, rows}}) {
      std::vector<float> part(static_cast<size_t>((end - begin) * stride), -1);
      weights.read_f32(e.name, begin, end, part.data(), stride);
      for (int64_t i = 0; i < (end - begin) * stride; ++i) {
        const int64_t row = begin + i / stride, column = i % stride;
        ASSERT_EQ(part[static_cast<size_t>(i)],
                  column < width ? want[static_cast<size_t>(row * width + column)] : -1.0f)
            << e.name << " " << row << " " << column;
      }
    }
  }
}

// Memory of the process that files stand behind, in MiB.
int64_t resident_files() {
  std::ifstream status("/proc/self/status");
  int64_t kib = 0;
  for (std::string line; std::getline(status, line);)
    for (const std::string key : {"RssFile:", "RssShmem:"})
      if (line.starts_with(key)) kib += std::stoll(line.substr(key.size()));
  return kib / 1024;
}

TEST(HfWeights, PagesOfATensorThatWasReadAreGivenBack) {
  const test::TemporaryFolder folder;
  constexpr int64_t kRows = 8 << 10, kWidth = 1 << 10;  // 32 MiB
  write_file(folder.file("a.safetensors"), {{"a", {kRows, kWidth}}});
  const HfWeights weights = HfWeights::open(folder.path());
  std::vector<float> values(kRows * kWidth);
  const int64_t before = resident_files();
  weights.read_f32("a", values.data());
  EXPECT_GE(resident_files() - before, 30);
  weights.release_pages("a");
  EXPECT_LE(resident_files() - before, 4);
}

TEST(HfWeights, AFileAFolderAndShardsFillTheModelWithTheSameBits) {
  const SafetensorsFile file = SafetensorsFile::open(golden("hf_tiny/v3/model.safetensors"));
  for (const char* path :
       {"hf_tiny/v3/model.safetensors", "hf_tiny/v3", "hf_tiny/v3/", "hf_tiny/v3/sharded",
        "hf_tiny/v3/sharded/model.safetensors.index.json"}) {
    test::HostModel model(test::hf_tiny_v3());
    const log::Capture log;
    load_hf_weights(golden(path), model.views());
    EXPECT_EQ(model.damaged_gaps(), 0);
    EXPECT_EQ(log.text(), "");
    expect_equal_to_file(model, file);
  }
}

TEST(HfWeights, MissingMisshapenAndMistypedTensorsAreListedTogether) {
  const test::TemporaryFolder folder;
  const std::string path = folder.file("model.safetensors");
  std::vector<FileTensor> tensors;
  {
    const SafetensorsFile file = SafetensorsFile::open(golden("hf_tiny/v3/model.safetensors"));
    for (const SafetensorsEntry& e : file.entries()) {
      FileTensor t{e.name, e.shape};
      if (e.name == "lm_head.weight") t.shape = {64, 512};
      if (e.name == "model.norm.weight") t.dtype = FileDType::i64;
      if (!e.name.starts_with("model.layers.2.mlp.experts.7")) tensors.push_back(t);
    }
  }
  write_file(path, tensors);
  test::HostModel model(test::hf_tiny_v3());
  EXPECT_EQ(
      error_of(Fault::kConfig, [&] { load_hf_weights(path, model.views()); }),
      path +
          ": these weights are not the model's: 3 of the model's 91 tensors are missing: "
          "model.layers.2.mlp.experts.7.gate_proj.weight, "
          "model.layers.2.mlp.experts.7.up_proj.weight, "
          "model.layers.2.mlp.experts.7.down_proj.weight; "
          "1 have another shape: lm_head.weight is F32 [64, 512] where [512, 64] is expected; "
          "1 are of a type that is no float: model.norm.weight is I64 [64]; "
          "check that the model's sizes (config.json, model.flavor, [model_overrides]) are "
          "those of the weights");
  // Nothing was written before the error.
  EXPECT_TRUE(std::isnan(model.find("tok_embeddings.weight").as<float>()[0]));

  write_file(path, {{"something.else", {1}}});
  EXPECT_THAT(
      error_of(Fault::kConfig, [&] { load_hf_weights(path, model.views()); }),
      AllOf(HasSubstr("91 of the model's 91 tensors are missing: model.embed_tokens.weight, "),
            HasSubstr(" and 86 more")));
}

// A rank of a pipeline's first stage, with no layer of experts, and one with two of the experts.
TEST(HfWeights, ARankSpeaksOfTheWholeModelsTensors) {
  const test::TemporaryFolder folder;
  const std::string path = folder.file("model.safetensors");
  const ModelArgs args = test::hf_tiny_v3();
  std::vector<Parameter> whole = parameters(args);
  for (int64_t layer = args.n_dense_layers; layer < args.n_layers; ++layer)
    whole.push_back(
        {.name = expert_bias_name(layer), .shape = {args.moe.num_experts}, .initial = {}});
  test::HostModel model(args);
  std::vector<NamedView> first, experts;
  for (const NamedView& v : model.views()) {
    if (v.name.starts_with("layers.0.") || v.name.starts_with("tok_")) first.push_back(v);
    if (!v.name.starts_with("layers.2.moe.experts.w")) continue;
    NamedView some = v;
    some.view.shape[0] = 2;
    some.origin = {2, 0, 0};
    some.whole = v.view.shape;
    experts.push_back(some);
  }
  ASSERT_FALSE(first.empty() || experts.empty());
  const auto write = [&](const std::string& without) {
    const SafetensorsFile file = SafetensorsFile::open(golden("hf_tiny/v3/model.safetensors"));
    std::vector<FileTensor> tensors;
    for (const SafetensorsEntry& e : file.entries())
      if (e.name.find(without) == std::string::npos) tensors.push_back({e.name, e.shape});
    write_file(path, tensors);
  };
  for (const std::vector<NamedView>& mine : {first, experts}) {
    write("model.layers.2.mlp.experts.7.up_proj");
    EXPECT_THAT(
        error_of(Fault::kConfig, [&] { load_hf_weights(path, mine, nullptr, whole); }),
        HasSubstr(": these weights are not the model's: 1 of the model's 91 tensors are missing: "
                  "model.layers.2.mlp.experts.7.up_proj.weight; check"));
    write("e_score_correction_bias");
    const log::Capture log;
    load_hf_weights(path, mine, nullptr, whole);
    EXPECT_THAT(log.text(),
                HasSubstr("no biases that balance the experts; they begin at zero: "
                          "model.layers.1.mlp.gate.e_score_correction_bias, "
                          "model.layers.2.mlp.gate.e_score_correction_bias; model_overrides."));
  }
}

TEST(HfWeights, SurplusTensorsAreNamedAndThoseOfKnownUseAreOneLine) {
  const test::TemporaryFolder folder;
  const std::string path = folder.file("model.safetensors");
  std::vector<FileTensor> tensors = {{"model.layers.3.eh_proj.weight", {2, 4}},
                                     {"model.layers.3.mlp.gate.weight", {2, 4}},
                                     {"model.layers.0.self_attn.rotary_emb.inv_freq", {4}},
                                     {"model.layers.4.mlp.gate.weight", {2, 4}},
                                     {"quite.new", {1}, FileDType::i64}};
  {
    const SafetensorsFile file = SafetensorsFile::open(golden("hf_tiny/v3/model.safetensors"));
    for (const SafetensorsEntry& e : file.entries()) tensors.push_back({e.name, e.shape});
  }
  write_file(path, tensors);
  test::HostModel model(test::hf_tiny_v3());
  const log::Capture log;
  load_hf_weights(path, model.views());
  EXPECT_THAT(log.text(), AllOf(HasSubstr("INFO - " + path +
                                          ": 3 tensors of multi-token prediction layers or rotary "
                                          "tables are not used: "),
                                HasSubstr("model.layers.3.eh_proj.weight"),
                                HasSubstr("model.layers.3.mlp.gate.weight"),
                                HasSubstr("model.layers.0.self_attn.rotary_emb.inv_freq"),
                                HasSubstr("WARNING - " + path +
                                          ": 2 tensors are not in this model and were not "
                                          "read: model.layers.4.mlp.gate.weight, quite.new")));
}

TEST(HfWeights, PlacesWithoutWeightsAreNamed) {
  const test::TemporaryFolder folder;
  const auto open_error = [&](const std::string& path) {
    return error_of(Fault::kConfig, [&] { HfWeights::open(path); });
  };
  EXPECT_EQ(open_error(folder.file("none")),
            folder.file("none") + ": no weights: No such file or directory");
  EXPECT_THAT(open_error(folder.path()), HasSubstr("no weights: it has neither"));
  write_file(folder.file("only.safetensors"), {{"a", {2}}});
  EXPECT_THAT(HfWeights::open(folder.path()).names(), ElementsAre("a"));
  write_file(folder.file("two.safetensors"), {{"b", {2}}});
  EXPECT_THAT(open_error(folder.path()),
              HasSubstr("2 other .safetensors files: only.safetensors, two.safetensors"));
  EXPECT_EQ(open_error(folder.write("broken.safetensors", "12345678")),
            folder.file("broken.safetensors") +
                ": not a safetensors file: its first 8 bytes announce a header of "
                "4050765991979987505 bytes; at most 100000000 are allowed");

  const std::string index = folder.file("model.safetensors.index.json");
  folder.write("model.safetensors.index.json", "{");
  EXPECT_THAT(open_error(folder.path()), HasSubstr(index + ": not JSON: "));
  folder.write("model.safetensors.index.json", "[]");
  EXPECT_THAT(open_error(folder.path()), HasSubstr(index + ": it has no weight_map"));
  folder.write("model.safetensors.index.json", R"({"weight_map": {"a": 3}})");
  EXPECT_THAT(open_error(folder.path()), HasSubstr("weight_map 'a' is not a file's name"));
  folder.write("model.safetensors.index.json",
               R"({"weight_map": {"a": "only.safetensors", "b": "x-2.safetensors"}})");
  EXPECT_THAT(
      open_error(folder.path()),
      HasSubstr(": 1 of its 2 files are missing: x-2.safetensors; download or copy them into"));
  folder.write("model.safetensors.index.json",
               R"({"weight_map": {"a": "only.safetensors", "c": "two.safetensors"}})");
  EXPECT_THAT(open_error(folder.path()),
              HasSubstr("two.safetensors: the index says that tensor 'c' is in it, and it is not"));
  write_file(folder.file("two.safetensors"), {{"a", {2}}});
  EXPECT_THAT(open_error(folder.path()), HasSubstr("two.safetensors: tensor 'a' is in "));
}

TEST(HfWeights, Fp8WithoutItsScalesIsNamed) {
  const test::TemporaryFolder folder;
  const auto load = [&](const std::vector<FileTensor>& tensors) {
    write_file(folder.file("model.safetensors"), tensors);
    return error_of(Fault::kConfig,
                    [&] { HfWeights::open(folder.path()).check_scale("a.weight"); });
  };
  const FileTensor q{"a.weight", {200, 300}, FileDType::f8e4m3};
  EXPECT_THAT(load({q}), HasSubstr("tensor 'a.weight' is F8_E4M3 [200, 300] and has no scales: "
                                   "'a.weight_scale_inv' is missing"));
  EXPECT_THAT(
      load({q, {"a.weight_scale_inv", {2, 2}}}),
      HasSubstr("'a.weight_scale_inv' is F32 [2, 2]; expected [2, 3] of F32, BF16, F16 or F8_E8M0 "
                "for F8_E4M3 [200, 300] in blocks of 128 x 128"));
  EXPECT_THAT(load({{"a.weight", {200}, FileDType::f8e4m3}}), HasSubstr("has two dimensions"));
  folder.write("config.json", R"({"quantization_config": {"weight_block_size": [100, 50]}})");
  EXPECT_EQ(load({q, {"a.weight_scale_inv", {2, 6}}}), "no error");
  folder.write("config.json", R"({"quantization_config": {"weight_block_size": [128]}})");
  EXPECT_THAT(load({q, {"a.weight_scale_inv", {2, 3}}}),
              HasSubstr("weight_block_size is [128]; expected two whole numbers"));
}

// Fills a model with numbers of all sizes that need rounding.
void fill(test::HostModel& model) {
  for (const NamedView& v : model.views()) {
    const int64_t last = v.view.rank() - 1, width = v.view.dim(static_cast<int>(last));
    for (int64_t i = 0; i < v.view.count(); ++i) {
      const int64_t row = i / width;
      const int64_t at = v.view.rank() == 3 ? row / v.view.dim(1) * v.view.stride[0] +
                                                  row % v.view.dim(1) * v.view.stride[1] + i % width
                         : v.view.rank() == 2 ? row * v.view.stride[0] + i % width
                                              : i;
      const Philox4 r = philox(hash_name(v.name), static_cast<uint64_t>(i));
      v.view.as<float>()[at] = std::ldexp(static_cast<float>(r.v[0]) * 0x1p-32f - 0.5f,
                                          static_cast<int>(r.v[1] % 12) - 8);
    }
  }
}

TEST(HfSave, WhatIsSavedIsLoadedBackToTheRoundingOfItsType) {
  const test::TemporaryFolder folder;
  test::HostModel model(test::hf_tiny_v3());
  fill(model);
  struct Case {
    DType dtype;
    int64_t shard_bytes;
    size_t files;
  };
  for (const Case& c : {Case{DType::f32, 5'000'000'000, 2}, Case{DType::bf16, 5'000'000'000, 2},
                        Case{DType::f16, 200'000, 0}}) {
    const std::string place = folder.file(std::string("run/step-20-") + name_of(c.dtype));
    save_hf_weights(place + "/", model.views(), "{}\n", c.dtype, c.shard_bytes);
    EXPECT_FALSE(fs::exists(place + ".partial"));
    const std::vector<std::string> files = files_in(place);
    if (c.files == 2) {
      EXPECT_THAT(files, UnorderedElementsAre("model.safetensors", "config.json"));
    } else {
      EXPECT_THAT(files, UnorderedElementsAre("model-00001-of-00003.safetensors",
                                              "model-00002-of-00003.safetensors",
                                              "model-00003-of-00003.safetensors",
                                              "model.safetensors.index.json", "config.json"));
      for (const std::string& file : files)
        EXPECT_LT(fs::file_size(place + "/" + file), 210'000u) << file;
    }
    EXPECT_EQ(test::read_file(place + "/config.json"), "{}\n");
    test::HostModel back(test::hf_tiny_v3());
    const log::Capture log;
    load_hf_weights(place, back.views());
    EXPECT_EQ(log.text(), "");
    for (size_t v = 0; v < model.views().size(); ++v) {
      const NamedView &a = model.views()[v], &b = back.views()[v];
      const double u = c.dtype == DType::f32 || a.name.ends_with("expert_bias")
                           ? 0
                           : test::unit_roundoff(c.dtype);
      const int64_t span = a.view.rank() == 3 ? a.view.dim(0) * a.view.stride[0] : a.view.count();
      for (int64_t i = 0; i < span; ++i) {
        const double x = a.view.as<float>()[i], y = b.view.as<float>()[i];
        ASSERT_TRUE((std::isnan(x) && std::isnan(y)) ||
                    std::abs(x - y) <= u * std::abs(x) + u * 0x1p-14)
            << a.name << " " << i << ": " << x << " " << y;
      }
    }
  }
}

TEST(HfSave, ASavedFileHasTheReferencesNamesShapesAndBytes) {
  const test::TemporaryFolder folder;
  const SafetensorsFile file = SafetensorsFile::open(golden("hf_tiny/v3/model.safetensors"));
  test::HostModel model(test::hf_tiny_v3());
  load_hf_weights(file.path(), model.views());
  const int64_t bytes = save_hf_weights(folder.file("out"), model.views(), "{}");
  EXPECT_EQ(bytes, model.elements() * 4);
  const SafetensorsFile saved = SafetensorsFile::open(folder.file("out/model.safetensors"));
  ASSERT_EQ(saved.entries().size(), file.entries().size());
  for (const SafetensorsEntry& e : file.entries()) {
    const SafetensorsEntry& s = saved.require(e.name);
    EXPECT_EQ(s.to_string(), e.to_string()) << e.name;
    EXPECT_TRUE(std::equal(s.data.begin(), s.data.end(), e.data.begin())) << e.name;
  }
  EXPECT_EQ(saved.metadata().at("format"), "pt");
}

TEST(HfSave, AFullDiskLeavesNoFolderAndTheOldOneAsItWas) {
  const test::TemporaryFolder folder;
  test::HostModel model(test::hf_tiny_v3());
  fill(model);
  const std::string place = folder.file("step-20");
  const auto previous_handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit previous{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &previous), 0);
  for (const bool old : {false, true}) {
    if (old) folder.write("step-20/model.safetensors", "old");
    // The last shard is the one that does not fit: the ones before it must go too.
    const rlimit small{.rlim_cur = 90'000, .rlim_max = previous.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
    const std::string message = error_of(
        Fault::kIo, [&] { save_hf_weights(place, model.views(), "{}", DType::f32, 40'000); });
    setrlimit(RLIMIT_FSIZE, &previous);
    EXPECT_THAT(message, AllOf(HasSubstr(".safetensors: cannot write: File too large; it needs "),
                               HasSubstr("nothing of it was kept")));
    EXPECT_EQ(fs::exists(place), old);
    EXPECT_FALSE(fs::exists(place + ".partial"));
  }
  std::signal(SIGXFSZ, previous_handler);
  EXPECT_EQ(test::read_file(place + "/model.safetensors"), "old");
}

TEST(HfSave, AFolderOfWeightsIsReplacedAndOneWithOtherFilesIsKeptBeside) {
  const test::TemporaryFolder folder;
  test::HostModel model(test::hf_tiny_v3());
  fill(model);
  const std::string place = folder.file("step-20");
  folder.write("step-20.partial/left by a killed run", "x");
  folder.write("step-20/model-00001-of-00002.safetensors", "old");
  {
    const log::Capture log;
    save_hf_weights(place, model.views(), "{}");
    EXPECT_EQ(log.text(), "");
  }
  EXPECT_THAT(files_in(folder.path()), ElementsAre("step-20"));
  EXPECT_THAT(files_in(place), UnorderedElementsAre("model.safetensors", "config.json"));
  folder.write("step-20/notes.txt", "mine");
  const log::Capture log;
  save_hf_weights(place, model.views(), "{}");
  EXPECT_THAT(log.text(), HasSubstr("kept as " + place + ".old"));
  EXPECT_EQ(test::read_file(place + ".old/notes.txt"), "mine");
  EXPECT_THAT(files_in(place), UnorderedElementsAre("model.safetensors", "config.json"));
}

// In a folder like /tmp only the owner of a folder may rename it: the save's own is given to root
// while it is written, so that the old one can go aside and the new one cannot take its place.
TEST(HfSave, WhenTheNewFolderCannotTakeItsPlaceTheOldOneIsThereAndTheNewOneStays) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can give a folder away";
  const test::TemporaryFolder folder;
  test::HostModel model(test::hf_tiny_v3());
  fill(model);
  const std::string place = folder.file("step-20"), partial = place + ".partial";
  folder.write("step-20/model.safetensors", "old");
  ASSERT_EQ(chmod(folder.path().c_str(), 01777), 0);
  for (const bool also_the_old_one : {false, true}) {
    ASSERT_EQ(chown(place.c_str(), also_the_old_one ? 0 : 65534, 0), 0);
    fs::remove_all(partial);
    ASSERT_EQ(seteuid(65534), 0);
    const std::string message = error_of(Fault::kIo, [&] {
      save_hf_weights(place, model.views(), "{}", DType::f32, kShardBytes, nullptr, [&](size_t i) {
        EXPECT_EQ(seteuid(0), 0);
        EXPECT_EQ(chown(partial.c_str(), 0, 0), 0);
        EXPECT_EQ(chmod(partial.c_str(), 0777), 0);
        EXPECT_EQ(seteuid(65534), 0);
        return ConstTensorView(model.views()[i].view);
      });
    });
    ASSERT_EQ(seteuid(0), 0);
    EXPECT_EQ(message, place + ": cannot move " + partial +
                           " there: Operation not permitted; the weights in it are complete");
    EXPECT_THAT(files_in(folder.path()), UnorderedElementsAre("step-20", "step-20.partial"));
    EXPECT_EQ(test::read_file(place + "/model.safetensors"), "old");
    test::HostModel back(test::hf_tiny_v3());
    load_hf_weights(partial, back.views());
  }
}

TEST(HfSave, ALinkInThePlaceIsKeptBeside) {
  const test::TemporaryFolder folder;
  test::HostModel model(test::hf_tiny_v3());
  const std::string place = folder.file("step-20"), loop = folder.file("loop");
  fs::create_symlink(loop, loop);
  fs::create_symlink(loop, place);
  const log::Capture log;
  save_hf_weights(place, model.views(), "{}");
  EXPECT_THAT(log.text(), HasSubstr("kept as " + place + ".old"));
  EXPECT_TRUE(fs::is_symlink(place + ".old"));
  EXPECT_THAT(files_in(place), UnorderedElementsAre("model.safetensors", "config.json"));
}

TEST(HfSave, AFolderThatCannotBeWrittenToIsNamed) {
  const test::TemporaryFolder folder;
  test::HostModel model(test::hf_tiny_v3());
  ASSERT_EQ(chmod(folder.path().c_str(), 0555), 0);
  const uid_t user = geteuid();
  if (user == 0) {  // root may write anywhere; nobody may not
    ASSERT_EQ(seteuid(65534), 0);
  }
  const std::string message =
      error_of(Fault::kIo, [&] { save_hf_weights(folder.file("a/step-20"), model.views(), "{}"); });
  if (user == 0) {
    ASSERT_EQ(seteuid(user), 0);
  }
  EXPECT_EQ(message,
            folder.file("a/step-20") +
                ": cannot create: Permission denied; choose a folder that can be written to");
}

}  // namespace
}  // namespace nereus
