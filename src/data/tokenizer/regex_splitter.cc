#include <algorithm>

#include "data/tokenizer/regex.h"
#include "data/tokenizer/splitter.h"
#include "data/utf8.h"

namespace nereus::data {
namespace {

struct Span {
  size_t begin, end;
  bool match;
};

// All matches and the gaps between them, as Hugging Face's find_matches has them: an empty match
// counts unless it touches the match before it.
void find_spans(Regex::Search& search, std::string_view text, bool invert,
                std::vector<Span>& spans) {
  size_t from = 0, done = 0;
  std::optional<size_t> last_end;
  while (from <= text.size()) {
    const std::optional<Regex::Match> m = search.next(text, from);
    if (!m) break;
    if (m->begin == m->end && last_end == m->end) {
      from += from < text.size() ? static_cast<size_t>(decode_utf8(text.substr(from)).length) : 1;
      continue;
    }
    if (m->begin > done) spans.push_back({done, m->begin, invert});
    spans.push_back({m->begin, m->end, !invert});
    from = done = m->end;
    last_end = m->end;
  }
  if (done < text.size()) spans.push_back({done, text.size(), invert});
}

// Joins spans as the behavior says; what is left is what becomes pieces.
void join_spans(SplitRule::Behavior behavior, std::vector<Span>& spans) {
  using Behavior = SplitRule::Behavior;
  std::vector<Span> out;
  bool previous = false;
  switch (behavior) {
    case Behavior::isolated:
      return;
    case Behavior::removed:
      std::erase_if(spans, [](const Span& s) { return s.match; });
      return;
    case Behavior::contiguous:
    case Behavior::merged_with_previous:
      for (const Span& s : spans) {
        const bool join =
            behavior == Behavior::contiguous ? s.match == previous : s.match && !previous;
        if (join && !out.empty()) {
          out.back().end = s.end;
        } else {
          out.push_back(s);
        }
        previous = s.match;
      }
      break;
    case Behavior::merged_with_next:
      std::reverse(spans.begin(), spans.end());
      for (const Span& s : spans) {
        if (s.match && !previous && !out.empty()) {
          out.back().begin = s.begin;
        } else {
          out.push_back(s);
        }
        previous = s.match;
      }
      std::reverse(out.begin(), out.end());
      break;
  }
  spans.swap(out);
}

class RegexSplitter final : public Splitter {
 public:
  RegexSplitter(const std::vector<SplitRule>& rules, const std::string& file) {
    for (const SplitRule& rule : rules)
      rules_.push_back(
          {rule, Regex(rule.literal ? regex_of_literal(rule.pattern) : rule.pattern, file)});
  }

  void split(std::string_view text, std::vector<std::string_view>& pieces) const override {
    std::vector<std::string_view> now, next;
    std::vector<Span> spans;
    if (!text.empty()) now.push_back(text);
    for (const Compiled& c : rules_) {
      Regex::Search search(c.regex);
      next.clear();
      for (const std::string_view part : now) {
        spans.clear();
        find_spans(search, part, c.rule.invert, spans);
        join_spans(c.rule.behavior, spans);
        for (const Span& s : spans)
          if (s.end > s.begin) next.push_back(part.substr(s.begin, s.end - s.begin));
      }
      now.swap(next);
    }
    pieces.insert(pieces.end(), now.begin(), now.end());
  }

 private:
  struct Compiled {
    SplitRule rule;
    Regex regex;
  };
  std::vector<Compiled> rules_;
};

}  // namespace

std::unique_ptr<Splitter> make_regex_splitter(const std::vector<SplitRule>& rules,
                                              const std::string& file) {
  return std::make_unique<RegexSplitter>(rules, file);
}

}  // namespace nereus::data
