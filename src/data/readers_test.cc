// Files of lines: shards found, gz members, lines across pieces of the file.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "base/error.h"
#include "data/gunzip.h"
#include "data/line_reader.h"
#include "data/rows_test.h"
#include "data/shards.h"

namespace nereus::data {
namespace {

using test::gz;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

TEST(FindShards, TakesTheSplitThatIsAskedFor) {
  const test::TemporaryFolder folder;
  const auto names = [&](const std::string& split) {
    std::vector<std::string> out;
    for (const std::string& path : find_shards(folder.path(), split))
      out.push_back(path.substr(folder.path().size() + 1));
    return out;
  };
  folder.write("b.jsonl", "");
  folder.write("a.json.gz", "");
  folder.write("notes.txt", "");
  EXPECT_THAT(names("train"), ElementsAre("a.json.gz", "b.jsonl"));
  EXPECT_THAT(names("validation"), ElementsAre("a.json.gz", "b.jsonl"));
  folder.write("c4-train.00001-of-00002.json.gz", "");
  folder.write("c4-train.00000-of-00002.json.gz", "");
  EXPECT_THAT(names("train"),
              ElementsAre("c4-train.00000-of-00002.json.gz", "c4-train.00001-of-00002.json.gz"));
  EXPECT_THAT(names("validation"), ElementsAre("a.json.gz", "b.jsonl"));
  EXPECT_THAT(find_shards(folder.file("notes.txt"), "train"),
              ElementsAre(folder.file("notes.txt")));

  const std::string held_out = test::source_path("assets/sample/validation");
  EXPECT_EQ(find_shards(held_out, "train"), find_shards(held_out, "validation"));

  const test::TemporaryFolder training;
  training.write("c4-train.00000-of-00001.json.gz", "");
  EXPECT_THAT([&] { find_shards(training.path(), "validation"); },
              ThrowsMessage<Error>(
                  HasSubstr("has shards such as c4-train.00000-of-00001.json.gz, but none named "
                            "c4-validation.*")));
}

std::string read_all(const std::string& path, size_t file_piece, size_t room) {
  const std::string file = test::read_file(path);
  Gunzip gunzip(path);
  std::string out, piece(room, '\0');
  for (size_t at = 0; at < file.size(); at += file_piece) {
    const std::string_view part = std::string_view(file).substr(at, file_piece);
    std::span<const std::byte> in = std::as_bytes(std::span(part));
    for (;;) {
      const size_t n = gunzip.run(in, std::as_writable_bytes(std::span(piece)));
      out.append(piece, 0, n);
      if (n == 0 && in.empty()) break;
    }
  }
  gunzip.finish();
  return out;
}

TEST(GunzipProperty, AnyPiecesGiveTheText) {
  const test::TemporaryFolder folder;
  EXPECT_TRUE(rc::check([&] {
    std::string text, file;
    const auto members = *rc::gen::inRange(1, 4);
    for (int m = 0; m < members; ++m) {
      // Short patterns repeated often: much output from the last bytes of a member.
      const auto pattern = *rc::gen::container<std::string>(rc::gen::arbitrary<char>());
      const auto times = *rc::gen::inRange(0, 5000);
      std::string part;
      for (int i = 0; i < times; ++i) part += pattern;
      text += part;
      file += gz(part);
      if (*rc::gen::inRange(0, 3) == 0) file += std::string(5, '\0');  // padding
    }
    const std::string path = folder.write("x.gz", file);
    RC_ASSERT(read_all(path, static_cast<size_t>(*rc::gen::inRange(1, 100)),
                       static_cast<size_t>(*rc::gen::inRange(1, 3000))) == text);
    RC_ASSERT(read_all(path, file.size(), 1 << 20) == text);
  }));
}

TEST(LineReader, ReadsMembersAndFilesOneAfterTheOther) {
  const test::TemporaryFolder folder;
  const std::vector<std::string> files = {
      folder.write("a.jsonl.gz", gz("one\ntw") + gz("o\n\nthr") + gz("ee")),
      folder.write("b.json", ""), folder.write("c.json", "four\nfive\n")};
  const auto read = [&](size_t file, int64_t skip) {
    LineReader reader(files, file, skip);
    std::vector<std::string> out;
    for (std::string line; reader.next(line);)
      out.push_back(line + "@" + std::to_string(reader.file_index()) + ":" +
                    std::to_string(reader.line_number()));
    return out;
  };
  EXPECT_THAT(read(0, 0),
              ElementsAre("one@0:1", "two@0:2", "@0:3", "three@0:4", "four@2:1", "five@2:2"));
  EXPECT_THAT(read(0, 3), ElementsAre("three@0:4", "four@2:1", "five@2:2"));
  EXPECT_THAT(read(0, 4), ElementsAre("four@2:1", "five@2:2"));
  EXPECT_THAT(read(2, 1), ElementsAre("five@2:2"));
  EXPECT_THAT([&] { read(2, 3); },
              ThrowsMessage<Error>(HasSubstr("c.json: has 2 lines, fewer than the run has read")));
}

TEST(LineReader, CutsALineThatWouldFillTheMemory) {
  const test::TemporaryFolder folder;
  const std::string path =
      folder.write("a.json", std::string(LineReader::kLongestLine + 3000000, 'x') + "\nshort\n");
  LineReader reader({path});
  std::string line;
  ASSERT_TRUE(reader.next(line));
  EXPECT_EQ(line.size(), LineReader::kLongestLine);
  ASSERT_TRUE(reader.next(line));
  EXPECT_EQ(line, "short");
  EXPECT_EQ(reader.line_number(), 2);
  EXPECT_FALSE(reader.next(line));
}

TEST(LineReader, NamesAFileThatCannotBeRead) {
  LineReader reader({"/nowhere/a.json"});
  std::string line;
  EXPECT_THAT([&] { reader.next(line); },
              ThrowsMessage<Error>(HasSubstr("/nowhere/a.json: cannot be read: No such file")));
}

}  // namespace
}  // namespace nereus::data
