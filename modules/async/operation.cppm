// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <chrono>
#include <concepts>
#include <coroutine>
#include <exception>
#include <expected>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <system_error>
#include <type_traits>
#include <utility>

export module fmmap.async:operation;

import fmmap.core;
import :io_engine;

namespace fmmap {

class request_queue;     // defined in src/async/engine_state.cppm
class request_timetable; // likewise

// What to call, on the engine's thread, when an operation is over.
struct completion {
  void (*call)(void* argument) noexcept = nullptr;
  void* argument = nullptr;
};

// How a request goes on.
enum class progress : unsigned char {
  done,
  has_to_wait, // for somebody else, who may need the engine's threads: so not on one of those
};

// What somebody has asked an engine for. Shared by the operation and the engine. What is not said to be otherwise is the
// engine's, under its lock.
class request : public std::enable_shared_from_this<request> {
public:
  // `needs_object`: it uses an object of the program's while it runs, so its operation cannot go before it is over.
  request(std::shared_ptr<engine_state> engine, std::stop_token stop, bool needs_object) noexcept;
  // One that is over that long after it has begun.
  request(std::shared_ptr<engine_state> engine, std::stop_token stop, std::chrono::nanoseconds after) noexcept;
  request(request const&) = delete;
  auto operator=(request const&) -> request& = delete;
  virtual ~request();

protected:
  // May block.
  virtual auto perform(bool may_wait, std::stop_token const& stop) noexcept -> progress = 0;
  virtual void fail(error why) noexcept = 0;
  // When it is awaited: whether it may have to wait for others, and not for no time.
  [[nodiscard]] virtual auto begin_limit() noexcept -> bool { return false; }
  // Until when it may have to wait, for others and for a thread to do it on; `expire` says that this is over.
  [[nodiscard]] virtual auto deadline() const noexcept -> std::chrono::steady_clock::time_point {
    return std::chrono::steady_clock::time_point::max();
  }
  virtual void expire() noexcept {}
  // Nobody will ask for the result any more.
  virtual void drop() noexcept = 0;

  // Of flushes, see `flush_work`; `share` takes for its own what came of the one that has absorbed it.
  [[nodiscard]] virtual auto target() const noexcept -> void const* { return nullptr; }
  [[nodiscard]] virtual auto absorb(request const& /*other*/) noexcept -> bool { return false; }
  virtual void share(request const& /*of*/) noexcept {}
  [[nodiscard]] virtual auto next_call() noexcept -> std::optional<sync_call> { return std::nullopt; }
  virtual void call_made(int /*code*/) noexcept {}
  [[nodiscard]] virtual auto is_over() noexcept -> bool { return false; }

private:
  friend engine_state;
  friend request_queue;
  friend request_timetable;
  friend operation_access;
  enum class phase : unsigned char { idle, waiting, running, done, over };

  struct on_stop {
    request* asked;
    void operator()() const noexcept;
  };

  std::shared_ptr<engine_state> const engine_;
  std::stop_token const stop_;
  bool const needs_object_;
  std::optional<std::chrono::nanoseconds> const after_;
  std::chrono::steady_clock::time_point until_; // of one that sleeps, or waits for a thread of its own
  phase phase_ = phase::idle;
  bool is_stopped_ = false;
  bool is_dropped_ = false;
  bool has_to_wait_ = false;
  bool is_behind_ = false;    // another one with the same target, which has its turn, or runs
  bool wants_thread_ = false; // for the rest of what has begun elsewhere
  completion then_;
  std::stop_source stop_waiting_{std::nostopstate}; // there once it has to wait
  std::optional<std::stop_callback<on_stop>> on_stop_;
  std::shared_ptr<request> kept_; // itself, while the engine has it
  request* absorbed_ = nullptr;   // the first of those whose work it does as well
  request* next_ = nullptr;       // in one of the engine's queues, or of those
  request* previous_ = nullptr;
};

// What operations may do with engines, and templates of this module with both.
class operation_access {
public:
  [[nodiscard]] static auto state_of(io_engine const& engine) noexcept -> std::shared_ptr<engine_state> const& {
    return engine.state_;
  }

  // False when it is over already, and nothing will be called.
  [[nodiscard]] static auto start(request& one, completion then) -> bool;
  // Whether nothing will be called any more.
  static auto drop(request& one) noexcept -> bool;
  // Of one that is over, where nobody has asked for it.
  static void drop_outcome(request& one) noexcept { one.drop(); }
  static void stop(request& one) noexcept;
  // Whether this is a child, whose parent has the engine.
  [[nodiscard]] static auto is_forked(request const& one) noexcept -> bool;
};

template <class T>
class request_for : public request {
public:
  using request::request;

  // What came of it, once it is over.
  [[nodiscard]] auto take() -> result<T> {
    if (thrown_) {
      std::rethrow_exception(std::exchange(thrown_, nullptr));
    }
    auto got = *std::move(outcome_);
    outcome_.reset();
    return got;
  }

  void fail(error why) noexcept final { outcome_.emplace(std::unexpect, std::move(why)); }

protected:
  void drop() noexcept override {
    if (outcome_ && !*outcome_ &&
        outcome_->error() != std::errc::operation_canceled) { // that it was not made is no loss
      report_dropped_error(outcome_->error());
    }
    outcome_.reset();
  }

  // Makes what a function returns or throws the outcome.
  template <class Function>
  void attempt(Function function) noexcept {
    try {
      outcome_.emplace(function());
    } catch (...) {
      thrown_ = std::current_exception();
    }
  }

  std::optional<result<T>> outcome_;
  std::exception_ptr thrown_;
};

template <class T, class Function>
class request_by final : public request_for<T> {
public:
  request_by(std::shared_ptr<engine_state> engine, std::stop_token stop, bool needs_object, Function function)
      : request_for<T>{std::move(engine), std::move(stop), needs_object}, function_{std::move(function)} {}

private:
  auto perform(bool /*may_wait*/, std::stop_token const& /*stop*/) noexcept -> progress override {
    this->attempt([this] {
      auto mine = std::move(function_); // what it has goes here, and not where it is waited for
      return std::invoke(mine);
    });
    return progress::done;
  }

  Function function_;
};

template <class Result>
struct value_of_result;
template <class T>
struct value_of_result<result<T>> {
  using type = T;
};

} // namespace fmmap

export namespace fmmap {

/// What an engine has been asked for: an awaitable, of which `co_await` gives a `result<T>`. Nothing is done before that, but for
/// what its function says.
///
/// A stop that is requested before it has begun makes it `std::errc::operation_canceled`, and nothing was done. What has begun goes on to
/// its end, but for waits for locks.
///
/// It is awaited once. It may be dropped at any time, as with the coroutine that awaits it: one that has not begun is not done. One that has is
/// done to the end: where it uses an object of the program's, dropping waits for that; where it does not, its result is dropped
/// on a thread of the engine's, an error by `report_dropped_error`. A coroutine is dropped on the thread that resumes it, or
/// while nothing can: `resume_on`.
///
/// Thread safety: one thread at a time.
template <class T>
class [[nodiscard]] operation {
public:
  operation(operation&& other) noexcept = default;
  auto operator=(operation&&) -> operation& = delete;
  ~operation() {
    if (request_ && !operation_access::drop(*request_)) {
      operation_access::drop_outcome(*request_);
    }
  }

  [[nodiscard]] auto await_ready() const noexcept -> bool { return !request_; }
  [[nodiscard]] auto await_suspend(std::coroutine_handle<> waiting) -> bool {
    auto const resume = [](void* frame) noexcept { std::coroutine_handle<>::from_address(frame).resume(); };
    return start(resume, waiting.address());
  }
  /// Throws what a function of the program's has thrown.
  [[nodiscard]] auto await_resume() -> result<T> {
    if (request_) {
      return request_->take();
    }
    return std::unexpected(refusal_ ? *refusal_
                                    : error::make(errc::closed, "await an operation", {}, {}, "it was moved"));
  }

  // For those who wait otherwise: `resume_on` and adapters.

  /// Begins, and calls `done` with `argument` on the engine's thread when it is over. Returns false when it is over already;
  /// nothing is called then.
  [[nodiscard]] auto start(void (*done)(void* argument) noexcept, void* argument) -> bool {
    return request_ && operation_access::start(*request_, {.call = done, .argument = argument});
  }

  /// Drops what has been started. Returns false when `done` has been called, or is being called.
  auto drop() noexcept -> bool {
    if (request_ && !operation_access::drop(*request_)) {
      return false;
    }
    request_.reset();
    return true;
  }

  /// Does what a stop by a token does. May be called from any thread, while the operation is there.
  void stop() noexcept {
    if (request_) {
      operation_access::stop(*request_);
    }
  }

  // Of this module.
  [[nodiscard]] auto is_of_parent() const noexcept -> bool {
    return request_ && operation_access::is_forked(*request_);
  }
  explicit operation(std::shared_ptr<request_for<T>> asked) noexcept : request_{std::move(asked)} {}
  explicit operation(error refusal) noexcept : refusal_{std::move(refusal)} {}

private:
  std::shared_ptr<request_for<T>> request_;
  std::optional<error> refusal_; // without a request
};

/// Calls a function that may block on a thread of the engine's. It takes nothing and returns a `result`.
///
/// The function owns what it needs: it may go on after the operation has been dropped.
template <std::invocable Function>
[[nodiscard]] auto async_call(io_engine const& engine, Function function, std::stop_token stop = {})
    -> operation<typename value_of_result<std::invoke_result_t<Function&>>::type> {
  using value = value_of_result<std::invoke_result_t<Function&>>::type;
  return operation<value>{std::make_shared<request_by<value, Function>>(operation_access::state_of(engine),
                                                                        std::move(stop), false, std::move(function))};
}

/// Is over after a time, which begins when it is awaited. It takes no thread.
[[nodiscard]] auto async_sleep(io_engine const& engine, std::chrono::nanoseconds time, std::stop_token stop = {})
    -> operation<void>;

} // namespace fmmap

namespace fmmap {

[[nodiscard]] auto sleep_on(std::shared_ptr<engine_state> engine, std::chrono::nanoseconds time, std::stop_token stop)
    -> operation<void>;

// As `async_call`, for what uses an object of the program's.
template <class T, class Function>
[[nodiscard]] auto call_with_object(io_engine const& engine, Function function, std::stop_token stop) -> operation<T> {
  return operation<T>{std::make_shared<request_by<T, Function>>(operation_access::state_of(engine), std::move(stop),
                                                                true, std::move(function))};
}

} // namespace fmmap
