// Properties of the order "global", for data sets and layouts that nobody chose.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <map>

#include "base/log.h"
#include "data/dealer.h"
#include "data/packer.h"
#include "data/rows_test.h"

namespace nereus::data {
namespace {

using test::Row;

// A data set of documents "number:xxx", some empty, some broken, in a few shards.
struct Case {
  test::TemporaryFolder folder;
  int64_t documents = 0;  // that are whole
  TextOptions options;
  RowPlan plan;

  Case() {
    const auto shards = *rc::gen::inRange(1, 4);
    bool any = false;
    for (int s = 0; s < shards; ++s) {
      std::string shard;
      const auto lines = *rc::gen::inRange(0, 60);
      for (int i = 0; i < lines || (s + 1 == shards && !any); ++i) {
        if (i > 0 && *rc::gen::inRange(0, 12) == 0) {  // a shard begins with a document
          shard += *rc::gen::element<std::string>("\n", "{\"text\": 3}\n", "{\"text\": \"xxxxx\n");
          continue;
        }
        any = true;
        const auto length = static_cast<size_t>(*rc::gen::inRange(0, 90));
        shard += test::text_line(std::to_string(documents++) + ":" + std::string(length, 'x'));
      }
      folder.write("s" + std::to_string(s) + ".json.gz", test::gz(shard));
    }
    options = test::byte_options(folder.path(), true, *rc::gen::inRange(1, 4));
    options.streams = int64_t{1} << *rc::gen::inRange(0, 6);
    plan.seq_len = *rc::gen::inRange(1, 40);
    set_ranks(*rc::gen::inRange(1, 5), *rc::gen::inRange(1, 5));
  }
  void set_ranks(int size, int64_t local_rows) {
    plan.dp_size = size;
    plan.global_batch = size * local_rows;
  }
};

TEST(GlobalOrderProperty, EveryDocumentComesOutWholeAndOnceAPass) {
  EXPECT_TRUE(rc::check([] {
    const log::Capture quiet;
    Case c;
    const int64_t V = c.options.streams;
    // About three passes.
    const int64_t steps = 1 + (3 * c.documents * 50) / (c.plan.seq_len + 1) / c.plan.global_batch;
    const std::vector<Row> rows = test::run_rows(c.options, c.plan, steps);
    std::map<int64_t, int64_t> begun, ended;  // how often, by document
    for (int64_t s = 0; s < V; ++s) {
      std::string text;  // of the stream
      for (size_t g = static_cast<size_t>(s); g < rows.size(); g += static_cast<size_t>(V))
        for (const int32_t id : rows[g])
          text += id == 256 ? '<' : id == 257 ? '>' : static_cast<char>(id);
      // Whole documents one after the other, the last one perhaps cut.
      for (size_t at = 0; at < text.size();) {
        RC_ASSERT(text[at] == '<');
        const size_t end = text.find('>', at), colon = text.find(':', at);
        if (colon == std::string::npos) break;
        const int64_t number = std::stoll(text.substr(at + 1, colon - at - 1));
        ++begun[number];
        if (end == std::string::npos) break;
        RC_ASSERT(text.find_first_not_of('x', colon + 1) == end);
        ++ended[number];
        at = end + 1;
      }
    }
    // With one stream passes follow one another; with several they overlap at their edges.
    if (V > 1) return;
    for (int64_t d = 0; d < c.documents; ++d) {
      RC_ASSERT(begun[0] - begun[d] <= 1);
      RC_ASSERT(begun[d] <= begun[0]);
      RC_ASSERT(ended[d] >= begun[c.documents - 1] - 1);
    }
  }));
}

// What waits in one stream while another is short is bounded: memory does not grow with the run.
TEST(Dealer, KeepsStreamsLevelForEver) {
  const Dealer dealer = Dealer::global(64);
  ReadPosition at = dealer.start();
  uint64_t random = 1;
  size_t longest = 0;
  for (; at.document < 200000; ++at.document) {
    random = random * 6364136223846793005u + 1442695040888963407u;
    const size_t bytes = (random >> 40) % ((random >> 33) % 50 == 0 ? 100000 : 2000);
    longest = std::max(longest, bytes);
    dealer.deal(at, bytes);
    if (at.document % 1000 == 0) {
      const auto [low, high] = std::minmax_element(at.loads.begin(), at.loads.end());
      ASSERT_LE(*high - *low, static_cast<int64_t>(longest) + 64);
    }
  }
}

TEST(GlobalOrderProperty, RanksAndThreadsDoNotMatter) {
  EXPECT_TRUE(rc::check([] {
    const log::Capture quiet;
    Case c;
    const int64_t G = c.plan.global_batch, steps = 1 + 40 / G;
    const std::vector<Row> rows = test::run_rows(c.options, c.plan, steps);
    c.options.workers = *rc::gen::inRange(1, 4);
    // Any global batch cuts the same sequence of rows.
    c.set_ranks(*rc::gen::inRange(1, 7), *rc::gen::inRange(1, 4));
    const int64_t other_steps = steps * G / c.plan.global_batch;
    const std::vector<Row> other = test::run_rows(c.options, c.plan, other_steps);
    RC_ASSERT(std::equal(other.begin(), other.end(), rows.begin()));
  }));
}

TEST(GlobalOrderProperty, ASavedRunGoesOnWithAnyRanks) {
  EXPECT_TRUE(rc::check([] {
    const log::Capture quiet;
    Case c;
    c.options.loop = *rc::gen::inRange(0, 4) > 0;
    std::vector<Row> resumed;
    SavedStates states;
    for (int part = 0; part < 3; ++part) {
      const auto steps = *rc::gen::inRange(0, 12);
      const std::vector<Row> rows = test::run_rows(c.options, c.plan, steps, &states);
      // A source that ends gives the rest of its rows, and no state after.
      const bool ended =
          std::any_of(rows.begin(), rows.end(), [](const Row& r) { return r.empty(); });
      resumed.insert(resumed.end(), rows.begin(), rows.end());
      if (ended) break;
      c.set_ranks(*rc::gen::inRange(1, 6), *rc::gen::inRange(1, 5));
    }
    c.set_ranks(1, static_cast<int64_t>(std::max<size_t>(1, resumed.size())));
    std::vector<Row> whole = test::run_rows(c.options, c.plan, 1);
    if (resumed.empty()) whole.clear();
    RC_ASSERT(resumed == whole);
  }));
}

TEST(PackerProperty, CutsTheDocumentsIntoRowsAndKnowsWhereItIs) {
  EXPECT_TRUE(rc::check([] {
    const auto documents = *rc::gen::container<std::vector<std::vector<int32_t>>>(
        rc::gen::container<std::vector<int32_t>>(rc::gen::inRange(0, 1000)));
    const int64_t S = *rc::gen::inRange(1, 20);
    std::vector<int32_t> all;
    std::vector<TokenPosition> where;
    Packer packer;
    std::vector<int32_t> inputs(static_cast<size_t>(S)), labels(inputs.size());
    size_t at = 0;
    const auto take_some = [&](bool drop) {
      while (packer.take(S, drop ? nullptr : inputs.data(), drop ? nullptr : labels.data())) {
        if (!drop) {
          RC_ASSERT(std::equal(inputs.begin(), inputs.end(), all.begin() + static_cast<long>(at)));
          RC_ASSERT(
              std::equal(labels.begin(), labels.end(), all.begin() + static_cast<long>(at) + 1));
        }
        at += static_cast<size_t>(S) + 1;
      }
      RC_ASSERT(packer.waiting() == static_cast<int64_t>(all.size() - at));
      RC_ASSERT(packer.position().has_value() == (at < all.size()));
      if (at < all.size()) RC_ASSERT(*packer.position() == where[at]);
    };
    for (size_t d = 0; d < documents.size(); ++d) {
      for (size_t i = 0; i < documents[d].size(); ++i)
        where.push_back({static_cast<int64_t>(d), static_cast<int64_t>(i)});
      all.insert(all.end(), documents[d].begin(), documents[d].end());
      packer.append(static_cast<int64_t>(d), documents[d]);
      if (*rc::gen::inRange(0, 3) == 0) take_some(*rc::gen::arbitrary<bool>());
    }
    take_some(false);
  }));
}

}  // namespace
}  // namespace nereus::data
