// SPDX-License-Identifier: MIT OR Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <coroutine>
#include <cstdlib>
#include <expected>
#include <string_view>
#include <thread>
#include <utility>

import fmmap.async;
import fmmap.core;

// What tests of engines share.

// Of the kind that FMMAP_TEST_ENGINE names, where a test asks for none: "threads", or whatever is best here.
inline auto engine_of(fmmap::engine_options options = {}) -> fmmap::io_engine {
  auto const* const wanted = std::getenv("FMMAP_TEST_ENGINE");
  if (options.kind == fmmap::engine_kind::automatic && wanted != nullptr && std::string_view{wanted} == "threads") {
    options.kind = fmmap::engine_kind::threads;
  }
  return fmmap::or_throw(fmmap::io_engine::create(options));
}

// What an operation gives, waited for on this thread.
template <class T>
auto awaited(fmmap::operation<T> what) -> fmmap::result<T> {
  return fmmap::sync_wait(std::move(what));
}

// Runs a task to where it waits; nobody awaits it.
template <class T>
void begin(fmmap::task<T> const& what) {
  what.await_suspend(std::noop_coroutine()).resume();
}

// On which an engine resumes those who wait.
inline auto thread_that_resumes(fmmap::io_engine const& engine) -> std::thread::id {
  return fmmap::sync_wait([](fmmap::io_engine const& on) -> fmmap::task<std::thread::id> {
    fmmap::or_throw(co_await fmmap::async_call(on, []() -> fmmap::result<void> { return {}; }));
    co_return std::this_thread::get_id();
  }(engine));
}

// Keeps a thread of an engine busy until it is told, or gone.
class blocker {
public:
  explicit blocker(fmmap::io_engine const& engine) : operation_{fmmap::async_call(engine, wait{this})} {
    (void)operation_.start([](void*) noexcept {}, nullptr);
    has_begun_.wait(false);
  }
  blocker(blocker const&) = delete;
  auto operator=(blocker const&) -> blocker& = delete;
  ~blocker() {
    release();
    has_ended_.wait(false);
  }
  void release() {
    may_end_ = true;
    may_end_.notify_all();
  }

private:
  struct wait {
    blocker* self;
    auto operator()() const -> fmmap::result<void> {
      self->has_begun_ = true;
      self->has_begun_.notify_all();
      self->may_end_.wait(false);
      self->has_ended_ = true;
      self->has_ended_.notify_all();
      return {};
    }
  };
  std::atomic<bool> has_begun_{false};
  std::atomic<bool> may_end_{false};
  std::atomic<bool> has_ended_{false};
  fmmap::operation<void> operation_;
};

// Whether that is so before long.
template <class Predicate>
auto becomes(Predicate is_so) -> bool {
  for (int i = 0; i < 20'000 && !is_so(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds{1});
  }
  return is_so();
}
