#include <cublasLt.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <map>
#include <tuple>
#include <vector>

#include "base/check.h"
#include "ops/matmul.h"
#include "ops/matmul_general.h"
#include "tensor/format.h"

namespace nereus::ops::cuda {
namespace {

void check_lt(cublasStatus_t status, const char* call) {
  NEREUS_CHECK(kDevice, status == CUBLAS_STATUS_SUCCESS, "{} failed: {} ({})", call,
               cublasLtGetStatusString(status), cublasLtGetStatusName(status));
}
#define NEREUS_LT(call) check_lt(call, #call)

cudaDataType_t lt_type(DType t) { return t == DType::f32 ? CUDA_R_32F : CUDA_R_16BF; }

// cuBLASLt's matrices are column by column, so that out's rows are its columns and it computes
// out^T = op(b)^T op(a)^T.
struct Layout {
  Layout(DType t, int64_t rows, int64_t columns, int64_t ld) {
    NEREUS_LT(cublasLtMatrixLayoutCreate(&handle, lt_type(t), static_cast<uint64_t>(rows),
                                         static_cast<uint64_t>(columns), ld));
  }
  ~Layout() { cublasLtMatrixLayoutDestroy(handle); }
  Layout(const Layout&) = delete;
  Layout& operator=(const Layout&) = delete;
  cublasLtMatrixLayout_t handle = nullptr;
};

uint32_t alignment(const void* p) {
  const auto address = reinterpret_cast<uintptr_t>(p);
  return address == 0 ? 256u : uint32_t{1} << std::min(8, std::countr_zero(address));
}

// What a plan depends on.
using Key =
    std::tuple<int64_t, int64_t, int64_t,        // M, N, K
               int64_t, int64_t, int64_t,        // row strides of out, a, b
               uint32_t, uint32_t, uint32_t,     // their alignments in bytes
               DType, DType, bool, bool, bool>;  // out, a and b; trans_a, trans_b, accumulate

Key key_of(const Matmul& a) {
  return {a.out.dim(0),
          a.out.dim(1),
          a.a.dim(a.trans_a ? 0 : 1),
          a.out.row_stride(),
          a.a.row_stride(),
          a.b.row_stride(),
          alignment(a.out.data),
          alignment(a.a.data),
          alignment(a.b.data),
          a.out.dtype,
          a.a.dtype,
          a.trans_a,
          a.trans_b,
          a.accumulate};
}

struct Plan {
  explicit Plan(const Matmul& a)
      : out(a.out.dtype, a.out.dim(1), a.out.dim(0), a.out.row_stride()),
        left(a.b.dtype, a.b.dim(1), a.b.dim(0), a.b.row_stride()),
        right(a.a.dtype, a.a.dim(1), a.a.dim(0), a.a.row_stride()) {
    NEREUS_LT(cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    const cublasOperation_t left_op = a.trans_b ? CUBLAS_OP_T : CUBLAS_OP_N,
                            right_op = a.trans_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    NEREUS_LT(cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &left_op,
                                             sizeof left_op));
    NEREUS_LT(cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSB, &right_op,
                                             sizeof right_op));
  }
  // On so many SMs.
  void run_on(int32_t sm_count) {
    NEREUS_LT(cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET,
                                             &sm_count, sizeof sm_count));
  }
  ~Plan() { cublasLtMatmulDescDestroy(operation); }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  cublasLtMatmulDesc_t operation = nullptr;
  Layout out, left, right;
  std::vector<cublasLtMatmulAlgo_t> algorithms;  // the library's, its favourite first
  size_t chosen = 0;
  bool found() const { return !algorithms.empty(); }
};

// The algorithms that were faster than the library's first choice, by shape: written by `nereus
// bench gpu --tune` on an H100. The numbers are positions in the list of one version of the
// library.
struct Choice {
  int64_t M, N, K;
  bool trans_a, trans_b, f32_out, accumulate;
  size_t place;
};
constexpr size_t kTunedVersion = 130100;
constexpr Choice kTuned[] = {
#include "ops/matmul_tuned.inc"
};

size_t tuned_place(const Matmul& a) {
  if (cublasLtGetVersion() / 100 != kTunedVersion / 100) return 0;
  const int64_t K = a.a.dim(a.trans_a ? 0 : 1);
  for (const Choice& c : kTuned)
    if (c.M == a.out.dim(0) && c.N == a.out.dim(1) && c.K == K && c.trans_a == a.trans_a &&
        c.trans_b == a.trans_b && c.f32_out == (a.out.dtype == DType::f32) &&
        c.accumulate == a.accumulate && a.a.dtype == DType::bf16)
      return c.place;
  return 0;
}

// The handle, the workspace (of the size NVIDIA recommends for Hopper) and a plan for each shape.
class MatmulState : public StreamState {
 public:
  static constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;

  explicit MatmulState(Stream& stream)
      : stream_(stream), workspace_(stream.device(), kWorkspaceBytes, "workspace of cuBLASLt") {
    NEREUS_LT(cublasLtCreate(&handle_));
  }
  ~MatmulState() override { cublasLtDestroy(handle_); }
  int64_t bytes() const override { return kWorkspaceBytes; }

  Plan& plan(const Matmul& a) {
    auto [it, made] = plans_.try_emplace(key_of(a), a);
    if (made) choose(it->second, a);
    return it->second;
  }

  void run(const Plan& plan, const Matmul& a, cudaStream_t stream) {
    const float alpha = 1, beta = a.accumulate ? 1 : 0;
    NEREUS_LT(cublasLtMatmul(handle_, plan.operation, &alpha, a.b.data, plan.left.handle, a.a.data,
                             plan.right.handle, &beta, a.out.data, plan.out.handle, a.out.data,
                             plan.out.handle, &plan.algorithms[plan.chosen], workspace_.data(),
                             kWorkspaceBytes, stream));
  }

 private:
  // From the library's heuristics and the table above: the same on every run, unlike a timing.
  void choose(Plan& plan, const Matmul& a) {
    const bool all = stream_.gemm_sms() == stream_.sm_count();
    if (!all) plan.run_on(stream_.gemm_sms());
    cublasLtMatmulPreference_t preference = nullptr;
    NEREUS_LT(cublasLtMatmulPreferenceCreate(&preference));
    const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      NEREUS_LT(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value));
    };
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(kWorkspaceBytes));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(a.b.data));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(a.a.data));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(a.out.data));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(a.out.data));
    constexpr int kMost = 8;
    cublasLtMatmulHeuristicResult_t results[kMost] = {};
    int count = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle_, plan.operation, plan.left.handle, plan.right.handle, plan.out.handle,
        plan.out.handle, preference, kMost, results, &count);
    cublasLtMatmulPreferenceDestroy(preference);
    if (status != CUBLAS_STATUS_SUCCESS) return;
    for (int i = 0; i < count; ++i) plan.algorithms.push_back(results[i].algo);
    plan.chosen = all ? std::min(tuned_place(a), plan.algorithms.size() - 1) : 0;
  }

  Stream& stream_;
  Buffer workspace_;
  cublasLtHandle_t handle_ = nullptr;
  std::map<Key, Plan> plans_;
};

}  // namespace

void plan(Stream& stream, const Matmul& a) {
  if (a.a.dtype == a.b.dtype && a.out.count() > 0 && a.a.count() > 0)
    stream.state<MatmulState>().plan(a);
}

void matmul(Stream& stream, const Matmul& a) {
  if (a.out.count() == 0) return;
  if (a.a.dtype == a.b.dtype && a.a.count() > 0) {
    auto& state = stream.state<MatmulState>();
    const Plan& plan = state.plan(a);
    if (plan.found()) return state.run(plan, a, static_cast<cudaStream_t>(stream.native()));
  }
  matmul_general(stream, a);
}

size_t matmul_algorithms(Stream& stream, const Matmul& a) {
  return stream.state<MatmulState>().plan(a).algorithms.size();
}

void choose_algorithm(Stream& stream, const Matmul& a, size_t place) {
  stream.state<MatmulState>().plan(a).chosen = place;
}

}  // namespace nereus::ops::cuda
