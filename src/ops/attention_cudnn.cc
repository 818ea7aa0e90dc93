#include "ops/attention_cudnn.h"

#include <dlfcn.h>

#define NV_CUDNN_FRONTEND_USE_DYNAMIC_LOADING
#include <cudnn_frontend.h>

#include <map>
#include <tuple>

#include "base/check.h"
#include "base/log.h"
#include "ops/workspace.h"
#include "tensor/format.h"

// cuDNN's front-end finds the library that we have opened through this.
namespace cudnn_frontend {
void* cudnn_dlhandle = nullptr;  // NOLINT
}

namespace nereus::ops::cuda {
namespace {

namespace fe = cudnn_frontend;

void check_fe(fe::error_t error, const char* what) {
  NEREUS_CHECK(kDevice, error.is_good(), "cuDNN, {}: {}", what, error.get_message());
}

void open_library() {
  if (fe::cudnn_dlhandle != nullptr) return;
  const char* places[] = {"libcudnn.so.9", "/usr/local/cuda/lib64/libcudnn.so.9"};
  for (const char* place : places) {
    fe::cudnn_dlhandle = dlopen(place, RTLD_NOW | RTLD_GLOBAL);
    if (fe::cudnn_dlhandle != nullptr) return;
  }
  NEREUS_FAIL(
      kConfig,
      "cuDNN 9 is needed for attention on a GPU, and libcudnn.so.9 was found neither by the "
      "loader (LD_LIBRARY_PATH, /etc/ld.so.conf) nor in /usr/local/cuda/lib64. Install "
      "cuDNN 9, or put its folder on LD_LIBRARY_PATH.");
}

// The sizes and strides that a graph depends on.
struct Shape4 {
  int64_t B, S, H, Dqk, Dv;
  auto operator<=>(const Shape4&) const = default;
};
struct Strides {  // of a token and of a head, in elements
  int64_t token, head;
  auto operator<=>(const Strides&) const = default;
};
Strides strides(const ConstTensorView& v) { return {v.stride[0], v.stride[1]}; }

enum Uid : int64_t { kQ = 1, kK, kV, kO, kStats, kDo, kDq, kDk, kDv };

using Variant = std::unordered_map<int64_t, void*>;

class Graphs : public StreamState {
 public:
  explicit Graphs(Stream& stream) {
    open_library();
    NEREUS_CHECK(kDevice, fe::detail::create_handle(&handle_) == CUDNN_STATUS_SUCCESS,
                 "cuDNN: no handle could be made");
    fe::detail::set_stream(handle_, static_cast<cudaStream_t>(stream.native()));
  }
  ~Graphs() override { fe::detail::destroy_handle(handle_); }

  using Key = std::tuple<Shape4, float, bool, std::vector<Strides>>;

  // The graph of `key`, built by build(graph) if it is new; null when cuDNN does not support it.
  template <class Build>
  fe::graph::Graph* graph(Stream&, const Key& key, Build&& build) {
    const auto [it, made] = graphs_.try_emplace(key);
    auto& slot = it->second;
    if (!made) return slot.get();
    auto graph = std::make_unique<fe::graph::Graph>();
    graph->set_io_data_type(fe::DataType_t::BFLOAT16)
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    build(*graph);
    fe::error_t built = graph->build(handle_, {fe::HeurMode_t::A});
    if (built.is_bad()) {
      const Shape4& s = std::get<Shape4>(key);
      log::warning(
          "cuDNN has no kernel for attention of {} sequences of {} with {} heads {}/{} ({}): it "
          "goes "
          "through our own, which are slower",
          s.B, s.S, s.H, s.Dqk, s.Dv, built.get_message());
      return nullptr;
    }
    slot = std::move(graph);
    return slot.get();
  }

  static int64_t workspace_bytes(const fe::graph::Graph& graph) {
    int64_t bytes = 0;
    check_fe(graph.get_workspace_size(bytes), "workspace");
    return bytes;
  }

  // With the caller's workspace, or with the stream's.
  void run(Stream& stream, fe::graph::Graph& graph, Variant& tensors, const TensorView& workspace) {
    const int64_t need = workspace_bytes(graph);
    std::byte* memory = workspace.data;
    if (need > workspace.bytes()) memory = stream.state<Workspace>().take<std::byte>(need);
    check_fe(graph.execute(handle_, tensors, memory), "attention");
  }

 private:
  cudnnHandle_t handle_ = nullptr;
  std::map<Key, std::unique_ptr<fe::graph::Graph>> graphs_;
};

using Node = std::shared_ptr<fe::graph::Tensor_attributes>;

std::vector<int64_t> dims_of(const Shape4& s, int64_t width) { return {s.B, s.H, s.S, width}; }
std::vector<int64_t> steps_of(const Shape4& s, const Strides& t) {
  return {s.S * t.token, t.head, t.token, 1};
}

Node input(fe::graph::Graph& graph, const char* name, Uid uid, const Shape4& s, int64_t width,
           const Strides& t) {
  return graph.tensor(fe::graph::Tensor_attributes()
                          .set_name(name)
                          .set_uid(uid)
                          .set_dim(dims_of(s, width))
                          .set_stride(steps_of(s, t)));
}
void output(const Node& node, Uid uid, const Shape4& s, int64_t width, const Strides& t) {
  node->set_output(true).set_uid(uid).set_dim(dims_of(s, width)).set_stride(steps_of(s, t));
}
std::vector<int64_t> stats_steps(const Shape4& s) { return {s.H * s.S, s.S, 1, 1}; }

fe::graph::Graph* forward_graph(Stream& stream, Graphs& graphs, const AttentionForward& a) {
  const int64_t T = a.q.dim(0);
  const Shape4 s{T / a.sequence, a.sequence, a.q.dim(1), a.q.dim(2), a.v.dim(2)};
  const std::vector<Strides> t{strides(a.q), strides(a.k), strides(a.v), strides(a.o)};
  return graphs.graph(stream, {s, a.scale, false, t}, [&](fe::graph::Graph& graph) {
    auto [o, stats] =
        graph.sdpa(input(graph, "q", kQ, s, s.Dqk, t[0]), input(graph, "k", kK, s, s.Dqk, t[1]),
                   input(graph, "v", kV, s, s.Dv, t[2]),
                   fe::graph::SDPA_attributes()
                       .set_name("attention")
                       .set_generate_stats(true)
                       .set_causal_mask(true)
                       .set_attn_scale(a.scale));
    output(o, kO, s, s.Dv, t[3]);
    stats->set_output(true)
        .set_uid(kStats)
        .set_data_type(fe::DataType_t::FLOAT)
        .set_dim({s.B, s.H, s.S, 1})
        .set_stride(stats_steps(s));
  });
}

// Over one sequence when deterministic, else over all of them.
fe::graph::Graph* backward_graph(Stream& stream, Graphs& graphs, const AttentionBackward& a) {
  const int64_t B = a.kernels.unordered ? a.q.dim(0) / a.sequence : 1;
  const Shape4 s{B, a.sequence, a.q.dim(1), a.q.dim(2), a.v.dim(2)};
  const std::vector<Strides> t{strides(a.q),    strides(a.k),  strides(a.v),  strides(a.o),
                               strides(a.dout), strides(a.dq), strides(a.dk), strides(a.dv)};
  return graphs.graph(stream, {s, a.scale, a.kernels.unordered, t}, [&](fe::graph::Graph& graph) {
    const Node stats = graph.tensor(fe::graph::Tensor_attributes()
                                        .set_name("stats")
                                        .set_uid(kStats)
                                        .set_data_type(fe::DataType_t::FLOAT)
                                        .set_dim({s.B, s.H, s.S, 1})
                                        .set_stride(stats_steps(s)));
    auto [dq, dk, dv] = graph.sdpa_backward(
        input(graph, "q", kQ, s, s.Dqk, t[0]), input(graph, "k", kK, s, s.Dqk, t[1]),
        input(graph, "v", kV, s, s.Dv, t[2]), input(graph, "o", kO, s, s.Dv, t[3]),
        input(graph, "do", kDo, s, s.Dv, t[4]), stats,
        fe::graph::SDPA_backward_attributes()
            .set_name("attention_backward")
            .set_causal_mask(true)
            .set_attn_scale(a.scale)
            .set_deterministic_algorithm(!a.kernels.unordered));
    output(dq, kDq, s, s.Dqk, t[5]);
    output(dk, kDk, s, s.Dqk, t[6]);
    output(dv, kDv, s, s.Dv, t[7]);
  });
}

bool fits(const ConstTensorView& v) {
  return v.dtype == DType::bf16 && v.dim(2) % 8 == 0 && v.dim(2) <= 256 && v.stride[0] % 8 == 0 &&
         v.stride[1] % 8 == 0 && reinterpret_cast<uintptr_t>(v.data) % 16 == 0;
}

// cuDNN's tensors are written through plain pointers.
void* pointer(const ConstTensorView& v, int64_t first) {
  return const_cast<std::byte*>(v.data + first * v.stride[0] * size_of(v.dtype));
}

}  // namespace

bool cudnn_takes(const AttentionForward& a) {
  return a.mask == AttentionMask::causal && a.key_sequence == 0 && fits(a.q) && fits(a.k) &&
         fits(a.v) && fits(a.o);
}
bool cudnn_takes(const AttentionBackward& a) {
  return a.mask == AttentionMask::causal && a.key_sequence == 0 && fits(a.q) && fits(a.k) &&
         fits(a.v) && fits(a.o) && fits(a.dout) && fits(a.dq) && fits(a.dk) && fits(a.dv);
}

void plan_cudnn(Stream& stream, const AttentionForward& a) {
  auto& graphs = stream.state<Graphs>();
  const fe::graph::Graph* const graph = forward_graph(stream, graphs, a);
  if (graph != nullptr)
    stream.state<Workspace>().reserve<std::byte>(Graphs::workspace_bytes(*graph));
}
void plan_cudnn(Stream& stream, const AttentionBackward& a) {
  backward_graph(stream, stream.state<Graphs>(), a);
}

int64_t cudnn_workspace(Stream& stream, const AttentionBackward& a) {
  const fe::graph::Graph* graph = backward_graph(stream, stream.state<Graphs>(), a);
  return graph == nullptr ? 0 : Graphs::workspace_bytes(*graph);
}

bool run_cudnn(Stream& stream, const AttentionForward& a) {
  auto& graphs = stream.state<Graphs>();
  fe::graph::Graph* const graph = forward_graph(stream, graphs, a);
  if (graph == nullptr) return false;
  Variant tensors{{kQ, pointer(a.q, 0)},
                  {kK, pointer(a.k, 0)},
                  {kV, pointer(a.v, 0)},
                  {kO, pointer(a.o, 0)},
                  {kStats, a.lse.data}};
  graphs.run(stream, *graph, tensors, {});
  return true;
}

bool run_cudnn(Stream& stream, const AttentionBackward& a) {
  auto& graphs = stream.state<Graphs>();
  fe::graph::Graph* const graph = backward_graph(stream, graphs, a);
  if (graph == nullptr) return false;
  const int64_t T = a.q.dim(0), H = a.q.dim(1), step = a.kernels.unordered ? T : a.sequence;
  for (int64_t first = 0; first < T; first += step) {
    Variant tensors{{kQ, pointer(a.q, first)},
                    {kK, pointer(a.k, first)},
                    {kV, pointer(a.v, first)},
                    {kO, pointer(a.o, first)},
                    {kStats, const_cast<std::byte*>(a.lse.data) + first * H * 4},
                    {kDo, pointer(a.dout, first)},
                    {kDq, pointer(a.dq, first)},
                    {kDk, pointer(a.dk, first)},
                    {kDv, pointer(a.dv, first)}};
    graphs.run(stream, *graph, tensors, a.workspace);
  }
  return true;
}

}  // namespace nereus::ops::cuda
