#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>

#include "base/check.h"
#include "data/tokenizer/splitter.h"

namespace nereus::data {
namespace {

std::string escaped(const std::string& literal) {
  std::string out;
  for (const char c : literal) {
    if (static_cast<unsigned char>(c) < 0x80 && !std::isalnum(static_cast<unsigned char>(c)))
      out += '\\';
    out += c;
  }
  return out;
}

struct CodeDeleter {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct MatchDeleter {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};

class RegexSplitter final : public Splitter {
 public:
  explicit RegexSplitter(const std::vector<SplitRule>& rules) {
    for (const SplitRule& rule : rules) {
      const std::string pattern = rule.literal ? escaped(rule.pattern) : rule.pattern;
      int error = 0;
      PCRE2_SIZE offset = 0;
      pcre2_code* code =
          pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                        PCRE2_UTF | PCRE2_UCP | PCRE2_NO_UTF_CHECK, &error, &offset, nullptr);
      if (code == nullptr) {
        std::array<PCRE2_UCHAR, 256> text{};
        pcre2_get_error_message(error, text.data(), text.size());
        NEREUS_FAIL(kConfig,
                    "tokenizer.json: pre_tokenizer pattern {} does not compile: {} at offset {}",
                    pattern, reinterpret_cast<const char*>(text.data()), offset);
      }
      pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
      rules_.push_back({rule, std::unique_ptr<pcre2_code, CodeDeleter>(code)});
    }
  }

  void split(std::string_view text, std::vector<std::string_view>& pieces) const override {
    std::vector<std::string_view> now{text}, next;
    for (const Compiled& rule : rules_) {
      next.clear();
      for (const std::string_view piece : now) apply(rule, piece, next);
      now.swap(next);
    }
    pieces.insert(pieces.end(), now.begin(), now.end());
  }

 private:
  struct Compiled {
    SplitRule rule;
    std::unique_ptr<pcre2_code, CodeDeleter> code;
  };

  static void apply(const Compiled& r, std::string_view text, std::vector<std::string_view>& out) {
    const std::unique_ptr<pcre2_match_data, MatchDeleter> data(
        pcre2_match_data_create_from_pattern(r.code.get(), nullptr));
    const bool keep_matches = r.rule.behavior == SplitRule::Behavior::isolated || r.rule.invert;
    const bool keep_gaps = r.rule.behavior == SplitRule::Behavior::isolated || !r.rule.invert;
    size_t done = 0;
    for (size_t from = 0; from <= text.size();) {
      const int found = pcre2_match(r.code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()),
                                    text.size(), from, PCRE2_NO_UTF_CHECK, data.get(), nullptr);
      if (found < 0) break;
      const PCRE2_SIZE* span = pcre2_get_ovector_pointer(data.get());
      if (span[1] == span[0]) {  // an empty match splits nothing
        from = span[1] + 1;
        while (from < text.size() && (static_cast<unsigned char>(text[from]) & 0xC0u) == 0x80u)
          ++from;
        continue;
      }
      if (span[0] > done && keep_gaps) out.push_back(text.substr(done, span[0] - done));
      if (keep_matches) out.push_back(text.substr(span[0], span[1] - span[0]));
      done = from = span[1];
    }
    if (done < text.size() && keep_gaps) out.push_back(text.substr(done));
  }

  std::vector<Compiled> rules_;
};

}  // namespace

std::unique_ptr<Splitter> make_regex_splitter(const std::vector<SplitRule>& rules) {
  return std::make_unique<RegexSplitter>(rules);
}

}  // namespace nereus::data
