#include "checkpoint/hf_forms.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>

#include "base/error.h"
#include "base/log.h"
#include "checkpoint/hf_model_test.h"
#include "checkpoint/hf_names.h"
#include "checkpoint/hf_weights.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string golden() { return test::source_path("tests/golden/hf_tiny/v3/model.safetensors"); }

std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::kConfig) << e.what();
    return e.what();
  }
  return "no error";
}

struct FileTensor {
  std::string name;
  FileDType dtype;
  std::vector<int64_t> shape;
  std::vector<std::byte> bytes;
};
FileTensor copy_of(const SafetensorsEntry& e) {
  return {e.name, e.dtype, e.shape, {e.data.begin(), e.data.end()}};
}
FileTensor of_bytes(const std::string& name, FileDType dtype, std::vector<int64_t> shape,
                    const std::vector<int>& bytes) {
  FileTensor t{name, dtype, std::move(shape), {}};
  for (const int b : bytes) t.bytes.push_back(static_cast<std::byte>(b));
  return t;
}
FileTensor zeros(const std::string& name, FileDType dtype, std::vector<int64_t> shape) {
  int64_t bytes = size_of(dtype);
  for (const int64_t d : shape) bytes *= d;
  return {name, dtype, std::move(shape), std::vector<std::byte>(static_cast<size_t>(bytes))};
}
void write(const std::string& path, const std::vector<FileTensor>& tensors) {
  std::vector<SafetensorsWriter::Tensor> declared;
  for (const FileTensor& t : tensors) declared.push_back({t.name, t.dtype, t.shape});
  SafetensorsWriter writer(path, declared);
  for (size_t i = 0; i < tensors.size(); ++i) writer.append(i, tensors[i].bytes);
  writer.finish();
}

// The golden model's tensors, which `change` renames, replaces or drops.
std::vector<FileTensor> golden_tensors(const std::function<bool(FileTensor&)>& keep) {
  std::vector<FileTensor> out;
  const SafetensorsFile file = SafetensorsFile::open(golden());
  for (const SafetensorsEntry& e : file.entries()) {
    FileTensor t = copy_of(e);
    if (keep(t)) out.push_back(std::move(t));
  }
  return out;
}

// The weights of `path` are those of the golden file, but for biases where they are zero.
void expect_golden(const std::string& path, bool biases_are_zero = false) {
  test::HostModel expected(test::hf_tiny_v3()), model(test::hf_tiny_v3());
  load_hf_weights(golden(), expected.views());
  load_hf_weights(path, model.views());
  EXPECT_EQ(model.damaged_gaps(), 0);
  for (size_t i = 0; i < model.views().size(); ++i) {
    const NamedView &a = model.views()[i], &b = expected.views()[i];
    const bool zero = biases_are_zero && a.name.ends_with("expert_bias");
    const int64_t blocks = a.view.rank() == 3 ? a.view.dim(0) : 1, n = a.view.count() / blocks;
    for (int64_t block = 0; block < blocks; ++block)
      for (int64_t j = 0; j < n; ++j) {
        const int64_t at = block * a.view.stride[0] * (a.view.rank() == 3) + j;
        ASSERT_EQ(a.view.as<float>()[at], zero ? 0.0f : b.view.as<float>()[at]) << a.name;
      }
  }
}

TEST(HfForms, FusedExpertsAreTheSameWeights) {
  constexpr std::string_view kExperts = ".mlp.experts.";
  const test::TemporaryFolder folder;
  for (const char* suffix : {"", ".weight"}) {
    std::map<std::string, FileTensor> fused;  // in the order of experts, gate before up
    std::vector<FileTensor> tensors =
        golden_tensors([&](FileTensor& t) { return t.name.find(kExperts) == std::string::npos; });
    const SafetensorsFile file = SafetensorsFile::open(golden());
    const ModelArgs args = test::hf_tiny_v3();
    for (int64_t layer = args.n_dense_layers; layer < args.n_layers; ++layer)
      for (int64_t expert = 0; expert < args.moe.num_experts; ++expert)
        for (const char* part : {"gate_proj", "up_proj", "down_proj"}) {
          const std::string experts = "model.layers." + std::to_string(layer) + ".mlp.experts.";
          const SafetensorsEntry& e =
              file.require(experts + std::to_string(expert) + "." + part + ".weight");
          const bool down = std::string_view(part) == "down_proj";
          FileTensor& f = fused[experts + (down ? "down_proj" : "gate_up_proj") + suffix];
          f.dtype = e.dtype;
          f.shape = {args.moe.num_experts, e.shape[0] * (down ? 1 : 2), e.shape[1]};
          f.bytes.insert(f.bytes.end(), e.data.begin(), e.data.end());
        }
    for (auto& [name, t] : fused) {
      t.name = name;
      tensors.push_back(t);
    }
    write(folder.file("model.safetensors"), tensors);
    const log::Capture log;
    expect_golden(folder.path());
    EXPECT_EQ(log.text(), "");
    // A part of the parameter: the rows and the columns of expert 5 and 6's.
    const HfWeights weights = HfWeights::open(folder.path());
    EXPECT_EQ(weights.find("model.layers.1.mlp.experts.gate_up_proj"), nullptr);
  }
}

TEST(HfForms, FusedExpertsOfFp8HaveTheirScalesInTheSameOrder) {
  const std::string name = "model.layers.0.mlp.experts.gate_up_proj";
  SafetensorsEntry e{.name = name + "_scale_inv", .dtype = FileDType::f32, .shape = {2, 4, 1}};
  std::vector<float> values(8);
  e.data = std::as_bytes(std::span(values));
  const std::vector<SafetensorsEntry> parts = expert_parts(e);
  ASSERT_EQ(parts.size(), 4u);
  EXPECT_EQ(parts[3].name, "model.layers.0.mlp.experts.1.up_proj.weight_scale_inv");
  EXPECT_THAT(parts[3].shape, ElementsAre(2, 1));
  EXPECT_EQ(parts[3].data.data(), e.data.data() + 24);
  EXPECT_EQ(parts[3].data.size(), 8u);
  e.shape = {2, 3, 1};  // no two halves
  EXPECT_TRUE(expert_parts(e).empty());
  e.name = name + "_bias";
  e.shape = {2, 4, 1};
  EXPECT_TRUE(expert_parts(e).empty());

  const test::TemporaryFolder folder;
  folder.write("config.json", R"({"quantization_config": {"weight_block_size": [4, 4]}})");
  const auto open = [&](int64_t rows) {
    write(folder.file("model.safetensors"),
          {zeros(name, FileDType::f8e4m3, {1, rows, 4}),
           zeros(name + "_scale_inv", FileDType::f32, {1, (rows + 3) / 4, 1})});
    return error_of([&] {
      const HfWeights w = HfWeights::open(folder.path());
      w.check_scale("model.layers.0.mlp.experts.0.up_proj.weight");
      EXPECT_THAT(w.names(), ElementsAre("model.layers.0.mlp.experts.0.gate_proj.weight",
                                         "model.layers.0.mlp.experts.0.up_proj.weight"));
    });
  };
  EXPECT_EQ(open(16), "no error");
  EXPECT_THAT(open(12), HasSubstr("the gate's 6 rows of an expert are not whole blocks of 4"));
}

// Two experts whose gate is one row of FP8's 1, 2 and whose up one of -1, 0.5; blocks are larger.
TEST(HfForms, FusedExpertsOfFp8MayHaveAScaleOfARowOrOfAnExpert) {
  const test::TemporaryFolder folder;
  const std::string name = "model.layers.0.mlp.experts.gate_up_proj";
  const FileTensor q = of_bytes(name, FileDType::f8e4m3, {2, 2, 2},
                                {0x38, 0x40, 0xb8, 0x30, 0x38, 0x40, 0xb8, 0x30});
  const auto read = [&](std::vector<int64_t> shape, const std::vector<int>& bytes) {
    write(folder.file("model.safetensors"),
          {q, of_bytes(name + "_scale", FileDType::bf16, std::move(shape), bytes)});
    const HfWeights weights = HfWeights::open(folder.path());
    std::vector<float> out(8);
    for (size_t i = 0; i < 4; ++i)
      weights.read_f32("model.layers.0.mlp.experts." + std::to_string(i / 2) +
                           (i % 2 == 0 ? ".gate_proj.weight" : ".up_proj.weight"),
                       &out[2 * i]);
    return out;
  };
  const std::vector<int> two = {0, 0x40, 0, 0x3e};  // 2 and 2^-3
  for (const std::vector<int64_t>& shape :
       std::vector<std::vector<int64_t>>{{2, 1, 1}, {2, 1}, {2}})
    EXPECT_THAT(read(shape, two), ElementsAre(2, 4, -2, 1, 0.125, 0.25, -0.125, 0.0625));
  const std::vector<int> four = {0, 0x40, 0, 0x3e, 0, 0x3f, 0, 0x3f};  // and 0.5, 0.5
  for (const std::vector<int64_t>& shape : std::vector<std::vector<int64_t>>{{2, 2, 1}, {2, 2}})
    EXPECT_THAT(read(shape, four), ElementsAre(2, 4, -0.125, 0.0625, 0.5, 1, -0.5, 0.25));
}

TEST(HfForms, APrefixOfTheNamesIsNoOtherModel) {
  struct Case {
    std::string body, head;
  };
  const test::TemporaryFolder folder;
  for (const Case& c :
       {Case{"model.language_model.", ""}, Case{"language_model.model.", "language_model."},
        Case{"module.model.", "module."}, Case{"", ""}}) {
    std::vector<FileTensor> tensors = golden_tensors([&](FileTensor& t) {
      t.name = t.name.starts_with("lm_head.") ? c.head + t.name : c.body + t.name.substr(6);
      return true;
    });
    if (!c.body.empty()) tensors.push_back(zeros("model.visual.norm.weight", FileDType::f32, {4}));
    // A multi-token prediction layer has an embedding of its own.
    tensors.push_back(zeros(c.body + "layers.3.embed_tokens.weight", FileDType::f32, {4, 2}));
    tensors.push_back(zeros(c.body + "layers.3.eh_proj.weight", FileDType::f32, {4, 2}));
    write(folder.file("model.safetensors"), tensors);
    const log::Capture log;
    expect_golden(folder.path());
    EXPECT_THAT(log.text(), HasSubstr("the model's tensors are called \"" + c.body +
                                      "layers...\" and \"" + c.head + "lm_head...\" here"));
    if (!c.body.empty()) {
      EXPECT_THAT(log.text(), HasSubstr("1 tensors are not in this model and were not read: "
                                        "model.visual.norm.weight"));
    }
  }
}

TEST(HfForms, PackedExpertsAreRefusedByName) {
  const test::TemporaryFolder folder;
  std::vector<FileTensor> tensors = golden_tensors([](FileTensor& t) {
    if (t.name.find(".mlp.experts.7.") == std::string::npos) return true;
    t = zeros(t.name + "_packed", FileDType::i32, {2, 2});
    return true;
  });
  write(folder.file("model.safetensors"), tensors);
  test::HostModel model(test::hf_tiny_v3());
  EXPECT_THAT(error_of([&] { load_hf_weights(folder.path(), model.views()); }),
              AllOf(HasSubstr("6 tensors are packed into 4 bits an element, which cannot be read: "
                              "model.layers.1.mlp.experts.7.down_proj.weight_packed, "),
                    HasSubstr("; F32, BF16, F16 and FP8 with scales of blocks can: take the "
                              "model's weights in one of these, or convert them to BF16")));
}

TEST(HfForms, WhatTheFilesHaveInPlaceOfAMissingTensorIsNamed) {
  const test::TemporaryFolder folder;
  write(folder.file("model.safetensors"), golden_tensors([](FileTensor& t) {
          if (t.name == "model.norm.weight") t.name = "model.last_norm.weight";
          return true;
        }));
  test::HostModel model(test::hf_tiny_v3());
  EXPECT_THAT(error_of([&] { load_hf_weights(folder.path(), model.views()); }),
              HasSubstr("1 of the model's 91 tensors are missing: model.norm.weight; 1 tensors of "
                        "the files are none of the model's: model.last_norm.weight; check that the "
                        "model's sizes (config.json, model.flavor, [model_overrides]) are those of "
                        "the weights, and the names those of DeepSeek-V3's weights at Hugging "
                        "Face"));
}

TEST(HfForms, BalancingBiasesThatNoLayerHasBeginAtZero) {
  const test::TemporaryFolder folder;
  write(folder.file("model.safetensors"),
        golden_tensors([](FileTensor& t) { return !t.name.ends_with("e_score_correction_bias"); }));
  {
    const log::Capture log;
    expect_golden(folder.path(), /*biases_are_zero=*/true);
    EXPECT_THAT(log.text(),
                HasSubstr("WARNING - " + folder.path() +
                          ": the weights have no biases that balance the experts; they begin at "
                          "zero: model.layers.1.mlp.gate.e_score_correction_bias, "
                          "model.layers.2.mlp.gate.e_score_correction_bias; "
                          "model_overrides.load_balance_coeff = 0 trains without them"));
  }
  write(folder.file("model.safetensors"), golden_tensors([](FileTensor& t) {
          return t.name != "model.layers.2.mlp.gate.e_score_correction_bias";
        }));
  test::HostModel model(test::hf_tiny_v3());
  EXPECT_THAT(error_of([&] { load_hf_weights(folder.path(), model.views()); }),
              HasSubstr("1 of the model's 91 tensors are missing: "
                        "model.layers.2.mlp.gate.e_score_correction_bias"));
}

// A tensor of two blocks of 1 x 2, with the FP8 numbers 1 (0x38), 2 (0x40), -1 (0xb8), 0.5 (0x30).
TEST(HfForms, ScalesAreOfAnyTypeThatHoldsThem) {
  const test::TemporaryFolder folder;
  folder.write("config.json", R"({"quantization_config": {"weight_block_size": [1, 2]}})");
  const FileTensor q = of_bytes("a.weight", FileDType::f8e4m3, {1, 4}, {0x38, 0x40, 0xb8, 0x30});
  struct Case {
    const char* suffix;
    FileDType dtype;
    std::vector<int> bytes;  // of the scales 2 and 2^-3
  };
  for (const Case& c : {Case{"_scale_inv", FileDType::f32, {0, 0, 0, 0x40, 0, 0, 0, 0x3e}},
                        Case{"_scale_inv", FileDType::bf16, {0, 0x40, 0, 0x3e}},
                        Case{"_scale", FileDType::bf16, {0, 0x40, 0, 0x3e}},
                        Case{"_scale_inv", FileDType::f16, {0, 0x40, 0, 0x30}},
                        Case{"_scale_inv", FileDType::f8e8m0, {128, 124}}}) {
    write(folder.file("model.safetensors"),
          {q, of_bytes(q.name + c.suffix, c.dtype, {1, 2}, c.bytes)});
    const HfWeights weights = HfWeights::open(folder.path());
    EXPECT_THAT(weights.names(), ElementsAre("a.weight"));
    std::vector<float> out(4);
    weights.read_f32("a.weight", out.data());
    EXPECT_THAT(out, ElementsAre(2, 4, -0.125, 0.0625)) << name_of(c.dtype);
  }
  write(folder.file("model.safetensors"),
        {q, of_bytes("a.weight_scale_inv", FileDType::f8e8m0, {1, 2}, {0, 255})});
  std::vector<float> out(4);
  HfWeights::open(folder.path()).read_f32("a.weight", out.data());
  EXPECT_EQ(out[0], std::ldexp(1.0f, -127));
  EXPECT_TRUE(std::isnan(out[2]));
  write(folder.file("model.safetensors"), {q, zeros("a.weight_scale_inv", FileDType::i32, {1, 2})});
  EXPECT_THAT(error_of([&] { HfWeights::open(folder.path()).check_scale("a.weight"); }),
              HasSubstr("'a.weight_scale_inv' is I32 [1, 2]; expected [1, 2] of F32, BF16, F16 or "
                        "F8_E8M0 for F8_E4M3 [1, 4] in blocks of 1 x 2"));
}

// Of two rows of two, FP8's 1, 2 and -1, 0.5; the scales are 2 and 2^-3.
TEST(HfForms, ScalesMayBeOfARowOrOfAllAndTheBlocksOfOtherMakersFormats) {
  const test::TemporaryFolder folder;
  const FileTensor q = of_bytes("a.weight", FileDType::f8e4m3, {2, 2}, {0x38, 0x40, 0xb8, 0x30});
  const auto read = [&](std::vector<int64_t> shape, const std::vector<int>& bytes) {
    write(folder.file("model.safetensors"),
          {q, of_bytes("a.weight_scale", FileDType::bf16, std::move(shape), bytes)});
    std::vector<float> out(4);
    HfWeights::open(folder.path()).read_f32("a.weight", out.data());
    return out;
  };
  EXPECT_THAT(read({2, 1}, {0, 0x40, 0, 0x3e}), ElementsAre(2, 4, -0.125, 0.0625));
  EXPECT_THAT(read({2}, {0, 0x40, 0, 0x3e}), ElementsAre(2, 4, -0.125, 0.0625));
  EXPECT_THAT(read({}, {0, 0x40}), ElementsAre(2, 4, -2, 1));
  EXPECT_THAT(read({1}, {0, 0x40}), ElementsAre(2, 4, -2, 1));
  for (const char* config :
       {R"({"quantization_config": {"config_groups": {"group_0":
             {"weights": {"block_structure": [2, 1]}}}}})",
        R"({"text_config": {"quantization_config": {"weight_block_size": [2, 1]}}})"}) {
    folder.write("config.json", config);
    EXPECT_THAT(read({1, 2}, {0, 0x40, 0, 0x3e}), ElementsAre(2, 0.25, -2, 0.0625)) << config;
  }
}

TEST(HfForms, WhatTheModelDoesNotNeedMayBeOfAnyType) {
  const test::TemporaryFolder folder;
  std::vector<FileTensor> tensors = golden_tensors([](FileTensor&) { return true; });
  tensors.push_back(zeros("vision.weight", FileDType::f8e4m3, {4, 4}));  // FP8 without scales
  tensors.push_back(zeros("audio.weight", FileDType::boolean, {4}));
  write(folder.file("model.safetensors"), tensors);
  const log::Capture log;
  expect_golden(folder.path());
  EXPECT_THAT(log.text(), HasSubstr("2 tensors are not in this model and were not read"));
}

TEST(HfForms, OneFileBesideAnIndexThatDoesNotNameItIsRead) {
  const test::TemporaryFolder folder;
  write(folder.file("model.safetensors"), golden_tensors([](FileTensor&) { return true; }));
  const std::string index = "model.safetensors.index.json";
  for (const char* text : {R"({"weight_map": {"a": "model-00001-of-00002.safetensors"}})", "{",
                           "version https://git-lfs.github.com/spec/v1\n"}) {
    folder.write(index, text);
    const log::Capture log;
    expect_golden(folder.path());
    EXPECT_THAT(log.text(), HasSubstr(folder.path() + ": it has model.safetensors and an " + index +
                                      " that does not name it; the one file is read"));
  }
  folder.write(index, R"({"weight_map": {"lm_head.weight": "model.safetensors"}})");
  const log::Capture log;
  expect_golden(folder.path());
  EXPECT_EQ(log.text(), "");
  folder.write(index, "version https://git-lfs.github.com/spec/v1\n");
  EXPECT_THAT(error_of([&] { HfWeights::open(folder.file(index)); }),
              HasSubstr("this is a Git LFS pointer, not the file itself; fetch it with `git lfs "
                        "pull`"));
}

}  // namespace
}  // namespace nereus
