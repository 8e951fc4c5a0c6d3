// What `tch` does not bind: a backward pass written in Rust, gradients with given cotangents, the
// state of random generators, deterministic algorithms, build information, device memory.
//
// Borders: every function returns null or a malloc'ed message, which Rust frees. Tensors that cross
// by `at::Tensor**` are heap handles that the receiver owns; those by `at::Tensor* const*` are borrowed.

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/types.h>
#include <torch/version.h>

#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace {

using torch::autograd::Node;
using torch::autograd::variable_list;

// Takes ownership of the cotangents; leaves owned gradients or null. Returns null or a message.
using BackwardFn = char* (*)(void* ctx, at::Tensor** cotangents, size_t n_cotangents,
                             at::Tensor** gradients, size_t n_gradients);
using DropFn = void (*)(void* ctx);

template <typename F>
char* protect(F&& body) {
  try {
    body();
    return nullptr;
  } catch (const c10::Error& e) {
    return strdup(e.what_without_backtrace());
  } catch (const std::exception& e) {
    return strdup(e.what());
  } catch (...) {
    return strdup("unknown C++ exception");
  }
}

variable_list borrow(at::Tensor* const* tensors, size_t n) {
  variable_list list;
  list.reserve(n);
  for (size_t i = 0; i < n; ++i) list.push_back(*tensors[i]);
  return list;
}

// Hands all of `tensors` over, or nothing: an exception half way leaves `out` untouched.
void hand_over(const variable_list& tensors, at::Tensor** out) {
  std::vector<std::unique_ptr<at::Tensor>> owned;
  owned.reserve(tensors.size());
  for (const auto& t : tensors) owned.push_back(t.defined() ? std::make_unique<at::Tensor>(t) : nullptr);
  for (size_t i = 0; i < owned.size(); ++i) out[i] = owned[i].release();
}

// The state of a Rust closure: freed exactly once, whatever happens on the way.
struct Closure {
  void* ctx;
  BackwardFn backward;
  DropFn drop;
  Closure(void* c, BackwardFn b, DropFn d) : ctx(c), backward(b), drop(d) {}
  Closure(const Closure&) = delete;
  Closure& operator=(const Closure&) = delete;
  ~Closure() { drop(ctx); }
};

struct RustNode : Node {
  std::unique_ptr<Closure> closure;
  std::string label;

  RustNode(std::unique_ptr<Closure> c, const char* l) : closure(std::move(c)), label(l) {}

  std::string name() const override { return label; }

  void release_variables() override {
    std::lock_guard<std::mutex> lock(mutex_);
    closure.reset();
  }

  // Grad mode here follows `create_graph`, so a closure of recorded operations differentiates again.
  variable_list apply(variable_list&& cotangents) override {
    std::lock_guard<std::mutex> lock(mutex_);
    TORCH_CHECK(closure, label,
                ": backward called a second time after its saved tensors were freed; keep the graph "
                "in the first call");
    std::vector<at::Tensor*> in(cotangents.size(), nullptr), out(num_outputs(), nullptr);
    hand_over(cotangents, in.data());
    char* message = closure->backward(closure->ctx, in.data(), in.size(), out.data(), out.size());
    variable_list gradients(out.size());
    for (size_t i = 0; i < out.size(); ++i) {
      if (out[i]) gradients[i] = *out[i];
      delete out[i];
    }
    if (message) {
      std::string text(message);
      free(message);
      TORCH_CHECK(false, label, ": ", text);
    }
    return gradients;
  }
};

at::Generator generator_of(int cuda_index) {
  auto device = cuda_index < 0 ? at::Device(at::kCPU) : at::Device(at::kCUDA, cuda_index);
  return at::globalContext().defaultGenerator(device);
}

}  // namespace

extern "C" {

// Owns `ctx` from the first line on, also when it fails. `fresh` gets `n_outputs` handles.
char* tensor_core_attach(const char* label, at::Tensor* const* inputs, size_t n_inputs,
                         at::Tensor* const* outputs, size_t n_outputs, void* ctx,
                         BackwardFn backward, DropFn drop, at::Tensor** fresh) {
  auto closure = std::make_unique<Closure>(ctx, backward, drop);
  return protect([&] {
    auto ins = borrow(inputs, n_inputs);
    variable_list outs;
    // Never attach to the handle that the closure may have saved: that would be a reference cycle.
    for (const auto& t : borrow(outputs, n_outputs)) outs.push_back(t.detach());
    if (torch::autograd::compute_requires_grad(ins)) {
      // `deleteNode` frees a deep graph without recursion.
      std::shared_ptr<Node> node(new RustNode(std::move(closure), label), torch::autograd::deleteNode);
      node->set_next_edges(torch::autograd::collect_next_edges(ins));
      for (const auto& out : outs) {
        if (torch::autograd::isDifferentiableType(out.scalar_type())) {
          torch::autograd::set_history(out, node);
        } else {
          node->add_input_metadata(Node::undefined_input());
        }
      }
    }
    hand_over(outs, fresh);
  });
}

// Vector-Jacobian product; a null result means that no output depends on that input.
char* tensor_core_grad(at::Tensor* const* outputs, at::Tensor* const* cotangents, size_t n_outputs,
                       at::Tensor* const* inputs, size_t n_inputs, bool keep_graph,
                       bool create_graph, at::Tensor** results) {
  return protect([&] {
    auto grads = torch::autograd::grad(borrow(outputs, n_outputs), borrow(inputs, n_inputs),
                                       borrow(cotangents, n_outputs), keep_graph, create_graph,
                                       /*allow_unused=*/true);
    hand_over(grads, results);
  });
}

bool tensor_core_grad_enabled() { return at::GradMode::is_enabled(); }

// `cuda_index` < 0 names the CPU's default generator.
char* tensor_core_generator_state(int cuda_index, at::Tensor** state) {
  return protect([&] {
    auto generator = generator_of(cuda_index);
    std::lock_guard<std::mutex> lock(generator.mutex());
    hand_over({generator.get_state()}, state);
  });
}

char* tensor_core_set_generator_state(int cuda_index, at::Tensor* state) {
  return protect([&] {
    auto generator = generator_of(cuda_index);
    std::lock_guard<std::mutex> lock(generator.mutex());
    generator.set_state(*state);
  });
}

char* tensor_core_set_deterministic(bool on) {
  return protect([&] { at::globalContext().setDeterministicAlgorithms(on, /*warn_only=*/false); });
}

bool tensor_core_deterministic() { return at::globalContext().deterministicAlgorithms(); }

// The caller frees these texts.
char* tensor_core_version() { return strdup(TORCH_VERSION); }
char* tensor_core_show_config() { return strdup(at::show_config().c_str()); }
char* tensor_core_parallel_info() { return strdup(at::get_parallel_info().c_str()); }

// bytes = {allocated now, allocated at peak, reserved now, reserved at peak}
char* tensor_core_cuda_memory(int cuda_index, bool reset_peak, int64_t* bytes) {
  return protect([&] {
    auto* allocator = c10::getDeviceAllocator(at::kCUDA);
    auto stats = allocator->getDeviceStats(static_cast<c10::DeviceIndex>(cuda_index));
    bytes[0] = stats.allocated_bytes[0].current, bytes[1] = stats.allocated_bytes[0].peak;
    bytes[2] = stats.reserved_bytes[0].current, bytes[3] = stats.reserved_bytes[0].peak;
    if (reset_peak) allocator->resetPeakStats(static_cast<c10::DeviceIndex>(cuda_index));
  });
}

}  // extern "C"
