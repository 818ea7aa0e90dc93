#include "hub/download.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "hub/fake_hub_test.h"

namespace nereus::hub {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

std::string read(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::string text_of(size_t n) {
  std::string s(n, '\0');
  for (size_t i = 0; i < n; ++i) s[i] = static_cast<char>('a' + i * i % 23);
  return s;
}

class Download : public testing::Test {
 protected:
  Download()
      : folder_(fs::path(testing::TempDir()) /
                (std::string("hub_") +
                 testing::UnitTest::GetInstance()->current_test_info()->name() +
                 std::to_string(getpid()))) {
    fs::remove_all(folder_);
  }
  ~Download() override {
    std::error_code error;
    fs::remove_all(folder_, error);
  }

  DownloadRequest request(std::vector<std::string> include = {"*"}) const {
    return {.repository = {.name = "owner/name"},
            .folder = folder_.string(),
            .include = std::move(include),
            .retry = {.attempts = 3, .first_seconds = 0.001, .longest_seconds = 0.002}};
  }
  void get(const HubSettings& s, const DownloadRequest& r) {
    progress_ = {};
    run_download(s, r, plan_download(s, r), [&](const DownloadProgress& p) { progress_ = p; });
  }
  std::string refusal(const HubSettings& s, const DownloadRequest& r, Fault fault) {
    try {
      get(s, r);
    } catch (const Error& e) {
      EXPECT_EQ(e.fault(), fault) << e.what();
      return e.what();
    }
    return "no error";
  }
  // No partial file, nothing but `names`.
  void expect_files(const std::vector<std::string>& names) {
    std::vector<std::string> found;
    for (const auto& e : fs::recursive_directory_iterator(folder_))
      if (e.is_regular_file()) found.push_back(fs::relative(e.path(), folder_).string());
    EXPECT_THAT(found, testing::UnorderedElementsAreArray(names));
  }

  fs::path folder_;
  DownloadProgress progress_;
};

std::map<std::string, FakeFile> some_files() {
  return {{"README.md", {"read me", false}},
          {"config.json", {"{}", false}},
          {"empty", {"", false}},
          {"en/c4-train.00000-of-01024.json.gz", {text_of(300'000), true}},
          {"en/c4-train.00001-of-01024.json.gz", {text_of(200'001), true}},
          {"other/x y+z.bin", {text_of(77), true}}};
}

TEST_F(Download, BringsEveryFileUnderItsOwnPath) {
  FakeHub hub(some_files());
  hub.page = 2;  // the list has three pages
  get(hub.settings(), request());
  for (const auto& [path, file] : hub.files) EXPECT_EQ(read(folder_ / path), file.bytes) << path;
  EXPECT_EQ(progress_.files, 6u);
  EXPECT_EQ(progress_.bytes, progress_.of_bytes);
  EXPECT_EQ(progress_.bytes, 7 + 2 + 300'000 + 200'001 + 77);
  expect_files({"README.md", "config.json", "empty", "en/c4-train.00000-of-01024.json.gz",
                "en/c4-train.00001-of-01024.json.gz", "other/x y+z.bin"});
}

TEST_F(Download, TakesWhatMatches) {
  FakeHub hub(some_files());
  DownloadRequest r = request({"en/*", "README.md"});
  r.exclude = {"*00000*"};
  get(hub.settings(), r);
  expect_files({"README.md", "en/c4-train.00001-of-01024.json.gz"});
  // Only the folders that the patterns name were listed.
  for (const TestRequest& asked : hub.server->requests())
    EXPECT_THAT(asked.target, Not(HasSubstr("other")));
}

TEST_F(Download, WhatIsThereIsNotFetchedAgain) {
  FakeHub hub(some_files());
  get(hub.settings(), request());
  const size_t before = hub.server->requests().size();
  const DownloadPlan plan = plan_download(hub.settings(), request());
  EXPECT_TRUE(plan.missing.empty());
  EXPECT_EQ(hub.server->requests().size(), before + 2);  // the commit and the list
  // Changed on disk, same size: found by its checksum, and fetched.
  std::ofstream(folder_ / "config.json") << "[]";
  get(hub.settings(), request());
  EXPECT_EQ(read(folder_ / "config.json"), "{}");
  EXPECT_EQ(progress_.files, 1u);
}

TEST_F(Download, APartialFileIsTakenUpWhereItEnded) {
  FakeHub hub(some_files());
  const std::string path = "en/c4-train.00000-of-01024.json.gz";
  hub.before = [&](const TestRequest& r) -> TestAnswer {
    if (r.target != hub.resolve(path)) return {.status = 0};
    TestAnswer a = serve_range(r, hub.files[path].bytes);
    a.cut_after = 100'000;
    return a;
  };
  get(hub.settings(), request({path}));
  EXPECT_EQ(read(folder_ / path), hub.files[path].bytes);
  std::vector<std::string> ranges;
  for (const TestRequest& r : hub.server->requests())
    if (r.target == hub.resolve(path)) ranges.push_back(r.header("range"));
  EXPECT_THAT(ranges, ElementsAre("", "bytes=100000-", "bytes=200000-"));
}

TEST_F(Download, ALaterCallTakesUpAPartialFileToo) {
  FakeHub hub(some_files());
  const std::string path = "en/c4-train.00001-of-01024.json.gz";
  bool broken = true;
  hub.before = [&](const TestRequest& r) -> TestAnswer {
    if (r.target != hub.resolve(path)) return {.status = 0};
    if (!broken) return serve_range(r, hub.files[path].bytes);
    if (!r.header("range").empty()) return {.status = 503};
    return {.body = hub.files[path].bytes, .cut_after = 150'000};
  };
  EXPECT_EQ(refusal(hub.settings(), request({path}), Fault::kComm),
            path +
                ": 150.0 kB of 200.0 kB came, and 3 attempts in a row gave nothing more: HTTP "
                "503 of 127.0.0.1.\n  What came is kept: run the same command again.");
  EXPECT_FALSE(fs::exists(folder_ / path));
  broken = false;
  const DownloadPlan plan = plan_download(hub.settings(), request({path}));
  EXPECT_EQ(plan.missing_bytes, 50'001);
  get(hub.settings(), request({path}));
  EXPECT_EQ(read(folder_ / path), hub.files[path].bytes);
  EXPECT_EQ(hub.server->requests().back().header("range"), "bytes=150000-");
  expect_files({path});
}

TEST_F(Download, AServerWithoutRangesStartsAnew) {
  FakeHub hub(some_files());
  const std::string path = "en/c4-train.00000-of-01024.json.gz";
  int calls = 0;
  hub.before = [&](const TestRequest& r) -> TestAnswer {
    if (r.target != hub.resolve(path)) return {.status = 0};
    return {.body = hub.files[path].bytes, .cut_after = ++calls == 1 ? 1000 : -1};
  };
  get(hub.settings(), request({path}));
  EXPECT_EQ(read(folder_ / path), hub.files[path].bytes);
  EXPECT_EQ(progress_.bytes, progress_.of_bytes);
}

TEST_F(Download, ABrokenPartialFileIsFetchedOnceMore) {
  FakeHub hub(some_files());
  const std::string path = "en/c4-train.00000-of-01024.json.gz";
  const std::string digest =
      plan_download(hub.settings(), request({path})).files.at(0).digest.substr(0, 12);
  fs::create_directories(folder_ / "en");
  std::ofstream(folder_ / (path + "." + digest + ".partial")) << std::string(1000, '?');
  get(hub.settings(), request({path}));
  EXPECT_EQ(read(folder_ / path), hub.files[path].bytes);
}

TEST_F(Download, AWrongChecksumIsAnErrorAndLeavesNothing) {
  FakeHub hub(some_files());
  for (const std::string path : {"en/c4-train.00000-of-01024.json.gz", "config.json"}) {
    hub.before = [&](const TestRequest& r) -> TestAnswer {
      if (r.target != hub.resolve(path)) return {.status = 0};
      return {.body = std::string(hub.files[path].bytes.size(), '!')};
    };
    const std::string text = refusal(hub.settings(), request({path}), Fault::kIo);
    EXPECT_THAT(text, HasSubstr(path + ": its checksum is "));
    EXPECT_THAT(text, HasSubstr("it was downloaded twice.\n  Something on the way changes it (a "
                                "proxy, a mirror: HF_ENDPOINT)."));
    expect_files({});
  }
}

TEST_F(Download, MoreBytesThanListedAreRefused) {
  FakeHub hub(some_files());
  hub.before = [&](const TestRequest& r) -> TestAnswer {
    if (r.target != hub.resolve("config.json")) return {.status = 0};
    return {.body = "{}}"};
  };
  EXPECT_EQ(refusal(hub.settings(), request({"config.json"}), Fault::kComm),
            "config.json: more than the 2 bytes come that the hub's list says");
}

TEST_F(Download, BusyServersAreAskedAgain) {
  FakeHub hub(some_files());
  std::map<std::string, int> seen;
  std::mutex mutex;
  hub.before = [&](const TestRequest& r) -> TestAnswer {
    const std::lock_guard lock(mutex);
    const int n = ++seen[r.target];
    return {.status = n == 1 ? 429 : (n == 2 ? 502 : 0)};
  };
  get(hub.settings(), request());
  EXPECT_EQ(progress_.files, 6u);
}

TEST_F(Download, TheTokenIsSentAndNowhereWritten) {
  FakeHub hub(some_files());
  get(hub.settings("hf_secret"), request());
  for (const TestRequest& r : hub.server->requests())
    EXPECT_EQ(r.header("authorization"), "Bearer hf_secret");
  for (const auto& e : fs::recursive_directory_iterator(folder_))
    EXPECT_THAT(e.is_regular_file() ? read(e.path()) : "", Not(HasSubstr("hf_secret")));
}

TEST_F(Download, RefusalsSayWhatToDo) {
  FakeHub hub(some_files());
  const std::string url = hub.server->url();
  const auto answer = [&](int status, const std::string& code, const std::string& token) {
    hub.before = [=](const TestRequest&) -> TestAnswer {
      return {.status = status, .headers = {"X-Error-Code: " + code}};
    };
    return refusal(hub.settings(token), request(), Fault::kConfig);
  };
  EXPECT_EQ(answer(401, "GatedRepo", ""),
            "owner/name, revision main: owner/name is gated or private, or there is no such "
            "repository (HTTP 401), and HF_TOKEN is not set.\n  Accept its terms at " +
                url + "/owner/name if it has any, make a token at " + url +
                "/settings/tokens, export HF_TOKEN=..., and run this again.");
  const std::string refused = answer(401, "", "hf_secret");
  EXPECT_EQ(refused,
            "owner/name, revision main: the hub rejected HF_TOKEN (HTTP 401: invalid or "
            "expired).\n  Make a new one at " +
                url +
                "/settings/tokens. Without a token owner/name is not to be had either: it "
                "is gated or private, or its name is another (look at " +
                url + "/owner/name).");
  // A public repository needs none.
  hub.before = [](const TestRequest& r) -> TestAnswer {
    return {.status = r.header("authorization").empty() ? 0 : 401};
  };
  EXPECT_EQ(refusal(hub.settings("hf_secret"), request(), Fault::kConfig),
            "owner/name, revision main: the hub rejected HF_TOKEN (HTTP 401: invalid or expired).\n"
            "  Make a new one at " +
                url + "/settings/tokens, or unset it: owner/name is public.");
  EXPECT_EQ(answer(403, "GatedRepo", "hf_secret"),
            "owner/name, revision main: access to owner/name is refused (HTTP 403, GatedRepo).\n  "
            "The owner of HF_TOKEN must accept the terms at " +
                url +
                "/owner/name; a fine-grained token also needs the right to read this repository.");
  EXPECT_EQ(
      answer(404, "RepoNotFound", ""),
      "owner/name, revision main: the hub has no owner/name (HTTP 404).\n  Check the spelling "
      "at " +
          url + "/owner/name (hub: " + url + ", from HF_ENDPOINT).");
  hub.before = {};
  DownloadRequest r = request();
  r.repository.revision = "v9";
  EXPECT_EQ(refusal(hub.settings(), r, Fault::kConfig),
            "owner/name, revision v9: owner/name has no revision v9 (HTTP 404); " + url +
                "/owner/name/tree/main lists them.");
  EXPECT_EQ(refusal(hub.settings(), request({"vocab.json"}), Fault::kConfig),
            "owner/name at main has no file vocab.json");
  EXPECT_EQ(refusal(hub.settings(), request({"*.bin.xz", "en/*.txt"}), Fault::kConfig),
            "owner/name at main has no file that matches *.bin.xz, en/*.txt");
}

// The hub leads to a store by links that expire. A 403 of the store is not the hub's: it is asked
// for a new link; a 403 of the hub itself is the repository's.
TEST_F(Download, AnExpiredLinkIsAskedForAgain) {
  const std::string bytes = text_of(5000);
  FakeHub hub({{"a.bin", {bytes, true}}});
  int asked = 0;
  bool gives_in = true;
  TestServer store([&](const TestRequest& r) -> TestAnswer {
    if (r.target == "/link/1" || !gives_in) return {.status = 403, .body = "Request has expired"};
    return serve_range(r, bytes);
  });
  hub.before = [&](const TestRequest& r) -> TestAnswer {
    if (r.target != hub.resolve("a.bin")) return {.status = 0};
    return {.status = 302,
            .headers = {"Location: " + store.url() + "/link/" + std::to_string(++asked)}};
  };
  get(hub.settings("hf_secret"), request());
  EXPECT_EQ(read(folder_ / "a.bin"), bytes);
  EXPECT_EQ(asked, 2);
  gives_in = false;
  fs::remove(folder_ / "a.bin");
  EXPECT_EQ(
      refusal(hub.settings(), request(), Fault::kComm),
      "a.bin: 127.0.0.1 refuses the link that the hub gives (HTTP 403), 3 times in a row.\n  "
      "What came is kept: run the same command again; a proxy or firewall may be in the way.");
}

TEST_F(Download, NoNetworkIsSaid) {
  HubSettings settings;
  {
    const FakeHub gone(some_files());
    settings = gone.settings();
  }
  EXPECT_THAT(refusal(settings, request(), Fault::kComm),
              AllOf(HasSubstr("owner/name, revision main: cannot be fetched: 127.0.0.1: "
                              "Failed to connect"),
                    HasSubstr("run the command on a login node")));
}

TEST_F(Download, AListThatLeavesTheFolderIsRefused) {
  for (const char* path : {"../x", "/etc/x", "a/../../x", "a//b", ""}) {
    FakeHub hub({{path, {"x", false}}});
    EXPECT_THAT(refusal(hub.settings(), request(), Fault::kComm),
                HasSubstr("which is no place below a folder: nothing of it is taken"));
  }
}

TEST_F(Download, WhatIsNotAHubIsSaid) {
  FakeHub hub({});
  hub.before = [](const TestRequest&) { return TestAnswer{.body = "<html>sign in</html>"}; };
  EXPECT_EQ(refusal(hub.settings(), request(), Fault::kComm),
            "owner/name: 127.0.0.1 does not answer as a Hugging Face hub; check HF_ENDPOINT");
}

TEST_F(Download, AFolderThatCannotBeWrittenToIsNamed) {
  FakeHub hub(some_files());
  fs::create_directories(folder_);
  std::ofstream(folder_ / "file") << "x";
  DownloadRequest r = request();
  r.folder = (folder_ / "file" / "below").string();
  EXPECT_THAT(refusal(hub.settings(), r, Fault::kConfig),
              HasSubstr("below: cannot be made or opened: Not a directory. Choose a folder that "
                        "you may write to."));
}

// A limit on the length of files stands for a full disk: both are errors of write().
TEST_F(Download, AFullDiskKeepsWhatCame) {
  FakeHub hub(some_files());
  const std::string path = "en/c4-train.00000-of-01024.json.gz";
  const auto old_action = std::signal(SIGXFSZ, SIG_IGN);
  rlimit old{};
  getrlimit(RLIMIT_FSIZE, &old);
  const rlimit small{.rlim_cur = 120'000, .rlim_max = old.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  const std::string text = refusal(hub.settings(), request({path}), Fault::kIo);
  setrlimit(RLIMIT_FSIZE, &old);
  EXPECT_THAT(text, HasSubstr("longer than this session may write (ulimit -f): File too large. "
                              "What came is kept: make space and run the same command again."));
  EXPECT_EQ(plan_download(hub.settings(), request({path})).missing_bytes, 180'000);
  get(hub.settings(), request({path}));
  EXPECT_EQ(read(folder_ / path), hub.files[path].bytes);
  std::signal(SIGXFSZ, old_action);
}

TEST_F(Download, TooLittleSpaceIsSaidBeforehand) {
  FakeHub hub({});
  hub.before = [&](const TestRequest& r) -> TestAnswer {
    if (r.target.find("/tree/") == std::string::npos) return {.status = 0};
    return {.body = R"([{"type":"file","path":"big","size":4000000000000000000,"oid":")" +
                    std::string(40, 'a') + "\"}]"};
  };
  EXPECT_THAT(
      refusal(hub.settings(), request(), Fault::kConfig),
      AllOf(HasSubstr(": 4000000000.0 GB are to be downloaded there, and its file system "
                      "has "),
            HasSubstr(" free. Choose another folder, make space, or ask for fewer files.")));
  EXPECT_FALSE(fs::exists(folder_));
}

TEST_F(Download, TwoAtOnceInAFolderAreRefused) {
  FakeHub hub(some_files());
  std::string second;
  std::atomic<bool> asked = false;
  hub.before = [&](const TestRequest& r) -> TestAnswer {
    if (r.target == hub.resolve("config.json") && !asked.exchange(true))
      second = refusal(hub.settings(), request({"README.md"}), Fault::kConfig);
    return {.status = 0};
  };
  DownloadRequest r = request({"config.json"});
  get(hub.settings(), r);
  EXPECT_THAT(second, HasSubstr("another `nereus download` is at work there. Wait for its end."));
}

}  // namespace
}  // namespace nereus::hub
