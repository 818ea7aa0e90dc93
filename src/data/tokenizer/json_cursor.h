// Reads JSON front to back, without a tree: the tables of a tokenizer.json are most of its 8 MB,
// and a general parser takes longer for them than a run may take to start.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace nereus::data {

// Every function throws Error{kConfig} with the name, the line and what was expected there.
class JsonCursor {
 public:
  JsonCursor(std::string_view text, std::string name, size_t position = 0)
      : text_(text), name_(std::move(name)), at_(position) {}

  size_t position() const { return at_; }
  char peek();        // the next character that is no white space; '\0' at the end
  bool take(char c);  // steps over it when it is next
  void expect(char c);
  std::string_view string();  // without quotes and escapes; valid until the next call
  int64_t integer();
  void skip();  // a value of any kind; of its syntax only brackets and strings are looked at
  [[noreturn]] void fail(const std::string& what) const;

 private:
  void skip_string();
  void escape(std::string& out);
  unsigned hex4();

  std::string_view text_;
  std::string name_;
  size_t at_;
  std::string unescaped_;
};

}  // namespace nereus::data
