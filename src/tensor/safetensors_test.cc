#include "tensor/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <functional>

#include "base/error.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A file of `header` and `data_bytes` zeros.
std::string file_of(const std::string& header, size_t data_bytes) {
  std::string out(8, '\0');
  for (size_t i = 0; i < 8; ++i) out[i] = static_cast<char>((header.size() >> (8 * i)) & 255);
  return out + header + std::string(data_bytes, '\0');
}

SafetensorsFile parse(const std::string& bytes) {
  return SafetensorsFile::parse(std::as_bytes(std::span(bytes)), "some.safetensors");
}

std::string error_of(Fault fault, const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), fault) << e.what();
    return e.what();
  }
  return "no error";
}
std::string parse_error(const std::string& bytes) {
  return error_of(Fault::kConfig, [&] { parse(bytes); });
}

template <class E>
std::span<const std::byte> bytes_of(const std::vector<E>& values) {
  return std::as_bytes(std::span(values));
}

TEST(Safetensors, WhatIsWrittenIsReadBackWithTypesShapesAndMetadata) {
  const test::TemporaryFolder folder;
  const std::string path = folder.file("a.safetensors");
  const std::vector<uint8_t> bytes = {1, 2, 3};
  const std::vector<float> floats = {1, 2, 3, 4, 5, 6};
  const std::vector<int64_t> ids = {-1, 1LL << 40};
  const std::vector<double> scalar = {0.1};
  {
    SafetensorsWriter writer(path,
                             {{"bytes", FileDType::u8, {3}},
                              {"floats \"é\"", FileDType::f32, {2, 3}},
                              {"ids", FileDType::i64, {2}},
                              {"empty", FileDType::bf16, {0, 4}},
                              {"scalar", FileDType::f64, {}}},
                             {{"format", "pt"}, {"step", "12"}});
    writer.append(1, bytes_of(floats).first(10));
    writer.append(0, bytes_of(bytes));
    writer.append(4, bytes_of(scalar));
    writer.append(1, bytes_of(floats).subspan(10));
    writer.append(2, bytes_of(ids));
    EXPECT_FALSE(std::filesystem::exists(path));
    writer.finish();
    EXPECT_EQ(static_cast<int64_t>(std::filesystem::file_size(path)), writer.file_bytes());
  }
  EXPECT_FALSE(std::filesystem::exists(path + ".partial"));
  const SafetensorsFile file = SafetensorsFile::open(path);
  EXPECT_EQ(file.entries().size(), 5u);
  EXPECT_EQ(file.metadata().at("step"), "12");
  EXPECT_EQ(file.require("bytes").values<uint8_t>(), bytes);
  EXPECT_EQ(file.require("floats \"é\"").values<float>(), floats);
  EXPECT_THAT(file.require("floats \"é\"").shape, ElementsAre(2, 3));
  EXPECT_EQ(file.require("ids", FileDType::i64).values<int64_t>(), ids);
  EXPECT_EQ(file.require("empty").count(), 0);
  EXPECT_EQ(file.require("scalar").count(), 1);
  EXPECT_EQ(file.require("scalar").values<double>(), scalar);
  for (const SafetensorsEntry& e : file.entries())
    EXPECT_EQ(reinterpret_cast<uintptr_t>(e.data.data()) % static_cast<size_t>(size_of(e.dtype)),
              0u)
        << e.name;
}

TEST(Safetensors, TheReferencesFilesAreReadInTheOrderOfTheirBytes) {
  const SafetensorsFile file = SafetensorsFile::open(
      test::source_path("tests/golden/hf_fp8/model-00001-of-00001.safetensors"));
  EXPECT_EQ(file.metadata().at("format"), "pt");
  ASSERT_EQ(file.entries().size(), 13u);
  EXPECT_EQ(file.entries().front().name, "model.layers.0.mlp.down_proj.weight_scale_inv");
  EXPECT_EQ(file.entries().back().to_string(), "F8_E4M3 [256, 384]");
  for (size_t i = 1; i < file.entries().size(); ++i)
    EXPECT_EQ(file.entries()[i - 1].data.data() + file.entries()[i - 1].data.size(),
              file.entries()[i].data.data());
}

TEST(Safetensors, EveryBrokenHeaderIsNamed) {
  const std::string a = R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  EXPECT_EQ(parse(file_of("{" + a + "}   ", 8)).entries().size(), 1u);
  EXPECT_EQ(parse(file_of("{}", 0)).entries().size(), 0u);

  EXPECT_THAT(parse_error(""), HasSubstr("some.safetensors: is empty; download or copy it again"));
  EXPECT_THAT(parse_error("1234567"), HasSubstr("it has 7 bytes"));
  EXPECT_THAT(parse_error("version https://git-lfs.github.com/spec/v1\noid"),
              HasSubstr("a Git LFS pointer"));
  EXPECT_THAT(parse_error("<!DOCTYPE html>\n<html><head><title>404"),
              HasSubstr("some.safetensors: this is a web page, not the file itself"));
  EXPECT_THAT(parse_error("PK\3\4 and this is something else"),
              HasSubstr("not a safetensors file: its first 8 bytes announce a header of"));
  EXPECT_THAT(parse_error(file_of("{" + a + "}", 8).substr(0, 30)),
              HasSubstr("announce a header of 54 bytes, but only 22 follow"));
  EXPECT_THAT(parse_error(file_of("[]", 0)), HasSubstr("does not begin with '{'"));
  EXPECT_THAT(parse_error(file_of("{\"a\":", 0)), HasSubstr("not valid JSON"));
  EXPECT_THAT(parse_error(file_of("{" + a + "," + a + "}", 8)), HasSubstr("has 'a' twice"));
  EXPECT_THAT(parse_error(file_of(R"({"a":{"dtype":"F32","dtype":"F16"}})", 0)),
              HasSubstr("has the field 'dtype' twice"));
  EXPECT_THAT(parse_error(file_of(R"({"__metadata__":{"n":1}})", 0)),
              HasSubstr("__metadata__ 'n' is not a string"));
  EXPECT_THAT(parse_error(file_of(R"({"__metadata__":3})", 0)), HasSubstr("is not an object"));

  const auto tensor = [](const std::string& fields) {
    return file_of("{\"a\":" + fields + "}", 8);
  };
  EXPECT_THAT(parse_error(tensor("3")), HasSubstr("tensor 'a' is not described by an object"));
  EXPECT_THAT(parse_error(tensor(R"({"dtype":"F32","shape":[2]})")),
              HasSubstr("has no data_offsets"));
  EXPECT_THAT(parse_error(tensor(R"({"dtype":7,"shape":[2],"data_offsets":[0,8]})")),
              HasSubstr("dtype is not a string"));
  EXPECT_THAT(parse_error(tensor(R"({"dtype":"F32","shape":2,"data_offsets":[0,8]})")),
              HasSubstr("shape is not a list"));
  EXPECT_THAT(parse_error(tensor(R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})")),
              HasSubstr("shape holds -2; expected whole numbers"));
  EXPECT_THAT(parse_error(tensor(R"({"dtype":"F32","shape":[2.5],"data_offsets":[0,8]})")),
              HasSubstr("shape holds 2.5"));
  EXPECT_THAT(parse_error(tensor(R"({"dtype":"F32","shape":[2],"data_offsets":[0]})")),
              HasSubstr("data_offsets is not a list of two numbers"));
  EXPECT_THAT(parse_error(tensor(R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})")),
              HasSubstr("data_offsets [8, 0] end before they begin"));
  EXPECT_THAT(parse_error(tensor(R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})")),
              HasSubstr("wrong length: F32 [3] takes 12 bytes, data_offsets [0, 8] give 8"));
  EXPECT_THAT(parse_error(tensor(R"({"dtype":"F32","shape":[4294967296,4294967296],)"
                                 R"("data_offsets":[0,8]})")),
              HasSubstr("[4294967296, 4294967296] is too large"));
}

// Newer files have types that this list lacks; only a tensor that is asked for needs a known one.
TEST(Safetensors, ATensorOfATypeThatIsNotKnownIsNoFaultOfTheOthers) {
  const std::string bytes = file_of(R"({"a":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]},)"
                                    R"("b":{"dtype":"F32","shape":[1],"data_offsets":[3,7]}})",
                                    7);
  const SafetensorsFile file = parse(bytes);
  EXPECT_EQ(file.require("a").to_string(), "F6_E2M3 [4]");
  EXPECT_EQ(file.require("a").data.size(), 3u);
  EXPECT_EQ(file.require("b").values<float>().size(), 1u);
  EXPECT_THAT(error_of(Fault::kConfig, [&] { file.require("a", FileDType::f32); }),
              HasSubstr("tensor 'a' is F6_E2M3 [4]; expected F32"));
  EXPECT_FALSE(file_dtype(""));
}

TEST(Safetensors, OverlapsGapsAndTruncatedDataAreNamedWithTheirBytes) {
  const auto two = [](const std::string& b_offsets, size_t data_bytes) {
    return file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                   R"("b":{"dtype":"U8","shape":[4],"data_offsets":)" +
                       b_offsets + "}}",
                   data_bytes);
  };
  EXPECT_EQ(parse(two("[8,12]", 12)).entries().size(), 2u);
  EXPECT_THAT(parse_error(two("[6,10]", 10)),
              HasSubstr("tensors 'a' and 'b' overlap: bytes [0, 8] and [6, 10]"));
  EXPECT_THAT(parse_error(two("[10,14]", 14)),
              HasSubstr("a gap of 2 bytes before tensor 'b', which begins at 10"));
  EXPECT_THAT(parse_error(two("[8,12]", 15)), HasSubstr("a gap of 3 bytes after the last tensor"));
  EXPECT_THAT(
      parse_error(two("[8,12]", 7)),
      HasSubstr("truncated: its tensors take 12 bytes and 7 are there, 5 are missing (from 'a' "
                "on); download or copy it again"));
}

TEST(Safetensors, AMissingTensorIsNamedWithTheNearestOne) {
  const std::string path = test::source_path("tests/golden/hf_fp8/expected_fp32.safetensors");
  const SafetensorsFile file = SafetensorsFile::open(path);
  EXPECT_EQ(file.find("model.norm.weigth"), nullptr);
  EXPECT_EQ(error_of(Fault::kConfig, [&] { file.require("model.norm.weigth"); }),
            path +
                ": there is no tensor 'model.norm.weigth' among its 8; did you mean "
                "'model.norm.weight'?");
  EXPECT_EQ(error_of(Fault::kConfig, [&] { file.require("model.norm.weight", FileDType::i64); }),
            path + ": tensor 'model.norm.weight' is F32 [300]; expected I64");
}

TEST(Safetensors, AFileThatCannotBeOpenedIsNamed) {
  const test::TemporaryFolder folder;
  EXPECT_EQ(error_of(Fault::kConfig, [&] { SafetensorsFile::open(folder.file("none")); }),
            folder.file("none") + ": cannot read: No such file or directory");
  EXPECT_THAT(error_of(Fault::kConfig, [&] { SafetensorsFile::open(folder.path()); }),
              HasSubstr("not a regular file"));
}

std::vector<std::string> files_in(const std::string& folder) {
  std::vector<std::string> out;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    out.push_back(entry.path().filename().string());
  return out;
}

TEST(SafetensorsWriter, AnUnfinishedFileLeavesNothingAndTheOldOneStays) {
  const test::TemporaryFolder folder;
  const std::string path = folder.write("a.safetensors", "old");
  { const SafetensorsWriter writer(path, {{"a", FileDType::f32, {2}}}); }
  EXPECT_THAT(files_in(folder.path()), ElementsAre("a.safetensors"));
  EXPECT_EQ(test::read_file(path), "old");
  EXPECT_THAT(error_of(Fault::kContract,
                       [&] {
                         SafetensorsWriter writer(path, {{"a", FileDType::f32, {2}}});
                         writer.finish();
                       }),
              HasSubstr("tensor 'a' has 8 bytes, 0 were written"));
  EXPECT_THAT(error_of(Fault::kContract,
                       [&] {
                         SafetensorsWriter writer(path, {{"a", FileDType::f32, {2}}});
                         writer.append(0, bytes_of(std::vector<float>(3)));
                       }),
              HasSubstr("tensor 'a' has 8 bytes, 0 were written and 12 more were given"));
  EXPECT_EQ(test::read_file(path), "old");
}

// A limit on the size of files stands for a full disk: it needs no mount, and holds for root.
TEST(SafetensorsWriter, AFullDiskIsAnErrorThatNamesTheBytesAndLeavesNothing) {
  const test::TemporaryFolder folder;
  const std::string path = folder.file("a.safetensors");
  const auto previous_handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit previous{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &previous), 0);
  const rlimit small{.rlim_cur = 4096, .rlim_max = previous.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string message = error_of(Fault::kIo, [&] {
    SafetensorsWriter writer(path, {{"a", FileDType::f32, {4096}}});
    writer.append(0, bytes_of(std::vector<float>(4096)));
    writer.finish();
  });
  setrlimit(RLIMIT_FSIZE, &previous);
  std::signal(SIGXFSZ, previous_handler);
  EXPECT_THAT(message,
              AllOf(HasSubstr(path + ": cannot write: File too large; it needs 16488 bytes, "),
                    HasSubstr(" are free there; nothing of it was kept")));
  EXPECT_TRUE(files_in(folder.path()).empty());
}

TEST(SafetensorsWriter, AFolderThatCannotBeWrittenToIsNamed) {
  const test::TemporaryFolder folder;
  const std::string missing = folder.file("none/a.safetensors");
  EXPECT_EQ(error_of(Fault::kConfig, [&] { SafetensorsWriter(missing, {}); }),
            missing +
                ": cannot create: No such file or directory; choose a folder that exists and "
                "can be written to");
  ASSERT_EQ(chmod(folder.path().c_str(), 0555), 0);
  const uid_t user = geteuid();
  // Root may write anywhere; nobody may not.
  if (user == 0) {
    ASSERT_EQ(seteuid(65534), 0);
  }
  const std::string message =
      error_of(Fault::kConfig, [&] { SafetensorsWriter(folder.file("a.safetensors"), {}); });
  if (user == 0) {
    ASSERT_EQ(seteuid(user), 0);
  }
  EXPECT_THAT(message, HasSubstr("cannot create: Permission denied"));
}

}  // namespace
}  // namespace nereus
