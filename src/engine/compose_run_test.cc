#include "engine/compose_run_test.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <numbers>

#include "base/check.h"
#include "base/philox.h"
#include "engine/compose_ranks_test.h"
#include "engine/step_runner.h"
#include "model/parameters.h"
#include "parallel/rank_world.h"
#include "test/test_tensor.h"

namespace nereus::compose {
namespace {

double normal(uint64_t key, uint64_t stream, int64_t index) {
  const Philox4 p = philox(key, static_cast<uint64_t>(index), stream);
  const double u = (p.v[0] + 0.5) / 4294967296.0, v = p.v[1] / 4294967296.0;
  return std::sqrt(-2 * std::log(u)) * std::cos(2 * std::numbers::pi * v);
}

void each(const TensorView& view, const NamedView& of, int dim, int64_t first,
          FunctionRef<void(int64_t, float&)> f) {
  const Shape& whole = of.whole.rank() > 0 ? of.whole : of.view.shape;
  int64_t step = 1;
  for (int d = dim + 1; d < whole.rank(); ++d) step *= whole[d];
  if (of.origin.rank() > 0) first += of.origin[dim] * step;
  for (int64_t i = 0; i < view.dim(0); ++i) {
    if (dim + 1 < whole.rank()) {
      each(view[i], of, dim + 1, first + i * step, f);
    } else {
      f(first + i, view.as<float>()[i]);
    }
  }
}

// Before any step; f32 views of the masters are whole until refresh_copies().
void set_initial(const Draw& draw, int noise, Stream& stream, Engine& engine) {
  engine.store().initialize(stream, 1);
  for (const NamedView& w : engine.weights()) {
    const Shape& whole = w.whole.rank() > 0 ? w.whole : w.view.shape;
    each_element(stream, w,
                 [&](int64_t i, float& x) { x = initial_value(draw, w.name, i, whole, noise); });
  }
  engine.store().refresh_copies(stream);
}

// Adds this rank's parts to the whole tensors.
void collect(Stream& stream, const Engine& engine, std::map<std::string, std::vector<double>>& out,
             std::vector<std::string>& wrong) {
  for (const NamedView& w : engine.weights()) {
    const Shape& whole = w.whole.rank() > 0 ? w.whole : w.view.shape;
    std::vector<double>& tensor = out[w.name];
    tensor.resize(static_cast<size_t>(whole.count()), std::nan(""));
    bool same = true;
    each_element(stream, w, [&](int64_t i, float& x) {
      double& there = tensor[static_cast<size_t>(i)];
      same = same && (std::isnan(there) || there == double{x});
      there = double{x};
    });
    if (!same) wrong.push_back(w.name + ": replicas differ");
  }
}

std::vector<HostMicrobatch> microbatches(const Tokens& all, int64_t first, int64_t count,
                                         int64_t rows, int64_t sequence) {
  std::vector<HostMicrobatch> out;
  const auto each = static_cast<size_t>(rows * sequence);
  for (int64_t m = first; m < first + count; ++m)
    out.push_back({.ids = std::span(all.ids).subspan(static_cast<size_t>(m) * each, each),
                   .labels = std::span(all.labels).subspan(static_cast<size_t>(m) * each, each),
                   .first_row = m * rows});
  return out;
}

int64_t count_labels(std::span<const HostMicrobatch> all) {
  int64_t n = 0;
  for (const HostMicrobatch& m : all)
    n += std::count_if(m.labels.begin(), m.labels.end(), [](int32_t label) { return label >= 0; });
  return n;
}

struct Part {  // of the batch, a rank's
  int64_t dp_rank = 0, rows = 1;
  int microbatches = 1, to_validate = 1;
};

void run(const Draw& draw, int noise, const Part& part, const Engine::Options& options,
         Stream& stream, Outcome& out, std::mutex& mutex, Fault fault = Fault::none) {
  Engine engine(draw.args, stream, options);
  set_initial(draw, noise, stream, engine);
  engine.store().assemble_masters(stream);
  {
    const std::lock_guard lock(mutex);
    collect(stream, engine, out.before, out.wrong);
  }
  const int64_t S = draw.sequence;
  StepRunner runner(
      stream, engine,
      {.optimizer = draw.optimizer, .tokens = static_cast<double>(draw.global_rows() * S)});
  std::vector<Tokens> tokens;
  std::vector<std::vector<HostMicrobatch>> host;
  for (int64_t step = 0; step < draw.steps; ++step)
    tokens.emplace_back(draw, step, draw.global_rows());
  for (const Tokens& t : tokens)
    host.push_back(
        microbatches(t, part.dp_rank * part.microbatches, part.microbatches, part.rows, S));
  const auto count = [&](size_t step) -> std::optional<int64_t> {
    if (fault == Fault::mean_of_means)
      return draw.dp() * std::max<int64_t>(1, count_labels(host[step]));
    if (draw.ignored == Ignored::none) return std::nullopt;
    return tokens[step].counted;
  };
  std::vector<double> losses, norms, loads;
  const auto confirm = [&](int64_t step) {
    const StepResult r = runner.confirm(step);
    losses.push_back(static_cast<double>(r.loss));
    norms.push_back(static_cast<double>(r.grad_norm));
    loads.push_back(r.max_over_mean);
  };
  for (int64_t step = 1; step <= draw.steps; ++step) {
    const auto i = static_cast<size_t>(step - 1);
    runner.enqueue({.number = step, .lr = draw.lr, .microbatches = host[i], .tokens = count(i)});
    if (!draw.ahead) confirm(step);
    if (draw.ahead && step > 1) confirm(step - 1);
  }
  if (draw.ahead) confirm(draw.steps);
  const int64_t held_out = draw.dp() * draw.batches_to_validate * draw.rows;
  const Tokens validation(draw, draw.steps, held_out);
  const double loss = static_cast<double>(runner.evaluate(
      microbatches(validation, part.dp_rank * part.to_validate, part.to_validate, part.rows, S),
      static_cast<double>(validation.counted), draw.steps));
  engine.store().assemble_masters(stream);
  const std::lock_guard lock(mutex);
  if (out.losses.empty()) {
    out.losses = losses;
    out.norms = norms;
    out.loads = loads;
    out.validation = loss;
    out.reruns = runner.reruns();
  }
  if (out.losses != losses || out.norms != norms || out.loads != loads || out.validation != loss)
    out.wrong.emplace_back("ranks have different losses, norms or loads");
  collect(stream, engine, out.after, out.wrong);
}

// One rank of the draw's layout.
void run_rank(const Draw& draw, int noise, Communicator& all, Stream& stream,
              const Engine::Options& more, Outcome& out, std::mutex& mutex, Fault fault) {
  const RankWorld world(Mesh(draw.degrees, draw.ranks), all);
  Engine::Options o = more;
  o.rows = draw.rows;
  o.sequence = draw.sequence;
  o.eos_id = static_cast<int32_t>(draw.args.eos_id);
  o.recompute = draw.recompute;
  o.moment_type = draw.moments;
  o.poison_released = true;
  o.world = &world;
  o.capacity_factor = draw.capacity_factor;
  o.expert_overlap = draw.expert_overlap;
  o.reshard = draw.reshard;
  o.pipeline = &draw.pipeline;
  run(draw, noise,
      {.dp_rank = world.position(MeshGroup::dp),
       .rows = draw.rows,
       .microbatches = draw.microbatches,
       .to_validate = draw.batches_to_validate},
      o, stream, out, mutex, fault);
}

// Relative tolerances: rounding of f32 leaves some 1e-6 of each, of bf16 moments a few elements
// that are rounded to the other side.
constexpr double kSpreads = 8;  // times what noise of 1e-7 on the weights does to one rank
struct Tolerance {
  double loss = 3e-6, norm = 2e-5, change = 3e-4, last = 1e-7;
};

std::string line(const std::string& what, double got, double want) {
  return fmt::format("{}: {:.9g}, one rank has {:.9g} ({:.1e})", what, got, want,
                     std::abs(got - want) / std::abs(want));
}

}  // namespace

float initial_value(const Draw& draw, const std::string& name, int64_t index, const Shape& whole,
                    int noise) {
  const auto ends = [&](const char* end) { return name.ends_with(end); };
  const double z = normal(draw.number, hash_name(name), index);
  const auto in = static_cast<double>(whole[whole.rank() - 1]);
  double value = z / std::sqrt(in);
  if (ends("expert_bias")) {
    value = 0.2 * z;
    if (draw.args.moe.score_func == ScoreFunction::softmax) value /= in;
  } else if (whole.rank() == 1) {  // norms
    value = 1 + 0.2 * z;
  } else if (ends("tok_embeddings.weight")) {
    value = z;
  } else if (ends("router.gate.weight")) {
    value *= 2;
  }
  if (noise > 0)
    value *= 1 + 1e-7 * normal(draw.number + static_cast<uint64_t>(noise) * 1'000'003,
                               hash_name(name), index);
  return static_cast<float>(value);
}

// The elements from the first of the view to its last, others' between them too.
void each_element(Stream& stream, const NamedView& of, FunctionRef<void(int64_t, float&)> f) {
  if (of.view.count() == 0) return;
  int64_t n = 1;
  for (int d = 0; d < of.view.rank(); ++d)
    n += (of.view.dim(d) - 1) * of.view.stride[static_cast<size_t>(d)];
  const TensorView there(of.view.data, DType::f32, {n});
  std::vector<float> copy(static_cast<size_t>(n));
  copy_to_host(stream, copy.data(), there);
  stream.synchronize();
  NamedView here = of;
  here.view.data = reinterpret_cast<std::byte*>(copy.data());
  each(here.view, here, 0, 0, f);
  copy_to_device(stream, there, copy.data());
  stream.synchronize();
}

Tokens::Tokens(const Draw& draw, int64_t batch, int64_t rows) {
  const auto vocabulary = static_cast<uint32_t>(draw.args.vocab_size);
  const uint64_t stream = hash_name("tokens") + static_cast<uint64_t>(batch);
  for (int64_t i = 0; i < rows * draw.sequence; ++i) {
    const Philox4 p = philox(draw.number, static_cast<uint64_t>(i), stream);
    const bool end = draw.documents() && p.v[0] % 5 == 0;
    ids.push_back(static_cast<int32_t>(end ? draw.args.eos_id : p.v[1] % vocabulary));
    const auto row = static_cast<uint64_t>(i / draw.sequence);
    bool counts = true;
    switch (draw.ignored) {
      case Ignored::none:
        break;
      case Ignored::step:
        if (batch == 1) counts = false;
        [[fallthrough]];
      case Ignored::some:
        counts = counts && p.v[3] % 3 != 0;
        break;
      case Ignored::most:
        counts = p.v[3] % 8 == 0 && philox_u32(draw.number, stream + 1'000'003, row) % 2 == 0;
    }
    labels.push_back(counts ? static_cast<int32_t>(p.v[2] % vocabulary) : -100);
    counted += counts;
  }
}

Outcome run_layout(const Draw& draw, int noise, DType compute, States states, Fault fault) {
  Outcome out;
  std::mutex mutex;
  const bool as_drawn = states == States::as_drawn;
  run_ranks_here(draw.ranks, draw.sockets, [&](Communicator& all) {
    Stream stream(Device::cpu(), &test::pool());
    run_rank(draw, noise, all, stream,
             {.compute = compute,
              .split_masters = as_drawn && draw.split_masters,
              .offload = as_drawn ? draw.offload : Offload::none,
              .offload_chunk = 300,
              .dispatcher = draw.dispatcher},
             out, mutex, fault);
  });
  return out;
}

// Ranks that do not see each other's memory have one dispatcher.
Outcome run_process(const Draw& draw, int noise, Communicator& all, Device device) {
  Outcome out;
  std::mutex mutex;
  Stream stream = test::stream(device);
  const bool counts = draw.dispatcher == ExpertDispatcher::host_counts;
  run_rank(draw, noise, all, stream,
           {.dispatcher = counts ? ExpertDispatcher::host_counts : ExpertDispatcher::automatic},
           out, mutex, Fault::none);
  return out;
}

// Validation has as many rows as its microbatches say, which need not be a step's: row by row.
Outcome run_one_rank(const Draw& draw, int noise, Device device) {
  Outcome out;
  std::mutex mutex;
  Stream stream = test::stream(device);
  const int rows = static_cast<int>(draw.global_rows());
  const Pipeline pipeline{.parts = {{.first_block = 0, .end_block = draw.args.n_layers}},
                          .schedule = sequential_schedule(rows)};
  run(draw, noise,
      {.rows = 1,
       .microbatches = rows,
       .to_validate = static_cast<int>(draw.dp() * draw.batches_to_validate * draw.rows)},
      {.rows = 1,
       .sequence = draw.sequence,
       .eos_id = static_cast<int32_t>(draw.args.eos_id),
       .moment_type = draw.moments,
       .poison_released = true,
       .pipeline = &pipeline},
      stream, out, mutex);
  return out;
}

std::vector<std::string> differences(const Draw& draw, const Outcome& got, const Outcome& want,
                                     std::span<const Outcome> apart) {
  Tolerance tolerance;
  if (draw.moments == DType::bf16) tolerance = {2e-5, 1e-4, 8e-3, 1e-7};
  std::vector<std::string> out = got.wrong;
  // Of f(outcome), a distance from `want`.
  const auto spread = [&](const auto& f) {
    std::vector<double> all;
    for (const Outcome& o : apart) all.push_back(f(o));
    std::sort(all.begin(), all.end());
    return all.empty() ? 0 : kSpreads * all[all.size() / 2];
  };
  const auto compare = [&](const std::string& what, double relative, const auto& value) {
    const double a = value(got), b = value(want);
    const double more = spread([&](const Outcome& o) { return std::abs(value(o) - b); });
    if (!(std::abs(a - b) <= relative * std::abs(b) + more)) out.push_back(line(what, a, b));
  };
  for (size_t s = 0; s < want.losses.size(); ++s) {
    compare(fmt::format("loss of step {}", s + 1), tolerance.loss,
            [&](const Outcome& o) { return o.losses[s]; });
    compare(fmt::format("norm of step {}", s + 1), tolerance.norm,
            [&](const Outcome& o) { return o.norms[s]; });
    compare(fmt::format("load of experts of step {}", s + 1), 0,
            [&](const Outcome& o) { return o.loads[s]; });
  }
  compare("validation loss", tolerance.loss, [](const Outcome& o) { return o.validation; });
  if (got.after.size() != want.after.size()) out.emplace_back("other tensors than one rank's");
  for (const auto& [name, last] : want.after) {
    const auto found = got.after.find(name);
    if (found == got.after.end() || found->second.size() != last.size()) {
      out.push_back(name + ": is not there, or of another size");
      continue;
    }
    // Lengths of one rank's change, of what another's is from it, and of the last weights.
    const std::vector<double>& first = want.before.at(name);
    double change = 0, length = 0;
    for (size_t i = 0; i < last.size(); ++i) {
      change += (last[i] - first[i]) * (last[i] - first[i]);
      length += last[i] * last[i];
    }
    const auto from = [&](const Outcome& o) {
      const std::vector<double>&a = o.after.at(name), &b = o.before.at(name);
      double squares = 0;
      for (size_t i = 0; i < last.size(); ++i) {
        const double d = (a[i] - b[i]) - (last[i] - first[i]);
        squares += d * d;
      }
      return std::sqrt(squares);
    };
    const double distance = from(got);
    const double bound =
        tolerance.change * std::sqrt(change) + tolerance.last * std::sqrt(length) + spread(from);
    if (!(distance <= bound))
      out.push_back(fmt::format("{}: its change is {:.2e} from one rank's, which is {:.2e}", name,
                                distance, std::sqrt(change)));
  }
  return out;
}

std::vector<std::string> bits_apart(const Outcome& got, const Outcome& want) {
  std::vector<std::string> out = got.wrong;
  if (got.losses != want.losses || got.norms != want.norms || got.validation != want.validation)
    out.emplace_back("losses or norms are other bits");
  for (const auto& [name, b] : want.after)
    if (got.after.at(name) != b) out.push_back(name + ": other bits");
  return out;
}

}  // namespace nereus::compose
