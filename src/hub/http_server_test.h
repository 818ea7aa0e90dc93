// A small HTTP server on loopback, for tests: what it answers is a function of the request, and it
// can break off in the middle.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace nereus::hub {

struct TestRequest {
  std::string target;                          // path and query
  std::map<std::string, std::string> headers;  // names in small letters
  std::string header(const std::string& name) const {
    const auto it = headers.find(name);
    return it == headers.end() ? "" : it->second;
  }
};

struct TestAnswer {
  int status = 200;
  std::vector<std::string> headers;  // "Name: value"
  std::string body;
  int64_t cut_after = -1;  // bytes of the body, then the connection is closed
};

// `file` as a server with ranges answers the request.
TestAnswer serve_range(const TestRequest& request, const std::string& file);

class TestServer {
 public:
  using Handler = std::function<TestAnswer(const TestRequest&)>;
  explicit TestServer(Handler handler);
  ~TestServer();
  TestServer(const TestServer&) = delete;
  TestServer& operator=(const TestServer&) = delete;

  std::string url() const;  // http://127.0.0.1:PORT
  int port() const { return port_; }
  std::vector<TestRequest> requests() const;
  // How many of them were for this path (and query).
  int count(const std::string& target) const;

 private:
  void accept_loop();
  void serve(int fd);

  Handler handler_;
  int listener_ = -1, port_ = 0;
  std::atomic<bool> stop_{false};
  mutable std::mutex mutex_;
  std::vector<TestRequest> requests_;
  std::vector<std::thread> workers_;
  std::thread acceptor_;
};

}  // namespace nereus::hub
