// SPDX-License-Identifier: MIT OR Apache-2.0
//
// fmmap.async beside the calls that its flushes stand for, made by the caller or by a plain thread.

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <filesystem>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <benchmark/benchmark.h>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/system/error_code.hpp>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "support.hpp"

import fmmap.async;
import fmmap.core;

namespace {

using fmmap::engine_kind;
using fmmap::io_engine;
using fmmap::mutable_mapped_file;
using fmmap::or_throw;
using fmmap::sync_wait;
using fmmap::task;

constexpr std::size_t page = 4096;

// One that has its threads.
auto engine_of(engine_kind kind) -> io_engine {
  auto made = or_throw(io_engine::create({.kind = kind}));
  or_throw(sync_wait(fmmap::async_call(made, []() -> fmmap::result<void> { return {}; })));
  return made;
}

auto open_file(std::size_t size) -> mutable_mapped_file {
  return or_throw(mutable_mapped_file::open(bench::cached_file(size)));
}

// A file all of whose pages wait to be written, with nothing else to write, and nothing else running.
void dirty(mutable_mapped_file& file) {
  bench::settle();
  auto const bytes = file.writable_bytes();
  for (std::size_t at = 0; at < bytes.size(); at += page) {
    bytes[at] = static_cast<std::byte>(std::to_integer<int>(bytes[at]) + 1);
  }
  std::this_thread::sleep_for(std::chrono::milliseconds{20}); // what the kernel has begun for it is over then
}

// Counts what is over.
struct counter {
  std::atomic<std::size_t> count{0};
  static void tell(void* self) noexcept {
    auto& number = static_cast<counter*>(self)->count;
    ++number;
    number.notify_one();
  }
  void wait_for(std::size_t number) {
    for (auto seen = count.load(); seen < number; seen = count.load()) {
      count.wait(seen);
    }
  }
};

// --- async.blocked ----------------------------------------------------------------------------------------------------

template <engine_kind Kind>
void blocked_ours(benchmark::State& state) {
  auto const engine = engine_of(Kind);
  auto file = open_file(bench::sized(std::size_t{256} << 20, std::size_t{1} << 20));
  for ([[maybe_unused]] auto _ : state) {
    dirty(file);
    counter over;
    bench::stopwatch watch{state};
    auto flush = fmmap::async_flush(engine, file);
    (void)flush.start(counter::tell, &over);
    watch.stop();
    over.wait_for(1);
    (void)or_throw(flush.await_resume());
  }
}

void blocked_by_msync(benchmark::State& state) {
  auto file = open_file(bench::sized(std::size_t{256} << 20, std::size_t{1} << 20));
  for ([[maybe_unused]] auto _ : state) {
    dirty(file);
    auto const bytes = file.writable_bytes();
    bench::stopwatch watch{state};
    bench::checked(::msync(bytes.data(), bytes.size(), MS_SYNC), "msync");
    watch.stop();
  }
}

// --- async.completion -------------------------------------------------------------------------------------------------

template <engine_kind Kind>
void completion_ours(benchmark::State& state) {
  auto const engine = engine_of(Kind);
  auto file = open_file(bench::sized(std::size_t{256} << 20, std::size_t{1} << 20));
  for ([[maybe_unused]] auto _ : state) {
    dirty(file);
    bench::stopwatch watch{state};
    (void)or_throw(sync_wait(fmmap::async_flush(engine, file)));
    watch.stop();
  }
}

void completion_by_thread(benchmark::State& state) {
  auto file = open_file(bench::sized(std::size_t{256} << 20, std::size_t{1} << 20));
  for ([[maybe_unused]] auto _ : state) {
    dirty(file);
    bench::stopwatch watch{state};
    std::jthread{[&] { bench::checked(::fdatasync(file.as_file().native_handle()), "fdatasync"); }}.join();
    watch.stop();
  }
}

// --- async.ticker_gap -------------------------------------------------------------------------------------------------

// The longest time between two ticks of 1 ms on this thread, while something is flushed.
template <class Begin>
void tick(benchmark::State& state, Begin begin) {
  auto file = open_file(bench::sized(std::size_t{512} << 20, std::size_t{1} << 20));
  for ([[maybe_unused]] auto _ : state) {
    dirty(file);
    std::atomic<bool> is_over{false};
    using clock = std::chrono::steady_clock;
    auto longest = clock::duration::zero();
    auto last = clock::now();
    begin(file, is_over, [&] {
      do {
        std::this_thread::sleep_for(std::chrono::milliseconds{1});
        auto const now = clock::now();
        longest = std::max(longest, now - last);
        last = now;
      } while (!is_over);
    });
    state.SetIterationTime(std::chrono::duration<double>{longest}.count());
  }
}

template <engine_kind Kind>
void ticker_ours(benchmark::State& state) {
  auto const engine = engine_of(Kind);
  tick(state, [&](mutable_mapped_file& file, std::atomic<bool>& is_over, auto ticking) {
    auto flush = fmmap::async_flush(engine, file);
    (void)flush.start([](void* flag) noexcept { static_cast<std::atomic<bool>*>(flag)->store(true); }, &is_over);
    ticking();
    (void)or_throw(flush.await_resume());
  });
}

void ticker_by_thread(benchmark::State& state) {
  tick(state, [](mutable_mapped_file& file, std::atomic<bool>& is_over, auto ticking) {
    std::jthread const syncing{[&] {
      bench::checked(::fdatasync(file.as_file().native_handle()), "fdatasync");
      is_over = true;
    }};
    ticking();
  });
}

// --- async.grouped ----------------------------------------------------------------------------------------------------

constexpr std::size_t flushes = 1000;

template <engine_kind Kind>
void grouped_ours(benchmark::State& state) {
  auto const engine = engine_of(Kind);
  auto const count = bench::sized(flushes, 20);
  auto file = open_file(flushes * page);
  auto const one = [&](std::size_t at) -> task<> {
    file.writable_bytes()[at * page] = std::byte{1};
    (void)or_throw(co_await fmmap::async_flush(engine, file, {.offset = at * page, .length = page}));
  };
  for ([[maybe_unused]] auto _ : state) {
    bench::settle();
    std::vector<task<>> all;
    all.reserve(count);
    for (std::size_t i = 0; i < count; ++i) {
      all.push_back(one(i));
    }
    bench::stopwatch watch{state};
    (void)sync_wait(fmmap::when_all(std::move(all)));
    watch.stop();
  }
}

void grouped_by_fdatasync(benchmark::State& state) {
  auto const count = bench::sized(flushes, 20);
  auto file = open_file(flushes * page);
  for ([[maybe_unused]] auto _ : state) {
    bench::settle();
    bench::stopwatch watch{state};
    for (std::size_t i = 0; i < count; ++i) {
      file.writable_bytes()[i * page] = std::byte{1};
      bench::checked(::fdatasync(file.as_file().native_handle()), "fdatasync");
    }
    watch.stop();
  }
}

// --- async.open -------------------------------------------------------------------------------------------------------

auto small_files() -> std::vector<std::filesystem::path> const& {
  static auto const all = [] {
    std::vector<std::filesystem::path> made(bench::sized(10'000, 100));
    for (std::size_t i = 0; i < made.size(); ++i) {
      made[i] = bench::current().folder / ("small-" + std::to_string(i));
      auto const file =
          bench::checked(::open(made[i].c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600), "create a small file");
      bench::checked(::pwrite(file, made[i].c_str(), 8, 0), "write");
      bench::checked(::close(file), "close");
    }
    return made;
  }();
  return all;
}

// `in_flight` coroutines, each of which opens one file after another and looks at it.
template <engine_kind Kind, std::size_t InFlight>
void open_ours(benchmark::State& state) {
  auto const engine = engine_of(Kind);
  auto const& paths = small_files();
  for ([[maybe_unused]] auto _ : state) {
    std::size_t next = 0; // one thread resumes them all
    auto const user = [&]() -> task<> {
      while (next < paths.size()) {
        auto file = or_throw(co_await fmmap::async_open(engine, paths[next++]));
        benchmark::DoNotOptimize(file.bytes()[0]);
        or_throw(co_await fmmap::async_close(engine, std::move(file)));
      }
    };
    std::vector<task<>> all;
    for (std::size_t i = 0; i < InFlight; ++i) {
      all.push_back(user());
    }
    auto const start = [&]() -> task<> {
      (void)co_await fmmap::async_call(engine, []() -> fmmap::result<void> { return {}; });
      (void)co_await fmmap::when_all(std::move(all));
    };
    bench::stopwatch watch{state};
    sync_wait(start());
    watch.stop();
  }
}

void open_by_the_caller(benchmark::State& state) {
  auto const& paths = small_files();
  for ([[maybe_unused]] auto _ : state) {
    bench::stopwatch watch{state};
    for (auto const& path : paths) {
      auto file = or_throw(fmmap::mapped_file::open(path));
      benchmark::DoNotOptimize(file.bytes()[0]);
      or_throw(file.close());
    }
    watch.stop();
  }
}

// --- async.sleep ------------------------------------------------------------------------------------------------------

// When sleeps are to end, in an hour: in the order in which they begin, or in any.
enum class ends : unsigned char { in_order, at_random };

auto sleeps(ends when) -> std::vector<std::chrono::milliseconds> {
  std::vector<std::chrono::milliseconds> all(bench::sized(20'000, 100));
  for (std::size_t i = 0; i < all.size(); ++i) {
    all[i] = std::chrono::hours{1} + std::chrono::milliseconds{i};
  }
  if (when == ends::at_random) {
    std::ranges::shuffle(all, std::mt19937{1});
  }
  return all;
}

template <engine_kind Kind, ends When>
void sleep_ours(benchmark::State& state) {
  auto const engine = engine_of(Kind);
  auto const all = sleeps(When);
  for ([[maybe_unused]] auto _ : state) {
    bench::stopwatch watch{state};
    std::vector<fmmap::operation<void>> pending;
    pending.reserve(all.size());
    for (auto const one : all) {
      benchmark::DoNotOptimize(
          pending.emplace_back(fmmap::async_sleep(engine, one)).start([](void*) noexcept {}, nullptr));
    }
    pending.clear();
    watch.stop();
  }
}

void sleep_by_asio(benchmark::State& state) {
  auto const all = sleeps(ends::at_random);
  for ([[maybe_unused]] auto _ : state) {
    boost::asio::io_context context{1};
    bench::stopwatch watch{state};
    std::vector<boost::asio::steady_timer> pending;
    pending.reserve(all.size());
    for (auto const one : all) {
      pending.emplace_back(context, one).async_wait([](boost::system::error_code) {});
    }
    pending.clear();
    benchmark::DoNotOptimize(context.run());
    watch.stop();
  }
}

void add_rows() {
  using bench::add_row;
  using bench::pace;
  using enum engine_kind;
  add_row("async.blocked", pace::slow,
          {{"ours", blocked_ours<automatic>}, {"peer", blocked_by_msync}, {"by threads", blocked_ours<threads>}});
  add_row(
      "async.completion", pace::slow,
      {{"ours", completion_ours<automatic>}, {"peer", completion_by_thread}, {"by threads", completion_ours<threads>}});
  add_row("async.ticker_gap", pace::slow,
          {{"ours", ticker_ours<automatic>}, {"peer", ticker_by_thread}, {"by threads", ticker_ours<threads>}});
  add_row("async.grouped", pace::slow,
          {{"ours", grouped_ours<automatic>}, {"peer", grouped_by_fdatasync}, {"by threads", grouped_ours<threads>}});
  add_row("async.open", pace::slow,
          {{"ours", open_ours<automatic, 64>},
           {"peer", open_by_the_caller},
           {"one at a time", open_ours<automatic, 1>},
           {"64 by threads", open_ours<threads, 64>}});
  add_row("async.sleep", pace::slow,
          {{"ours", sleep_ours<automatic, ends::at_random>},
           {"peer", sleep_by_asio},
           {"in order", sleep_ours<automatic, ends::in_order>},
           {"by threads", sleep_ours<threads, ends::at_random>}});
}

} // namespace

auto main(int argc, char** argv) -> int { return bench::run(argc, argv, add_rows); }
