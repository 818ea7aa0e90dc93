#include "data/gunzip.h"

#ifdef NEREUS_HAVE_ISAL
#include <isa-l/igzip_lib.h>
#else
#include <zlib.h>
#endif

#include <algorithm>
#include <cstdint>
#include <limits>

#include "base/check.h"

namespace nereus::data {
namespace {

constexpr size_t kMost = std::numeric_limits<uint32_t>::max() / 2;  // bytes a call of the libraries

struct Progress {
  size_t taken = 0, written = 0;
  bool ended = false;  // the member's checksum has been read and is right
  int error = 0;
};

}  // namespace

#ifdef NEREUS_HAVE_ISAL

struct Gunzip::State {
  void start() {
    isal_inflate_init(&state);
    state.crc_flag = ISAL_GZIP;
  }
  Progress run(const std::byte* in, size_t available, std::byte* out, size_t room) {
    state.next_in = const_cast<uint8_t*>(reinterpret_cast<const uint8_t*>(in));
    state.avail_in = static_cast<uint32_t>(available);
    state.next_out = reinterpret_cast<uint8_t*>(out);
    state.avail_out = static_cast<uint32_t>(room);
    const int code = isal_inflate(&state);
    return {.taken = available - state.avail_in,
            .written = room - state.avail_out,
            .ended = state.block_state == ISAL_BLOCK_FINISH,
            .error = code < 0 ? code : 0};  // positive: wants more of one or the other
  }
  inflate_state state;
};

#else

struct Gunzip::State {
  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() {
    if (started) inflateEnd(&state);
  }
  void start() {
    if (started) inflateEnd(&state);
    state = z_stream{};
    NEREUS_CHECK(kContract, inflateInit2(&state, 15 + 16) == Z_OK, "zlib: inflateInit2 failed");
    started = true;
  }
  Progress run(const std::byte* in, size_t available, std::byte* out, size_t room) {
    state.next_in = const_cast<Bytef*>(reinterpret_cast<const Bytef*>(in));
    state.avail_in = static_cast<uInt>(available);
    state.next_out = reinterpret_cast<Bytef*>(out);
    state.avail_out = static_cast<uInt>(room);
    const int code = inflate(&state, Z_NO_FLUSH);
    const bool fine = code == Z_OK || code == Z_STREAM_END || code == Z_BUF_ERROR;
    return {.taken = available - state.avail_in,
            .written = room - state.avail_out,
            .ended = code == Z_STREAM_END,
            .error = fine ? 0 : code};
  }
  z_stream state{};
  bool started = false;
};

#endif

Gunzip::Gunzip(std::string path) : state_(std::make_unique<State>()), path_(std::move(path)) {}
Gunzip::~Gunzip() = default;

size_t Gunzip::run(std::span<const std::byte>& in, std::span<std::byte> out) {
  size_t written = 0;
  while (written < out.size()) {
    if (!within_) {
      while (any_ && !in.empty() && in.front() == std::byte{0}) in = in.subspan(1), ++taken_;
      if (in.empty()) break;
      state_->start();
      any_ = within_ = true;
    }
    // Called without input too: the library may hold output for which there was no space before.
    const Progress p = state_->run(in.data(), std::min(in.size(), kMost), out.data() + written,
                                   std::min(out.size() - written, kMost));
    NEREUS_CHECK(kIo, p.error == 0,
                 "{}: is not a gz file or is corrupt, near byte {} (code {}). Download or copy it "
                 "again.",
                 path_, taken_ + static_cast<int64_t>(p.taken), p.error);
    in = in.subspan(p.taken);
    taken_ += static_cast<int64_t>(p.taken);
    written += p.written;
    within_ = !p.ended;
    if (p.taken == 0 && p.written == 0 && within_) break;
  }
  return written;
}

void Gunzip::finish() const {
  NEREUS_CHECK(kIo, any_ && !within_,
               "{}: is truncated: the compressed data end in the middle, after {} bytes. Download "
               "or copy it again.",
               path_, taken_);
}

}  // namespace nereus::data
