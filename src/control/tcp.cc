#include "control/tcp.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "base/check.h"

namespace nereus::tcp {
namespace {

using Addresses = std::unique_ptr<addrinfo, void (*)(addrinfo*)>;

// Empty, with the reason, when nobody knows the name.
Addresses resolve(const std::string& host, int port, std::string& reason) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int code = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (code != 0) reason = fmt::format("the name {} is not known ({})", host, gai_strerror(code));
  return {code == 0 ? found : nullptr, [](addrinfo* a) {
            if (a != nullptr) freeaddrinfo(a);
          }};
}

void no_delay(const Fd& fd) {
  const int on = 1;
  setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

std::string address_text(const sockaddr_storage& address) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address.ss_family == AF_INET6) {
    const auto& a = reinterpret_cast<const sockaddr_in6&>(address);
    if (IN6_IS_ADDR_V4MAPPED(&a.sin6_addr)) {
      inet_ntop(AF_INET, a.sin6_addr.s6_addr + 12, text, sizeof text);
    } else {
      inet_ntop(AF_INET6, &a.sin6_addr, text, sizeof text);
    }
  } else {
    inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in&>(address).sin_addr, text, sizeof text);
  }
  return text;
}

}  // namespace

void Fd::reset() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

Listener listen_at(int port) {
  Listener l;
  for (const int family : {AF_INET6, AF_INET}) {
    l.fd = Fd(socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!l.fd) continue;
    const int on = 1, off = 0;
    setsockopt(l.fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    sockaddr_storage address{};
    socklen_t size = sizeof(sockaddr_in);
    if (family == AF_INET6) {
      setsockopt(l.fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
      auto& a = reinterpret_cast<sockaddr_in6&>(address);
      a.sin6_family = AF_INET6;
      a.sin6_port = htons(static_cast<uint16_t>(port));
      size = sizeof a;
    } else {
      auto& a = reinterpret_cast<sockaddr_in&>(address);
      a.sin_family = AF_INET;
      a.sin_port = htons(static_cast<uint16_t>(port));
    }
    if (bind(l.fd.get(), reinterpret_cast<sockaddr*>(&address), size) == 0 &&
        listen(l.fd.get(), 8192) == 0) {
      getsockname(l.fd.get(), reinterpret_cast<sockaddr*>(&address), &size);
      l.port = ntohs(family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(address).sin6_port
                                        : reinterpret_cast<sockaddr_in&>(address).sin_port);
      return l;
    }
    if (errno == EADDRINUSE || errno == EACCES) break;
  }
  NEREUS_FAIL(kConfig,
              "port {} of this host ({}), where the ranks are to meet, cannot be used: {}.\n  "
              "Another run may have it: set MASTER_PORT to a free port, the same for all ranks.",
              port, host_name(), std::strerror(errno));
}

Fd accept_from(const Listener& listener) {
  Fd fd(accept4(listener.fd.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (fd) no_delay(fd);
  return fd;
}

Attempt connect_to(const std::string& host, int port, Clock::time_point deadline) {
  Attempt out;
  const Addresses addresses = resolve(host, port, out.reason);
  out.unknown_host = !addresses;
  for (const addrinfo* a = addresses.get(); a != nullptr; a = a->ai_next) {
    Fd fd(socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd) continue;
    int code = connect(fd.get(), a->ai_addr, a->ai_addrlen) == 0 ? 0 : errno;
    if (code == EINPROGRESS) {
      const auto left =
          std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
      pollfd p{fd.get(), POLLOUT, 0};
      socklen_t size = sizeof code;
      if (poll(&p, 1, static_cast<int>(std::clamp<int64_t>(left, 0, 1 << 30))) != 1) {
        code = ETIMEDOUT;
      } else {
        getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &code, &size);
      }
    }
    if (code == 0) {
      no_delay(fd);
      set_blocking(fd, true);
      out.fd = std::move(fd);
      return out;
    }
    out.reason = std::strerror(code);
  }
  return out;
}

bool is_this_host(const std::string& host) {
  std::string reason;
  const Addresses addresses = resolve(host, 0, reason);
  if (!addresses) return true;
  for (const addrinfo* a = addresses.get(); a != nullptr; a = a->ai_next) {
    const Fd fd(socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!fd || bind(fd.get(), a->ai_addr, a->ai_addrlen) == 0 || errno != EADDRNOTAVAIL)
      return true;
  }
  return false;
}

std::string host_name() {
  char name[256] = "";
  gethostname(name, sizeof name - 1);
  return name;
}

std::string local_address(const Fd& fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size);
  return address_text(address);
}

void set_blocking(const Fd& fd, bool blocking) {
  const int flags = fcntl(fd.get(), F_GETFL);
  fcntl(fd.get(), F_SETFL, blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK);
}

bool write_all(const Fd& fd, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
  return true;
}

long write_some(const Fd& fd, const std::byte* data, size_t bytes) {
  const ssize_t n = ::send(fd.get(), data, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (n >= 0) return n;
  return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? 0 : -1;
}

long read_some(const Fd& fd, std::byte* data, size_t bytes) {
  const ssize_t n = ::recv(fd.get(), data, bytes, MSG_DONTWAIT);
  if (n > 0) return n;
  if (n == 0) return -1;
  return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? 0 : -1;
}

Waker::Waker() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  NEREUS_CHECK(kComm, static_cast<bool>(fd_), "eventfd: {}", std::strerror(errno));
}

void Waker::wake() const {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = ::write(fd_.get(), &one, sizeof one);
}

void Waker::drain() const {
  uint64_t n = 0;
  [[maybe_unused]] const ssize_t got = ::read(fd_.get(), &n, sizeof n);
}

void allow_descriptors(int needed) {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  const auto wanted = static_cast<rlim_t>(needed);
  if (limit.rlim_cur >= wanted) return;
  NEREUS_CHECK(kConfig, limit.rlim_max >= wanted,
               "{} open files are needed for the connections of all ranks; this process may have "
               "{} (ulimit -Hn). Raise the limit on rank 0's host.",
               needed, limit.rlim_max);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace nereus::tcp
