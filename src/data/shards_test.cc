// What the first bytes of a data set's files say.
#include "data/shards.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>

#include "base/error.h"
#include "base/log.h"
#include "data/rows_test.h"

namespace nereus::data {
namespace {

using test::byte_options;
using test::gz;
using test::text_line;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::ThrowsMessage;

const char* const kPointer =
    "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 318857312\n";

TEST(Shards, ThatAreNoneAreNamedByWhatTheyAre) {
  const test::TemporaryFolder folder;
  const auto expect = [&](const std::string& contents, const char* what, const char* remedy,
                          const char* name = "a.json.gz") {
    const std::optional<ShardFault> fault = fault_of_shard(folder.write(name, contents));
    ASSERT_TRUE(fault) << what;
    EXPECT_THAT(fault->what, HasSubstr(what));
    EXPECT_THAT(fault->remedy, HasSubstr(remedy));
  };
  expect(kPointer, "a Git LFS pointer, not the file itself", "git lfs pull");
  expect(gz(kPointer), "a Git LFS pointer", "git lfs pull");
  expect("", "empty", "Download or copy it again");
  expect(std::string(5000, '\0'), "nothing but zeros", "Download or copy it again");
  expect(gz(gz(text_line("a"))), "compressed with gzip twice", "gzip -dc IN");
  std::string tar(600, '\0');
  expect(tar.replace(0, 6, "a.json").replace(257, 5, "ustar"), "a tar archive", "Unpack it");
  expect("{\"text\": [\"a\", \"b\"]}\n", "its \"text\" is of type array",
         "a string for each document");
  expect(" \n\n", "without a line", "take it out of the folder");
  expect("<!DOCTYPE html><html><title>404</title>", "a web page (a server's error, perhaps), not",
         "Download it again", "a.jsonl");
  expect("{\"error\": \"Repository not found\"}", "a server's answer, not the file: {\"error\"",
         "Download it again");
  expect("[{\"text\": \"a\"}]", "one JSON array", "jq -c '.[]' IN");
  expect("{\n  \"text\": \"a\"\n}\n", "JSON over several lines", "jq -c . IN");
  expect("{\"url\": 1, \"content\": \"c\"}\n",
         "without a \"text\" that is a string; the keys that are there: content, url",
         "jq -c '{text: .content}'");
  expect("PAR1\x15\x04", "Parquet, not lines of JSON", "read_parquet");
  expect("\x28\xB5\x2F\xFD....", "compressed with zstd", "zstd -dc");
  expect(std::string("\xFF\xFE{\0", 4), "text in UTF-16", "iconv");
  expect("this is no gz", "not lines of JSON; it begins with this is no gz", "{\"text\": \"...\"}");
  expect("{\"text\": \"a\n", "not lines of JSON", "Download");
  const std::string whole = gz(text_line(std::string(100, 'a')));
  expect(whole.substr(0, whole.size() / 2), "corrupt or cut short, as gz", "Download");
}

TEST(Shards, AreReadUnderOtherNamesTooAndWithSomeBrokenLines) {
  const test::TemporaryFolder folder;
  for (const std::string& contents :
       {gz(""), gz(text_line("a")), text_line("a"), "\xEF\xBB\xBF" + text_line("a"),
        "{\"broken\n" + text_line("a"), "{\"url\": 1}\n" + text_line("a"),
        "{\"text\": \"" + std::string(100000, 'x') + "\"}\n", text_line("a").substr(0, 13)})
    for (const char* name : {"a.json", "a.json.gz"})
      EXPECT_FALSE(fault_of_shard(folder.write(name, contents))) << contents.substr(0, 30);
  const log::Capture quiet;
  folder.write("a.json", gz(text_line("one")));
  folder.write("b.json.gz", text_line("two"));
  std::filesystem::remove(folder.file("a.json.gz"));
  const auto source = text_rows(byte_options(folder.path(), false), {.seq_len = 9});
  EXPECT_THAT(test::rows_of(*source, 9, 9),
              ElementsAre(test::Row{256, 'o', 'n', 'e', 257, 256, 't', 'w', 'o', 257}));
}

TEST(Shards, AreNotWhatStandsBesideThem) {
  const test::TemporaryFolder folder;
  const auto names = [&] {
    std::vector<std::string> out;
    for (const std::string& path : find_shards(folder.path(), "train"))
      out.push_back(path.substr(folder.path().size() + 1));
    return out;
  };
  for (const char* none : {"._docs.json.gz", ".hidden.jsonl", "dataset_info.json", "state.json",
                           "dataset_infos.json", "dataset_dict.json", "config.json"})
    folder.write(none, "{}");
  EXPECT_THROW(names(), Error);
  folder.write("preview.json", text_line("a"));
  EXPECT_THAT(names(), ElementsAre("preview.json"));
  folder.write("en/other.json", text_line("a"));
  EXPECT_THAT(names(), ElementsAre("preview.json"));
  folder.write("en/c4-train.00000-of-01024.json.gz", gz(text_line("a")));
  EXPECT_THAT(names(), ElementsAre("en/c4-train.00000-of-01024.json.gz"));
  folder.write("c4-train.00001-of-01024.json.gz", gz(text_line("a")));
  EXPECT_THAT(names(), ElementsAre("c4-train.00001-of-01024.json.gz"));
}

TEST(Shards, ThatCannotBeReadAreSaidBeforeAnyIs) {
  const test::TemporaryFolder folder;
  for (int i = 0; i < 9; ++i)
    folder.write("c4-train." + std::to_string(i) + ".json.gz",
                 i < 2 ? gz(text_line("a")) : kPointer);
  std::filesystem::create_symlink("../blobs/abc", folder.file("c4-train.9.json.gz"));
  log::Capture capture;
  TextOptions options = byte_options(folder.path(), false);
  EXPECT_THAT(
      [&] { text_rows(options, {.seq_len = 2}); },
      ThrowsMessage<Error>(AllOf(
          HasSubstr("training.dataset_path = " + folder.path() +
                    ": 8 of 10 shards cannot be read as lines of JSON\n"),
          HasSubstr("c4-train.2.json.gz, c4-train.3.json.gz, c4-train.4.json.gz, "
                    "c4-train.5.json.gz, c4-train.6.json.gz and 2 more: a Git LFS pointer"),
          HasSubstr("c4-train.9.json.gz: a link to a file that is not there\n    The first one's "
                    "target is ../blobs/abc"),
          HasSubstr("data.on_broken_shard = \"skip\" trains on the others"))));
  const size_t bytes = 2 * gz(text_line("a")).size() + 7 * std::string(kPointer).size();
  EXPECT_THAT(capture.text(), HasSubstr("10 shards, c4-train.0.json.gz to c4-train.9.json.gz, " +
                                        std::to_string(bytes) + " bytes"));
  options.on_broken_shard = BrokenShard::skip;
  const auto source = text_rows(options, {.seq_len = 2});
  EXPECT_EQ(test::rows_of(*source, 2, 9).size(), 2u);
  EXPECT_EQ(source->status().all().broken_shards, 8);
  EXPECT_THAT(capture.text(), HasSubstr("They are passed over"));
  EXPECT_THAT(capture.text(), Not(HasSubstr("Passed over from line")));  // said once
}

// By part, what the ranks count is the same or one rank's alone: as of_all_ranks() adds it up.
TEST(Shards, ThatAreBrokenAreCountedOnceHoweverManyRanksReadThem) {
  const test::TemporaryFolder folder;
  for (const int shards : {8, 9})
    for (int i = 0; i < shards; ++i)
      folder.write(fmt::format("{}/{}.jsonl", shards, i),
                   i == 1 || i == 6 ? kPointer : text_line("a"));
  const log::Capture quiet;
  for (const int shards : {8, 9}) {  // four ranks read two each, or all nine
    for (const DataOrder order : {DataOrder::global, DataOrder::torchtitan}) {
      SourceStatus run;
      for (int rank = 0; rank < 4; ++rank) {
        TextOptions options = byte_options(folder.file(std::to_string(shards)), true);
        options.order = order;
        options.on_broken_shard = BrokenShard::skip;
        const auto source =
            text_rows(options, {.seq_len = 2, .global_batch = 4, .dp_rank = rank, .dp_size = 4});
        test::rows_of(*source, 2, 20);
        const SourceStatus mine = source->status();
        run.parts.resize(mine.parts.size());
        for (size_t i = 0; i < mine.parts.size(); ++i)
          run.parts[i].broken_shards =
              std::max(run.parts[i].broken_shards, mine.parts[i].broken_shards);
      }
      EXPECT_EQ(run.all().broken_shards, 2) << word(order) << " " << shards;
    }
  }
}

TEST(Shards, ThatBreakLaterEndTheRunOrArePassedOver) {
  const test::TemporaryFolder folder;
  std::string text;
  for (int i = 0; i < 20000; ++i) text += text_line("document " + std::to_string(i * 7919));
  folder.write("a.json.gz", gz(text).substr(0, 70000));
  folder.write("b.json.gz", gz(text_line("the last")));
  log::Capture capture;
  TextOptions options = byte_options(folder.path(), false);
  try {
    const auto source = text_rows(options, {.seq_len = 10});
    test::rows_of(*source, 10, 1000000);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::kIo);
    EXPECT_THAT(e.what(), AllOf(HasSubstr("a.json.gz: is truncated"),
                                HasSubstr("data.on_broken_shard = \"skip\" passes over")));
  }
  options.on_broken_shard = BrokenShard::skip;
  std::vector<std::vector<test::Row>> rows;
  for (const int workers : {1, 4}) {
    options.workers = workers;
    const auto source = text_rows(options, {.seq_len = 9});
    rows.push_back(test::rows_of(*source, 9, 1000000));
    EXPECT_EQ(source->status().all().broken_shards, 1);
  }
  EXPECT_GT(rows[0].size(), 1000u);
  EXPECT_EQ(rows[0], rows[1]);
  EXPECT_THAT(capture.text(), HasSubstr("Passed over from line"));
}

TEST(Shards, AreAThousandLookedAtInASecond) {
  const test::TemporaryFolder folder;
  std::string text;
  for (int i = 0; i < 300; ++i) text += text_line("document " + std::to_string(i * 7919));
  const std::string shard = gz(text);
  std::vector<std::string> shards;
  for (int i = 0; i < 1024; ++i)
    shards.push_back(folder.write(std::to_string(i) + ".json.gz", shard));
  const auto begin = std::chrono::steady_clock::now();
  const ShardLook look = look_at_shards(shards);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  EXPECT_TRUE(look.broken.empty());
  EXPECT_EQ(look.bytes, static_cast<int64_t>(1024 * shard.size()));
  RecordProperty("seconds", std::to_string(seconds.count()));
  EXPECT_LT(seconds.count(), 10);  // 0.1 on an idle machine
}

// However little of the shard it is.
TEST(Shards, ThatBreakGiveTheDocumentsBefore) {
  const test::TemporaryFolder folder;
  std::string text;
  for (int i = 0; i < 100; ++i) text += text_line(std::string(998, 'd'));
  folder.write("a.json.gz", gz(text).substr(0, gz(text).size() - 4));  // without the text's length
  const log::Capture capture;
  for (const BrokenShard what : {BrokenShard::stop, BrokenShard::skip}) {
    TextOptions options = byte_options(folder.path(), false);
    options.on_broken_shard = what;
    const auto source = text_rows(options, {.seq_len = 999});  // rows of a document each
    std::vector<int32_t> inputs(999 * 100), labels(inputs.size());
    EXPECT_EQ(source->next(100, inputs, labels), 100);
    if (what == BrokenShard::stop) {
      EXPECT_THAT([&] { test::rows_of(*source, 999, 1); },
                  ThrowsMessage<Error>(HasSubstr("  It was read up to line 100. data.")));
    } else {
      EXPECT_EQ(test::rows_of(*source, 999, 1).size(), 0u);
    }
  }
}

TEST(Shards, BlankLinesOfEverySystemAreNone) {
  const test::TemporaryFolder folder;
  folder.write("a.jsonl", "\r\n{\"text\": \"a\"}\r\n\r\n \t\n\n{\"text\": \"b\"}\r\n\r\n");
  const log::Capture capture;
  const auto source = text_rows(byte_options(folder.path(), false), {.seq_len = 5});
  EXPECT_THAT(test::rows_of(*source, 5, 9), ElementsAre(test::Row{256, 'a', 257, 256, 'b', 257}));
  EXPECT_EQ(source->status().all().skipped_lines(), 0);
  EXPECT_THAT(capture.text(), Not(HasSubstr("WARNING")));
}

TEST(TextRows, BeginNoSecondPassOverASetWithoutADocument) {
  const test::TemporaryFolder folder;  // what its first bytes do not tell
  std::string text = "{\"url\": \"" + std::string(100000, 'u') + "\"}\n";
  for (int i = 0; i < 30; ++i) text += "{\"url\": 1}\n{broken\n";
  folder.write("a.json", text);
  const log::Capture capture;
  for (const int ranks : {1, 2}) {
    EXPECT_THAT(
        [&] {
          const auto source = text_rows(byte_options(folder.path(), true),
                                        {.seq_len = 4, .global_batch = 2, .dp_size = ranks});
          test::rows_of(*source, 4, 1);
        },
        ThrowsMessage<Error>(
            AllOf(HasSubstr("no line of it is a document: "), HasSubstr("are not JSON"))));
  }
}

}  // namespace
}  // namespace nereus::data
