// What manifests say, and what is said of those that are not a run's.
#include "checkpoint/manifest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "checkpoint/state_load.h"
#include "tensor/format.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

Manifest::Tensor whole(const std::string& name, const Shape& shape, SavedState state,
                       int64_t offset) {
  Shape zeros = shape;
  for (int d = 0; d < shape.rank(); ++d) zeros[d] = 0;
  return {.name = name,
          .state = state,
          .dtype = DType::f32,
          .shape = shape,
          .slices = {{.offset = offset, .origin = zeros, .extent = shape, .checksum = 0xab}}};
}

Manifest small() {
  Manifest m;
  m.run = R"({"step":3,"text":"a \"files\":[ and\n\"tensors\":["})";
  m.files = {{"shard-0", 1000}, {"shard-1", 1000}};
  m.tensors = {whole("tok.weight", {6, 4}, SavedState::model, 100),
               whole("experts.w1", {2, 3, 5}, SavedState::model, 200),
               whole("tok.weight", {6, 4}, SavedState::first_moment, 400)};
  m.tensors[2].dtype = DType::bf16;
  m.tensors[1].slices = {{.offset = 200, .origin = {0, 0, 0}, .extent = {1, 3, 5}, .checksum = 1},
                         {.file = 1,
                          .offset = 8,
                          .origin = {1, 0, 0},
                          .extent = {1, 3, 5},
                          .checksum = 0xfedcba9876543210u}};
  return m;
}

std::string said(const Manifest& m) {
  try {
    check_slices(m, "here");
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::kIo);
    return e.what();
  }
  return "no error";
}

void expect_same(const Manifest& a, const Manifest& b) {
  EXPECT_EQ(nlohmann::json::parse(a.run), nlohmann::json::parse(b.run));
  EXPECT_EQ(to_text(a).substr(to_text(a).find("\n\"files\"")),
            to_text(b).substr(to_text(b).find("\n\"files\"")));
}

TEST(Manifest, IsReadHoweverItsJsonIsWritten) {
  const std::string text = to_text(small());
  const Manifest read = parse_manifest(text, "here");
  expect_same(read, small());
  EXPECT_EQ(read.tensors[1].slices[1].checksum, 0xfedcba9876543210u);
  EXPECT_EQ(read.tensors[1].slices[1].origin, Shape({1, 0, 0}));
  EXPECT_EQ(read.tensors[2].dtype, DType::bf16);
  expect_same(parse_manifest(nlohmann::json::parse(text).dump(2), "here"), small());
  Manifest escaped = small();
  escaped.tensors[0].name = "a \"name\"";
  expect_same(parse_manifest(to_text(escaped), "here"), escaped);
  Manifest none = small();
  none.tensors.clear();
  EXPECT_TRUE(parse_manifest(to_text(none), "here").tensors.empty());
  for (size_t n = 0; n + 2 < text.size(); ++n)
    EXPECT_THAT(
        [&] { parse_manifest(text.substr(0, n), "here"); },
        ThrowsMessage<Error>(HasSubstr("here: it cannot be read as a checkpoint's manifest")))
        << n;
}

TEST(Manifest, OfAnotherFormatOrANewerOneIsRefused) {
  std::string text = to_text(small());
  std::string other = text;
  other.replace(other.find("nereus checkpoint"), 17, "another program's");
  EXPECT_THAT([&] { parse_manifest(other, "here"); },
              ThrowsMessage<Error>(HasSubstr("here: it cannot be read as a checkpoint's manifest: "
                                             "it is of another format")));
  text.replace(text.find("\"version\":1"), 11, "\"version\":2");
  text.replace(text.find("\"exp_avg\""), 9, "\"unknown\"");  // what only a newer program can read
  try {
    parse_manifest(text, "here");
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::kConfig) << "it is not set aside as damaged";
    EXPECT_THAT(e.what(),
                HasSubstr("here: this checkpoint is of format version 2, and this program "
                          "reads versions up to 1: a newer program wrote it. Use that "
                          "one, or a later one."));
  }
}

TEST(Manifest, OfSlicesThatAreNotAllOfATensorOnceIsDamaged) {
  EXPECT_EQ(said(small()), "no error");
  Manifest m = small();
  m.tensors.push_back(m.tensors[0]);
  EXPECT_EQ(said(m), "here: model of tok.weight is there twice");
  m = small();
  m.tensors[0].slices[0].offset = 1000 - 6 * 4 * 4 + 1;
  EXPECT_EQ(said(m), "here: a slice of model of tok.weight lies outside of its file");
  m.tensors[0].slices[0] = {.file = 2, .offset = 0, .origin = {0, 0}, .extent = {6, 4}};
  EXPECT_EQ(said(m), "here: a slice of model of tok.weight lies outside of its file");
  m = small();
  m.tensors[1].slices[1].origin[1] = 1;
  EXPECT_EQ(said(m),
            "here: model of experts.w1 [2, 3, 5] has a slice [1, 3, 5] at [1, 1, 0], which is not "
            "within it");
  m = small();
  m.tensors[1].slices.pop_back();
  EXPECT_EQ(said(m),
            "here: the slices of model of experts.w1 [2, 3, 5] have 15 elements and should be all "
            "of it, each element once");
  m = small();
  m.tensors[1].slices[1].origin[0] = 0;
  EXPECT_THAT(said(m), HasSubstr("have 30 elements and should be all of it, each element once"));
}

TEST(Manifest, OfAnotherModelSaysWhichTensors) {
  const std::vector<Parameter> model = {{.name = "tok.weight", .shape = {6, 4}, .initial = {}},
                                        {.name = "experts.w1", .shape = {2, 3, 5}, .initial = {}}};
  const SavedState weights[] = {SavedState::model};
  const auto check = [&](std::vector<Parameter> p, std::vector<SavedState> states) {
    check_tensors(small(), "here", p, {}, states);
  };
  check(model, {SavedState::model});
  const char* const end = ". Set the model's sizes (model.flavor, [model_overrides]) as they were.";
  auto other = model;
  other[0].shape = {7, 4};     // the vocabulary
  other[1].shape = {4, 3, 5};  // the experts
  EXPECT_THAT(
      [&] { check_tensors(small(), "here", other, {}, weights); },
      ThrowsMessage<Error>(
          std::string(
              "here: this checkpoint is of another model than the run's: 2 have another shape: "
              "tok.weight is [6, 4] there and [7, 4] here; experts.w1 is [2, 3, 5] there and "
              "[4, 3, 5] here") +
          end));
  other = model;
  other.push_back({.name = "norm.weight", .shape = {4}, .initial = {}});
  other.erase(other.begin());
  EXPECT_THAT([&] { check_tensors(small(), "here", other, {}, weights); },
              ThrowsMessage<Error>(AllOf(HasSubstr("1 tensors are missing: model of norm.weight; "),
                                         HasSubstr("1 are none of this model's: tok.weight"))));
  EXPECT_THAT(
      [&] {
        check(model, {SavedState::model, SavedState::first_moment});
      },
      ThrowsMessage<Error>(HasSubstr("1 tensors are missing: exp_avg of experts.w1")));
}

}  // namespace
}  // namespace nereus
