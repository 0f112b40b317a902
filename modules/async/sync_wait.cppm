// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <atomic>
#include <concepts>
#include <coroutine>
#include <cstddef>
#include <exception>
#include <memory>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

export module fmmap.async:sync_wait;

import :task;

namespace fmmap {

template <class T>
using value_or_nothing = std::conditional_t<std::is_void_v<T>, std::tuple<>, T>;

// What awaiting gives.
template <class Awaitable>
using awaited = decltype(std::declval<Awaitable&>().await_resume());

// A coroutine that awaits one thing, and tells somebody when that is over.
template <class Teller>
class errand {
public:
  struct promise_type {
    struct tell {
      [[nodiscard]] auto await_ready() const noexcept -> bool { return false; }
      [[nodiscard]] auto await_suspend(std::coroutine_handle<promise_type> ended) const noexcept
          -> std::coroutine_handle<> {
        return ended.promise().teller->is_over(); // the errand may be gone from here on
      }
      void await_resume() const noexcept {}
    };
    auto get_return_object() noexcept -> errand {
      return errand{std::coroutine_handle<promise_type>::from_promise(*this)};
    }
    auto initial_suspend() const noexcept -> std::suspend_always { return {}; }
    auto final_suspend() const noexcept -> tell { return {}; }
    void return_void() const noexcept {}
    void unhandled_exception() noexcept { thrown = std::current_exception(); }

    Teller* teller = nullptr;
    std::exception_ptr thrown;
  };

  errand(errand&& other) noexcept : frame_{std::exchange(other.frame_, nullptr)} {}
  auto operator=(errand&&) -> errand& = delete;
  ~errand() {
    if (frame_) {
      frame_.destroy();
    }
  }

  void run(Teller& teller) const {
    frame_.promise().teller = &teller;
    frame_.resume();
  }
  void rethrow() const {
    if (frame_.promise().thrown) {
      std::rethrow_exception(frame_.promise().thrown);
    }
  }

private:
  explicit errand(std::coroutine_handle<promise_type> frame) noexcept : frame_{frame} {}
  std::coroutine_handle<promise_type> frame_;
};

template <class Teller, class Awaitable>
auto run_errand(Awaitable what, std::optional<value_or_nothing<awaited<Awaitable>>>& value) -> errand<Teller> {
  if constexpr (std::is_void_v<awaited<Awaitable>>) {
    co_await what;
    value.emplace();
  } else {
    value.emplace(co_await what);
  }
}

// Wakes a thread.
class waiting_thread {
public:
  [[nodiscard]] auto is_over() noexcept -> std::coroutine_handle<> {
    over_.store(true, std::memory_order_release);
    over_.notify_one();
    is_left_.store(true, std::memory_order_release);
    return std::noop_coroutine();
  }
  void wait() const noexcept {
    over_.wait(false, std::memory_order_acquire);
    while (!is_left_.load(std::memory_order_acquire)) { // notify_one() still uses this object
    }
  }

private:
  std::atomic<bool> over_{false};
  std::atomic<bool> is_left_{false};
};

// Resumes a coroutine when so many are over.
class waiting_coroutine {
public:
  explicit waiting_coroutine(std::size_t count) noexcept : left_{count + 1} {}

  [[nodiscard]] auto is_over() noexcept -> std::coroutine_handle<> {
    return left_.fetch_sub(1, std::memory_order_acq_rel) == 1 ? waiting_ : std::noop_coroutine();
  }

  // As an awaitable, begins all of them.
  template <class Begin>
  struct all {
    waiting_coroutine& self;
    Begin begin;
    [[nodiscard]] auto await_ready() const noexcept -> bool { return false; }
    [[nodiscard]] auto await_suspend(std::coroutine_handle<> waiting) const -> std::coroutine_handle<> {
      self.waiting_ = waiting;
      begin(self);
      return self.is_over();
    }
    void await_resume() const noexcept {}
  };

private:
  std::atomic<std::size_t> left_;
  std::coroutine_handle<> waiting_;
};

} // namespace fmmap

export namespace fmmap {

/// Awaits something and blocks the calling thread until that is over: for `main` and tests. Returns what awaiting gives, or throws
/// what it throws. Not for a thread on which the engine resumes coroutines: it would wait for itself.
template <class Awaitable>
auto sync_wait(Awaitable what) -> awaited<Awaitable> {
  std::optional<value_or_nothing<awaited<Awaitable>>> value;
  auto const errand = run_errand<waiting_thread>(std::move(what), value);
  waiting_thread thread;
  errand.run(thread);
  thread.wait();
  errand.rethrow();
  if constexpr (!std::is_void_v<awaited<Awaitable>>) {
    return *std::move(value);
  }
}

/// Awaits several things at a time. Returns what each gives, in order, `std::tuple<>` for nothing; or throws what the first of them in
/// order has thrown, when all are over.
template <class... Awaitables>
auto when_all(Awaitables... what) -> task<std::tuple<value_or_nothing<awaited<Awaitables>>...>> {
  std::tuple<std::optional<value_or_nothing<awaited<Awaitables>>>...> values;
  waiting_coroutine self{sizeof...(what)};
  auto errands = [&]<std::size_t... I>(std::index_sequence<I...>) {
    return std::tuple{run_errand<waiting_coroutine>(std::move(what), std::get<I>(values))...};
  }(std::index_sequence_for<Awaitables...>{});
  auto const begin = [&](waiting_coroutine& teller) {
    std::apply([&](auto const&... each) { (each.run(teller), ...); }, errands);
  };
  co_await waiting_coroutine::all<decltype(begin)>{self, begin};
  std::apply([](auto const&... each) { (each.rethrow(), ...); }, errands);
  co_return std::apply([](auto&... each) { return std::tuple{*std::move(each)...}; }, values);
}

/// The same of a number of things.
template <class Awaitable>
auto when_all(std::vector<Awaitable> what) -> task<std::vector<value_or_nothing<awaited<Awaitable>>>> {
  std::vector<std::optional<value_or_nothing<awaited<Awaitable>>>> values(what.size());
  std::vector<errand<waiting_coroutine>> errands;
  errands.reserve(what.size());
  for (std::size_t i = 0; i < what.size(); ++i) {
    errands.push_back(run_errand<waiting_coroutine>(std::move(what[i]), values[i]));
  }
  waiting_coroutine self{what.size()};
  auto const begin = [&](waiting_coroutine& teller) {
    for (auto const& each : errands) {
      each.run(teller);
    }
  };
  co_await waiting_coroutine::all<decltype(begin)>{self, begin};
  std::vector<value_or_nothing<awaited<Awaitable>>> made;
  made.reserve(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    errands[i].rethrow();
    made.push_back(*std::move(values[i]));
  }
  co_return made;
}

} // namespace fmmap
