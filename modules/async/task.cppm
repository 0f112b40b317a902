// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <coroutine>
#include <exception>
#include <optional>
#include <type_traits>
#include <utility>
#include <variant>

export module fmmap.async:task;

export namespace fmmap {
template <class T = void>
class task;
} // namespace fmmap

namespace fmmap {

class task_promise_base {
public:
  struct resume_waiting {
    [[nodiscard]] auto await_ready() const noexcept -> bool { return false; }
    template <class Promise>
    [[nodiscard]] auto await_suspend(std::coroutine_handle<Promise> ended) const noexcept -> std::coroutine_handle<> {
      return ended.promise().waiting_;
    }
    void await_resume() const noexcept {}
  };

  [[nodiscard]] auto initial_suspend() const noexcept -> std::suspend_always { return {}; }
  [[nodiscard]] auto final_suspend() const noexcept -> resume_waiting { return {}; }
  void be_awaited_by(std::coroutine_handle<> waiting) noexcept { waiting_ = waiting; }

private:
  std::coroutine_handle<> waiting_ = std::noop_coroutine();
};

template <class T>
class task_promise final : public task_promise_base {
public:
  [[nodiscard]] auto get_return_object() noexcept -> task<T>;
  template <class Value>
  void return_value(Value&& value) {
    outcome_.template emplace<1>(std::forward<Value>(value));
  }
  void unhandled_exception() noexcept { outcome_.template emplace<2>(std::current_exception()); }
  [[nodiscard]] auto take() -> T {
    if (outcome_.index() == 2) {
      std::rethrow_exception(std::get<2>(outcome_));
    }
    return std::move(std::get<1>(outcome_));
  }

private:
  std::variant<std::monostate, T, std::exception_ptr> outcome_;
};

template <>
class task_promise<void> final : public task_promise_base {
public:
  [[nodiscard]] inline auto get_return_object() noexcept -> task<void>;
  inline void return_void() const noexcept {}
  inline void unhandled_exception() noexcept { thrown_ = std::current_exception(); }
  inline void take() const {
    if (thrown_) {
      std::rethrow_exception(thrown_);
    }
  }

private:
  std::exception_ptr thrown_;
};

} // namespace fmmap

export namespace fmmap {

/// A coroutine that begins when it is awaited, once, and returns a value or throws to who awaits it. For tests and small programs:
/// any other coroutine type can await operations as well.
///
/// Dropping it drops what it awaits. Thread safety: one thread at a time.
template <class T>
class [[nodiscard]] task {
public:
  using promise_type = task_promise<T>;

  task(task&& other) noexcept : frame_{std::exchange(other.frame_, nullptr)} {}
  auto operator=(task&& other) noexcept -> task& {
    task old{std::move(*this)};
    frame_ = std::exchange(other.frame_, nullptr);
    return *this;
  }
  ~task() {
    if (frame_) {
      frame_.destroy();
    }
  }

  [[nodiscard]] auto await_ready() const noexcept -> bool { return false; }
  [[nodiscard]] auto await_suspend(std::coroutine_handle<> waiting) const noexcept -> std::coroutine_handle<> {
    frame_.promise().be_awaited_by(waiting);
    return frame_;
  }
  auto await_resume() const -> T { return frame_.promise().take(); }

private:
  friend promise_type;
  explicit task(std::coroutine_handle<promise_type> frame) noexcept : frame_{frame} {}

  std::coroutine_handle<promise_type> frame_;
};

} // namespace fmmap

namespace fmmap {

template <class T>
auto task_promise<T>::get_return_object() noexcept -> task<T> {
  return task<T>{std::coroutine_handle<task_promise>::from_promise(*this)};
}

inline auto task_promise<void>::get_return_object() noexcept -> task<void> {
  return task<void>{std::coroutine_handle<task_promise>::from_promise(*this)};
}

} // namespace fmmap
