#include "hub/http.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>

#include "base/check.h"
#include "base/log.h"
#include "hub/http_server_test.h"

namespace nereus::hub {
namespace {

using testing::HasSubstr;
using testing::Not;

class Environment {
 public:
  Environment(const char* endpoint, const char* token) {
    setenv("HF_ENDPOINT", endpoint, 1);
    setenv("HF_TOKEN", token, 1);
  }
  ~Environment() {
    unsetenv("HF_ENDPOINT");
    unsetenv("HF_TOKEN");
  }
};

std::string refusal(const char* endpoint, const char* token) {
  const Environment environment(endpoint, token);
  try {
    HubSettings::from_environment();
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::kConfig);
    return e.what();
  }
  return "no error";
}

TEST(HubSettings, ComeFromTheEnvironment) {
  EXPECT_EQ(HubSettings::from_environment().endpoint, "https://huggingface.co");
  const Environment environment("https://mirror.example/hf//", " hf_abc\n");
  const HubSettings s = HubSettings::from_environment();
  EXPECT_EQ(s.endpoint, "https://mirror.example/hf");
  EXPECT_EQ(s.token, "hf_abc");
}

TEST(HubSettings, RefuseWhatCannotBeUsed) {
  EXPECT_EQ(refusal("huggingface.co", ""),
            "HF_ENDPOINT: it must be the hub's address alone, like https://huggingface.co; unset "
            "it for that one");
  EXPECT_THAT(refusal("https://me:secret@hub", ""), Not(HasSubstr("secret")));
  EXPECT_THAT(refusal("", "hf_a b"),
              AllOf(HasSubstr("HF_TOKEN: has a blank"), Not(HasSubstr("hf_a"))));
}

TEST(HubSettings, TheTokenIsNotSentUnencrypted) {
  const log::Capture capture;
  const Environment environment("http://mirror.example", "hf_abc");
  EXPECT_EQ(HubSettings::from_environment().token, "");
  EXPECT_THAT(capture.text(),
              AllOf(HasSubstr("http://mirror.example is not encrypted"), Not(HasSubstr("hf_abc"))));
}

TEST(HubSettings, TheTokenIsSentUnencryptedToThisMachineAlone) {
  for (const char* host : {"127.0.0.1", "127.1.2.3", "[::1]", "localhost"}) {
    EXPECT_TRUE(is_loopback(host)) << host;
    const Environment environment(fmt::format("http://{}:8080", host).c_str(), "hf_abc");
    EXPECT_EQ(HubSettings::from_environment().token, "hf_abc") << host;
  }
  for (const char* host :
       {"127.evil.com", "127.0.0.1.evil.com", "127.0.0.256", "localhost.evil.com", "evil.localhost",
        "[::2]", "128.0.0.1", "127.", ""})
    EXPECT_FALSE(is_loopback(host)) << host;
  const log::Capture capture;
  const Environment environment("http://127.evil.com", "hf_abc");
  EXPECT_EQ(HubSettings::from_environment().token, "");
  EXPECT_THAT(capture.text(), HasSubstr("HF_ENDPOINT = http://127.evil.com is not encrypted"));
}

TEST(Origin, IsSchemeHostAndPort) {
  EXPECT_EQ(origin("https://Hub.example/a?b"), "https://hub.example:443");
  EXPECT_EQ(origin("https://hub.example:443"), "https://hub.example:443");
  EXPECT_EQ(origin("http://hub.example/x:1"), "http://hub.example:80");
  EXPECT_NE(origin("https://hub.example:8443/"), origin("https://hub.example/"));
  EXPECT_EQ(host_of("http://[::1]:80/x"), "[::1]");
}

// Another origin is another port of the same host here.
TEST(HttpClient, TheTokenStaysWithTheHubsOrigin) {
  TestServer elsewhere([](const TestRequest&) { return TestAnswer{.body = "content"}; });
  TestServer hub([&](const TestRequest& r) -> TestAnswer {
    if (r.target == "/renamed") return {.status = 307, .headers = {"Location: /file"}};
    return {.status = 302,
            .headers = {"Location: " + elsewhere.url() + "/storage?signature=1"},
            .body = "moved"};
  });
  HttpClient client({.endpoint = hub.url(), .token = "hf_abc"});
  const HttpReply reply = client.get(hub.url() + "/renamed");
  EXPECT_TRUE(reply.ok());
  EXPECT_EQ(reply.body, "content");
  for (const TestRequest& r : hub.requests()) EXPECT_EQ(r.header("authorization"), "Bearer hf_abc");
  EXPECT_EQ(hub.requests().size(), 2u);
  ASSERT_EQ(elsewhere.requests().size(), 1u);
  EXPECT_EQ(elsewhere.requests()[0].headers.count("authorization"), 0u);
  EXPECT_EQ(elsewhere.requests()[0].target, "/storage?signature=1");
}

TEST(HttpClient, NoProxyStandsBeforeThisMachine) {
  TestServer proxy([](const TestRequest&) -> TestAnswer { return {.body = "the proxy"}; });
  TestServer hub([](const TestRequest&) -> TestAnswer { return {.body = "the hub"}; });
  setenv("http_proxy", proxy.url().c_str(), 1);
  HttpClient client({.endpoint = hub.url(), .token = "hf_abc"});
  EXPECT_EQ(client.get(hub.url()).body, "the hub");
  unsetenv("http_proxy");
  EXPECT_EQ(proxy.requests().size(), 0u);
}

TEST(HttpClient, FollowsTenRedirectsAndNoMore) {
  TestServer hub([](const TestRequest&) -> TestAnswer {
    return {.status = 302, .headers = {"Location: /again"}};
  });
  HttpClient client({.endpoint = hub.url()});
  const HttpReply reply = client.get(hub.url());
  EXPECT_EQ(reply.failure, "127.0.0.1: more than 10 redirects");
  EXPECT_TRUE(reply.lasting);
  EXPECT_EQ(hub.requests().size(), 11u);
}

TEST(HttpClient, DoesNotLeaveHttp) {
  TestServer hub([](const TestRequest&) -> TestAnswer {
    return {.status = 302, .headers = {"Location: file:///etc/hostname"}};
  });
  HttpClient client({.endpoint = hub.url()});
  const HttpReply reply = client.get(hub.url());
  EXPECT_EQ(reply.failure, "127.0.0.1: leads to what is not HTTP");
  EXPECT_EQ(reply.body, "");
}

TEST(HttpClient, AFailureIsAValueThatNamesTheHost) {
  std::string url;
  {
    const TestServer gone([](const TestRequest&) { return TestAnswer{}; });
    url = gone.url();
  }
  HttpClient client({.endpoint = url});
  const HttpReply reply = client.get(url);
  EXPECT_EQ(reply.status, 0);
  EXPECT_THAT(reply.failure, testing::StartsWith("127.0.0.1: Failed to connect"));
  TestServer refuses(
      [](const TestRequest&) -> TestAnswer { return {.status = 503, .body = "later"}; });
  HttpClient other({.endpoint = refuses.url()});
  std::string sunk;
  const HttpReply no = other.get(refuses.url(), 0, {}, [&](std::span<const std::byte> bytes) {
    sunk.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  });
  EXPECT_EQ(no.outcome(), "HTTP 503 of 127.0.0.1");
  EXPECT_EQ(no.body, "later");
  EXPECT_EQ(sunk, "");
}

TEST(HttpClient, WhatTheSinkThrowsComesOut) {
  TestServer hub([](const TestRequest&) -> TestAnswer { return {.body = "content"}; });
  HttpClient client({.endpoint = hub.url()});
  EXPECT_THROW(client.get(hub.url(), 0, {}, [](auto) { throw 7; }), int);
  EXPECT_EQ(client.get(hub.url()).body, "content");  // and the client goes on
}

TEST(HttpClient, AStalledServerIsAFailure) {
  std::atomic<bool> stop = false;
  TestServer hub([&](const TestRequest&) -> TestAnswer {
    while (!stop) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return {};
  });
  HttpClient client({.endpoint = hub.url()}, {.total_seconds = 1});
  EXPECT_THAT(client.get(hub.url()).failure, HasSubstr("timed out"));
  stop = true;
}

TEST(Retry, WaitsLongerEachTimeAndAsLongAsTheServerAsks) {
  using Clock = std::chrono::steady_clock;
  const auto seconds = [](const std::function<void()>& body) {
    const auto begin = Clock::now();
    body();
    return std::chrono::duration<double>(Clock::now() - begin).count();
  };
  Retry retry({.attempts = 4, .first_seconds = 0.02, .longest_seconds = 0.06});
  const HttpReply busy{.status = 503};
  EXPECT_GE(seconds([&] { EXPECT_TRUE(retry.again(busy)); }), 0.02);
  EXPECT_GE(seconds([&] { EXPECT_TRUE(retry.again(busy)); }), 0.04);
  EXPECT_GE(seconds([&] { EXPECT_TRUE(retry.again(busy)); }), 0.06);
  EXPECT_FALSE(retry.again(busy));
  EXPECT_EQ(retry.failed(), 4);
  Retry asked({.attempts = 2, .first_seconds = 0.001, .longest_seconds = 0.1});
  const HttpReply limited{.status = 429, .headers = {{"retry-after", "1"}}};
  EXPECT_GE(seconds([&] { EXPECT_TRUE(asked.again(limited)); }), 0.1);
  Retry final({.attempts = 9, .first_seconds = 0.001});
  EXPECT_FALSE(final.again({.status = 404}));
  EXPECT_FALSE(final.again({.failure = "hub: a broken certificate", .lasting = true}));
  EXPECT_TRUE(final.again({.failure = "hub: timed out"}));
}

}  // namespace
}  // namespace nereus::hub
