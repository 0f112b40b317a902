// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <expected>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "support/loop.hpp"
#include "support/outcome.hpp"
#include "support/process.hpp"
#include "support/scratch.hpp"

#include "support/engines.hpp"
#include "support/watched_calls.hpp"

import fmmap.async;
import fmmap.core;
import fmmap.lock;
import fmmap.os;
import fmmap.pmr;

using fmmap::durability;
using fmmap::errc;
using fmmap::io_engine;
using fmmap::mutable_mapped_file;
using fmmap::operation;
using fmmap::or_throw;
using fmmap::sync_wait;
using fmmap::task;
using fmmap::when_all;
using fmmap::whole;
using fmmap::os::call;
using namespace std::chrono_literals;
namespace seam = fmmap::os::seam;
using seam::armed;

namespace {

constexpr std::size_t page = 4096;

auto has_begun() -> bool { return !seam::calls().empty(); }

// How many mappings of this process are of files there.
auto mappings_of(scratch const& folder) -> std::size_t {
  std::ifstream all{"/proc/self/maps"};
  std::size_t count = 0;
  for (std::string line; std::getline(all, line);) {
    count += line.find(folder.folder().string()) != std::string::npos ? 1 : 0;
  }
  return count;
}

// One of everything that an engine does with files, on what it needs; each leaves things so that it can be done again.
struct asked {
  scratch folder;
  std::filesystem::path path = folder.file("read.bin", std::string(3 * page, 'r'));
  fmmap::file opened = or_throw(fmmap::file::open(path));
  mutable_mapped_file mapped =
      or_throw(mutable_mapped_file::create(folder / "mapped.bin", {.size = page, .reserve = 64 * page}));
  fmmap::persistent_heap heap = or_throw(fmmap::persistent_heap::open_or_create(folder / "state.heap"));
  std::vector<mutable_mapped_file> to_remove;
  std::vector<fmmap::file_lock> locks; // of a byte each
  std::atomic<int> number{0};
  loop* executor = nullptr; // where to go on, instead of the engine's thread

  asked() {
    for (std::size_t i = 0; i < 100; ++i) {
      to_remove.push_back(or_throw(mutable_mapped_file::create(folder / ("old-" + std::to_string(i)), {.size = 1})));
      locks.push_back(or_throw(fmmap::file_lock::create(mapped, {.offset = i, .length = 1})));
    }
  }

  template <class T>
  auto next(std::vector<T>& all) -> T& {
    return all.at(static_cast<std::size_t>(++number));
  }
  auto next_path() -> std::filesystem::path { return folder / ("new-" + std::to_string(++number)); }
};

template <class T>
auto forget_value(asked const& a, operation<T> what) -> task<fmmap::result<void>> {
  auto got = a.executor != nullptr ? co_await fmmap::resume_on(*a.executor, std::move(what)) : co_await what;
  co_return got ? fmmap::result<void>{} : std::unexpected(std::move(got).error());
}

struct kind_of_operation {
  std::string_view name;
  std::function<task<fmmap::result<void>>(io_engine const&, asked&, std::stop_token)> ask;
};

std::vector<kind_of_operation> const all_kinds{
    {"open",
     [](io_engine const& engine, asked& a, std::stop_token stop) {
       return forget_value(a, fmmap::async_open(engine, a.path, {}, std::move(stop)));
     }},
    {"open mutable",
     [](io_engine const& engine, asked& a, std::stop_token stop) {
       return forget_value(a, fmmap::async_open_mutable(engine, a.path, {}, std::move(stop)));
     }},
    {"create",
     [](io_engine const& engine, asked& a, std::stop_token stop) {
       return forget_value(a, fmmap::async_create(engine, a.next_path(), {.size = page}, std::move(stop)));
     }},
    {"flush",
     [](io_engine const& engine, asked& a, std::stop_token stop) {
       a.mapped.writable_bytes()[0] = std::byte{1};
       return forget_value(a, fmmap::async_flush(engine, a.mapped, whole, durability::data, std::move(stop)));
     }},
    {"commit",
     [](io_engine const& engine, asked& a, std::stop_token stop) {
       (void)a.heap.resource()->allocate(64, 8);
       return forget_value(a, fmmap::async_commit(engine, a.heap, std::move(stop)));
     }},
    {"resize",
     [](io_engine const& engine, asked& a, std::stop_token stop) {
       auto const now = a.mapped.size() == page ? 2 * page : page;
       return forget_value(a, fmmap::async_resize(engine, a.mapped, now, std::move(stop)));
     }},
    {"prefault",
     [](io_engine const& engine, asked& a, std::stop_token stop) {
       return forget_value(
           a, fmmap::async_prefault(engine, a.mapped, whole, fmmap::advice::populate_read, std::move(stop)));
     }},
    {"lock",
     [](io_engine const& engine, asked& a, std::stop_token stop) {
       return forget_value(
           a, fmmap::async_lock(engine, a.next(a.locks), fmmap::lock_mode::exclusive, fmmap::forever, std::move(stop)));
     }},
    {"remove",
     [](io_engine const& engine, asked& a, std::stop_token stop) {
       return forget_value(a, fmmap::async_remove(engine, a.next(a.to_remove), std::move(stop)));
     }},
    {"replace",
     [](io_engine const& engine, asked& a, std::stop_token stop) {
       auto const fill = [](std::span<std::byte> bytes) { std::ranges::fill(bytes, std::byte{'n'}); };
       return forget_value(a, fmmap::async_replace(engine, a.folder / "replaced", page, fill, {}, std::move(stop)));
     }},
    {"copy",
     [](io_engine const& engine, asked& a, std::stop_token stop) {
       return forget_value(a, fmmap::async_copy(engine, a.opened, a.next_path(), {}, std::move(stop)));
     }},
};

} // namespace

BOOST_AUTO_TEST_SUITE(an_operation)

BOOST_AUTO_TEST_CASE(does_what_the_call_does_that_it_is_named_after) {
  auto const engine = engine_of();
  scratch const folder;
  auto const work = [&]() -> task<> {
    auto file = or_throw(co_await fmmap::async_create(engine, folder / "a", {.reserve = 16 * page}));
    or_throw(co_await fmmap::async_resize(engine, file, 2 * page));
    BOOST_TEST(file.size() == 2 * page);
    or_throw(file.write_le<std::uint64_t>(page, 42));
    BOOST_TEST((or_throw(co_await fmmap::async_flush(engine, file)) >= durability::data));
    or_throw(co_await fmmap::async_prefault(engine, file, {.offset = 0, .length = page}));
    auto const seen = or_throw(co_await fmmap::async_open(engine, folder / "a"));
    BOOST_TEST(or_throw(seen.read_le<std::uint64_t>(page)) == 42U);
    auto changed = or_throw(co_await fmmap::async_open_mutable(engine, folder / "a"));
    BOOST_TEST(changed.size() == 2 * page);
    (void)or_throw(co_await fmmap::async_copy(engine, file.as_file(), folder / "b"));
    BOOST_TEST(read_back(folder / "b").size() == 2 * page);
    auto const fill = [](std::span<std::byte> bytes) { std::ranges::fill(bytes, std::byte{'n'}); };
    or_throw(co_await fmmap::async_replace(engine, folder / "b", 3, fill));
    BOOST_TEST(read_back(folder / "b") == "nnn");
    or_throw(co_await fmmap::async_remove(engine, file));
    BOOST_TEST(!std::filesystem::exists(folder / "a"));
    or_throw(co_await fmmap::async_close(engine, std::move(file)));
    BOOST_TEST(!file.is_open());
    BOOST_TEST(fails(co_await fmmap::async_open(engine, folder / "a"), std::errc::no_such_file_or_directory));
  };
  sync_wait(work());
}

BOOST_AUTO_TEST_CASE(commits_what_a_heap_holds) {
  auto const engine = engine_of();
  scratch const folder;
  {
    auto heap = or_throw(fmmap::persistent_heap::open_or_create(folder / "state.heap"));
    auto& numbers = *or_throw(heap.find_or_construct<std::pmr::vector<int>>("numbers"));
    numbers.push_back(7);
    (void)or_throw(awaited(fmmap::async_commit(engine, heap)));
    numbers.push_back(8);
    {
      auto const dropped = fmmap::async_commit(engine, heap);
    }
  }
  auto heap = or_throw(fmmap::persistent_heap::open_or_create(folder / "state.heap"));
  auto const& numbers = *or_throw(heap.find_or_construct<std::pmr::vector<int>>("numbers"));
  BOOST_TEST(numbers.size() == 1U);
}

BOOST_AUTO_TEST_CASE(may_outlive_the_object_that_it_flushes) {
  auto const engine = engine_of();
  scratch const folder;
  auto file = std::optional{or_throw(mutable_mapped_file::create(folder / "a", {.size = page}))};
  file->writable_bytes()[5] = std::byte{5};
  auto flush = fmmap::async_flush(engine, *file);
  file.reset();
  BOOST_TEST((or_throw(awaited(std::move(flush))) >= durability::data));
  BOOST_TEST(read_back(folder / "a")[5] == '\5');
}

BOOST_AUTO_TEST_CASE(tells_what_its_function_returns_or_throws) {
  auto const engine = engine_of();
  BOOST_TEST(or_throw(awaited(fmmap::async_call(engine, []() -> fmmap::result<int> { return 3; }))) == 3);
  auto const thrower = []() -> fmmap::result<int> { throw std::runtime_error{"mine"}; };
  BOOST_CHECK_THROW((void)awaited(fmmap::async_call(engine, thrower)), std::runtime_error);
  scratch const folder;
  auto const full = [](std::span<std::byte>) { throw std::runtime_error{"mine"}; };
  BOOST_CHECK_THROW((void)awaited(fmmap::async_replace(engine, folder / "a", page, full)), std::runtime_error);
  BOOST_TEST(std::filesystem::is_empty(folder.folder()));
}

BOOST_AUTO_TEST_CASE(gives_what_can_be_moved_and_not_assigned) {
  struct fixed {
    int const value;
  };
  auto const engine = engine_of();
  auto const got = awaited(fmmap::async_call(engine, []() -> fmmap::result<fixed> { return fixed{7}; }));
  BOOST_TEST((got && got->value == 7));
}

// Bad input is told as by the call, before anything is asked of the engine where that is known.
BOOST_AUTO_TEST_CASE(refuses_what_the_call_refuses) {
  auto const engine = engine_of();
  scratch const folder;
  auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = page}));
  BOOST_TEST(fails(awaited(fmmap::async_flush(engine, file, {.offset = 0, .length = 2 * page})), errc::out_of_range));
  BOOST_TEST(
      fails(awaited(fmmap::async_prefault(engine, file, {.offset = 2 * page, .length = 1})), errc::out_of_range));
  BOOST_TEST(fails(awaited(fmmap::async_create(engine, folder / "no" / "a")), std::errc::no_such_file_or_directory));
  or_throw(file.close());
  BOOST_TEST(fails(awaited(fmmap::async_flush(engine, file)), errc::closed));
  BOOST_TEST(fails(awaited(fmmap::async_resize(engine, file, page)), errc::closed));
}

BOOST_AUTO_TEST_CASE(that_was_moved_or_has_nothing_to_run_says_so) {
  auto const engine = engine_of();
  scratch const folder;
  auto one = fmmap::async_open(engine, folder.file("a", "x"));
  auto other = std::move(one);
  BOOST_TEST(fails(one.await_resume(), errc::closed)); // NOLINT(bugprone-use-after-move): that is it
  BOOST_TEST(awaited(std::move(other)).has_value());
  struct staging {
    [[nodiscard]] auto stage_commit() const -> fmmap::result<fmmap::flush_job> { return fmmap::flush_job{nullptr}; }
  };
  staging none;
  BOOST_TEST(fails(awaited(fmmap::async_commit(engine, none)), errc::already_run));
}

BOOST_AUTO_TEST_CASE(keeps_a_failed_flush_failed_though_the_next_would_succeed) {
  auto const engine = engine_of();
  scratch const folder;
  auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = page}));
  file.writable_bytes()[0] = std::byte{1};
  {
    armed const table;
    seam::fail(call::fdatasync, EIO, 1);
    seam::fail(call::fsync, EIO, 1);
    seam::fail(call::msync, EIO, 1);
    BOOST_TEST(fails(awaited(fmmap::async_flush(engine, file)), std::errc::io_error));
    BOOST_TEST(fails(awaited(fmmap::async_flush(engine, file)), std::errc::io_error));
  }
  BOOST_TEST(fails(awaited(fmmap::async_flush(engine, file)), std::errc::io_error));
  (void)or_throw(file.rewrite());
  BOOST_TEST((or_throw(awaited(fmmap::async_flush(engine, file))) >= durability::data));
}

// A failure that nobody has waited for is not lost either.
BOOST_AUTO_TEST_CASE(that_was_dropped_has_failed_for_those_who_come_later) {
  auto const engine = engine_of();
  scratch const folder;
  auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = page}));
  file.writable_bytes()[0] = std::byte{1};
  armed const table;
  for (auto const each : {call::fdatasync, call::fsync, call::msync}) {
    seam::fail(each, EIO, 1);
    seam::delay(each, 50'000us);
  }
  {
    auto flush = fmmap::async_flush(engine, file);
    BOOST_TEST(flush.start([](void*) noexcept {}, nullptr));
    BOOST_TEST_REQUIRE(becomes(has_begun));
  }
  BOOST_TEST(becomes([] { return seam::injected() == 1U; }));
  BOOST_TEST(becomes([&] { return fails(file.flush(), std::errc::io_error); }));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_thread_that_awaits)

// Neither it nor the one that resumes it makes a call that may block.
BOOST_AUTO_TEST_CASE(is_never_the_one_that_blocks) {
  auto const engine = engine_of();
  auto const a = std::make_unique<asked>();
  std::set const mine{std::this_thread::get_id(), thread_that_resumes(engine)};
  BOOST_TEST(mine.size() == 2U);
  for (auto const& kind : all_kinds) {
    if (kind.name == "commit") { // its staging is the exception
      continue;
    }
    BOOST_TEST_CONTEXT(kind.name) {
      watched_calls calls{mine};
      auto operation = kind.ask(engine, *a, {});
      auto const done = sync_wait(std::move(operation));
      BOOST_TEST(done.has_value());
      BOOST_TEST(calls.elsewhere() > 0U);
      auto blocking = calls.blocking();
      // What is opened goes here, on the thread that awaited it: `async_close` is there for who minds.
      std::erase_if(blocking, [&](std::string const& one) {
        return kind.name.starts_with("open") || kind.name == "create" ? one == "munmap" || one == "close" : false;
      });
      BOOST_TEST(blocking.empty(), "it made the call " << (blocking.empty() ? "" : blocking.front()));
    }
  }
}

BOOST_AUTO_TEST_CASE(closes_elsewhere) {
  auto const engine = engine_of();
  scratch const folder;
  auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = page}));
  auto const self = std::this_thread::get_id();
  std::atomic<int> here{0};
  armed const table;
  seam::observe([&](seam::observation const&) { here += std::this_thread::get_id() == self ? 1 : 0; });
  or_throw(awaited(fmmap::async_close(engine, std::move(file))));
  BOOST_TEST(here == 0);
  BOOST_TEST(has_begun());
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_stop)

BOOST_AUTO_TEST_CASE(before_it_has_begun_leaves_everything_as_it_was) {
  auto const engine = engine_of();
  auto const a = std::make_unique<asked>();
  std::stop_source stopped;
  stopped.request_stop();
  for (auto const& kind : all_kinds) {
    BOOST_TEST_CONTEXT(kind.name) {
      auto operation = kind.ask(engine, *a, stopped.get_token());
      armed const table;
      auto const before = seam::calls().size();
      BOOST_TEST(fails(sync_wait(std::move(operation)), std::errc::operation_canceled));
      BOOST_TEST(seam::calls().size() == before);
    }
  }
}

// The only thread of the engine is busy.
BOOST_AUTO_TEST_CASE(while_it_waits_for_its_turn_ends_it) {
  for (auto const& kind : all_kinds) {
    BOOST_TEST_CONTEXT(kind.name) {
      auto const a = std::make_unique<asked>();
      std::atomic<bool> go_on{false}; // used by what goes on when it has been dropped
      auto const engine = engine_of({.threads = 1});
      std::atomic<bool> is_busy{false};
      auto busy = fmmap::async_call(engine, [&]() -> fmmap::result<void> {
        is_busy = true;
        go_on.wait(false);
        return {};
      });
      BOOST_TEST(busy.start([](void*) noexcept {}, nullptr));
      BOOST_TEST_REQUIRE(becomes([&] { return is_busy.load(); }));
      auto const needs_no_turn =
          kind.name == "lock" || (kind.name == "flush" && engine.kind() == fmmap::engine_kind::io_uring);
      if (needs_no_turn) {
        BOOST_TEST(sync_wait(kind.ask(engine, *a, {})).has_value());
      } else {
        std::stop_source stop;
        std::jthread const stopper{[&] {
          std::this_thread::sleep_for(2ms);
          stop.request_stop();
        }};
        BOOST_TEST(fails(sync_wait(kind.ask(engine, *a, stop.get_token())), std::errc::operation_canceled));
      }
      go_on = true;
      go_on.notify_all();
    }
  }
}

BOOST_AUTO_TEST_CASE(when_it_has_begun_comes_too_late) {
  auto const engine = engine_of();
  scratch const folder;
  auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = page}));
  armed const table;
  seam::delay(call::fallocate, 20'000us);
  std::stop_source stop;
  seam::observe([&](seam::observation const& one) {
    if (one.which == call::fallocate) {
      stop.request_stop();
    }
  });
  auto const done = awaited(fmmap::async_resize(engine, file, 4 * page, stop.get_token()));
  BOOST_TEST(stop.stop_requested());
  BOOST_TEST(done.has_value());
  BOOST_TEST(file.size() == 4 * page);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(dropping)

// Before it has begun, while it waits for its turn, while it runs at each of its system calls, and when it is over but not yet
// resumed: file and object are as before or as after.
BOOST_AUTO_TEST_CASE(leaves_nothing_between_before_and_after) {
  for (auto const& kind : all_kinds) {
    BOOST_TEST_CONTEXT(kind.name) {
      auto const a = std::make_unique<asked>();
      auto const descriptors = descriptor_count();
      auto const mappings = mappings_of(a->folder);
      auto const step = [&](std::uint64_t at) { // whether it was dropped before its end
        loop executor;
        a->executor = &executor;
        std::atomic<std::uint64_t> made{0};
        std::atomic<bool> go_on{false};
        armed const table;
        seam::observe([&, self = std::this_thread::get_id()](seam::observation const& one) {
          if (!one.over && std::this_thread::get_id() != self && ++made == at) {
            go_on.wait(false);
          }
        });
        auto const engine = engine_of({.threads = 1}); // whose threads use what is above
        auto const outer = [&]() -> task<> { (void)co_await kind.ask(engine, *a, {}); };
        std::jthread release;
        auto dropped = outer();
        begin(dropped);
        BOOST_TEST_REQUIRE(becomes([&] { return made >= at || executor.is_posted(); }));
        auto const is_over = executor.is_posted();
        release = std::jthread{[&] { // dropping may wait for it
          std::this_thread::sleep_for(2ms);
          go_on = true;
          go_on.notify_all();
        }};
        {
          auto const gone = std::move(dropped);
        }
        while (executor.is_posted()) {
          executor.run_one();
        }
        return !is_over;
      };
      std::uint64_t at = 0;
      while (step(at)) {
        ++at;
        auto const size = std::filesystem::file_size(a->folder / "mapped.bin");
        BOOST_TEST(size == a->mapped.size());
        BOOST_TEST((size == page || size == 2 * page));
        BOOST_TEST(fails(a->mapped.flush(), errc::closed) == false);
        for (auto const& entry : std::filesystem::directory_iterator{a->folder.folder()}) {
          BOOST_TEST(!entry.path().filename().string().starts_with(".")); // of a replacement that was not finished
        }
        if (kind.name == "remove") { // it is gone, or can be removed
          auto& file = a->to_remove.at(static_cast<std::size_t>(a->number));
          auto const is_there = std::filesystem::exists(file.path());
          BOOST_TEST(file.remove().has_value() == is_there);
          BOOST_TEST(!std::filesystem::exists(file.path()));
        }
        if (kind.name == "lock") { // nobody else has it
          auto& lock = a->locks.at(static_cast<std::size_t>(a->number));
          BOOST_TEST((lock.held().has_value() || or_throw(lock.try_acquire(fmmap::lock_mode::exclusive))));
        }
      }
      BOOST_TEST(descriptor_count() <= descriptors + 1); // the journal of the heap
      BOOST_TEST(mappings_of(a->folder) == mappings);
    }
  }
}

BOOST_AUTO_TEST_CASE(one_that_is_over_and_not_yet_resumed_resumes_nobody) {
  auto const engine = engine_of();
  scratch const folder;
  loop executor;
  bool resumed = false;
  auto const outer = [&]() -> task<> {
    auto const got = co_await fmmap::resume_on(executor, fmmap::async_create(engine, folder / "a", {.size = page}));
    resumed = got.has_value();
  };
  auto const descriptors = descriptor_count();
  {
    auto dropped = outer();
    begin(dropped);
    executor.wait();
  }
  executor.run_one();
  BOOST_TEST(!resumed);
  BOOST_TEST(descriptor_count() == descriptors);
  BOOST_TEST(std::filesystem::file_size(folder / "a") == page);
}

BOOST_AUTO_TEST_CASE(one_that_has_been_posted_in_a_forked_child_leaves_what_was_posted) {
  if (thread_sanitized) {
    skip("the thread sanitizer wants no fork of a process with threads");
    return;
  }
  auto const engine = engine_of();
  loop executor;
  bool resumed = false;
  auto const outer = [&]() -> task<> {
    (void)co_await fmmap::resume_on(executor, fmmap::async_call(engine, []() -> fmmap::result<void> { return {}; }));
    resumed = true;
  };
  std::optional waiting{outer()};
  begin(*waiting);
  executor.wait();
  BOOST_TEST(found_in_child([&](findings& found) {
               ::alarm(20);
               waiting.reset();
               executor.run_one();
               found.expect(!resumed, "what was dropped is resumed");
             }) == "");
  executor.run_one();
  BOOST_TEST(resumed);
}

// What nobody will ask for is released, and an error reported.
BOOST_AUTO_TEST_CASE(what_came_of_one_that_is_over_is_given_up) {
  auto const engine = engine_of();
  scratch const folder;
  auto const file = or_throw(fmmap::file::open(folder.file("a", "x"), {.access = fmmap::access::read_write}));
  auto lock = or_throw(fmmap::file_lock::create(file));
  loop executor;
  {
    auto const outer = [&]() -> task<> {
      (void)co_await fmmap::resume_on(executor, fmmap::async_lock(engine, lock, fmmap::lock_mode::exclusive));
    };
    auto dropped = outer();
    begin(dropped);
    executor.wait();
    BOOST_TEST(lock.held().has_value());
  }
  executor.run_one();
  BOOST_TEST(!lock.held().has_value());
  static std::atomic<int> reported{0};
  auto const before = fmmap::set_dropped_error_handler(
      [](fmmap::error const& why) noexcept { reported += why == std::errc::no_such_file_or_directory ? 1 : 100; });
  {
    auto const outer = [&]() -> task<> {
      (void)co_await fmmap::resume_on(executor, fmmap::async_open(engine, folder / "none"));
    };
    auto dropped = outer();
    begin(dropped);
    executor.wait();
  }
  executor.run_one();
  for (int i = 0; i < 3; ++i) { // that it was not made is no loss
    auto waiting = or_throw(fmmap::file_lock::create(file));
    or_throw(lock.acquire(fmmap::lock_mode::exclusive));
    auto dropped = fmmap::async_lock(engine, waiting, fmmap::lock_mode::exclusive);
    BOOST_TEST(dropped.start([](void*) noexcept {}, nullptr));
    std::this_thread::sleep_for(2ms);
    (void)dropped.drop();
    or_throw(lock.release());
  }
  fmmap::set_dropped_error_handler(before);
  BOOST_TEST(reported == 1);
}

BOOST_AUTO_TEST_CASE(an_unawaited_one_does_nothing) {
  auto const engine = engine_of();
  scratch const folder;
  loop executor;
  {
    auto const first = fmmap::async_create(engine, folder / "a");
    auto const second = fmmap::resume_on(executor, fmmap::async_create(engine, folder / "b"));
  }
  BOOST_TEST(std::filesystem::is_empty(folder.folder()));
}

// The reference swaps the mapping for a page of nothing while it awaits: who drops that truncation goes on writing into it.
BOOST_AUTO_TEST_CASE(a_resize_leaves_an_object_that_writes_to_its_file) {
  auto const engine = engine_of();
  scratch const folder;
  auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = 3 * page}));
  for (auto const size : {page, 2 * page}) {
    armed const table;
    for (auto const each : {call::ftruncate, call::fallocate, call::mmap, call::munmap}) {
      seam::delay(each, 5'000us);
    }
    auto resize = fmmap::async_resize(engine, file, size);
    BOOST_TEST(resize.start([](void*) noexcept {}, nullptr));
    BOOST_TEST_REQUIRE(becomes(has_begun));
  }
  BOOST_TEST(file.size() == 2 * page);
  or_throw(file.write_le<std::uint64_t>(page + 8, 7));
  (void)or_throw(file.flush());
  BOOST_TEST(read_back(folder / "a")[page + 8] == '\7');
}

// Of the reference, a removal that was dropped and asked for again is told as done, and is not.
BOOST_AUTO_TEST_CASE(a_removal_can_be_asked_for_again) {
  auto const engine = engine_of();
  scratch const folder;
  auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = page}));
  {
    armed const table;
    seam::fail(call::unlinkat, EIO);
    seam::delay(call::unlinkat, 10'000us);
    auto remove = fmmap::async_remove(engine, file);
    BOOST_TEST(remove.start([](void*) noexcept {}, nullptr));
    BOOST_TEST_REQUIRE(becomes(has_begun));
  }
  BOOST_TEST(std::filesystem::exists(folder / "a"));
  or_throw(awaited(fmmap::async_remove(engine, file)));
  BOOST_TEST(!std::filesystem::exists(folder / "a"));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_lock)

BOOST_AUTO_TEST_CASE(is_awaited_and_released_by_whoever_has_it) {
  auto const engine = engine_of();
  scratch const folder;
  auto const file = or_throw(fmmap::file::open(folder.file("a", "x"), {.access = fmmap::access::read_write}));
  auto lock = or_throw(fmmap::file_lock::create(file));
  auto other = or_throw(fmmap::file_lock::create(file));
  BOOST_TEST(or_throw(awaited(fmmap::async_lock(engine, lock, fmmap::lock_mode::exclusive))));
  BOOST_TEST(!or_throw(awaited(fmmap::async_lock(engine, other, fmmap::lock_mode::exclusive, fmmap::no_wait))));
  BOOST_TEST(!or_throw(awaited(fmmap::async_lock(engine, other, fmmap::lock_mode::shared, 5ms))));
  // The same object, which the thread of the first wait has exclusively.
  BOOST_TEST(!or_throw(awaited(fmmap::async_lock(engine, lock, fmmap::lock_mode::exclusive, 5ms))));
  std::jthread const releasing{[&] {
    std::this_thread::sleep_for(5ms);
    or_throw(lock.release());
  }};
  BOOST_TEST(or_throw(awaited(fmmap::async_lock(engine, other, fmmap::lock_mode::exclusive))));
  or_throw(other.release());
}

// Whatever the engine's threads do.
BOOST_AUTO_TEST_CASE(is_waited_for_beside_threads_that_are_busy) {
  auto const engine = engine_of({.threads = 1});
  scratch const folder;
  auto const file = or_throw(fmmap::file::open(folder.file("a", "x"), {.access = fmmap::access::read_write}));
  auto free = or_throw(fmmap::file_lock::create(file, {.offset = 0, .length = 1}));
  auto held = or_throw(fmmap::file_lock::create(file, {.offset = 1, .length = 1}));
  auto holder = or_throw(fmmap::file_lock::create(file, {.offset = 1, .length = 1}));
  or_throw(holder.acquire(fmmap::lock_mode::exclusive));
  blocker const busy{engine};
  BOOST_TEST(or_throw(awaited(fmmap::async_lock(engine, free, fmmap::lock_mode::exclusive, 10s))));
  BOOST_TEST(!or_throw(awaited(fmmap::async_lock(engine, held, fmmap::lock_mode::exclusive, 5ms))));
}

// Nor of the one that has acquired it: that does others' work.
BOOST_AUTO_TEST_CASE(is_of_no_thread_of_the_engine) {
  auto const engine = engine_of({.threads = 1});
  scratch const folder;
  auto const file = or_throw(fmmap::file::open(folder.file("a", "x"), {.access = fmmap::access::read_write}));
  auto lock = or_throw(fmmap::file_lock::create(file));
  BOOST_TEST(or_throw(awaited(fmmap::async_lock(engine, lock, fmmap::lock_mode::exclusive))));
  BOOST_TEST(!or_throw(
      awaited(fmmap::async_call(engine, [&] { return lock.acquire_for(fmmap::lock_mode::exclusive, 5ms); }))));
  or_throw(lock.release());
}

BOOST_AUTO_TEST_CASE(that_is_waited_for_is_given_up_at_a_stop_and_when_it_is_dropped) {
  auto const engine = engine_of();
  scratch const folder;
  auto const file = or_throw(fmmap::file::open(folder.file("a", "x"), {.access = fmmap::access::read_write}));
  auto holder = or_throw(fmmap::file_lock::create(file));
  auto lock = or_throw(fmmap::file_lock::create(file));
  or_throw(holder.acquire(fmmap::lock_mode::exclusive));
  for (auto const mode : {fmmap::lock_mode::exclusive, fmmap::lock_mode::shared}) {
    std::stop_source stop;
    std::jthread const stopper{[&] {
      std::this_thread::sleep_for(5ms);
      stop.request_stop();
    }};
    auto waited = fmmap::async_lock(engine, lock, mode, fmmap::forever, stop.get_token());
    BOOST_TEST(fails(awaited(std::move(waited)), std::errc::operation_canceled));
    {
      auto dropped = fmmap::async_lock(engine, lock, mode);
      BOOST_TEST(dropped.start([](void*) noexcept {}, nullptr));
      std::this_thread::sleep_for(5ms);
    }
    BOOST_TEST(!lock.held().has_value());
  }
  or_throw(holder.release());
  { // it is had, and nobody is told
    auto dropped = fmmap::async_lock(engine, lock, fmmap::lock_mode::exclusive);
    BOOST_TEST(dropped.start([](void*) noexcept {}, nullptr));
    BOOST_TEST(becomes([&] { return lock.held().has_value(); }));
  }
  BOOST_TEST((!lock.held().has_value() || lock.release().has_value()));
}

// Those who wait take no thread from what their holder awaits.
BOOST_AUTO_TEST_CASE(does_not_keep_its_holder_from_flushing) {
  auto const engine = engine_of({.threads = 1});
  scratch const folder;
  auto file = or_throw(mutable_mapped_file::create(folder / "a", {.size = page}));
  auto held = or_throw(fmmap::file_lock::create(file.as_file()));
  BOOST_TEST(or_throw(awaited(fmmap::async_lock(engine, held, fmmap::lock_mode::exclusive))));
  std::vector<fmmap::file_lock> locks;
  for (int i = 0; i < 64; ++i) {
    locks.push_back(or_throw(fmmap::file_lock::create(file.as_file())));
  }
  std::atomic<int> had{0};
  auto const waiter = [&](fmmap::file_lock& lock) -> task<> {
    if (or_throw(co_await fmmap::async_lock(engine, lock, fmmap::lock_mode::exclusive))) {
      ++had;
      or_throw(lock.release());
    }
  };
  auto const holder = [&]() -> task<> {
    file.writable_bytes()[0] = std::byte{1};
    BOOST_TEST((or_throw(co_await fmmap::async_flush(engine, file)) >= durability::data));
    BOOST_TEST(had == 0);
    or_throw(held.release());
  };
  std::vector<task<>> all;
  for (auto& lock : locks) {
    all.push_back(waiter(lock));
  }
  all.push_back(holder());
  (void)sync_wait(when_all(std::move(all)));
  BOOST_TEST(had == 64);
}

// Also where there is no thread for the wait.
BOOST_AUTO_TEST_CASE(is_waited_for_no_longer_than_the_limit) {
  auto const engine = engine_of({.threads = 1, .lock_threads = 1});
  scratch const folder;
  auto const file = or_throw(fmmap::file::open(folder.file("a", "x"), {.access = fmmap::access::read_write}));
  auto holder = or_throw(fmmap::file_lock::create(file));
  auto first = or_throw(fmmap::file_lock::create(file));
  auto second = or_throw(fmmap::file_lock::create(file));
  or_throw(holder.acquire(fmmap::lock_mode::exclusive));
  auto waiting = fmmap::async_lock(engine, first, fmmap::lock_mode::exclusive);
  BOOST_TEST(waiting.start([](void*) noexcept {}, nullptr));
  auto const begun = std::chrono::steady_clock::now();
  for (auto const limit : {20ms, 0ms}) {
    BOOST_TEST(!or_throw(awaited(fmmap::async_lock(engine, second, fmmap::lock_mode::exclusive, limit))));
  }
  BOOST_TEST((std::chrono::steady_clock::now() - begun >= 20ms));
  or_throw(holder.release());
  BOOST_TEST(becomes([&] { return first.held().has_value(); }));
}

BOOST_AUTO_TEST_CASE(has_more_who_wait_than_the_engine_has_threads_for) {
  auto const engine = engine_of({.threads = 1, .lock_threads = 2});
  scratch const folder;
  auto const file = or_throw(fmmap::file::open(folder.file("a", "x"), {.access = fmmap::access::read_write}));
  std::vector<fmmap::file_lock> locks;
  for (int i = 0; i < 20; ++i) {
    locks.push_back(or_throw(fmmap::file_lock::create(file)));
  }
  int had = 0; // all are resumed on one thread
  auto const user = [&](fmmap::file_lock& lock) -> task<> {
    for (int i = 0; i < 20; ++i) {
      if (or_throw(co_await fmmap::async_lock(engine, lock, fmmap::lock_mode::exclusive))) {
        ++had;
        (void)co_await fmmap::async_call(engine, []() -> fmmap::result<void> { return {}; });
        or_throw(lock.release());
      }
    }
  };
  std::vector<task<>> all;
  for (auto& lock : locks) {
    all.push_back(user(lock));
  }
  (void)sync_wait(when_all(std::move(all)));
  BOOST_TEST(had == 400);
}

BOOST_AUTO_TEST_SUITE_END()
