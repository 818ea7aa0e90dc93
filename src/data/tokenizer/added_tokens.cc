#include "data/tokenizer/added_tokens.h"

#include <algorithm>
#include <cstring>

#include "data/tokenizer/unicode.h"
#include "data/utf8.h"

namespace nereus::data {
namespace {

// \w of Rust's regular expressions, which Hugging Face asks here: Alphabetic, Mark, decimal digits,
// connectors, joiners.
constexpr const char* kWord =
    R"([\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{200C}\x{200D}\x{24B6}-\x{24E9}\x{1F130}-\x{1F149})"
    R"(\x{1F150}-\x{1F169}\x{1F170}-\x{1F189}])";

size_t space_at_start(std::string_view text) {
  size_t end = 0;
  while (end < text.size()) {
    const CodePoint c = decode_utf8(text.substr(end));
    if (!is_space(c.value)) break;
    end += static_cast<size_t>(c.length);
  }
  return end;
}

// Where the last code point begins.
size_t last_point(std::string_view text) {
  size_t at = text.size() - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0u) == 0x80u) --at;
  return at;
}

size_t space_at_end(std::string_view text) {
  size_t begin = text.size();
  while (begin > 0) {
    const size_t at = last_point(text.substr(0, begin));
    if (!is_space(decode_utf8(text.substr(at)).value)) break;
    begin = at;
  }
  return text.size() - begin;
}

}  // namespace

AddedTokenFinder::AddedTokenFinder(const std::vector<const AddedToken*>& tokens) : tokens_(tokens) {
  std::sort(tokens_.begin(), tokens_.end(),
            [](const AddedToken* a, const AddedToken* b) { return a->content < b->content; });
  for (uint32_t i = 0; i < tokens_.size(); ++i) {
    Range& range = by_first_byte_[static_cast<unsigned char>(tokens_[i]->content[0])];
    if (range.end == 0) range.begin = i;
    range.end = i + 1;
  }
  if (!tokens_.empty() && tokens_.front()->content[0] == tokens_.back()->content[0])
    only_first_byte_ = static_cast<unsigned char>(tokens_.front()->content[0]);
  if (std::any_of(tokens_.begin(), tokens_.end(),
                  [](const AddedToken* t) { return t->single_word; }))
    word_.emplace(kWord);
}

bool AddedTokenFinder::touches_word(std::string_view before, std::string_view after) const {
  const auto is_word = [&](std::string_view text, size_t at) {
    const auto length = static_cast<size_t>(decode_utf8(text.substr(at)).length);
    return Regex::Search(*word_).next(text.substr(at, length)).has_value();
  };
  return (!before.empty() && is_word(before, last_point(before))) ||
         (!after.empty() && is_word(after, 0));
}

const AddedToken* AddedTokenFinder::longest(std::string_view text) const {
  auto [begin, end] = by_first_byte_[static_cast<unsigned char>(text[0])];
  const AddedToken* found = nullptr;
  // The tokens from `begin` to `end` share `depth` bytes with the text; one that has no more than
  // these is the first of them.
  for (size_t depth = 1; begin < end; ++depth) {
    if (tokens_[begin]->content.size() == depth) found = tokens_[begin++];
    if (begin == end || depth == text.size()) break;
    const auto byte = [depth](const AddedToken* t) {
      return static_cast<unsigned char>(t->content[depth]);
    };
    const auto want = static_cast<unsigned char>(text[depth]);
    if (byte(tokens_[begin]) == want && byte(tokens_[end - 1]) == want) continue;
    const auto first =
        std::lower_bound(tokens_.begin() + begin, tokens_.begin() + end, want,
                         [&](const AddedToken* t, unsigned char value) { return byte(t) < value; });
    const auto last =
        std::upper_bound(first, tokens_.begin() + end, want,
                         [&](unsigned char value, const AddedToken* t) { return value < byte(t); });
    begin = static_cast<uint32_t>(first - tokens_.begin());
    end = static_cast<uint32_t>(last - tokens_.begin());
  }
  return found;
}

const AddedToken* AddedTokenFinder::find(std::string_view text, size_t& at) const {
  for (; at < text.size(); ++at) {
    if (only_first_byte_ >= 0) {
      const void* next = std::memchr(text.data() + at, only_first_byte_, text.size() - at);
      if (next == nullptr) return nullptr;
      at = static_cast<size_t>(static_cast<const char*>(next) - text.data());
    }
    if (const AddedToken* token = longest(text.substr(at))) return token;
  }
  return nullptr;
}

void AddedTokenFinder::cut(std::string_view text, std::vector<Part>& parts) const {
  size_t done = 0;
  if (!tokens_.empty()) {
    size_t at = 0;
    while (const AddedToken* token = find(text, at)) {
      size_t begin = at, end = at + token->content.size();
      at = end;
      if (token->single_word && touches_word(text.substr(0, begin), text.substr(end))) continue;
      if (token->lstrip) begin = std::max(done, begin - space_at_end(text.substr(0, begin)));
      if (token->rstrip) end += space_at_start(text.substr(end));
      if (begin > done) parts.push_back({nullptr, text.substr(done, begin - done)});
      parts.push_back({token, text.substr(begin, end - begin)});
      done = end;
    }
  }
  if (done < text.size()) parts.push_back({nullptr, text.substr(done)});
}

}  // namespace nereus::data
