// Every kind of data set as the validation set, and what is wrong with one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "tensor/safetensors.h"
#include "test/test_tensor.h"
#include "train/run_data.h"
#include "train/whole_run_test.h"

namespace nereus {
namespace {

using test::Arguments;
using testing::HasSubstr;
using testing::ThrowsMessage;
using test::operator+;

constexpr int64_t kSequence = 16, kRows = 6;

Arguments validating(const std::string& folder, const Arguments& more) {
  return test::small_model(folder) + Arguments{"--training.steps=1",
                                               "--training.local_batch_size=1",
                                               "--training.global_batch_size=4",
                                               "--validation.enable",
                                               "--validation.seq_len=16",
                                               "--validation.local_batch_size=1"} +
         more;
}

// Token i of a stream in which each row's last label is not the next row's first input.
int64_t token(int64_t i) { return (i * i + 3 * i) % 61; }

std::string write_pairs(const std::string& path, const std::vector<int64_t>& shape) {
  std::vector<int64_t> inputs, labels;
  for (int64_t row = 0; row < kRows; ++row)
    for (int64_t i = 0; i < kSequence; ++i) {
      inputs.push_back(token(row * (kSequence + 1) + i));
      labels.push_back(token(row * (kSequence + 1) + i + 1));
    }
  SafetensorsWriter writer(path, {{.name = "inputs", .dtype = FileDType::i64, .shape = shape},
                                  {.name = "labels", .dtype = FileDType::i64, .shape = shape}});
  writer.append(0, std::as_bytes(std::span(inputs)));
  writer.append(1, std::as_bytes(std::span(labels)));
  writer.finish();
  return path;
}

std::string write_ids(const test::TemporaryFolder& folder, const std::string& shape) {
  std::string header = "{'descr': '|u1', 'fortran_order': False, 'shape': " + shape + ", }";
  header.resize(117, ' ');
  std::string ids;
  for (int64_t i = 0; i < kRows * (kSequence + 1); ++i) ids += static_cast<char>(token(i));
  return folder.write("ids" + shape + ".npy",
                      std::string("\x93NUMPY\x01\x00\x76\x00", 10) + header + "\n" + ids);
}

std::vector<double> validation_losses(int ranks, const std::string& folder, const Arguments& more) {
  EXPECT_EQ(test::train_on(ranks, validating(folder, more)).code, 0);
  std::vector<double> out;
  std::istringstream in(test::read_file(folder + "/metrics.jsonl"));
  for (std::string line; std::getline(in, line);) {
    const auto all = nlohmann::json::parse(line);
    if (all.contains("validation_loss")) out.push_back(all["validation_loss"]);
  }
  return out;
}

TEST(Validation, TakesTokensInEveryFormAndOnEveryLayout) {
  const test::TemporaryFolder f;
  const std::vector<std::string> files = {
      write_pairs(f.file("rows.safetensors"), {kRows, kSequence}),
      write_pairs(f.file("batches.safetensors"), {kRows / 3, 3, kSequence}),
      write_pairs(f.file("one.safetensors"), {1, kRows, kSequence}),
      write_ids(f, "(102,)"),
      write_ids(f, "(6, 17)"),
  };
  std::vector<double> first;
  for (const std::string& file : files) {
    SCOPED_TRACE(file);
    const Arguments set = {"--validation.dataset=tokens", "--validation.dataset_path=" + file};
    const std::vector<double> losses = validation_losses(1, f.file("run"), set);
    ASSERT_EQ(losses.size(), 2u) << "before training and at its end";
    if (first.empty()) first = losses;
    EXPECT_EQ(losses, first);
    // Microbatches of other sizes, and ranks of which some have rows that fill up.
    const std::vector<double> two =
        validation_losses(2, f.file("two"), set + Arguments{"--training.local_batch_size=2"});
    const std::vector<double> four = validation_losses(4, f.file("four"), set);
    for (size_t i = 0; i < 2; ++i) {
      EXPECT_NEAR(two[i], first[i], 2e-6);
      EXPECT_NEAR(four[i], first[i], 2e-6);
    }
    EXPECT_NE(validation_losses(1, f.file("part"), set + Arguments{"--validation.steps=5"})[0],
              first[0])
        << "the first five rows";
  }
}

TEST(Validation, TakesRandomIdsAndText) {
  const test::TemporaryFolder f;
  EXPECT_EQ(validation_losses(1, f.file("random"),
                              {"--validation.dataset=Random", "--validation.steps=3"})
                .size(),
            2u);
  f.write("text/a.json",
          "{\"text\": \"to be or not to be, that is the question\"}\n"
          "{\"text\": \"whether it is nobler in the mind to suffer\"}\n");
  const Arguments text = {"--model_overrides.vocab_size=129280", "--validation.dataset=c4",
                          "--validation.dataset_path=" + f.file("text"),
                          "--model.hf_assets_path=" + test::source_path("assets/tokenizer")};
  const std::vector<double> one = validation_losses(1, f.file("text_one"), text);
  ASSERT_EQ(one.size(), 2u);
  EXPECT_NEAR(validation_losses(2, f.file("text_two"), text)[1], one[1], 1e-5);
}

// At set-up: not a file is written, and the training set is not touched.
// Batch i is rank i % 4's: a rank keeps those alone, filled up to as many on every rank.
TEST(Validation, ARankKeepsItsOwnBatches) {
  JobConfig c;
  c.training.seq_len = kSequence;
  c.validation.dataset = "random";
  c.validation.steps = 5;
  c.validation.local_batch_size = 2;
  ModelArgs args;
  args.vocab_size = 61;
  const ValidationRows all = validation_rows(c, args, validation_set(c), 2, 0, 1, nullptr);
  ASSERT_EQ(all.mine.size(), 5u);
  EXPECT_EQ(all.counted, 5 * 2 * kSequence);
  for (int rank = 0; rank < 4; ++rank) {
    const ValidationRows rows = validation_rows(c, args, validation_set(c), 2, rank, 4, nullptr);
    EXPECT_EQ(rows.counted, all.counted);
    ASSERT_EQ(rows.mine.size(), 2u);
    for (size_t i = 0; i < 2; ++i) {
      const size_t number = 4 * i + static_cast<size_t>(rank);
      const data::Batch& batch = rows.mine[i];
      if (number < 5) {
        EXPECT_EQ(batch.inputs, all.mine[number].inputs) << number;
        EXPECT_EQ(batch.labels, all.mine[number].labels) << number;
      } else {
        EXPECT_EQ(batch.labels, std::vector<int32_t>(2 * kSequence, -100)) << number;
      }
    }
  }
}

TEST(Validation, IsRefusedBeforeTheRunBegins) {
  const test::TemporaryFolder f;
  const std::string tokens = write_pairs(f.file("rows.safetensors"), {kRows, kSequence});
  struct Case {
    Arguments set;
    std::string message;
  };
  const std::string path = "--validation.dataset_path=";
  const Arguments of_tokens = {"--validation.dataset=tokens"};
  const std::vector<Case> cases = {
      {of_tokens + Arguments{path + f.file("none.npy")},
       "validation.dataset_path = " + f.file("none.npy") + ": there is no such file"},
      {of_tokens, "validation.dataset = tokens needs validation.dataset_path"},
      {of_tokens + Arguments{path + tokens, "--training.seq_len=32", "--validation.seq_len=32"},
       "rows of 16 tokens, but training.seq_len = 32; set it to 16"},
      {of_tokens + Arguments{path + tokens, "--model_overrides.vocab_size=40"},
       "not a token of the model, whose vocabulary has 40 ids"},
      {{"--validation.dataset=random"}, "validation.dataset = random has no end"},
      {{"--validation.dataset=wiki"}, "validation.dataset = \"wiki\": set it to one of them"},
      {{"--validation.dataset=c4", path + f.file("none")}, "there is no such folder"},
  };
  for (const int ranks : {1, 2}) {
    for (const Case& c : cases) {
      SCOPED_TRACE(c.message);
      EXPECT_THAT([&] { test::train_on(ranks, validating(f.file("new/run"), c.set)); },
                  ThrowsMessage<Error>(HasSubstr(c.message)));
      EXPECT_FALSE(std::filesystem::exists(f.file("new")));
    }
  }
}

}  // namespace
}  // namespace nereus
