// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Commits of a heap that several threads change.

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <future>
#include <memory_resource>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <sys/resource.h>

#include "support/process.hpp"
#include "support/scratch.hpp"

import fmmap.core;
import fmmap.os;
import fmmap.pmr;

namespace os = fmmap::os;
namespace seam = fmmap::os::seam;

using namespace std::chrono_literals;
using fmmap::errc;
using fmmap::or_throw;
using fmmap::persistent_heap;

namespace {

using numbers = std::pmr::vector<std::uint64_t>;

// Until a call of this kind has begun, which a table delays.
void wait_for(os::call which) {
  while (std::ranges::count(seam::calls(), which) == 0) {
    std::this_thread::sleep_for(1ms);
  }
}

auto run(fmmap::flush_job job) -> std::future<fmmap::result<fmmap::durability>> {
  return std::async(std::launch::async, [job = std::move(job)]() mutable { return job.run(); });
}

// One commit is being written while two wait; `end` is told how those ended.
template <class End>
void while_two_wait(std::filesystem::path const& path, End end) {
  auto heap = or_throw(persistent_heap::create(path));
  auto& some = *or_throw(heap.construct<numbers>("numbers", numbers{0, 0, 0}));
  or_throw(heap.commit());
  seam::armed const table;
  seam::delay(os::call::pwritev2, 300ms);
  some[0] = 1;
  auto first = run(or_throw(heap.stage_commit()));
  wait_for(os::call::pwritev2);
  some[1] = 2;
  auto second = or_throw(heap.stage_commit());
  some[2] = 3;
  auto third = or_throw(heap.stage_commit());
  auto running_second = run(std::move(second));
  auto running_third = run(std::move(third));
  end(first, running_second, running_third);
}

auto contents(std::filesystem::path const& path) -> std::vector<std::uint64_t> {
  auto const heap = or_throw(persistent_heap::open(path));
  auto const& found = *or_throw(heap.find<numbers const>("numbers"));
  return {found.begin(), found.end()};
}

} // namespace

BOOST_AUTO_TEST_SUITE(commits_that_wait_for_one_that_is_written)

BOOST_AUTO_TEST_CASE(share_a_write) {
  scratch const folder;
  while_two_wait(folder / "heap", [](auto& first, auto& second, auto& third) {
    or_throw(first.get());
    or_throw(second.get());
    or_throw(third.get());
    BOOST_TEST(std::ranges::count(seam::calls(), os::call::pwritev2) == 2);
  });
  BOOST_TEST(contents(folder / "heap") == (std::vector<std::uint64_t>{1, 2, 3}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(share_its_failure) {
  scratch const folder;
  while_two_wait(folder / "heap", [](auto& first, auto& second, auto& third) {
    seam::fail(os::call::pwritev2, EIO);
    or_throw(first.get()); // it was past that
    BOOST_TEST((second.get().error() == std::errc::io_error));
    BOOST_TEST((third.get().error() == std::errc::io_error));
  });
  BOOST_TEST(contents(folder / "heap") == (std::vector<std::uint64_t>{1, 0, 0}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(do_not_take_along_what_nobody_runs) {
  scratch const folder;
  auto const path = folder / "heap";
  {
    auto heap = or_throw(persistent_heap::create(path));
    auto& some = *or_throw(heap.construct<numbers>("numbers", numbers{0, 0}));
    some[0] = 1;
    auto first = or_throw(heap.stage_commit());
    some[1] = 2;
    auto const second = or_throw(heap.stage_commit());
    or_throw(first.run());
  }
  BOOST_TEST(contents(path) == (std::vector<std::uint64_t>{1, 0}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_commit_that_looks_for_races)

// Which the thread sanitizer calls by its name.
BOOST_AUTO_TEST_CASE(names_what_is_changed_without_an_update_scope, *boost::unit_test::enable_if<!thread_sanitized>()) {
  scratch const folder;
  auto heap = or_throw(persistent_heap::create(folder / "heap", {.check_races = true}));
  auto& some = *or_throw(heap.construct<numbers>("numbers", 4096U));
  or_throw(heap.commit());
  std::atomic<bool> over = false;
  std::thread racing{[&] {
    for (std::uint64_t i = 0; !over; ++i) {
      std::atomic_ref{some[i % some.size()]}.store(i);
    }
  }};
  auto const end = std::chrono::steady_clock::now() + 60s;
  auto committed = heap.commit();
  while (committed && std::chrono::steady_clock::now() < end) {
    committed = heap.commit();
  }
  over = true;
  racing.join();
  BOOST_REQUIRE(!committed);
  BOOST_TEST((committed.error() == errc::data_race));
  BOOST_TEST(committed.error().message().contains("was changed while the commit was made"));
  or_throw(heap.commit()); // with what has been stored meanwhile
}

BOOST_AUTO_TEST_CASE(has_nothing_against_threads_that_hold_one_and_those_that_read) {
  scratch const folder;
  auto const path = folder / "heap";
  constexpr std::uint64_t rounds = 200;
  {
    auto heap = or_throw(persistent_heap::create(path, {.check_races = true}));
    auto& some = *or_throw(heap.construct<numbers>("numbers", numbers{0, 0}));
    auto& large = *or_throw(heap.construct<numbers>("large", 1U << 16U));
    std::atomic<bool> over = false;
    std::uint64_t sum = 0;
    std::jthread const reading{[&] {
      for (std::size_t i = 0; !over; i += 512) {
        sum += large[i % large.size()];
      }
    }};
    auto const change = [&](std::size_t which) {
      for (std::uint64_t i = 0; i < rounds; ++i) {
        persistent_heap::update_scope const updating{heap};
        ++some[which];
      }
    };
    std::thread first{change, 0};
    std::thread second{change, 1};
    for (std::uint64_t i = 0; i < rounds; ++i) {
      or_throw(heap.commit());
    }
    first.join();
    second.join();
    over = true;
    or_throw(heap.commit());
  }
  BOOST_TEST(contents(path) == (std::vector<std::uint64_t>{rounds, rounds}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_commit_of_many_pages)

// Of more than 4 096, which two threads compare: pages that changed, that were written and did not, and that were given up.
// Returns how much of it is wrong.
auto change_and_commit_many(std::filesystem::path const& path) -> std::size_t {
  constexpr std::size_t pages = 9'000;
  constexpr std::size_t in_page = 4096 / sizeof(std::uint64_t);
  {
    auto heap = or_throw(persistent_heap::create(path));
    auto& kept = *or_throw(heap.construct<numbers>("numbers"));
    auto& given_up = *or_throw(heap.construct<numbers>("given up"));
    kept.resize(pages * in_page);
    given_up.resize(2'000 * in_page, 7);
    or_throw(heap.commit());
    for (std::size_t page = 0; page < pages; ++page) {
      auto& in_it = kept[(page * in_page) + (page % in_page)];
      in_it = page % 3 == 0 ? 0 : page;
    }
    std::ranges::fill(given_up, 8);
    or_throw(heap.destroy<numbers>("given up"));
    or_throw(heap.commit());
    kept.back() = 5;
    or_throw(heap.commit());
  }
  auto const heap = or_throw(persistent_heap::open(path));
  auto const& found = *or_throw(heap.find<numbers const>("numbers"));
  std::size_t wrong = found.size() == pages * in_page ? 0 : 1;
  for (std::size_t i = 0; i + 1 < found.size(); ++i) {
    auto const page = i / in_page;
    wrong += found[i] == (i % in_page == page % in_page && page % 3 != 0 ? page : 0) ? 0 : 1;
  }
  wrong += found.back() == 5 ? 0 : 1;
  return wrong + or_throw(heap.check()).problems.size();
}

BOOST_AUTO_TEST_CASE(has_all_of_them) {
  scratch const folder;
  BOOST_TEST(change_and_commit_many(folder / "heap") == 0U);
}

BOOST_AUTO_TEST_CASE(needs_no_second_thread, *boost::unit_test::enable_if<!thread_sanitized>()) {
  scratch const folder;
  std::filesystem::permissions(folder.folder(), std::filesystem::perms::all);
  BOOST_TEST(found_in_child([&](findings& found) {
               if (!is_root() || !become_ordinary_user()) {
                 found.skip("limiting threads needs an ordinary user");
                 return;
               }
               limit(RLIMIT_NPROC, 1);
               try {
                 std::jthread{[] {}}.join();
                 found.skip("threads are not limited here");
               } catch (std::system_error const&) {
               }
               found.expect(change_and_commit_many(folder / "heap") == 0, "a commit is not whole");
             }) == "");
}

BOOST_AUTO_TEST_SUITE_END()
