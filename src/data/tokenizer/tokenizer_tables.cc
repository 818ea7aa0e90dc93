#include "data/tokenizer/tokenizer_tables.h"

#include <algorithm>

#include "base/check.h"
#include "data/tokenizer/json_cursor.h"

namespace nereus::data {
namespace {

// on_key(key) for each member of an object, with the cursor before its value; steps over the value.
template <class OnKey>
void each_member(JsonCursor& json, OnKey on_key) {
  json.expect('{');
  if (json.take('}')) return;
  do {
    const std::string key(json.string());
    json.expect(':');
    json.peek();  // to the value's first character
    on_key(key);
  } while (json.take(','));
  json.expect('}');
}

}  // namespace

TokenizerTables::TokenizerTables(std::string_view file, const std::string& name)
    : file_(file), name_(name) {
  JsonCursor json(file, name);
  size_t copied = 0;
  each_member(json, [&](const std::string& section) {
    if (section != "model" || json.peek() != '{') return json.skip();
    each_member(json, [&](const std::string& key) {
      const size_t begin = json.position();
      json.skip();
      if (key != "vocab" && key != "merges") return;
      std::optional<size_t>& place = key == "vocab" ? vocab_ : merges_;
      if (place) json.fail(fmt::format("model.{} is there twice", key));
      place = begin;
      rest_ += file.substr(copied, begin - copied);
      rest_ += "null";
      copied = json.position();
      cuts_.push_back({rest_.size(), copied - begin});
    });
  });
  json.peek();
  if (json.position() < file.size()) json.fail("something follows the end");
  rest_ += file.substr(copied);
}

int64_t TokenizerTables::line_of(size_t rest_position) const {
  size_t position = rest_position;
  for (const Cut& cut : cuts_)
    if (rest_position >= cut.at) position += cut.removed - std::string_view("null").size();
  const std::string_view before = file_.substr(0, position);
  return 1 + std::count(before.begin(), before.end(), '\n');
}

Vocabulary TokenizerTables::read() const {
  NEREUS_CHECK(kConfig, vocab_ && merges_,
               "{}: its model has no vocab or no merges; a BPE tokenizer has both", name_);
  Vocabulary vocabulary;
  read_vocab(vocabulary);
  read_merges(vocabulary);
  return vocabulary;
}

void TokenizerTables::read_vocab(Vocabulary& vocabulary) const {
  JsonCursor json(file_, name_, *vocab_);
  if (json.peek() != '{') json.fail("model.vocab must map token texts to ids");
  std::string bytes;
  each_member(json, [&](const std::string& text) {
    const int64_t id = json.integer();
    if (id < 0 || id > kLargestTokenId)
      json.fail(
          fmt::format("token \"{}\" has id {}; ids go from 0 to {}", text, id, kLargestTokenId));
    bytes.clear();
    const bool foreign = !alphabet_.append_bytes(text, bytes);
    if (!vocabulary.add_token(foreign ? text : bytes, static_cast<int32_t>(id), foreign))
      json.fail(fmt::format("token \"{}\" has id {}, which another has too", text, id));
  });
  NEREUS_CHECK(kConfig, vocabulary.count() > 0, "{}: model.vocab is empty", name_);
  const int32_t twice = vocabulary.index_tokens();
  NEREUS_CHECK(kConfig, twice < 0, "{}: model.vocab has the token of id {} twice", name_, twice);
}

void TokenizerTables::read_merges(Vocabulary& vocabulary) const {
  constexpr const char* kForm = "model.merges must be a list of \"left right\" or [left, right]";
  constexpr size_t kNone = std::string_view::npos;
  JsonCursor json(file_, name_, *merges_);
  if (!json.take('[')) json.fail(kForm);
  std::string left_text, left, right;
  const auto add = [&](std::string_view right_text) {
    left.clear();
    right.clear();
    if (!alphabet_.append_bytes(left_text, left) || !alphabet_.append_bytes(right_text, right))
      return vocabulary.skip_merge();
    if (!vocabulary.add_merge(left, right))
      json.fail(fmt::format("merge \"{} {}\": it, or a part of it, is no token of model.vocab",
                            left_text, right_text));
  };
  if (!json.take(']')) {
    do {
      if (json.take('[')) {
        left_text = json.string();
        json.expect(',');
        add(json.string());
        json.expect(']');
        continue;
      }
      if (json.peek() != '"') json.fail(kForm);
      const std::string_view line = json.string();
      if (line.starts_with("#version")) continue;
      const size_t space = line.find(' ');
      if (space == kNone || line.find(' ', space + 1) != kNone) json.fail(kForm);
      left_text = line.substr(0, space);
      add(line.substr(space + 1));
    } while (json.take(','));
    json.expect(']');
  }
  vocabulary.index_merges();
}

}  // namespace nereus::data
