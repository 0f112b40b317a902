// SPDX-License-Identifier: MIT OR Apache-2.0

#include <atomic>
#include <chrono>
#include <coroutine>
#include <cstddef>
#include <expected>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <system_error>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>
#include <uv.h>

#include "support/outcome.hpp"
#include "support/process.hpp"
#include "support/scratch.hpp"

#include "support/engines.hpp"
#include "support/watched_calls.hpp"

import fmmap.async;
import fmmap.async.uv;
import fmmap.core;
import fmmap.lock;
import fmmap.os;

using fmmap::or_throw;
using fmmap::result;
using fmmap::resume_on;
using fmmap::task;
using fmmap::uv_executor;
using namespace std::chrono_literals;
namespace seam = fmmap::os::seam;

static_assert(fmmap::executor<uv_executor>);
static_assert(!std::is_copy_constructible_v<uv_executor>);

namespace {

constexpr std::size_t page = 4096;

auto seven() -> result<int> { return 7; }

// A loop of libuv, which has to be closed in the end.
class uv_loop {
public:
  uv_loop() { BOOST_TEST_REQUIRE(::uv_loop_init(&loop_) == 0); }
  uv_loop(uv_loop const&) = delete;
  auto operator=(uv_loop const&) -> uv_loop& = delete;
  ~uv_loop() {
    run();
    BOOST_TEST(::uv_loop_close(&loop_) == 0);
  }

  auto executor() -> uv_executor { return or_throw(uv_executor::create(loop_)); }
  auto get() -> uv_loop_t& { return loop_; }
  // To the end: until nothing keeps it running.
  void run() { BOOST_TEST(::uv_run(&loop_, UV_RUN_DEFAULT) == 0); }
  void run_once() { (void)::uv_run(&loop_, UV_RUN_NOWAIT); }

private:
  uv_loop_t loop_{};
};

// A thread that resumes itself where it is told, for posts of a test's own.
struct fire {
  struct promise_type {
    auto get_return_object() noexcept -> fire { return {std::coroutine_handle<promise_type>::from_promise(*this)}; }
    auto initial_suspend() const noexcept -> std::suspend_always { return {}; }
    auto final_suspend() const noexcept -> std::suspend_never { return {}; }
    void return_void() const noexcept {}
    void unhandled_exception() const noexcept {}
  };
  std::coroutine_handle<> frame;
};

auto count(std::atomic<int>& runs) -> fire {
  ++runs;
  co_return;
}

} // namespace

BOOST_AUTO_TEST_SUITE(a_loop_of_libuv)

BOOST_AUTO_TEST_CASE(resumes_who_waits_on_its_thread_and_runs_as_long) {
  auto const engine = engine_of();
  scratch const folder;
  uv_loop loop;
  auto executor = loop.executor();
  auto const self = std::this_thread::get_id();
  bool done = false;
  auto const work = [&]() -> task<> {
    auto file = or_throw(co_await resume_on(executor, fmmap::async_create(engine, folder / "a", {.size = page})));
    BOOST_TEST((std::this_thread::get_id() == self));
    or_throw(file.write_le<int>(0, 7));
    (void)or_throw(co_await resume_on(executor, fmmap::async_flush(engine, file)));
    BOOST_TEST((std::this_thread::get_id() == self));
    or_throw(co_await resume_on(executor, fmmap::async_close(engine, std::move(file))));
    done = true;
  };
  auto const all = work();
  begin(all);
  BOOST_TEST(!done);
  loop.run();
  BOOST_TEST(done);
}

BOOST_AUTO_TEST_CASE(does_not_run_for_an_executor_through_which_nobody_waits) {
  uv_loop loop;
  auto const executor = loop.executor();
  loop.run();
  BOOST_TEST(::uv_loop_alive(&loop.get()) == 0);
}

BOOST_AUTO_TEST_CASE(runs_no_longer_than_somebody_waits) {
  auto const engine = engine_of();
  uv_loop loop;
  auto executor = loop.executor();
  for (int i = 0; i < 10; ++i) {
    auto const work = [&]() -> task<> { (void)co_await resume_on(executor, fmmap::async_call(engine, seven)); };
    auto const one = work();
    begin(one);
    BOOST_TEST(::uv_loop_alive(&loop.get()) != 0);
    loop.run();
    BOOST_TEST(::uv_loop_alive(&loop.get()) == 0);
  }
}

BOOST_AUTO_TEST_CASE(goes_on_at_once_with_what_is_over) {
  fmmap::io_engine const none;
  uv_loop loop;
  auto executor = loop.executor();
  std::optional<result<int>> got;
  auto const work = [&]() -> task<> { got = co_await resume_on(executor, fmmap::async_call(none, seven)); };
  auto const one = work();
  begin(one);
  BOOST_TEST_REQUIRE(got.has_value());
  BOOST_TEST(fails(*got, fmmap::errc::closed));
  loop.run();
}

BOOST_AUTO_TEST_CASE(throws_where_it_is_awaited) {
  auto const engine = engine_of();
  uv_loop loop;
  auto executor = loop.executor();
  bool caught = false;
  auto const work = [&]() -> task<> {
    try {
      (void)co_await resume_on(
          executor, fmmap::async_call(engine, []() -> result<int> { throw std::runtime_error{"something"}; }));
    } catch (std::runtime_error const&) {
      caught = true;
    }
  };
  auto const one = work();
  begin(one);
  loop.run();
  BOOST_TEST(caught);
}

BOOST_AUTO_TEST_CASE(resumes_a_thousand_at_a_time) {
  auto const engine = engine_of();
  scratch const folder;
  uv_loop loop;
  auto executor = loop.executor();
  std::vector<fmmap::mutable_mapped_file> files;
  for (int i = 0; i < 10; ++i) {
    files.push_back(or_throw(fmmap::mutable_mapped_file::create(folder / std::to_string(i), {.size = page})));
  }
  int done = 0;
  auto const flush = [&](std::size_t i) -> task<> {
    files[i % files.size()].writable_bytes()[i] = std::byte{1};
    (void)or_throw(co_await resume_on(executor, fmmap::async_flush(engine, files[i % files.size()])));
    ++done;
  };
  std::vector<task<>> all;
  for (std::size_t i = 0; i < 1000; ++i) {
    begin(all.emplace_back(flush(i)));
  }
  loop.run();
  BOOST_TEST(done == 1000);
}

// libuv makes one of any number of calls of uv_async_send(3).
BOOST_AUTO_TEST_CASE(runs_every_post_of_any_thread) {
  uv_loop loop;
  auto executor = loop.executor();
  std::atomic<int> runs{0};
  uv_timer_t timer;
  BOOST_TEST(::uv_timer_init(&loop.get(), &timer) == 0); // which keeps the loop running
  timer.data = &runs;
  auto const is_over = [](uv_timer_t* handle) {
    if (*static_cast<std::atomic<int>*>(handle->data) == 4000) {
      ::uv_close(reinterpret_cast<uv_handle_t*>(handle), nullptr);
    }
  };
  BOOST_TEST(::uv_timer_start(&timer, is_over, 0, 1) == 0);
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&] {
        for (int i = 0; i < 1000; ++i) {
          executor.post(count(runs).frame);
        }
      });
    }
    loop.run();
  }
  BOOST_TEST(runs == 4000);
}

BOOST_AUTO_TEST_CASE(is_never_blocked) {
  auto const engine = engine_of();
  scratch const folder;
  uv_loop loop;
  auto executor = loop.executor();
  watched_calls calls{{std::this_thread::get_id()}};
  auto const work = [&]() -> task<> {
    auto file = or_throw(co_await resume_on(executor, fmmap::async_create(engine, folder / "a", {.size = page})));
    file.writable_bytes()[0] = std::byte{1};
    (void)or_throw(co_await resume_on(executor, fmmap::async_flush(engine, file)));
    or_throw(co_await resume_on(executor, fmmap::async_resize(engine, file, 4 * page)));
    or_throw(co_await resume_on(executor, fmmap::async_remove(engine, file)));
    or_throw(co_await resume_on(executor, fmmap::async_close(engine, std::move(file))));
  };
  auto const one = work();
  begin(one);
  loop.run();
  BOOST_TEST(calls.elsewhere() > 10U);
  auto const blocking = calls.blocking();
  BOOST_TEST(blocking.empty(), "it made the call " << (blocking.empty() ? "" : blocking.front()));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(what_a_loop_waits_for)

BOOST_AUTO_TEST_CASE(is_stopped_by_its_token_before_it_has_begun_and_while_it_waits) {
  auto const engine = engine_of({.threads = 1});
  scratch const folder;
  uv_loop loop;
  auto executor = loop.executor();
  auto const file = or_throw(fmmap::file::open(folder.file("a", "x"), {.access = fmmap::access::read_write}));
  auto held = or_throw(fmmap::file_lock::create(file));
  auto wanted = or_throw(fmmap::file_lock::create(file));
  or_throw(held.acquire(fmmap::lock_mode::exclusive));
  std::stop_source stop;
  std::vector<std::error_code> codes;
  auto const note = [&](auto const& got) { codes.push_back(got ? std::error_code{} : got.error().code()); };
  auto const wait = [&]() -> task<> {
    note(co_await resume_on(
        executor, fmmap::async_lock(engine, wanted, fmmap::lock_mode::exclusive, fmmap::forever, stop.get_token())));
    note(co_await resume_on(executor, fmmap::async_call(engine, seven, stop.get_token())));
  };
  auto const one = wait();
  begin(one);
  loop.run_once();
  std::this_thread::sleep_for(2ms);
  BOOST_TEST(codes.empty());
  stop.request_stop();
  loop.run();
  BOOST_TEST_REQUIRE(codes.size() == 2U);
  BOOST_TEST((codes[0] == std::errc::operation_canceled));
  BOOST_TEST((codes[1] == std::errc::operation_canceled));
  or_throw(held.release());
}

// Dropped while it is queued, runs, or has been posted: the loop ends then.
BOOST_AUTO_TEST_CASE(may_be_dropped_at_any_time) {
  auto const engine = engine_of({.threads = 1});
  for (int round = 0; round < 200; ++round) {
    uv_loop loop;
    auto executor = loop.executor();
    std::atomic<int> resumed{0};
    auto const work = [&]() -> task<> {
      (void)co_await resume_on(executor, fmmap::async_call(engine, seven));
      ++resumed;
    };
    {
      std::vector<task<>> all;
      for (int i = 0; i < 4; ++i) {
        begin(all.emplace_back(work()));
      }
      std::this_thread::sleep_for(std::chrono::microseconds{round});
      if (round % 2 == 0) {
        loop.run_once();
      }
    }
    auto const before = resumed.load();
    loop.run();
    BOOST_TEST_REQUIRE(resumed == before);
  }
}

BOOST_AUTO_TEST_CASE(is_resumed_though_the_executor_has_gone) {
  auto const engine = engine_of();
  uv_loop loop;
  std::optional<uv_executor> executor{loop.executor()};
  bool done = false;
  auto const work = [&]() -> task<> {
    (void)co_await resume_on(*executor, fmmap::async_call(engine, seven));
    done = true;
  };
  auto const one = work();
  begin(one);
  executor.reset();
  loop.run();
  BOOST_TEST(done);
}

BOOST_AUTO_TEST_CASE(may_end_the_executor_itself) {
  auto const engine = engine_of();
  uv_loop loop;
  std::optional<uv_executor> executor{loop.executor()};
  auto const work = [&]() -> task<> {
    (void)co_await resume_on(*executor, fmmap::async_call(engine, seven));
    executor.reset();
  };
  auto const one = work();
  begin(one);
  loop.run();
  BOOST_TEST(!executor.has_value());
}

BOOST_AUTO_TEST_CASE(was_posted_before_the_executor_went) {
  uv_loop loop;
  std::atomic<int> runs{0};
  {
    auto executor = loop.executor();
    executor.post(count(runs).frame);
    auto other = loop.executor();
    executor = std::move(other);
  }
  loop.run();
  BOOST_TEST(runs == 1);
}

// The engine's thread may be the last to have to do with it, when the loop has been closed.
BOOST_AUTO_TEST_CASE(leaves_nothing_behind) {
  auto const engine = engine_of();
  auto const descriptors = descriptor_count();
  for (int i = 0; i < 200; ++i) {
    uv_loop loop;
    auto executor = loop.executor();
    auto const work = [&]() -> task<> { (void)co_await resume_on(executor, fmmap::async_call(engine, seven)); };
    auto const one = work();
    begin(one);
    loop.run();
  }
  BOOST_TEST(descriptor_count() == descriptors);
}

BOOST_AUTO_TEST_SUITE_END()
