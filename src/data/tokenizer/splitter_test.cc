#include "data/tokenizer/splitter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "data/tokenizer/unicode.h"
#include "test/test_tensor.h"

namespace nereus::data {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::ThrowsMessage;
using Behavior = SplitRule::Behavior;

std::vector<SplitRule> deepseek_rules() {
  static const json file =
      json::parse(test::read_file(test::source_path("assets/tokenizer/tokenizer.json")));
  std::vector<SplitRule> rules;
  for (const json& part : file["pre_tokenizer"]["pretokenizers"])
    if (part["type"] == "Split") rules.push_back({.pattern = part["pattern"]["Regex"]});
  return rules;
}

std::vector<std::string_view> split(const Splitter& splitter, std::string_view text) {
  std::vector<std::string_view> pieces;
  splitter.split(text, pieces);
  return pieces;
}

// Real text only: PCRE2's own tables lack the newest code points.
TEST(Splitter, ByHandAgreesWithTheRegularExpressionsOnRealText) {
  const std::vector<SplitRule> rules = deepseek_rules();
  ASSERT_TRUE(are_deepseek_rules(rules));
  const auto by_hand = make_deepseek_splitter(), by_regex = make_regex_splitter(rules);
  const std::string text = test::read_file(test::source_path("tests/golden/tokenizer/corpus.txt"));
  EXPECT_EQ(split(*by_hand, text), split(*by_regex, text));
}

// One character of each kind that the three patterns tell apart, in every order.
TEST(Splitter, ByHandAgreesWithTheRegularExpressionsOnEveryShortMixture) {
  const char* const kinds[] = {
      "a",        " ",        "\n",       "\r",           "\t",       "'",    "_",           "7",
      "\xC3\xA9", "\xCC\x81", "\xC2\xB2", "\xE4\xB8\xAD", "\xC2\xA0", "\x01", "\xE2\x82\xAC"};
  constexpr size_t kKinds = std::size(kinds), kLength = 4;
  const auto by_hand = make_deepseek_splitter(), by_regex = make_regex_splitter(deepseek_rules());
  for (size_t code = 0; code < kKinds * kKinds * kKinds * kKinds; ++code) {
    std::string text;
    for (size_t i = 0, rest = code; i < kLength; ++i, rest /= kKinds) text += kinds[rest % kKinds];
    ASSERT_EQ(split(*by_hand, text), split(*by_regex, text)) << text;
  }
}

TEST(Splitter, KnowsOnlyDeepseeksRulesByHand) {
  std::vector<SplitRule> rules = deepseek_rules();
  rules[1].behavior = Behavior::removed;
  EXPECT_FALSE(are_deepseek_rules(rules));
  rules = deepseek_rules();
  rules[0].pattern = R"(\p{N}{1,4})";
  EXPECT_FALSE(are_deepseek_rules(rules));
  rules.pop_back();
  EXPECT_FALSE(are_deepseek_rules(rules));
}

// The pieces are those of Hugging Face tokenizers 0.23.2.
TEST(Splitter, SplitsAsHuggingFaceDoesByEachBehavior) {
  const struct {
    const char* pattern;
    Behavior behavior;
    bool invert;
    const char* text;
    std::vector<std::string_view> want;
  } cases[] = {
      {R"(\s+)", Behavior::isolated, false, "ab  cd\n e", {"ab", "  ", "cd", "\n ", "e"}},
      {R"(\s+)", Behavior::removed, false, "ab  cd\n e", {"ab", "cd", "e"}},
      {R"([a-z]+)", Behavior::removed, true, "ab1 cd2", {"ab", "cd"}},
      {R"([ab])", Behavior::merged_with_previous, false, "xaabyb", {"xa", "a", "b", "yb"}},
      {R"([ab])", Behavior::merged_with_next, false, "xaabyb", {"x", "a", "a", "by", "b"}},
      {R"([ab])", Behavior::contiguous, false, "xaabyb", {"x", "aab", "y", "b"}},
      {R"([ab])", Behavior::merged_with_previous, true, "xaabyb", {"x", "a", "a", "by", "b"}},
      {R"([ab])", Behavior::merged_with_next, true, "xaabyb", {"xa", "a", "b", "yb"}},
      {R"(\w)", Behavior::contiguous, true, "xa ab--yb", {"xa", " ", "ab", "--", "yb"}},
      {R"((?=[A-Z]))", Behavior::isolated, false, "helloWorldFoo", {"hello", "World", "Foo"}},
      {R"((?=[A-Z]))",
       Behavior::merged_with_previous,
       false,
       "helloWorldFoo",
       {"hello", "World", "Foo"}},
      {R"(a*)", Behavior::isolated, false, "baac", {"b", "aa", "c"}},
      {R"()", Behavior::isolated, false, "a\303\251", {"a", "\303\251"}},
      {R"(\h+)", Behavior::isolated, false, "xyz09 abg", {"xyz", "09", " ", "ab", "g"}},
      {R"((?m).b)", Behavior::isolated, false, "ab\nb", {"ab", "\nb"}},
      {R"(^a|b$)",
       Behavior::isolated,
       false,
       "aab\nab\na",
       {"a", "a", "b", "\n", "a", "b", "\n", "a"}},
      {R"(\s)",
       Behavior::isolated,
       false,
       "a\341\240\216b\302\205c",
       {"a\341\240\216b", "\302\205", "c"}},
      {R"(\w+)",
       Behavior::isolated,
       false,
       "a\342\222\266\302\262_\342\200\277\314\201-\360\237\204\214x",
       {"a\342\222\266\302\262_\342\200\277\314\201", "-\360\237\204\214", "x"}},
      {R"([\S]+)", Behavior::isolated, false, "a\341\240\216b c", {"a\341\240\216b", " ", "c"}},
      {R"([^\s]+)", Behavior::isolated, false, "a\342\200\203b", {"a", "\342\200\203", "b"}},
      {R"(\W)", Behavior::removed, false, "a-\302\275 b", {"a", "\302\275", "b"}},
      {R"((?i:'s|'ll))", Behavior::isolated, false, "it'S we'lL", {"it", "'S", " we", "'lL"}},
      {R"((?<=a)b)", Behavior::isolated, false, "abcb", {"a", "b", "cb"}},
  };
  for (const auto& c : cases) {
    const auto splitter =
        make_regex_splitter({{.pattern = c.pattern, .invert = c.invert, .behavior = c.behavior}});
    EXPECT_EQ(split(*splitter, c.text), c.want) << c.pattern << " on " << c.text;
  }
  EXPECT_TRUE(split(*make_regex_splitter({{.pattern = "a"}}), "").empty());
}

TEST(Splitter, TakesALiteralAsItIs) {
  const auto splitter = make_regex_splitter({{.pattern = "a.", .literal = true}});
  EXPECT_EQ(split(*splitter, "aba.b"), (std::vector<std::string_view>{"ab", "a.", "b"}));
}

TEST(Splitter, RefusesPatternsThatPcre2WouldReadOtherwise) {
  const auto expect = [](const char* pattern, const char* message) {
    EXPECT_THAT([&] { make_regex_splitter({{.pattern = pattern}}); },
                ThrowsMessage<Error>(HasSubstr(message)));
  };
  expect("(unclosed", "the pre_tokenizer pattern (unclosed does not compile: missing closing");
  expect("[&&a]", "has an intersection of nothing at offset 1, which is not supported");
  expect("[a&&]", "has an intersection of nothing at offset 5");
  expect("[a[xy]", "has a [ without a ] at offset 6");
}

TEST(Splitter, ReadsClassesInClassesAndIntersections) {
  const auto expect = [](const char* pattern, std::string_view text,
                         const std::vector<std::string_view>& want) {
    EXPECT_EQ(split(*make_regex_splitter({{.pattern = pattern}}), text), want) << pattern;
  };
  expect("[a-d&&[^b]]+", "abcd", {"a", "b", "cd"});
  expect("[a[xy]]+", "axbya", {"ax", "b", "ya"});
  expect("[^a[xy]]+", "axbcy", {"ax", "bc", "y"});
  expect("[^a-d&&[^b]]+", "abxa", {"a", "bx", "a"});  // all but a, c and d
  expect(R"([\W&&[^ ]]+)", "a-- b", {"a", "--", " b"});
  expect("[a-z&&b-y&&[^k]]+", "abkyz", {"a", "b", "k", "y", "z"});
  expect(R"(\p{Han}+)", "\u4e2d\u3007\u3001a", {"\u4e2d\u3007", "\u3001a"});
}

TEST(Splitter, GivesUpWithAnErrorOnAPatternThatBacktracksTooMuch) {
  const auto splitter = make_regex_splitter({{.pattern = "(a|aa)+$"}});
  const std::string text = std::string(60, 'a') + '!';
  EXPECT_THAT([&] { split(*splitter, text); },
              ThrowsMessage<Error>(HasSubstr("gave up on a text of 61 bytes")));
}

TEST(UnicodeTable, EqualsTheClassesOfTheReference) {
  const json classes = json::parse(
      test::read_file(test::source_path("tests/golden/tokenizer/unicode_classes.json")));
  const UnicodeTable table;
  std::vector<UnicodeClass> want(0x110000, UnicodeClass::other);
  const char* const names[] = {"L", "M", "N", "P", "S", "s"};
  for (size_t i = 0; i < std::size(names); ++i)
    for (const json& range : classes[names[i]])
      for (size_t c = range[0]; c <= range[1].get<size_t>(); ++c)
        want[c] = static_cast<UnicodeClass>(i);
  for (char32_t c = 0; c < 0x110000; ++c) {
    ASSERT_EQ(table[c], want[c]) << static_cast<uint32_t>(c);
    ASSERT_EQ(is_space(c), want[c] == UnicodeClass::space) << static_cast<uint32_t>(c);
  }
}

}  // namespace
}  // namespace nereus::data
