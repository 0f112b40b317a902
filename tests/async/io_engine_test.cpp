// SPDX-License-Identifier: MIT OR Apache-2.0

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <coroutine>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <expected>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <stop_token>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <pthread.h>

#include "support/loop.hpp"
#include "support/outcome.hpp"
#include "support/process.hpp"
#include "support/scratch.hpp"

#include "support/engines.hpp"

import fmmap.async;
import fmmap.core;
import fmmap.os;

using fmmap::engine_kind;
using fmmap::errc;
using fmmap::io_engine;
using fmmap::operation;
using fmmap::or_throw;
using fmmap::sync_wait;
using fmmap::task;
using fmmap::when_all;
using fmmap::os::call;
using namespace std::chrono_literals;
namespace seam = fmmap::os::seam;
using seam::armed;

static_assert(fmmap::executor<loop>);
static_assert(!fmmap::executor<int>);
static_assert(!std::is_copy_constructible_v<operation<void>>);

namespace {

constexpr std::size_t page = 4096;

auto nothing() -> fmmap::result<void> { return {}; }

} // namespace

BOOST_AUTO_TEST_SUITE(an_engine)

BOOST_AUTO_TEST_CASE(says_by_what_it_works) {
  auto const engine = or_throw(io_engine::create());
  BOOST_TEST((engine.kind() != engine_kind::automatic));
  BOOST_TEST((to_string(engine.kind()) == (engine.ring_error() ? "threads" : "io_uring")));
  auto const by_threads = or_throw(io_engine::create({.kind = engine_kind::threads}));
  BOOST_TEST((by_threads.kind() == engine_kind::threads));
  BOOST_TEST(!by_threads.ring_error().has_value());
  BOOST_TEST((to_string(engine_kind::automatic) == "automatic"));
}

// As the kernel refuses it where it is too old, where somebody has switched it off, and where the process has no room for it.
BOOST_AUTO_TEST_CASE(works_by_threads_where_it_has_no_ring) {
  for (auto const why : {ENOSYS, EPERM, ENOMEM, EMFILE}) {
    armed const table;
    seam::fail(call::io_uring_setup, why);
    auto const engine = or_throw(io_engine::create());
    BOOST_TEST((engine.kind() == engine_kind::threads));
    BOOST_TEST_REQUIRE(engine.ring_error().has_value());
    BOOST_TEST(engine.ring_error()->code().value() == why);
    or_throw(awaited(fmmap::async_call(engine, nothing)));
    auto const refused = io_engine::create({.kind = engine_kind::io_uring});
    BOOST_TEST_REQUIRE(!refused.has_value());
    BOOST_TEST(refused.error().code().value() == why);
  }
}

BOOST_AUTO_TEST_CASE(refuses_what_cannot_be) {
  BOOST_TEST(fails(io_engine::create({.lock_threads = 0}), errc::invalid_options));
  BOOST_TEST(fails(io_engine::create({.threads = 4'294'967'295}), errc::invalid_options));
  io_engine none;
  BOOST_TEST(!none.is_open());
  BOOST_TEST(fails(none.close(), errc::closed));
  BOOST_TEST(fails(awaited(fmmap::async_call(none, nothing)), errc::closed));
  auto engine = engine_of();
  auto moved = std::move(engine);
  BOOST_TEST(
      fails(awaited(fmmap::async_call(engine, nothing)), errc::closed)); // NOLINT(bugprone-use-after-move): that is it
  or_throw(awaited(fmmap::async_call(moved, nothing)));
  or_throw(moved.close());
  BOOST_TEST(fails(awaited(fmmap::async_call(moved, nothing)), errc::closed));
}

BOOST_AUTO_TEST_CASE(resumes_all_on_one_thread_and_works_on_others) {
  auto const engine = engine_of({.threads = 4});
  std::mutex mutex;
  std::set<std::thread::id> workers;
  std::set<std::thread::id> resumed;
  auto const one = [&]() -> task<> {
    or_throw(co_await fmmap::async_call(engine, [&]() -> fmmap::result<void> {
      std::scoped_lock const lock{mutex};
      workers.insert(std::this_thread::get_id());
      return {};
    }));
    resumed.insert(std::this_thread::get_id());
  };
  std::vector<task<>> all;
  for (int i = 0; i < 200; ++i) {
    all.push_back(one());
  }
  (void)sync_wait(when_all(std::move(all)));
  BOOST_TEST(resumed.size() == 1U);
  BOOST_TEST(workers.size() <= 4U);
  BOOST_TEST(!workers.contains(*resumed.begin()));
  BOOST_TEST(!resumed.contains(std::this_thread::get_id()));
}

BOOST_AUTO_TEST_CASE(lets_as_many_block_at_a_time_as_it_was_told) {
  auto const engine = engine_of({.threads = 3});
  std::atomic<int> blocked{0};
  std::atomic<int> most{0};
  auto const block = [&]() -> fmmap::result<void> {
    auto const now = ++blocked;
    for (auto seen = most.load(); seen < now && !most.compare_exchange_weak(seen, now);) {
    }
    std::this_thread::sleep_for(2ms);
    --blocked;
    return {};
  };
  std::vector<decltype(fmmap::async_call(engine, block))> all;
  for (int i = 0; i < 60; ++i) {
    all.push_back(fmmap::async_call(engine, block));
  }
  (void)sync_wait(when_all(std::move(all)));
  BOOST_TEST(most == 3);
}

BOOST_AUTO_TEST_CASE(takes_ten_thousand_operations_at_a_time) {
  auto const engine = engine_of();
  std::atomic<int> done{0};
  auto const count = [&]() -> fmmap::result<void> {
    ++done;
    return {};
  };
  std::vector<decltype(fmmap::async_call(engine, count))> all;
  for (int i = 0; i < 10'000; ++i) {
    all.push_back(fmmap::async_call(engine, count));
  }
  for (auto const& each : sync_wait(when_all(std::move(all)))) {
    or_throw(each);
  }
  BOOST_TEST(done == 10'000);
}

BOOST_AUTO_TEST_CASE(runs_no_handlers_of_the_program) {
  auto const engine = engine_of();
  auto const is_blocked = []() -> fmmap::result<bool> {
    sigset_t mask;
    ::pthread_sigmask(SIG_SETMASK, nullptr, &mask);
    return sigismember(&mask, SIGINT) == 1 && sigismember(&mask, SIGBUS) == 0;
  };
  BOOST_TEST(or_throw(awaited(fmmap::async_call(engine, is_blocked))));
  BOOST_TEST(sync_wait([&]() -> task<bool> {
    (void)co_await fmmap::async_call(engine, nothing);
    co_return *is_blocked();
  }()));
  BOOST_TEST(!*is_blocked());
}

BOOST_AUTO_TEST_CASE(in_a_forked_child_says_so_and_can_go) {
  if (thread_sanitized) {
    skip("the thread sanitizer wants no fork of a process with threads");
    return;
  }
  auto engine = std::optional{engine_of()};
  or_throw(awaited(fmmap::async_call(*engine, nothing)));
  BOOST_TEST(found_in_child([&](findings& found) {
               ::alarm(20);
               found.expect(fails(awaited(fmmap::async_call(*engine, nothing)), errc::forked),
                            "it works, or fails otherwise");
               engine.reset();
               auto own = engine_of();
               found.expect(awaited(fmmap::async_call(own, nothing)).has_value(), "the child can have none of its own");
             }) == "");
  or_throw(awaited(fmmap::async_call(*engine, nothing)));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(closing)

BOOST_AUTO_TEST_CASE(ends_what_has_not_begun_and_waits_for_what_has) {
  auto engine = engine_of({.threads = 1});
  std::atomic<bool> has_begun{false};
  std::atomic<bool> go_on{false};
  std::atomic<int> done{0};
  std::atomic<int> canceled{0};
  auto const slow = [&]() -> task<> {
    auto const got = co_await fmmap::async_call(engine, [&]() -> fmmap::result<void> {
      has_begun = true;
      has_begun.notify_all();
      go_on.wait(false);
      return {};
    });
    done += got ? 1 : 0;
    auto const next = co_await fmmap::async_call(engine, nothing);
    done += fails(next, errc::closed) ? 1 : 0;
  };
  auto const queued = [&]() -> task<> {
    canceled += fails(co_await fmmap::async_call(engine, nothing), std::errc::operation_canceled) ? 1 : 0;
  };
  std::atomic<bool> are_asked{false};
  auto const last = [&]() -> task<> {
    are_asked = true;
    are_asked.notify_all();
    co_return;
  };
  std::jthread const waiting{[&] { (void)sync_wait(when_all(slow(), queued(), queued(), queued(), last())); }};
  has_begun.wait(false);
  are_asked.wait(false);
  std::jthread const releasing{[&] {
    std::this_thread::sleep_for(5ms);
    BOOST_TEST(done == 0);
    go_on = true;
    go_on.notify_all();
  }};
  or_throw(engine.close());
  BOOST_TEST(!engine.is_open());
  BOOST_TEST(fails(engine.close(), errc::closed));
  BOOST_TEST(done == 2);
  BOOST_TEST(canceled == 3);
}

BOOST_AUTO_TEST_CASE(may_be_done_by_a_coroutine_on_its_own_thread) {
  for (int i = 0; i < 20; ++i) {
    auto engine = std::optional{engine_of()};
    sync_wait([&]() -> task<> {
      or_throw(co_await fmmap::async_call(*engine, nothing));
      engine.reset();
    }());
    BOOST_TEST(!engine.has_value());
  }
}

BOOST_AUTO_TEST_CASE(that_was_begun_on_its_own_thread_is_waited_for_elsewhere) {
  for (int i = 0; i < 20; ++i) {
    std::atomic<bool> has_begun{false};
    bool is_over = false;
    auto engine = engine_of();
    auto slow = fmmap::async_call(engine, [&]() -> fmmap::result<void> {
      has_begun = true;
      std::this_thread::sleep_for(5ms);
      is_over = true;
      return {};
    });
    BOOST_TEST(slow.start([](void*) noexcept {}, nullptr));
    BOOST_TEST_REQUIRE(becomes([&] { return has_begun.load(); }));
    auto const closing = [&]() -> task<> {
      or_throw(co_await fmmap::async_sleep(engine, 1ms));
      (void)engine.close();
    };
    sync_wait(closing());
    BOOST_TEST(fails(engine.close(), errc::closed));
    BOOST_TEST(is_over);
  }
}

BOOST_AUTO_TEST_CASE(in_the_middle_of_everything_loses_nobody) {
  scratch const folder;
  for (unsigned seed = 0; seed < 20; ++seed) {
    auto engine = engine_of({.threads = 2});
    std::atomic<int> over{0};
    std::atomic<int> wrong{0};
    auto const user = [&](io_engine const& on, int number) -> task<> {
      auto const path = folder / std::to_string(number);
      while (true) {
        auto file = co_await fmmap::async_create(on, path, {.size = page});
        if (!file) {
          wrong += fails(file, errc::closed) || fails(file, std::errc::operation_canceled) ? 0 : 1;
          break;
        }
        file->writable_bytes()[0] = std::byte{1};
        auto const flushed = co_await fmmap::async_flush(on, *file);
        auto const removed = co_await fmmap::async_remove(on, *file);
        wrong += removed || fails(removed, errc::closed) || fails(removed, std::errc::operation_canceled) ? 0 : 1;
        if (!removed) {
          (void)file->remove();
        }
      }
      ++over;
    };
    std::vector<task<>> all;
    for (int i = 0; i < 50; ++i) {
      all.push_back(user(engine, i));
    }
    std::jthread const waiting{[&] { (void)sync_wait(when_all(std::move(all))); }};
    std::this_thread::sleep_for(std::chrono::milliseconds{seed});
    or_throw(engine.close());
    for (int i = 0; i < 20'000 && over < 50; ++i) {
      std::this_thread::sleep_for(1ms);
    }
    BOOST_TEST(over == 50);
    BOOST_TEST(wrong == 0);
  }
  BOOST_TEST(std::filesystem::is_empty(folder.folder()));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(an_executor)

BOOST_AUTO_TEST_CASE(is_where_a_coroutine_goes_on) {
  auto const engine = engine_of();
  loop executor;
  bool is_done = false;
  std::set<std::thread::id> threads;
  auto const work = [&]() -> task<> {
    for (int i = 0; i < 10; ++i) {
      or_throw(co_await fmmap::resume_on(executor, fmmap::async_call(engine, nothing)));
      threads.insert(std::this_thread::get_id());
    }
    is_done = true;
  };
  auto running = work();
  begin(running);
  while (!is_done) {
    executor.run_one();
  }
  BOOST_TEST((threads == std::set{std::this_thread::get_id()}));
}

// Also one that is gone when it has resumed: it was moved into the operation.
BOOST_AUTO_TEST_CASE(may_be_a_value) {
  struct at_once {
    std::shared_ptr<int> resumed;
    void post(std::coroutine_handle<> next) noexcept {
      ++*resumed;
      next.resume();
    }
  };
  auto const engine = engine_of();
  auto const resumed = std::make_shared<int>(0);
  for (int i = 0; i < 100; ++i) {
    or_throw(sync_wait(fmmap::resume_on(at_once{resumed}, fmmap::async_call(engine, nothing))));
  }
  BOOST_TEST(*resumed == 100);
  // What is over before anybody waits is not posted.
  io_engine const none;
  BOOST_TEST(fails(sync_wait(fmmap::resume_on(at_once{resumed}, fmmap::async_call(none, nothing))), errc::closed));
  BOOST_TEST(*resumed == 100);
  BOOST_TEST(resumed.use_count() == 1);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(under_stress)

// Threads that begin, stop and drop operations of all sorts: for threads, for the ring, and for nobody.
BOOST_AUTO_TEST_CASE(every_operation_is_over_once) {
  auto const engine = engine_of({.threads = 3});
  scratch const folder;
  std::vector<fmmap::mutable_mapped_file> files;
  for (int i = 0; i < 4; ++i) {
    files.push_back(or_throw(fmmap::mutable_mapped_file::create(folder / std::to_string(i), {.size = 16 * page})));
  }
  std::atomic<std::uint64_t> wrong{0};
  std::atomic<std::uint64_t> over{0};
  std::atomic<std::uint64_t> canceled{0};
  auto const deadline = std::chrono::steady_clock::now() + (std::getenv("FMMAP_THOROUGH") != nullptr ? 60s : 1s);
  auto const tell = [](void* count) noexcept {
    auto& number = *static_cast<std::atomic<int>*>(count);
    ++number;
    number.notify_all();
  };
  auto const drop = [&](auto one, std::atomic<int>& told) {
    auto const before = told.load();
    if (one.start(tell, &told) && !one.drop()) {
      told.wait(before);
      wrong += told == before + 1 ? 0 : 1;
    } else {
      wrong += told == before ? 0 : 1;
    }
  };
  auto const await = [&](auto one) {
    auto const got = awaited(std::move(one));
    ++over;
    canceled += fails(got, std::errc::operation_canceled) ? 1 : 0;
    wrong += got || fails(got, std::errc::operation_canceled) ? 0 : 1;
  };
  {
    std::vector<std::jthread> threads;
    for (unsigned seed = 1; seed <= 4; ++seed) {
      threads.emplace_back([&, seed] {
        std::minstd_rand random{seed};
        std::atomic<int> told{0};
        while (std::chrono::steady_clock::now() < deadline) {
          std::stop_source stop;
          auto const choice = random() % 4;
          auto const token = choice < 2 ? stop.get_token() : std::stop_token{};
          std::jthread stopper;
          if (choice == 1) {
            stopper = std::jthread{[&] { stop.request_stop(); }};
          }
          auto const go_on = [&](auto one) {
            if (choice == 0) { // dropped at whatever moment
              drop(std::move(one), told);
            } else {
              await(std::move(one));
            }
          };
          switch (random() % 3) {
          case 0:
            go_on(fmmap::async_call(engine, nothing, token));
            break;
          case 1: {
            auto const part = fmmap::byte_range{.offset = random() % 16 * page, .length = page};
            go_on(fmmap::async_flush(engine, files[random() % 4], part, fmmap::durability::data, token));
            break;
          }
          default:
            go_on(fmmap::async_sleep(engine, std::chrono::microseconds{random() % 200}, token));
          }
        }
      });
    }
  }
  BOOST_TEST(wrong == 0U);
  BOOST_TEST(over > 100U);
  BOOST_TEST_MESSAGE(over << " were over, " << canceled << " of them stopped before");
}

BOOST_AUTO_TEST_SUITE_END()
