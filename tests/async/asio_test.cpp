// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <coroutine>
#include <cstddef>
#include <exception>
#include <expected>
#include <filesystem>
#include <future>
#include <memory>
#include <memory_resource>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <system_error>
#include <thread>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <boost/asio/any_completion_handler.hpp>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/bind_allocator.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/deferred.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/use_future.hpp>
#include <boost/test/unit_test.hpp>

#include "support/outcome.hpp"
#include "support/process.hpp"
#include "support/scratch.hpp"

#include "support/engines.hpp"
#include "support/watched_calls.hpp"

import fmmap.async;
import fmmap.async.asio;
import fmmap.core;
import fmmap.lock;
import fmmap.os;

using asio_context = boost::asio::io_context;
using boost::asio::awaitable;
using boost::asio::use_awaitable;
using fmmap::async_wait;
using fmmap::durability;
using fmmap::errc;
using fmmap::or_throw;
using fmmap::result;
using fmmap::whole;
using namespace std::chrono_literals;
namespace asio = boost::asio;
namespace seam = fmmap::os::seam;

namespace {

constexpr std::size_t page = 4096;

auto seven() -> result<int> { return 7; }

auto throw_something() -> result<int> { throw std::runtime_error{"something"}; }

// Runs a coroutine to its end.
template <class T>
auto run(asio_context& context, awaitable<T> what) -> T {
  auto done = asio::co_spawn(context, std::move(what), asio::use_future);
  context.run();
  context.restart();
  return done.get();
}

// A handler that says when it was called, with what, and whether it is still there.
template <class T>
struct told {
  struct state {
    std::optional<result<T>> got;
    std::exception_ptr thrown;
    std::thread::id thread;
    std::atomic<int> calls{0};
  };
  std::shared_ptr<state> seen = std::make_shared<state>();

  [[nodiscard]] auto handler() const {
    return [seen = seen](std::exception_ptr thrown, result<T> got) {
      seen->thrown = std::move(thrown);
      seen->got.emplace(std::move(got));
      seen->thread = std::this_thread::get_id();
      ++seen->calls;
    };
  }
  [[nodiscard]] auto is_dropped() const -> bool { return seen.use_count() == 1; }
};

} // namespace

BOOST_AUTO_TEST_SUITE(an_operation_that_boost_asio_waits_for)

BOOST_AUTO_TEST_CASE(calls_a_callback_on_the_thread_of_its_executor) {
  auto const engine = engine_of();
  asio_context context;
  told<int> const one;
  async_wait(fmmap::async_call(engine, seven), asio::bind_executor(context, one.handler()));
  BOOST_TEST(one.seen->calls == 0);
  context.run(); // which ends when the handler has been called
  BOOST_TEST(one.seen->calls == 1);
  BOOST_TEST(or_throw(*one.seen->got) == 7);
  BOOST_TEST((one.seen->thrown == nullptr));
  BOOST_TEST((one.seen->thread == std::this_thread::get_id()));
  BOOST_TEST(one.is_dropped());
}

// Which promises neither that it does not block nor what its context is.
BOOST_AUTO_TEST_CASE(calls_a_handler_of_any_type_where_that_wants_it) {
  auto const engine = engine_of();
  asio_context context;
  std::array<told<int>, 3> all;
  using any_handler = asio::any_completion_handler<void(std::exception_ptr, result<int>)>;
  async_wait(fmmap::async_call(engine, seven), any_handler{asio::bind_executor(context, all[0].handler())});
  async_wait(fmmap::async_call(engine, throw_something), any_handler{asio::bind_executor(context, all[1].handler())});
  async_wait(fmmap::async_call(fmmap::io_engine{}, seven), any_handler{asio::bind_executor(context, all[2].handler())});
  BOOST_TEST(all[2].seen->calls == 0);
  context.run();
  for (auto const& each : all) {
    BOOST_TEST(each.seen->calls == 1);
    BOOST_TEST((each.seen->thread == std::this_thread::get_id()));
    BOOST_TEST(each.is_dropped());
  }
  BOOST_TEST(or_throw(*all[0].seen->got) == 7);
  BOOST_TEST((all[1].seen->thrown != nullptr));
  BOOST_TEST(fails(*all[2].seen->got, errc::closed));

  told<int> const elsewhere;
  async_wait(fmmap::async_call(engine, seven), any_handler{elsewhere.handler()});
  BOOST_TEST(becomes([&] { return elsewhere.seen->calls == 1; }));
  BOOST_TEST((elsewhere.seen->thread != thread_that_resumes(engine)));
}

BOOST_AUTO_TEST_CASE(calls_a_callback_without_an_executor_on_a_thread_of_neither) {
  auto const engine = engine_of();
  std::thread::id resumes;
  fmmap::sync_wait([&]() -> fmmap::task<> {
    (void)co_await fmmap::async_call(engine, seven);
    resumes = std::this_thread::get_id();
  }());
  auto const called = std::make_shared<std::promise<std::thread::id>>();
  auto future = called->get_future();
  async_wait(fmmap::async_call(engine, seven), [called](std::exception_ptr const&, result<int> const&) {
    called->set_value(std::this_thread::get_id());
  });
  auto const where = future.get();
  BOOST_TEST((where != resumes));
  BOOST_TEST((where != std::this_thread::get_id()));
}

BOOST_AUTO_TEST_CASE(gives_a_future) {
  auto const engine = engine_of();
  auto future = async_wait(fmmap::async_call(engine, seven), asio::use_future);
  static_assert(std::is_same_v<decltype(future), std::future<result<int>>>);
  BOOST_TEST(or_throw(future.get()) == 7);
}

BOOST_AUTO_TEST_CASE(is_awaited_by_its_coroutines) {
  auto const engine = engine_of();
  scratch const folder;
  asio_context context;
  auto const self = std::this_thread::get_id();
  run(context, [&]() -> awaitable<void> {
    auto file = or_throw(co_await async_wait(fmmap::async_create(engine, folder / "a", {.size = page}), use_awaitable));
    BOOST_TEST((std::this_thread::get_id() == self));
    or_throw(file.write_le<int>(0, 7));
    BOOST_TEST((or_throw(co_await async_wait(fmmap::async_flush(engine, file), use_awaitable)) >= durability::data));
    or_throw(co_await async_wait(fmmap::async_resize(engine, file, 2 * page), use_awaitable));
    BOOST_TEST((std::this_thread::get_id() == self));
    auto const [thrown, refused] =
        co_await async_wait(fmmap::async_open(engine, folder / "missing"), asio::as_tuple(use_awaitable));
    BOOST_TEST((thrown == nullptr));
    BOOST_TEST(fails(refused, std::errc::no_such_file_or_directory));
    or_throw(co_await async_wait(fmmap::async_close(engine, std::move(file)), use_awaitable));
  }());
  BOOST_TEST(std::filesystem::file_size(folder / "a") == 2 * page);
}

BOOST_AUTO_TEST_CASE(begins_late_where_it_is_deferred) {
  auto const engine = engine_of();
  asio_context context;
  std::atomic<int> runs{0};
  auto later = async_wait(fmmap::async_call(engine, [&]() -> result<int> { return ++runs; }), asio::deferred);
  std::this_thread::sleep_for(5ms);
  BOOST_TEST(runs == 0);
  told<int> const one;
  std::move(later)(asio::bind_executor(context, one.handler()));
  context.run();
  BOOST_TEST(or_throw(*one.seen->got) == 1);
}

BOOST_AUTO_TEST_CASE(goes_to_strands_pools_and_executors_of_any_kind) {
  auto const engine = engine_of();
  asio::thread_pool pool{4};
  auto strand = asio::make_strand(pool);
  std::atomic<int> inside{0};
  std::atomic<int> most{0};
  std::atomic<int> off_strand{0};
  std::vector<std::future<void>> all;
  for (int i = 0; i < 100; ++i) {
    auto done = std::make_shared<std::promise<void>>();
    all.push_back(done->get_future());
    async_wait(fmmap::async_call(engine, seven),
               asio::bind_executor(strand, [&, done](std::exception_ptr const&, result<int> const&) {
                 most = std::max(most.load(), ++inside);
                 off_strand += strand.running_in_this_thread() ? 0 : 1;
                 std::this_thread::yield();
                 --inside;
                 done->set_value();
               }));
  }
  for (auto& each : all) {
    each.get();
  }
  BOOST_TEST(most == 1);
  BOOST_TEST(off_strand == 0);
  asio::any_io_executor const any = pool.get_executor();
  auto on_any = async_wait(fmmap::async_call(engine, seven), asio::bind_executor(any, asio::use_future));
  BOOST_TEST(or_throw(on_any.get()) == 7);
  pool.join();
}

BOOST_AUTO_TEST_CASE(is_posted_in_memory_of_its_handlers_allocator) {
  auto const engine = engine_of();
  asio_context context;
  std::array<std::byte, 4096> room{};
  std::pmr::monotonic_buffer_resource memory{room.data(), room.size(), std::pmr::null_memory_resource()};
  std::pmr::polymorphic_allocator<> const allocator{&memory};
  told<int> const one;
  async_wait(fmmap::async_call(engine, seven),
             asio::bind_allocator(allocator, asio::bind_executor(context, one.handler())));
  context.run();
  BOOST_TEST(or_throw(*one.seen->got) == 7);
  BOOST_TEST((memory.allocate(1) != room.data())); // something lies there
}

BOOST_AUTO_TEST_CASE(that_is_over_already_is_posted_all_the_same) {
  fmmap::io_engine const none;
  asio_context context;
  told<int> const one;
  async_wait(fmmap::async_call(none, seven), asio::bind_executor(context, one.handler()));
  BOOST_TEST(one.seen->calls == 0);
  context.run();
  BOOST_TEST(fails(*one.seen->got, errc::closed));
  std::stop_source stopped;
  stopped.request_stop();
  auto const engine = engine_of();
  told<int> const other;
  async_wait(fmmap::async_call(engine, seven, stopped.get_token()), asio::bind_executor(context, other.handler()));
  BOOST_TEST(other.seen->calls == 0);
  context.restart();
  context.run();
  BOOST_TEST(fails(*other.seen->got, std::errc::operation_canceled));
}

BOOST_AUTO_TEST_CASE(throws_where_it_is_awaited) {
  auto const engine = engine_of();
  asio_context context;
  BOOST_CHECK_THROW(async_wait(fmmap::async_call(engine, throw_something), asio::use_future).get(), std::runtime_error);
  auto const caught = run(context, [&]() -> awaitable<bool> {
    try {
      (void)co_await async_wait(fmmap::async_call(engine, throw_something), use_awaitable);
    } catch (std::runtime_error const&) {
      co_return true;
    }
    co_return false;
  }());
  BOOST_TEST(caught);
  told<int> const one;
  async_wait(fmmap::async_call(engine, throw_something), asio::bind_executor(context, one.handler()));
  context.run();
  BOOST_TEST((one.seen->thrown != nullptr));
  BOOST_TEST(!one.seen->got->has_value());
}

BOOST_AUTO_TEST_CASE(lets_what_its_handler_throws_out_of_the_loop) {
  auto const engine = engine_of();
  asio_context context;
  async_wait(fmmap::async_call(engine, seven),
             asio::bind_executor(context, [](std::exception_ptr const&, result<int> const&) { throw 7; }));
  BOOST_CHECK_THROW(context.run(), int);
  BOOST_TEST(context.run() == 0U); // there is no work left
}

BOOST_AUTO_TEST_CASE(is_one_of_a_thousand) {
  auto const engine = engine_of();
  scratch const folder;
  asio_context context;
  std::vector<fmmap::mutable_mapped_file> files;
  for (int i = 0; i < 10; ++i) {
    files.push_back(or_throw(fmmap::mutable_mapped_file::create(folder / std::to_string(i), {.size = page})));
  }
  int done = 0;
  auto const flush = [&](std::size_t i) -> awaitable<void> {
    files[i % files.size()].writable_bytes()[i] = std::byte{1};
    (void)or_throw(co_await async_wait(fmmap::async_flush(engine, files[i % files.size()]), use_awaitable));
    ++done;
  };
  for (std::size_t i = 0; i < 1000; ++i) {
    asio::co_spawn(context, flush(i), asio::detached);
  }
  context.run();
  BOOST_TEST(done == 1000);
}

// The calls that the system sees, by who makes them.
BOOST_AUTO_TEST_CASE(never_blocks_the_thread_of_the_loop) {
  auto const engine = engine_of();
  scratch const folder;
  asio_context context;
  watched_calls calls{{std::this_thread::get_id()}};
  run(context, [&]() -> awaitable<void> {
    auto file = or_throw(co_await async_wait(fmmap::async_create(engine, folder / "a", {.size = page}), use_awaitable));
    file.writable_bytes()[0] = std::byte{1};
    (void)or_throw(co_await async_wait(fmmap::async_flush(engine, file), use_awaitable));
    or_throw(co_await async_wait(fmmap::async_resize(engine, file, 4 * page), use_awaitable));
    or_throw(co_await async_wait(fmmap::async_prefault(engine, file), use_awaitable));
    or_throw(co_await async_wait(fmmap::async_remove(engine, file), use_awaitable));
    or_throw(co_await async_wait(fmmap::async_close(engine, std::move(file)), use_awaitable));
  }());
  BOOST_TEST(calls.elsewhere() > 10U);
  auto const blocking = calls.blocking();
  BOOST_TEST(blocking.empty(), "it made the call " << (blocking.empty() ? "" : blocking.front()));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_cancellation)

BOOST_AUTO_TEST_CASE(of_each_type_ends_what_waits_for_its_turn) {
  using enum asio::cancellation_type;
  auto const engine = engine_of({.threads = 1});
  for (auto const type : {terminal, partial, total}) {
    asio_context context;
    blocker const busy{engine};
    std::atomic<int> runs{0};
    asio::cancellation_signal signal;
    told<int> const one;
    async_wait(fmmap::async_call(engine, [&]() -> result<int> { return ++runs; }),
               asio::bind_cancellation_slot(signal.slot(), asio::bind_executor(context, one.handler())));
    signal.emit(type);
    BOOST_TEST(one.seen->calls == 0); // not from within
    context.run();
    BOOST_TEST(fails(*one.seen->got, std::errc::operation_canceled));
    BOOST_TEST(runs == 0);
    signal.emit(type); // has nobody to tell
  }
}

BOOST_AUTO_TEST_CASE(of_what_runs_lets_it_go_on) {
  auto const engine = engine_of();
  asio_context context;
  std::promise<void> begun;
  std::atomic<bool> go_on{false};
  asio::cancellation_signal signal;
  told<int> const one;
  async_wait(fmmap::async_call(engine,
                               [&]() -> result<int> {
                                 begun.set_value();
                                 go_on.wait(false);
                                 return 7;
                               }),
             asio::bind_cancellation_slot(signal.slot(), asio::bind_executor(context, one.handler())));
  begun.get_future().get();
  signal.emit(asio::cancellation_type::all);
  go_on = true;
  go_on.notify_all();
  context.run();
  BOOST_TEST(or_throw(*one.seen->got) == 7);
}

BOOST_AUTO_TEST_CASE(ends_a_wait_for_a_lock) {
  auto const engine = engine_of();
  scratch const folder;
  auto const file = or_throw(fmmap::file::open(folder.file("a", "x"), {.access = fmmap::access::read_write}));
  auto lock = or_throw(fmmap::file_lock::create(file));
  auto other = or_throw(fmmap::file_lock::create(file));
  or_throw(lock.acquire(fmmap::lock_mode::exclusive));
  asio_context context;
  asio::cancellation_signal signal;
  told<bool> const one;
  async_wait(fmmap::async_lock(engine, other, fmmap::lock_mode::exclusive),
             asio::bind_cancellation_slot(signal.slot(), asio::bind_executor(context, one.handler())));
  context.run_for(5ms); // nearly always it waits by then
  BOOST_TEST(one.seen->calls == 0);
  signal.emit(asio::cancellation_type::terminal);
  context.restart();
  context.run();
  BOOST_TEST(fails(*one.seen->got, std::errc::operation_canceled));
  or_throw(lock.release());
}

BOOST_AUTO_TEST_CASE(of_a_coroutine_reaches_what_it_awaits) {
  auto const engine = engine_of({.threads = 1});
  asio_context context;
  blocker const busy{engine};
  asio::cancellation_signal signal;
  std::optional<result<int>> got;
  asio::co_spawn(
      context, [&]() -> awaitable<void> { got = co_await async_wait(fmmap::async_call(engine, seven), use_awaitable); },
      asio::bind_cancellation_slot(signal.slot(), asio::detached));
  context.poll();
  BOOST_TEST(!got.has_value());
  signal.emit(asio::cancellation_type::terminal);
  context.restart();
  context.run();
  BOOST_TEST_REQUIRE(got.has_value());
  BOOST_TEST(fails(*got, std::errc::operation_canceled));
}

BOOST_AUTO_TEST_CASE(leaves_the_stop_token_of_the_program_alone) {
  auto const engine = engine_of({.threads = 1});
  asio_context context;
  std::optional<blocker> busy{std::in_place, engine};
  std::stop_source stop;
  asio::cancellation_signal signal;
  told<int> const one;
  told<int> const other;
  async_wait(fmmap::async_call(engine, seven, stop.get_token()),
             asio::bind_cancellation_slot(signal.slot(), asio::bind_executor(context, one.handler())));
  async_wait(fmmap::async_call(engine, seven, stop.get_token()), asio::bind_executor(context, other.handler()));
  signal.emit(asio::cancellation_type::terminal);
  BOOST_TEST(!stop.stop_requested());
  busy.reset();
  context.run();
  BOOST_TEST(fails(*one.seen->got, std::errc::operation_canceled));
  BOOST_TEST(or_throw(*other.seen->got) == 7);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_context_that_is_destroyed)

BOOST_AUTO_TEST_CASE(drops_what_waits_for_its_turn) {
  auto const engine = engine_of({.threads = 1});
  blocker const busy{engine};
  told<int> const one;
  std::atomic<int> runs{0};
  {
    asio_context context;
    async_wait(fmmap::async_call(engine, [&]() -> result<int> { return ++runs; }),
               asio::bind_executor(context, one.handler()));
    BOOST_TEST(!one.is_dropped());
  }
  BOOST_TEST(one.is_dropped());
  BOOST_TEST(one.seen->calls == 0);
  BOOST_TEST(runs == 0);
}

BOOST_AUTO_TEST_CASE(lets_what_runs_go_on_by_itself) {
  auto const engine = engine_of();
  told<int> const one;
  auto const owned = std::make_shared<std::promise<void>>(); // by the function too
  auto const go_on = std::make_shared<std::atomic<bool>>(false);
  {
    asio_context context;
    async_wait(fmmap::async_call(engine,
                                 [owned, go_on]() -> result<int> {
                                   owned->set_value();
                                   go_on->wait(false);
                                   return 7;
                                 }),
               asio::bind_executor(context, one.handler()));
    owned->get_future().get();
  }
  BOOST_TEST(one.is_dropped());
  *go_on = true;
  go_on->notify_all();
}

// The file lies in the coroutine that goes, and is resized meanwhile.
BOOST_AUTO_TEST_CASE(waits_for_what_uses_an_object) {
  auto const engine = engine_of();
  scratch const folder;
  auto const descriptors = descriptor_count();
  std::atomic<bool> is_resizing{false};
  seam::armed const table;
  seam::delay(fmmap::os::call::fallocate, 20'000us);
  seam::observe([&](seam::observation const& one) {
    is_resizing = is_resizing || (one.which == fmmap::os::call::fallocate && !one.over);
    is_resizing.notify_all();
  });
  {
    asio_context context;
    asio::co_spawn(
        context,
        [&]() -> awaitable<void> {
          auto file = or_throw(fmmap::mutable_mapped_file::create(folder / "a", {.reserve = 16 * page}));
          or_throw(co_await async_wait(fmmap::async_resize(engine, file, 4 * page), use_awaitable));
        },
        asio::detached);
    context.poll();
    is_resizing.wait(false);
  }
  BOOST_TEST(std::filesystem::file_size(folder / "a") == 4 * page);
  BOOST_TEST(descriptor_count() == descriptors);
}

BOOST_AUTO_TEST_CASE(drops_what_is_over_and_has_been_posted) {
  auto const engine = engine_of();
  scratch const folder;
  auto const descriptors = descriptor_count();
  told<fmmap::mutable_mapped_file> const one;
  told<int> const refused;
  {
    asio_context context;
    async_wait(fmmap::async_create(engine, folder / "a", {.size = page}), asio::bind_executor(context, one.handler()));
    async_wait(fmmap::async_call(fmmap::io_engine{}, seven), asio::bind_executor(context, refused.handler()));
    (void)awaited(fmmap::async_call(engine, seven));
    std::this_thread::sleep_for(5ms); // the first is over
  }
  BOOST_TEST(one.is_dropped());
  BOOST_TEST(refused.is_dropped());
  BOOST_TEST(one.seen->calls == 0);
  BOOST_TEST(descriptor_count() == descriptors); // what it opened is closed
}

// As a lock that another handler has, which goes with that.
BOOST_AUTO_TEST_CASE(gives_up_what_came_of_operations_before_any_handler) {
  auto const engine = engine_of({.threads = 1});
  std::vector<std::string> gone;
  auto const noted = [&](std::string what) {
    return std::shared_ptr<void>{nullptr, [&gone, what](void*) { gone.push_back(what); }};
  };
  {
    asio_context context;
    async_wait(fmmap::async_call(engine, [&] { return result<std::shared_ptr<void>>{noted("outcome")}; }),
               asio::bind_executor(context, [](std::exception_ptr, result<std::shared_ptr<void>> const&) {}));
    async_wait(fmmap::async_sleep(engine, 1h),
               asio::bind_executor(context, [owned = noted("handler")](std::exception_ptr, result<void> const&) {}));
    (void)awaited(fmmap::async_call(engine, seven)); // the first has been posted
  }
  BOOST_TEST((gone == std::vector<std::string>{"outcome", "handler"}));
}

BOOST_AUTO_TEST_CASE(in_a_forked_child_waits_for_nobody) {
  if (thread_sanitized) {
    skip("the thread sanitizer wants no fork of a process with threads");
    return;
  }
  auto const engine = engine_of({.threads = 1});
  told<int> const one;
  std::optional<asio_context> context{std::in_place};
  async_wait(fmmap::async_call(engine, seven), asio::bind_executor(*context, one.handler()));
  (void)awaited(fmmap::async_call(engine, seven)); // the first has been posted
  BOOST_TEST(found_in_child([&](findings& found) {
               ::alarm(20);
               context.reset();
               found.expect(one.is_dropped(), "the handler is left");
             }) == "");
  context->run();
  BOOST_TEST(one.seen->calls == 1);
}

// At any moment of what the engine does, also while it posts.
BOOST_AUTO_TEST_CASE(at_any_moment_leaves_nothing_behind) {
  auto const engine = engine_of({.threads = 2});
  for (int round = 0; round < 300; ++round) {
    std::vector<told<int>> all(8);
    {
      asio_context context;
      std::jthread const loop{[&] { context.run_for(std::chrono::microseconds{round}); }};
      for (auto const& one : all) {
        async_wait(fmmap::async_call(engine, seven), asio::bind_executor(context, one.handler()));
      }
    }
    for (auto const& one : all) {
      BOOST_TEST_REQUIRE(one.is_dropped());
      BOOST_TEST_REQUIRE(one.seen->calls <= 1);
    }
  }
}

BOOST_AUTO_TEST_CASE(lets_its_engine_go_first_or_last) {
  asio_context context;
  told<int> const one;
  {
    auto const engine = engine_of({.threads = 1});
    for (int i = 0; i < 10; ++i) {
      async_wait(fmmap::async_call(engine, seven), asio::bind_executor(context, one.handler()));
    }
  }
  context.run();
  BOOST_TEST(one.seen->calls == 10); // done or canceled
  BOOST_TEST(one.is_dropped());
}

BOOST_AUTO_TEST_SUITE_END()
