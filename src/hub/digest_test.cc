#include "hub/digest.h"

#include <gtest/gtest.h>

#include "test/sha256.h"

namespace nereus::hub {
namespace {

std::string hex(Digest::Kind kind, const std::string& text, size_t first) {
  Digest d(kind, static_cast<int64_t>(text.size()));
  const auto bytes = std::as_bytes(std::span(text));
  d.add(bytes.first(first));
  d.add(bytes.subspan(first));
  return d.hex();
}

TEST(Digest, Sha256IsThatOfTheStandard) {
  EXPECT_EQ(hex(Digest::Kind::sha256, "abc", 1),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  const std::string text(1000, 'x');
  EXPECT_EQ(hex(Digest::Kind::sha256, text, 999), test::sha256(std::as_bytes(std::span(text))));
}

// `git hash-object` of an empty file and of "hello\n".
TEST(Digest, GitBlobIsGitsName) {
  EXPECT_EQ(hex(Digest::Kind::git_blob, "", 0), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
  EXPECT_EQ(hex(Digest::Kind::git_blob, "hello\n", 3), "ce013625030ba8dba906f756967f9e9ca394464a");
}

TEST(Digest, RestartForgets) {
  Digest d(Digest::Kind::git_blob, 0);
  d.add(std::as_bytes(std::span("junk", 4)));
  d.restart();
  EXPECT_EQ(d.hex(), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
}

}  // namespace
}  // namespace nereus::hub
