// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <atomic>
#include <concepts>
#include <coroutine>
#include <exception>
#include <expected>
#include <memory>
#include <type_traits>
#include <utility>

export module fmmap.async:executor;

import fmmap.core;
import :operation;

export namespace fmmap {

/// Something that resumes coroutines: all that a runtime has to offer. `post` may be called from any thread.
template <class Executor>
concept executor = requires(Executor& on, std::coroutine_handle<> next) {
  { on.post(next) } noexcept -> std::same_as<void>;
};

} // namespace fmmap

namespace fmmap {

// A coroutine that nobody awaits: it begins when its frame is resumed, and destroys itself at its end.
class unawaited {
public:
  struct promise_type {
    auto get_return_object() noexcept -> unawaited {
      return unawaited{std::coroutine_handle<promise_type>::from_promise(*this)};
    }
    auto initial_suspend() const noexcept -> std::suspend_always { return {}; }
    auto final_suspend() const noexcept -> std::suspend_never { return {}; }
    void return_void() const noexcept {}
    [[noreturn]] void unhandled_exception() const noexcept { std::terminate(); }
  };

  [[nodiscard]] auto frame() const noexcept -> std::coroutine_handle<> { return frame_; }

private:
  explicit unawaited(std::coroutine_handle<> frame) noexcept : frame_{frame} {}
  std::coroutine_handle<> frame_;
};

// Where a coroutine is to be resumed, unless it has been dropped.
template <class Executor>
struct destination : std::enable_shared_from_this<destination<Executor>> {
  explicit destination(Executor&& executor) : on{std::forward<Executor>(executor)} {}

  Executor on; // or a reference
  std::coroutine_handle<> waiting;
  std::coroutine_handle<> messenger_frame;
  std::atomic<bool> is_dropped{false};
  std::atomic<bool> is_posted{false};
};

// What comes to an executor in a coroutine's stead, for that may be gone by then.
template <class Executor>
auto resume_unless_dropped(std::shared_ptr<destination<Executor>> to) -> unawaited {
  if (!to->is_dropped.load(std::memory_order_acquire)) {
    to->waiting.resume();
  }
  co_return;
}

} // namespace fmmap

export namespace fmmap {

/// An operation whose coroutine goes on where `Executor` resumes it.
///
/// A coroutine that awaits it may be dropped on the executor's thread at any time, also between the end of the operation and its
/// resumption: what has been posted by then is a handle that does nothing when it is resumed, and nothing is posted later.
template <class Executor, class T>
class [[nodiscard]] resumed_operation {
public:
  resumed_operation(Executor&& on, operation<T> awaited)
      : operation_{std::move(awaited)}, to_{std::make_shared<destination<Executor>>(std::forward<Executor>(on))} {}
  resumed_operation(resumed_operation&& other) noexcept = default;
  auto operator=(resumed_operation&&) -> resumed_operation& = delete;
  ~resumed_operation() {
    if (to_ && to_->messenger_frame) {
      to_->is_dropped.store(true, std::memory_order_release);
      // In a child nobody posts, and its copy of what was posted is resumed or lost.
      if (operation_.drop()) {
        to_->messenger_frame.destroy();
      } else if (!operation_.is_of_parent()) {
        to_->is_posted.wait(false, std::memory_order_acquire); // the executor may go after the coroutine
      }
    }
  }

  [[nodiscard]] auto await_ready() const noexcept -> bool { return operation_.await_ready(); }
  [[nodiscard]] auto await_suspend(std::coroutine_handle<> waiting) -> bool {
    to_->waiting = waiting;
    auto const frame = resume_unless_dropped(to_).frame();
    to_->messenger_frame = frame;
    auto const keep = to_; // the coroutine may be resumed, and end, before `start` returns
    if (operation_.start(&resumed_operation::post, to_.get())) {
      return true;
    }
    std::exchange(keep->messenger_frame, nullptr).destroy();
    return false;
  }
  [[nodiscard]] auto await_resume() -> result<T> {
    to_->messenger_frame = nullptr;
    return operation_.await_resume();
  }

private:
  // The messenger keeps the destination until it has been resumed, which it may be before `post` returns.
  static void post(void* argument) noexcept {
    auto const to = static_cast<destination<Executor>*>(argument)->shared_from_this();
    to->on.post(to->messenger_frame);
    to->is_posted.store(true, std::memory_order_release);
    to->is_posted.notify_all();
  }

  operation<T> operation_;
  std::shared_ptr<destination<Executor>> to_;
};

/// Makes a coroutine that awaits the operation go on where the executor resumes it. An executor that is an lvalue is referred to,
/// and has to be there until then; another one is moved from.
template <class Executor, class T>
  requires executor<std::remove_reference_t<Executor>>
[[nodiscard]] auto resume_on(Executor&& on, operation<T> awaited) -> resumed_operation<Executor, T> {
  return {std::forward<Executor>(on), std::move(awaited)};
}

} // namespace fmmap
