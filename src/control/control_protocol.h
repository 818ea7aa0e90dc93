// What ranks and the control plane's server say to each other: frames of a length, a kind and
// fields. The server greets with kGreeting; a rank answers with a hello.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

#include "control/tcp.h"

namespace nereus::control {

inline constexpr std::string_view kGreeting = "nereus-control-1\n";
inline constexpr uint32_t kMaxFrame = uint32_t{64} << 20;

enum class Kind : uint8_t {
  // from a rank
  hello,  // run id, version, rank, ranks, host, process, configuration; of a rank that has failed
          // before: fault, text
  beat,   // step, activity
  set,    // key, value
  get,    // key: answered by `value`, when it has been set
  take,   // likewise, and the key is free again
  ask,    // number of the question, ranks: answered by `answer`, with what each did last
  fail,   // fault, text
  bye,
  // from the server; it sends beats, with rank 0's step, too
  welcome,  // local rank, local ranks, hosts, rank 0's host and process
  another,  // its run id: this is another run
  value,    // key, value
  answer,   // number of the question, texts
  failure,  // fault, text, 1 when a rank is gone, 1 when the user has been shown the text
  leaves,   // all is well
};

// When a rank died, for messages; -1: its step is not known.
inline std::string step_text(int64_t step) {
  return step < 0 ? "before its first step" : "at step " + std::to_string(step);
}

class Writer {
 public:
  explicit Writer(Kind kind) : text_(4, '\0') { text_ += static_cast<char>(kind); }
  Writer& number(int64_t n) {
    text_.append(reinterpret_cast<const char*>(&n), sizeof n);
    return *this;
  }
  Writer& text(std::string_view s) {
    number(static_cast<int64_t>(s.size()));
    text_ += s;
    return *this;
  }
  std::string frame() {
    const auto length = static_cast<uint32_t>(text_.size() - 4);
    std::memcpy(text_.data(), &length, sizeof length);
    return std::move(text_);
  }

 private:
  std::string text_;
};

// A frame's fields, in the order in which they were written. After one that is not there, ok() is
// false and all else is empty.
class Reader {
 public:
  explicit Reader(std::string_view frame) : rest_(frame) {
    if (rest_.empty()) ok_ = false;
    kind_ = ok_ ? static_cast<Kind>(rest_[0]) : Kind::bye;
    if (ok_) rest_.remove_prefix(1);
  }
  Kind kind() const { return kind_; }
  bool ok() const { return ok_; }
  bool more() const { return ok_ && !rest_.empty(); }
  int64_t number() {
    int64_t n = 0;
    if (rest_.size() < sizeof n) return fail(), 0;
    std::memcpy(&n, rest_.data(), sizeof n);
    rest_.remove_prefix(sizeof n);
    return n;
  }
  std::string text() {
    const int64_t n = number();
    if (n < 0 || static_cast<size_t>(n) > rest_.size()) return fail(), "";
    std::string s(rest_.substr(0, static_cast<size_t>(n)));
    rest_.remove_prefix(static_cast<size_t>(n));
    return s;
  }

 private:
  void fail() {
    ok_ = false;
    rest_ = {};
  }
  std::string_view rest_;
  Kind kind_ = Kind::bye;
  bool ok_ = true;
};

// Bytes as they come, frame by frame.
class FrameBuffer {
 public:
  enum class State : uint8_t { open, closed, broken };  // broken: not our protocol

  State read(const tcp::Fd& fd) {
    std::byte piece[16384];
    for (;;) {
      const long n = tcp::read_some(fd, piece, sizeof piece);
      if (n < 0) return State::closed;
      if (n == 0) return State::open;
      buffer_.append(reinterpret_cast<const char*>(piece), static_cast<size_t>(n));
      if (buffer_.size() > 2 * size_t{kMaxFrame}) return State::broken;
    }
  }
  // Takes the greeting off: nothing yet when it has not come whole; false when it is another.
  std::optional<bool> greeting() {
    const size_t n = std::min(buffer_.size(), kGreeting.size());
    if (std::string_view(buffer_).substr(0, n) != kGreeting.substr(0, n)) return false;
    if (n < kGreeting.size()) return std::nullopt;
    buffer_.erase(0, n);
    return true;
  }
  bool broken() const { return broken_; }
  std::optional<std::string> next() {
    uint32_t length = 0;
    if (buffer_.size() - at_ < sizeof length) return compact();
    std::memcpy(&length, buffer_.data() + at_, sizeof length);
    if (length == 0 || length > kMaxFrame) {
      broken_ = true;
      return std::nullopt;
    }
    if (buffer_.size() - at_ < sizeof length + length) return compact();
    std::string frame = buffer_.substr(at_ + sizeof length, length);
    at_ += sizeof length + length;
    return frame;
  }

 private:
  std::optional<std::string> compact() {
    buffer_.erase(0, at_);
    at_ = 0;
    if (buffer_.empty()) buffer_.shrink_to_fit();  // thousands of these wait for nothing
    return std::nullopt;
  }
  std::string buffer_;
  size_t at_ = 0;
  bool broken_ = false;
};

}  // namespace nereus::control
