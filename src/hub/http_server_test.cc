#include "hub/http_server_test.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

#include "base/text.h"

namespace nereus::hub {
namespace {

void send_all(int fd, const std::string& bytes) {
  for (size_t sent = 0; sent < bytes.size();) {
    const ssize_t n = ::send(fd, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (n <= 0) return;
    sent += static_cast<size_t>(n);
  }
}

}  // namespace

TestAnswer serve_range(const TestRequest& request, const std::string& file) {
  const std::string range = request.header("range");
  if (range.empty()) return {.body = file};
  const size_t from = std::strtoull(range.c_str() + 6, nullptr, 10);  // "bytes=N-"
  if (from >= file.size()) return {.status = 416};
  return {.status = 206,
          .headers = {"Content-Range: bytes " + std::to_string(from) + "-" +
                      std::to_string(file.size() - 1) + "/" + std::to_string(file.size())},
          .body = file.substr(from)};
}

TestServer::TestServer(Handler handler) : handler_(std::move(handler)) {
  listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  if (::bind(listener_, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      ::listen(listener_, 64) != 0 ||
      ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) != 0)
    throw std::runtime_error("the test server cannot listen on loopback");
  port_ = ntohs(address.sin_port);
  acceptor_ = std::thread([this] { accept_loop(); });
}

TestServer::~TestServer() {
  stop_ = true;
  acceptor_.join();
  for (std::thread& t : workers_) t.join();
  ::close(listener_);
}

void TestServer::accept_loop() {
  while (!stop_) {
    pollfd p{.fd = listener_, .events = POLLIN, .revents = 0};
    if (::poll(&p, 1, 20) <= 0) continue;
    const int fd = ::accept(listener_, nullptr, nullptr);
    if (fd >= 0) workers_.emplace_back([this, fd] { serve(fd); });
  }
}

// One request a connection.
void TestServer::serve(int fd) {
  std::string text;
  char buffer[4096];
  while (text.find("\r\n\r\n") == std::string::npos) {
    pollfd p{.fd = fd, .events = POLLIN, .revents = 0};
    if (stop_ || ::poll(&p, 1, 5000) <= 0) break;
    const ssize_t n = ::recv(fd, buffer, sizeof buffer, 0);
    if (n <= 0) break;
    text.append(buffer, static_cast<size_t>(n));
  }
  TestRequest request;
  const size_t space = text.find(' ');
  if (text.find("\r\n\r\n") != std::string::npos && space != std::string::npos) {
    request.target = text.substr(space + 1, text.find(' ', space + 1) - space - 1);
    for (size_t line = text.find("\r\n") + 2; text.compare(line, 2, "\r\n") != 0;) {
      const size_t end = text.find("\r\n", line), colon = text.find(": ", line);
      request.headers[lower(text.substr(line, colon - line))] =
          text.substr(colon + 2, end - colon - 2);
      line = end + 2;
    }
    {
      const std::lock_guard lock(mutex_);
      requests_.push_back(request);
    }
    const TestAnswer answer = handler_(request);
    std::string head = "HTTP/1.1 " + std::to_string(answer.status) + " x\r\nConnection: close\r\n";
    head += "Content-Length: " + std::to_string(answer.body.size()) + "\r\n";
    for (const std::string& h : answer.headers) head += h + "\r\n";
    const bool cut = answer.cut_after >= 0;
    send_all(
        fd, head + "\r\n" +
                (cut ? answer.body.substr(0, static_cast<size_t>(answer.cut_after)) : answer.body));
  }
  ::close(fd);
}

std::string TestServer::url() const { return "http://127.0.0.1:" + std::to_string(port_); }

std::vector<TestRequest> TestServer::requests() const {
  const std::lock_guard lock(mutex_);
  return requests_;
}

int TestServer::count(const std::string& target) const {
  const std::lock_guard lock(mutex_);
  return static_cast<int>(std::count_if(requests_.begin(), requests_.end(),
                                        [&](const TestRequest& r) { return r.target == target; }));
}

}  // namespace nereus::hub
