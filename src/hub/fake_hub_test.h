// A hub on loopback with one repository, for tests.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "hub/http_server_test.h"
#include "hub/repository.h"

namespace nereus::hub {

struct FakeFile {
  std::string bytes;
  bool lfs = false;
};

class FakeHub {
 public:
  explicit FakeHub(std::map<std::string, FakeFile> files);

  HubSettings settings(const std::string& token = "") const {
    return {.endpoint = server->url(), .token = token};
  }
  std::string resolve(const std::string& path) const;  // the target of a file's address

  // Asked first; an answer with status 0 means that the hub answers itself.
  std::function<TestAnswer(const TestRequest&)> before;
  size_t page = 1000;  // entries of a page of the list
  std::map<std::string, FakeFile> files;
  std::unique_ptr<TestServer> server;

 private:
  TestAnswer answer(const TestRequest& request);
  TestAnswer list(const std::string& target);
};

}  // namespace nereus::hub
