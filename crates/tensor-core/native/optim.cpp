// libtorch's fused optimiser kernels, which tch does not bind: one pass over memory per step where
// the optimisers of the C++ frontend make one per operation.
//
// Each function returns 0, or 1 with *err set to a message that the caller frees.

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_fused_sgd.h>
#include <ATen/ops/rsub.h>

#include <cstdlib>
#include <cstring>
#include <exception>
#include <optional>
#include <vector>

namespace {

std::vector<at::Tensor> gather(at::Tensor* const* tensors, size_t n) {
  std::vector<at::Tensor> out;
  out.reserve(n);
  for (size_t i = 0; i < n; ++i) out.push_back(*tensors[i]);
  return out;
}

std::optional<at::Tensor> optional(const at::Tensor* t) {
  return t ? std::optional<at::Tensor>(*t) : std::nullopt;
}

template <typename F>
int guarded(char** err, F&& body) {
  try {
    at::NoGradGuard no_grad;
    body();
    return 0;
  } catch (const std::exception& e) {
    *err = strdup(e.what());
  } catch (...) {
    *err = strdup("unknown C++ exception");
  }
  return 1;
}

}  // namespace

extern "C" {

// steps[i] += 1, or += 1 - found_inf when a flag is given; float32 scalars, all on one device.
int tensor_core_advance(at::Tensor* const* steps, size_t n, const at::Tensor* found_inf,
                        char** err) {
  return guarded(err, [&] {
    if (n == 0) return;
    if (found_inf) {
      at::_foreach_add_(gather(steps, n), at::rsub(*found_inf, 1));
    } else if (steps[0]->is_cpu()) {
      // A scalar on the host needs no dispatch; sixty of them are a visible part of a small step.
      for (size_t i = 0; i < n; ++i) *steps[i]->data_ptr<float>() += 1;
    } else {
      at::_foreach_add_(gather(steps, n), 1);
    }
  });
}

int tensor_core_fused_adamw(at::Tensor* const* params, at::Tensor* const* grads,
                            at::Tensor* const* exp_avgs, at::Tensor* const* exp_avg_sqs,
                            at::Tensor* const* steps, size_t n, double lr, double beta1,
                            double beta2, double weight_decay, double eps,
                            const at::Tensor* found_inf, char** err) {
  return guarded(err, [&] {
    at::_fused_adamw_(gather(params, n), gather(grads, n), gather(exp_avgs, n),
                      gather(exp_avg_sqs, n), {}, gather(steps, n), lr, beta1, beta2, weight_decay,
                      eps, /*amsgrad=*/false, /*maximize=*/false, std::nullopt,
                      optional(found_inf));
  });
}

// `buffers` is null without momentum.
int tensor_core_fused_sgd(at::Tensor* const* params, at::Tensor* const* grads,
                          at::Tensor* const* buffers, size_t n, double lr, double momentum,
                          double weight_decay, bool nesterov, const at::Tensor* found_inf,
                          char** err) {
  return guarded(err, [&] {
    at::_fused_sgd_(gather(params, n), gather(grads, n),
                    buffers ? gather(buffers, n) : std::vector<at::Tensor>(), weight_decay,
                    momentum, lr, /*dampening=*/0.0, nesterov, /*maximize=*/false,
                    /*is_first_step=*/false, std::nullopt, optional(found_inf));
  });
}
}
