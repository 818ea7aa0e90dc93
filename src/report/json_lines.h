// A file of JSON lines, an object each, by simdjson: 2 GB of metrics in seconds, in the memory of
// the longest line.
//
// A line that is not an object, as one that a killed run left half-written, is counted and passed
// over.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "report/lines.h"

namespace nereus::report {

struct JsonField {
  enum class Kind : uint8_t { number, text, boolean, null, nested };
  std::string_view key;
  Kind kind = Kind::null;
  double number = 0;      // 1 and 0 of a boolean
  std::string_view text;  // of a text: its characters
};

class JsonLines {
 public:
  explicit JsonLines(const std::string& path, int64_t offset = 0);
  ~JsonLines();

  // The next object's fields in the file's order; they live until the next call. False: no more.
  bool next(std::vector<JsonField>& fields);
  std::string_view line() const { return line_; }  // that they are from, likewise

  int64_t unreadable() const { return unreadable_; }   // lines passed over, so far
  bool half_written() const { return half_written_; }  // is the last line one of them?
  int64_t offset() const { return whole_offset_; }     // behind the last line that a newline ends

 private:
  struct Parser;
  FileLines lines_;
  std::unique_ptr<Parser> parser_;
  std::string_view line_;
  int64_t unreadable_ = 0, whole_offset_ = 0;
  bool half_written_ = false;
};

}  // namespace nereus::report
