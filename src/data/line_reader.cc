#include "data/line_reader.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "base/check.h"
#include "base/files.h"
#include "data/gunzip.h"
#include "data/shards.h"

namespace nereus::data {
namespace {

constexpr size_t kBytes = size_t{1} << 18;  // read or decompressed at a time

}  // namespace

struct LineReader::Input {
  explicit Input(const std::string& path) : stream(path, std::ios::binary), raw(kBytes) {
    NEREUS_CHECK(kIo, stream.good() && !is_folder(path), "{}: cannot be read: {}", path,
                 std::strerror(errno));
    read();
    const std::string_view start(reinterpret_cast<const char*>(waiting.data()), waiting.size());
    // By its first bytes: a download may have decompressed it and left its name.
    if (is_gz(start) || (path.ends_with(".gz") && start.empty()))
      gunzip = std::make_unique<Gunzip>(path);
  }
  // False at the end of the file.
  bool read() {
    stream.read(reinterpret_cast<char*>(raw.data()), static_cast<std::streamsize>(kBytes));
    waiting = std::span<const std::byte>(raw).first(static_cast<size_t>(stream.gcount()));
    return !waiting.empty();
  }
  std::ifstream stream;
  std::vector<std::byte> raw;
  std::span<const std::byte> waiting;  // of raw, compressed or plain
  std::unique_ptr<Gunzip> gunzip;
};

LineReader::LineReader(std::vector<std::string> files, size_t file, int64_t lines, Check check)
    : files_(std::move(files)), file_(file), skip_(lines), check_(std::move(check)) {}
LineReader::~LineReader() = default;

bool LineReader::fill() {
  buffer_.erase(0, at_);
  at_ = 0;
  const size_t old = buffer_.size();
  buffer_.resize(old + kBytes);
  const std::span<std::byte> out(reinterpret_cast<std::byte*>(buffer_.data() + old), kBytes);
  size_t added = 0;
  for (bool more = true; added == 0 && more;) {
    if (input_->waiting.empty()) more = input_->read();
    if (input_->gunzip) {
      added = input_->gunzip->run(input_->waiting, out);
    } else {
      added = input_->waiting.size();
      if (added > 0) std::memcpy(out.data(), input_->waiting.data(), added);
      input_->waiting = {};
    }
  }
  if (added == 0 && input_->gunzip) input_->gunzip->finish();
  NEREUS_CHECK(kIo, !input_->stream.bad(), "{}: reading failed: {}", file(), std::strerror(errno));
  buffer_.resize(old + added);
  return added > 0;
}

bool LineReader::next_of_file(std::string& line) {
  size_t searched = at_, end;
  bool cut = false;
  while ((end = buffer_.find('\n', searched)) == std::string::npos) {
    searched = buffer_.size() - at_;  // fill() moves the rest to the front
    if (searched > kLongestLine) {
      if (!cut) line.assign(buffer_, at_, kLongestLine);
      cut = true;
      at_ = buffer_.size();
      searched = 0;
    }
    if (!fill()) {
      end = buffer_.size();
      break;
    }
  }
  if (!cut && end == at_ && end == buffer_.size()) return false;
  if (!cut) line.assign(buffer_, at_, end - at_);
  at_ = std::min(end + 1, buffer_.size());
  ++line_;
  return true;
}

bool LineReader::next(std::string& line) {
  for (;;) {
    if (!input_) {
      if (file_ >= files_.size()) return false;
      line_ = 0;
      if (check_) check_(files_[file_]);
      input_ = std::make_unique<Input>(files_[file_]);
      for (; skip_ > 0; --skip_)
        NEREUS_CHECK(kConfig, next_of_file(line),
                     "{}: has {} lines, fewer than the run has read of it before: the data set has "
                     "changed",
                     file(), line_);
    }
    if (next_of_file(line)) return true;
    if (!next_file()) return false;
  }
}

bool LineReader::next_file() {
  if (file_ + 1 >= files_.size()) return false;
  ++file_;
  skip_ = 0;
  input_.reset();
  buffer_.clear();
  at_ = 0;
  return true;
}

}  // namespace nereus::data
