// TCP connections between ranks: what the control plane and the sockets communicator share.
// Descriptors are closed by exec and never raise SIGPIPE.
#pragma once

#include <chrono>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace nereus::tcp {

using Clock = std::chrono::steady_clock;

class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() { reset(); }
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  void reset();

 private:
  int fd_ = -1;
};

struct Listener {
  Fd fd;  // non-blocking
  int port = 0;
};

// All addresses of this host, IPv6 and IPv4. Port 0: a free one. Throws Error{kConfig} when the
// port is in use or not allowed.
Listener listen_at(int port);

// The next connection, non-blocking; none when nobody waits.
Fd accept_from(const Listener&);

// One try at each address that `host` has. On failure the descriptor is empty, and `reason` says
// why; `unknown_host` says that the name cannot be resolved.
struct Attempt {
  Fd fd;  // blocking
  std::string reason;
  bool unknown_host = false;
};
Attempt connect_to(const std::string& host, int port, Clock::time_point deadline);

// Is one of the addresses of `host` an address of this host? True also when nobody knows.
bool is_this_host(const std::string& host);

// This host's name, and its address as the other side of `fd` would have to dial it.
std::string host_name();
std::string local_address(const Fd& fd);

void set_blocking(const Fd&, bool blocking);
// Blocking; false when the other side is gone.
bool write_all(const Fd&, std::span<const std::byte>);
inline bool write_all(const Fd& fd, std::string_view s) {
  return write_all(fd, std::as_bytes(std::span(s.data(), s.size())));
}

// Non-blocking: bytes moved, 0 when there is nothing to do now, -1 when the other side is gone.
long write_some(const Fd&, const std::byte* data, size_t bytes);
long read_some(const Fd&, std::byte* data, size_t bytes);

// Wakes a thread that polls fd().
class Waker {
 public:
  Waker();
  int fd() const { return fd_.get(); }
  void wake() const;
  void drain() const;

 private:
  Fd fd_;
};

// Lets this process have as many descriptors as its hard limit allows. Throws Error{kConfig} when
// these are fewer than `needed`.
void allow_descriptors(int needed);

}  // namespace nereus::tcp
