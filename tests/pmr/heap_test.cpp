// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <expected>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <ios>
#include <list>
#include <map>
#include <memory>
#include <memory_resource>
#include <optional>
#include <queue>
#include <random>
#include <span>
#include <stack>
#include <string>
#include <string_view>
#include <thread>
#include <tuple>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <sys/mman.h>
#include <unistd.h>

#include "support/process.hpp"
#include "support/scratch.hpp"
#include "support/seed.hpp"

import fmmap.core;
import fmmap.journal;
import fmmap.os;
import fmmap.pmr;

namespace os = fmmap::os;
namespace journal = fmmap::journal;
namespace seam = fmmap::os::seam;

using fmmap::commit_durability;
using fmmap::errc;
using fmmap::or_throw;
using fmmap::persistent_heap;

namespace {

using numbers = std::pmr::vector<std::uint64_t>;
using words = std::pmr::map<int, std::pmr::string>;

auto open(std::filesystem::path const& path) -> persistent_heap { return or_throw(persistent_heap::open(path)); }

// Of a heap that is made, changed and closed again.
template <class Change>
auto made(std::filesystem::path const& path, Change change, fmmap::heap_options options = {}) -> std::uintptr_t {
  auto heap = or_throw(persistent_heap::create(path, options));
  change(heap);
  auto const where = reinterpret_cast<std::uintptr_t>(heap.resource());
  or_throw(heap.close());
  return where;
}

auto contents(std::filesystem::path const& path) -> std::vector<std::uint64_t> {
  auto heap = open(path);
  auto const found = heap.find<numbers>("numbers");
  return found ? std::vector<std::uint64_t>{(*found)->begin(), (*found)->end()} : std::vector<std::uint64_t>{};
}

struct unaware { // of allocators: its string would allocate from malloc
  std::pmr::string text;
};
struct aware {
  using allocator_type = std::pmr::polymorphic_allocator<>;
  explicit aware(allocator_type from) : text{from} {}
  std::pmr::string text;
};
struct with_virtual {
  virtual ~with_virtual() = default;
};

static_assert(fmmap::persistent_type<int> && fmmap::persistent_type<numbers> && fmmap::persistent_type<words> &&
              fmmap::persistent_type<aware>);
static_assert(fmmap::persistent_type<std::pmr::vector<std::pair<std::pmr::string, int>>>);
static_assert(fmmap::persistent_type<std::tuple<int, std::pmr::string>>);
static_assert(!fmmap::persistent_type<unaware> && !fmmap::persistent_type<with_virtual> &&
              !fmmap::persistent_type<std::string> && !fmmap::persistent_type<std::vector<int>> &&
              !fmmap::persistent_type<std::pmr::vector<std::string>> &&
              !fmmap::persistent_type<std::pmr::map<int, unaware>> &&
              !fmmap::persistent_type<std::tuple<int, std::string>> && !fmmap::persistent_type<int const> &&
              !fmmap::persistent_type<std::unique_ptr<int>> && !fmmap::persistent_type<std::promise<int>>);
static_assert(fmmap::persistent_type<std::stack<int, std::pmr::deque<int>>> &&
              fmmap::persistent_type<std::priority_queue<std::uint64_t, numbers>> &&
              fmmap::persistent_type<std::pmr::unordered_map<std::pmr::string, int>> &&
              !fmmap::persistent_type<std::stack<int>> &&
              !fmmap::persistent_type<std::priority_queue<std::uint64_t, numbers, std::function<bool(int, int)>>> &&
              !fmmap::persistent_type<std::pmr::map<int, int, std::function<bool(int, int)>>>);

} // namespace

BOOST_AUTO_TEST_SUITE(a_persistent_heap)

BOOST_AUTO_TEST_CASE(has_what_was_committed_when_it_is_opened_again) {
  scratch const folder;
  auto const path = folder / "heap";
  auto const where = made(path, [](persistent_heap& heap) {
    auto* const some = or_throw(heap.construct<numbers>("numbers"));
    auto* const text = or_throw(heap.construct<words>("words"));
    for (std::uint64_t i = 0; i < 10'000; ++i) {
      some->push_back(i * i);
    }
    for (int i = 0; i < 1000; ++i) {
      text->emplace(i, "a text that is too long for the object itself, number " + std::to_string(i));
    }
    or_throw(heap.commit());
    some->clear();
    text->clear(); // and this is not committed
  });
  auto heap = open(path);
  BOOST_TEST(reinterpret_cast<std::uintptr_t>(heap.resource()) == where);
  auto const* const some = or_throw(heap.find<numbers const>("numbers"));
  auto const* const text = or_throw(heap.find<words>("words"));
  BOOST_TEST(some->size() == 10'000U);
  BOOST_TEST(some->back() == 9'999U * 9'999U);
  BOOST_TEST(text->size() == 1000U);
  BOOST_TEST(text->at(999) == "a text that is too long for the object itself, number 999");
  BOOST_TEST((some->get_allocator().resource() == heap.resource()));
  BOOST_TEST(or_throw(heap.check()).problems.empty());
  or_throw(heap.commit());
}

BOOST_AUTO_TEST_CASE(goes_on_where_it_was) {
  scratch const folder;
  auto const path = folder / "heap";
  made(path, [](persistent_heap& heap) {
    or_throw(heap.construct<numbers>("numbers"));
    or_throw(heap.commit());
  });
  for (std::uint64_t round = 0; round < 20; ++round) {
    auto heap = open(path);
    auto* const some = or_throw(heap.find<numbers>("numbers"));
    BOOST_REQUIRE(some->size() == round * 1000);
    for (std::uint64_t i = 0; i < 1000; ++i) {
      some->push_back((round * 1000) + i);
    }
    or_throw(heap.commit(round % 2 == 0 ? commit_durability::power : commit_durability::process));
  }
  auto const all = contents(path);
  for (std::uint64_t i = 0; i < all.size(); ++i) {
    BOOST_REQUIRE(all[i] == i);
  }
  BOOST_TEST(all.size() == 20'000U);
}

BOOST_AUTO_TEST_CASE(returns_to_the_last_commit) {
  scratch const folder;
  auto heap = or_throw(persistent_heap::create(folder / "heap"));
  auto* const some = or_throw(heap.construct<numbers>("numbers"));
  some->assign({1, 2, 3});
  or_throw(heap.commit(commit_durability::process));
  auto const used = heap.stats().used_bytes;
  some->assign(100'000, 7);
  or_throw(heap.construct<words>("words"));
  or_throw(heap.rollback());
  BOOST_TEST(*some == (numbers{1, 2, 3}), boost::test_tools::per_element());
  BOOST_TEST((heap.find<words>("words").error() == errc::not_found));
  BOOST_TEST(heap.stats().used_bytes == used);
  some->push_back(4);
  or_throw(heap.commit());
  or_throw(heap.rollback());
  BOOST_TEST(some->size() == 4U);
}

BOOST_AUTO_TEST_CASE(
    takes_a_line_that_returns_to_what_the_file_has) { // A, committed B, A again: the file in place is A still
  scratch const folder;
  auto const path = folder / "heap";
  made(path, [](persistent_heap& heap) {
    auto* const one = or_throw(heap.construct<std::uint64_t>("one", 1U));
    or_throw(heap.commit());
    for (std::uint64_t value : {2U, 1U, 2U, 1U}) {
      *one = value;
      or_throw(heap.commit(value == 1U ? commit_durability::power : commit_durability::process));
    }
  });
  BOOST_TEST(*or_throw(open(path).find<std::uint64_t>("one")) == 1U);
}

BOOST_AUTO_TEST_CASE(tells_how_much_memory_is_its_own) {
  scratch const folder;
  auto const path = folder / "heap";
  constexpr std::size_t count = 100'000;
  made(path, [](persistent_heap& heap) {
    or_throw(heap.construct<numbers>("numbers"))->assign(count, 1);
    or_throw(heap.commit());
  });
  auto heap = open(path);
  if (heap.stats().dirty_detector == "compare") {
    return; // the system does not tell
  }
  auto* const some = or_throw(heap.find<numbers>("numbers"));
  auto const before = heap.stats().private_bytes;
  BOOST_TEST(before < 100'000U); // what opening touches
  some->assign(count, 2);
  auto const after = heap.stats().private_bytes;
  BOOST_TEST(after >= before + (count * sizeof(std::uint64_t)) - 8192);
  BOOST_TEST(after <= before + (count * sizeof(std::uint64_t)) + 8192);
}

BOOST_AUTO_TEST_CASE(writes_nothing_when_nothing_has_changed) {
  scratch const folder;
  auto heap = or_throw(persistent_heap::create(folder / "heap"));
  or_throw(heap.construct<int>("one", 1));
  or_throw(heap.commit());
  auto const before = heap.stats();
  or_throw(heap.commit());
  or_throw(heap.commit(commit_durability::process));
  BOOST_TEST(heap.stats().journal_bytes == before.journal_bytes);
}

BOOST_AUTO_TEST_CASE(commits_more_than_its_journal_holds) {
  scratch const folder;
  auto const path = folder / "heap";
  made(path,
       [](persistent_heap& heap) {
         auto* const some = or_throw(heap.construct<numbers>("numbers"));
         for (std::uint64_t i = 0; i < 200'000; ++i) {
           some->push_back(i);
         }
         or_throw(heap.commit());
         some->back() = 5;
         or_throw(heap.commit());
       },
       {.journal_size = 64 << 10});
  auto const all = contents(path);
  BOOST_TEST(all.size() == 200'000U);
  BOOST_TEST(all[199'998] == 199'998U);
  BOOST_TEST(all.back() == 5U);
}

BOOST_AUTO_TEST_CASE(holds_more_than_a_segment_of_its_file) {
  scratch const folder;
  auto const path = folder / "heap";
  std::size_t const large = (std::size_t{1} << 30) + 12345;
  made(path, [&](persistent_heap& heap) {
    auto* const block = or_throw(heap.construct<std::byte*>("block"));
    *block = static_cast<std::byte*>(heap.resource()->allocate(large));
    (*block)[0] = std::byte{1};
    (*block)[large - 1] = std::byte{2};
    or_throw(heap.commit());
  });
  auto heap = open(path);
  auto* const block = *or_throw(heap.find<std::byte*>("block"));
  BOOST_TEST((block[0] == std::byte{1} && block[large - 1] == std::byte{2} && block[large / 2] == std::byte{0}));
  heap.resource()->deallocate(block, large);
}

BOOST_AUTO_TEST_SUITE_END()

// More than the journal holds, in pages that were free.
BOOST_AUTO_TEST_SUITE(new_content)

namespace {

constexpr fmmap::heap_options small_journal{.journal_size = 64 << 10};
constexpr std::size_t large = std::size_t{4} << 20;

// That an object points to.
struct block {
  std::byte* begin;
  std::size_t size;

  void allocate(persistent_heap const& in, std::size_t bytes, int filled_with) {
    begin = static_cast<std::byte*>(in.resource()->allocate(bytes));
    size = bytes;
    fill(filled_with);
  }
  void fill(int with) { std::memset(begin, with, size); }
  void deallocate(persistent_heap const& in) const { in.resource()->deallocate(begin, size); }
  [[nodiscard]] auto holds_only(int value) const -> bool {
    return std::ranges::all_of(std::span{begin, size}, [&](std::byte one) { return one == std::byte(value); });
  }
};

// Makes a heap with a block of nothing, has it changed, and looks at the block when the heap is opened again.
template <class Change>
void expect_block(std::size_t size, int filled_with, Change change) {
  scratch const folder;
  auto const path = folder / "heap";
  made(path, [&](persistent_heap& heap) { change(heap, *or_throw(heap.construct<block>("block"))); }, small_journal);
  auto heap = open(path);
  auto const& found = *or_throw(heap.find<block>("block"));
  BOOST_TEST(found.size == size);
  BOOST_TEST(found.holds_only(filled_with));
}

// Everything is written, and is not known to be durable. Before, the journal is emptied, which takes a sync too.
void run_without_sync(persistent_heap& heap, fmmap::flush_job& job) {
  or_throw(heap.snapshot(std::string{heap.path()} + ".copy"));
  seam::armed const table;
  seam::fail(os::call::fdatasync, EIO);
  BOOST_TEST((job.run().error() == std::errc::io_error));
}

} // namespace

BOOST_AUTO_TEST_CASE(is_written_once) {
  expect_block(large, 1, [](persistent_heap& heap, block& it) {
    it.allocate(heap, large, 1);
    auto const before = heap.stats().journal_bytes;
    or_throw(heap.commit());
    BOOST_TEST(heap.stats().journal_bytes - before < large / 50); // the books
  });
}

BOOST_AUTO_TEST_CASE(is_not_overwritten_by_what_was_there_in_earlier_commits) {
  for (auto const level : {commit_durability::process, commit_durability::power}) {
    expect_block(large, 3, [&](persistent_heap& heap, block& it) {
      it.allocate(heap, large, 1);
      or_throw(heap.commit());
      std::memset(it.begin, 2, 8192);
      or_throw(heap.commit(level)); // in the journal
      auto const* const before = it.begin;
      it.deallocate(heap);
      or_throw(heap.commit(level));
      it.allocate(heap, large, 3);
      BOOST_REQUIRE((it.begin == before));
      or_throw(heap.commit(level));
    });
  }
}

// Pages that the last commit has are not overwritten before the next one is committed.
BOOST_AUTO_TEST_CASE(goes_nowhere_where_the_last_commit_has_something) {
  expect_block(large, 1, [](persistent_heap& heap, block& it) {
    it.allocate(heap, large, 1);
    or_throw(heap.commit());
    auto const old = it;
    it.allocate(heap, large, 2);
    old.deallocate(heap);
    std::optional dropped{or_throw(heap.stage_commit())};
    it.deallocate(heap);
    it.allocate(heap, large, 3); // free in what is staged, and not in what is committed
    BOOST_REQUIRE((it.begin == old.begin));
    auto next = or_throw(heap.stage_commit());
    dropped.reset();
    run_without_sync(heap, next);
  });
}

BOOST_AUTO_TEST_CASE(goes_nowhere_where_a_staged_commit_has_something) {
  expect_block(large, 1, [](persistent_heap& heap, block& it) {
    or_throw(heap.commit());
    it.allocate(heap, large, 1);
    auto first = or_throw(heap.stage_commit());
    it.fill(2);
    auto second = or_throw(heap.stage_commit());
    or_throw(first.run());
    run_without_sync(heap, second);
  });
}

BOOST_AUTO_TEST_CASE(that_was_staged_and_dropped_is_in_the_next_commit) {
  for (bool const next_is_staged_before : {false, true}) {
    expect_block(large, 2, [&](persistent_heap& heap, block& it) {
      or_throw(heap.commit());
      it.allocate(heap, large, 2);
      it.begin[0] = std::byte{1};
      std::optional dropped{or_throw(heap.stage_commit())};
      it.begin[0] = std::byte{2};
      std::optional<fmmap::flush_job> next;
      if (next_is_staged_before) {
        next = or_throw(heap.stage_commit());
      }
      dropped.reset();
      if (next) {
        or_throw(next->run());
      } else {
        or_throw(heap.commit());
      }
    });
  }
}

BOOST_AUTO_TEST_CASE(may_change_while_its_commit_runs) {
  expect_block(large, 2, [](persistent_heap& heap, block& it) {
    it.allocate(heap, large, 1);
    auto first = or_throw(heap.stage_commit());
    it.fill(2);
    auto second = or_throw(heap.stage_commit());
    it.fill(3);
    or_throw(first.run());
    or_throw(second.run());
  });
}

BOOST_AUTO_TEST_CASE(is_gone_after_a_rollback) {
  expect_block(3 * large, 3, [](persistent_heap& heap, block& it) {
    it.allocate(heap, large, 1);
    or_throw(heap.commit());
    it.deallocate(heap);
    it.allocate(heap, 2 * large, 2);
    or_throw(heap.rollback());
    BOOST_TEST(it.holds_only(1));
    it.deallocate(heap);
    it.allocate(heap, 3 * large, 3);
    or_throw(heap.commit());
    or_throw(heap.rollback());
    BOOST_TEST(it.holds_only(3));
  });
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(named_objects)

BOOST_AUTO_TEST_CASE(are_found_by_name_and_type) {
  scratch const folder;
  auto heap = or_throw(persistent_heap::create(folder / "heap"));
  auto* const some = or_throw(heap.construct<numbers>("numbers", numbers{1, 2}));
  BOOST_TEST((some->get_allocator().resource() == heap.resource()));
  BOOST_TEST(or_throw(heap.find_or_construct<numbers>("numbers")) == some);
  BOOST_TEST((heap.construct<numbers>("numbers").error() == errc::already_exists));
  BOOST_TEST((heap.find<numbers>("number").error() == errc::not_found));
  auto const other = heap.find<words>("numbers");
  BOOST_TEST((other.error() == errc::type_mismatch));
  BOOST_TEST(other.error().message().find("vector<unsigned long") != std::string::npos);
  or_throw(heap.construct<int>("a", 1));
  std::string names;
  heap.for_each_object([&](fmmap::object_info const& object) {
    names.append(object.name).append(" ").append(object.type).append(" ");
    BOOST_TEST(object.size == (object.name == "a" ? sizeof(int) : sizeof(numbers)));
    BOOST_TEST((heap.find<numbers>(object.name).has_value() == (object.name == "numbers")));
  });
  BOOST_TEST(names.starts_with("a int numbers std::vector"));
}

BOOST_AUTO_TEST_CASE(shows_its_objects_to_a_visitor_by_their_types) {
  scratch const folder;
  auto heap = or_throw(persistent_heap::create(folder / "heap"));
  or_throw(heap.construct<numbers>("b", numbers{1, 2}));
  or_throw(heap.construct<int>("c", 3));
  or_throw(heap.construct<numbers>("a", numbers{4}));
  or_throw(heap.construct<double>("d", 5.0));
  std::string seen;
  auto const left = heap.visit_objects<int, numbers>([&](std::string_view name, auto const& object) {
    if constexpr (std::is_same_v<decltype(object), int const&>) {
      seen.append(name).append(std::to_string(object)).append(" ");
    } else {
      seen.append(name).append(std::to_string(object.front())).append(" ");
    }
  });
  BOOST_TEST(seen == "a4 b1 c3 ");
  BOOST_TEST(left == std::vector<std::string>{"d"}, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(are_gone_when_destroyed_with_all_they_had) {
  scratch const folder;
  auto const path = folder / "heap";
  made(path, [](persistent_heap& heap) {
    auto const allocated = or_throw(heap.check()).allocated_bytes;
    for (int i = 0; i < 100; ++i) {
      or_throw(heap.construct<words>("words " + std::to_string(i)))->emplace(1, std::string(10'000, 'x'));
    }
    or_throw(heap.commit());
    for (int i = 0; i < 100; ++i) {
      or_throw(heap.destroy<words>("words " + std::to_string((i * 37) % 100)));
    }
    auto const twice = heap.destroy<words>("words 1");
    BOOST_TEST((twice.error() == errc::not_found));
    BOOST_TEST(twice.error().message().find("destroy \"words 1\"") != std::string::npos, twice.error().message());
    BOOST_TEST(heap.stats().objects == 0U);
    BOOST_TEST(or_throw(heap.check()).allocated_bytes == allocated);
    or_throw(heap.commit());
  });
  auto heap = open(path);
  BOOST_TEST(heap.stats().objects == 0U);
  auto const report = or_throw(heap.check());
  BOOST_TEST(report.problems.empty());
  BOOST_TEST(report.allocated_bytes == 4096U);
}

struct throwing {
  using allocator_type = std::pmr::polymorphic_allocator<>;
  explicit throwing(allocator_type from) : text{"long enough not to fit into the object itself", from} { throw 42; }
  std::pmr::string text;
};

BOOST_AUTO_TEST_CASE(leave_nothing_when_a_constructor_throws) {
  scratch const folder;
  auto heap = or_throw(persistent_heap::create(folder / "heap"));
  BOOST_CHECK_THROW((void)heap.construct<throwing>("one"), int);
  BOOST_TEST((heap.find<throwing>("one").error() == errc::not_found));
  BOOST_TEST(or_throw(heap.check()).allocated_bytes == 4096U);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_staged_commit)

BOOST_AUTO_TEST_CASE(is_of_the_moment_it_was_staged) {
  scratch const folder;
  auto const path = folder / "heap";
  made(path, [](persistent_heap& heap) {
    auto* const some = or_throw(heap.construct<numbers>("numbers", numbers{1}));
    auto job = or_throw(heap.stage_commit());
    some->push_back(2);
    std::thread{[&] { BOOST_TEST((or_throw(job.run()) == fmmap::durability::all)); }}.join();
    BOOST_TEST((job.run().error() == errc::already_run));
  });
  BOOST_TEST(contents(path).size() == 1U);
}

BOOST_AUTO_TEST_CASE(runs_those_before_it_too) {
  scratch const folder;
  auto const path = folder / "heap";
  made(path, [](persistent_heap& heap) {
    auto* const some = or_throw(heap.construct<numbers>("numbers", numbers{1}));
    auto first = or_throw(heap.stage_commit());
    some->push_back(2);
    auto second = or_throw(heap.stage_commit());
    some->push_back(3);
    BOOST_TEST((heap.rollback().error() == errc::in_use));
    or_throw(second.run());
    or_throw(first.run());
  });
  BOOST_TEST(contents(path).size() == 2U);
}

BOOST_AUTO_TEST_CASE(leaves_its_changes_to_the_next_when_it_is_dropped) {
  scratch const folder;
  auto const path = folder / "heap";
  made(path, [](persistent_heap& heap) {
    auto* const some = or_throw(heap.construct<numbers>("numbers", numbers{1, 2, 3}));
    {
      auto dropped = or_throw(heap.stage_commit());
    }
    BOOST_TEST(some->size() == 3U);
    or_throw(heap.commit());
  });
  BOOST_TEST(contents(path).size() == 3U);
}

// A is changed and staged, and then B is changed; `commit_without` drops the job with A and commits. Never B without A.
template <class Commit>
void expect_both(Commit commit_without, fmmap::heap_options const& options = {}) {
  scratch const folder;
  auto const path = folder / "heap";
  made(
      path,
      [&](persistent_heap& heap) {
        auto* const a = or_throw(heap.construct<numbers>("numbers", numbers(1000, 1)));
        auto* const b = or_throw(heap.construct<words>("words"));
        or_throw(heap.commit());
        a->push_back(2);
        std::optional<fmmap::flush_job> first{or_throw(heap.stage_commit())};
        b->emplace(1, "a text that is too long for the object itself");
        commit_without(first, heap);
      },
      options);
  auto heap = open(path);
  BOOST_TEST(or_throw(heap.find<words>("words"))->size() == 1U);
  BOOST_TEST(or_throw(heap.find<numbers>("numbers"))->size() == 1001U);
  BOOST_TEST(or_throw(heap.find<numbers>("numbers"))->back() == 2U);
}

BOOST_AUTO_TEST_CASE(that_is_dropped_is_in_those_staged_after_it) {
  expect_both([](std::optional<fmmap::flush_job>& first, persistent_heap& heap) {
    auto second = or_throw(heap.stage_commit());
    first.reset();
    or_throw(second.run());
  });
}

// Until a call of this kind has begun, which a table delays.
void wait_for(os::call which) {
  while (std::ranges::count(seam::calls(), which) == 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds{1});
  }
}

BOOST_AUTO_TEST_CASE(that_is_dropped_while_another_is_staged_is_in_that_one) {
  expect_both(
      [](std::optional<fmmap::flush_job>& first, persistent_heap& heap) {
        seam::armed const table;
        seam::delay(os::call::openat,
                    std::chrono::milliseconds{100}); // of the map of addresses, when changes are known
        auto second = std::async(std::launch::async, [&] { or_throw(heap.commit()); });
        wait_for(os::call::openat);
        first.reset();
        second.get();
      },
      {.check_pointers = true});
}

BOOST_AUTO_TEST_CASE(come_back_in_a_rollback_while_a_snapshot_brings_them_in_place) {
  scratch const folder;
  auto const path = folder / "heap";
  made(path, [&](persistent_heap& heap) {
    auto& some = *or_throw(heap.construct<numbers>("numbers", numbers{1, 1, 1}));
    or_throw(heap.snapshot(folder / "first")); // what is in place
    some[1] = 2;
    or_throw(heap.commit()); // is not
    some[1] = 3;
    seam::armed const table;
    seam::delay(os::call::pwrite, std::chrono::milliseconds{100});
    auto copy = std::async(std::launch::async, [&] { or_throw(heap.snapshot(folder / "second")); });
    wait_for(os::call::pwrite);
    or_throw(heap.rollback());
    copy.get();
    BOOST_TEST(some[1] == 2U);
    or_throw(heap.commit());
  });
  BOOST_TEST(contents(path)[1] == 2U);
}

BOOST_AUTO_TEST_CASE(are_not_rolled_back_to_when_one_may_or_may_not_have_taken_place) {
  scratch const folder;
  made(folder / "heap", [](persistent_heap& heap) {
    auto& some = *or_throw(heap.construct<numbers>("numbers", numbers{1}));
    or_throw(heap.commit());
    some[0] = 2;
    seam::armed const table;
    seam::fail(os::call::pwritev2, ENOSPC, 1);
    BOOST_TEST((heap.commit().error() == std::errc::no_space_on_device));
    BOOST_TEST((heap.rollback().error() == std::errc::no_space_on_device));
    BOOST_TEST(some[0] == 2U);
  });
}

BOOST_AUTO_TEST_CASE(end_where_a_rollback_finds_that_the_last_one_is_damaged) {
  scratch const folder;
  made(folder / "heap", [](persistent_heap& heap) {
    auto& some = *or_throw(heap.construct<numbers>("numbers", numbers{1}));
    or_throw(heap.commit());
    auto* const table = const_cast<std::byte*>(heap.resource()->storage().data());
    std::memset(table, 0xff, 64); // a stray store
    or_throw(heap.commit());
    some[0] = 2;
    BOOST_TEST((heap.rollback().error() == errc::damaged));
    BOOST_TEST((heap.commit().error() == errc::damaged));
  });
}

// What the file has meanwhile is the old value and the new one.
BOOST_AUTO_TEST_CASE(counts_where_a_change_is_taken_back) {
  for (bool const staged : {true, false}) {
    scratch const folder;
    auto const path = folder / "heap";
    made(path, [&](persistent_heap& heap) {
      auto* const some = or_throw(heap.construct<numbers>("numbers", numbers{1, 2, 3}));
      or_throw(heap.commit());
      or_throw(heap.snapshot(folder / "copy")); // so that it is in place
      some->front() = 7;
      std::optional<fmmap::flush_job> first;
      if (staged) {
        first = or_throw(heap.stage_commit());
      } else {
        or_throw(heap.commit(commit_durability::process));
      }
      some->front() = 1;
      auto second = or_throw(heap.stage_commit(commit_durability::process));
      if (first) {
        or_throw(first->run());
      }
      or_throw(second.run());
    });
    BOOST_TEST(contents(path).front() == 1U);
  }
}

BOOST_AUTO_TEST_CASE(may_be_dropped_while_another_thread_runs_it_with_those_after_it) {
  scratch const folder;
  auto const path = folder / "heap";
  made(path, [](persistent_heap& heap) {
    auto* const a = or_throw(heap.construct<numbers>("numbers"));
    auto* const b = or_throw(heap.construct<numbers>("others"));
    seam::armed const table;
    seam::delay(os::call::pwrite, std::chrono::milliseconds{20}); // the first is under way when it is dropped
    for (std::uint64_t round = 0; round < 5; ++round) {
      a->push_back(round);
      std::optional<fmmap::flush_job> first{or_throw(heap.stage_commit(commit_durability::process))};
      b->push_back(round);
      auto second = or_throw(heap.stage_commit(commit_durability::process));
      std::thread running{[&] { or_throw(second.run()); }};
      std::this_thread::sleep_for(std::chrono::milliseconds{5});
      first.reset();
      running.join();
    }
  });
  auto heap = open(path);
  BOOST_TEST(or_throw(heap.find<numbers>("numbers"))->size() == 5U);
  BOOST_TEST(*or_throw(heap.find<numbers>("numbers")) == *or_throw(heap.find<numbers>("others")),
             boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(outlives_its_heap) {
  scratch const folder;
  auto const path = folder / "heap";
  std::optional<fmmap::flush_job> job;
  made(path, [&](persistent_heap& heap) {
    or_throw(heap.construct<numbers>("numbers", numbers{1, 2}));
    job.emplace(or_throw(heap.stage_commit()));
  });
  BOOST_TEST((persistent_heap::open(path).error() == errc::in_use));
  or_throw(job->run());
  job.reset();
  BOOST_TEST(contents(path).size() == 2U);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(several_threads)

BOOST_AUTO_TEST_CASE(commit_at_the_same_time) {
  scratch const folder;
  auto const path = folder / "heap";
  constexpr std::uint64_t rounds = 200;
  made(path, [](persistent_heap& heap) {
    auto* const first = or_throw(heap.construct<numbers>("first"));
    auto* const second = or_throw(heap.construct<numbers>("second"));
    std::vector<std::thread> threads;
    for (auto* const of : {first, second}) {
      threads.emplace_back([&heap, of, first] {
        for (std::uint64_t i = 0; i < rounds; ++i) {
          {
            persistent_heap::update_scope const updating{heap};
            of->push_back(i);
          }
          or_throw(heap.commit(of == first ? commit_durability::process : commit_durability::power));
        }
      });
    }
    for (auto& each : threads) {
      each.join();
    }
  });
  auto heap = open(path);
  BOOST_TEST(or_throw(heap.find<numbers>("first"))->size() == rounds);
  BOOST_TEST(or_throw(heap.find<numbers>("second"))->size() == rounds);
}

// Who ends hands the blocks back that it has kept for itself, whatever commit is being made.
BOOST_AUTO_TEST_CASE(end_while_a_commit_is_made) {
  scratch const folder;
  auto const path = folder / "heap";
  constexpr std::size_t threads = 300;
  made(path, [](persistent_heap& heap) {
    std::jthread committer{[&heap](std::stop_token const& stop) {
      while (!stop.stop_requested()) {
        or_throw(heap.commit(commit_durability::process));
      }
    }};
    for (std::size_t i = 0; i < threads; ++i) {
      std::thread{[&heap, i] {
        persistent_heap::update_scope const updating{heap};
        (void)or_throw(heap.construct<numbers>("numbers " + std::to_string(i), numbers(i % 100)));
        numbers const dropped(i, 0, heap.resource());
      }}.join();
    }
    committer.request_stop();
    committer.join();
    or_throw(heap.commit());
  });
  auto heap = open(path);
  for (std::size_t i = 0; i < threads; ++i) {
    BOOST_TEST_REQUIRE(or_throw(heap.find<numbers>("numbers " + std::to_string(i)))->size() == i % 100);
  }
}

BOOST_AUTO_TEST_CASE(have_all_or_nothing_of_an_update_in_a_commit) {
  scratch const folder;
  auto const path = folder / "heap";
  constexpr std::size_t workers = 4;
  made(path, [](persistent_heap& heap) {
    std::vector<numbers*> mine;
    for (std::size_t i = 0; i < workers; ++i) {
      mine.push_back(or_throw(heap.construct<numbers>("numbers " + std::to_string(i))));
    }
    or_throw(heap.commit());
    std::vector<std::thread> threads;
    for (auto* const of : mine) {
      threads.emplace_back([&heap, of] {
        for (std::uint64_t i = 0; i < 500; ++i) {
          persistent_heap::update_scope const updating{heap};
          of->push_back(i);
          of->push_back(i);
        }
      });
    }
    for (int i = 0; i < 50; ++i) {
      auto job = or_throw(heap.stage_commit(commit_durability::process));
      or_throw(job.run());
    }
    for (auto& each : threads) {
      each.join();
    }
    or_throw(heap.rollback());
    for (auto const* const of : mine) {
      BOOST_TEST(of->size() % 2 == 0U);
      for (std::size_t i = 0; i < of->size(); ++i) {
        BOOST_REQUIRE((*of)[i] == i / 2);
      }
    }
  });
  BOOST_TEST(or_throw(open(path).check()).problems.empty());
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(opening)

BOOST_AUTO_TEST_CASE(is_for_one_writer_or_for_readers) {
  scratch const folder;
  auto const path = folder / "heap";
  auto heap = or_throw(persistent_heap::create(path));
  or_throw(heap.construct<numbers>("numbers", numbers{1}));
  or_throw(heap.commit(commit_durability::process));
  BOOST_TEST((persistent_heap::open(path).error() == errc::in_use));
  BOOST_TEST((persistent_heap::open_read_only(path).error() == errc::in_use));
  or_throw(heap.close());

  auto reader = or_throw(persistent_heap::open_read_only(path));
  BOOST_TEST(or_throw(reader.find<numbers const>("numbers"))->size() == 1U);
  BOOST_TEST((reader.find<numbers>("numbers").error() == errc::read_only));
  BOOST_TEST((reader.commit().error() == errc::read_only));
  BOOST_TEST((reader.rollback().error() == errc::read_only));
  BOOST_TEST((reader.construct<int>("one").error() == errc::read_only));
  BOOST_CHECK_THROW((void)reader.resource()->allocate(1), fmmap::allocation_error);
  BOOST_TEST((persistent_heap::open(path).error() == errc::in_use));
  BOOST_TEST((persistent_heap::open_read_only(path).error() == errc::address_in_use)); // by this very process
}

BOOST_AUTO_TEST_CASE(for_reading_writes_nothing) {
  scratch const folder;
  auto const path = folder / "heap";
  made(path, [](persistent_heap& heap) {
    or_throw(heap.construct<numbers>("numbers", numbers{1, 2, 3}));
    or_throw(heap.commit()); // in the journal
  });
  auto const before = read_back(path);
  {
    auto reader = or_throw(persistent_heap::open_read_only(path));
    BOOST_TEST(or_throw(reader.find<numbers const>("numbers"))->size() == 3U);
    BOOST_TEST(or_throw(reader.check()).problems.empty());
  }
  BOOST_TEST((read_back(path) == before));
}

BOOST_AUTO_TEST_CASE(says_what_is_in_the_way) {
  scratch const folder;
  auto const path = folder / "heap";
  auto const where = made(path, [](persistent_heap& heap) { or_throw(heap.commit()); });
  auto* const other = ::mmap(reinterpret_cast<void*>(where + (1 << 20)), 4096, PROT_READ,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  BOOST_REQUIRE(other != MAP_FAILED);
  auto const refused = persistent_heap::open(path);
  BOOST_TEST((refused.error() == errc::address_in_use));
  BOOST_TEST(refused.error().message().find("without a name") != std::string::npos, refused.error().message());
  ::munmap(other, 4096);
  (void)open(path);
}

BOOST_AUTO_TEST_CASE(refuses_what_is_no_heap) {
  scratch const folder;
  BOOST_TEST((persistent_heap::open(folder / "none").error() == std::errc::no_such_file_or_directory));
  BOOST_TEST((persistent_heap::open(folder.file("empty", "")).error() == errc::not_a_heap));
  BOOST_TEST((persistent_heap::open(folder.file("text", std::string(100'000, 'x'))).error() == errc::not_a_heap));
  BOOST_TEST((persistent_heap::create(folder / "text").error() == std::errc::file_exists));
  BOOST_TEST(read_back(folder / "text") == std::string(100'000, 'x'));
  made(folder / "cut", [&](persistent_heap& heap) { or_throw(heap.snapshot(folder / "copy")); });
  auto const whole = std::filesystem::file_size(folder / "cut");
  for (auto const size : {whole - 1, whole / 2}) { // and it is not made longer again
    std::filesystem::resize_file(folder / "cut", size);
    BOOST_TEST((persistent_heap::open(folder / "cut").error() == errc::damaged));
    BOOST_TEST((persistent_heap::open_read_only(folder / "cut").error() == errc::damaged));
    BOOST_TEST(std::filesystem::file_size(folder / "cut") == size);
  }
}

// As a program with another layout of objects would have made it: traits are the last of the owner's part that is used.
void change_trait(std::filesystem::path const& path, std::size_t which, std::uint64_t value) {
  constexpr std::size_t first_trait = 48;
  std::array<journal::slot, journal::slot_count> slots;
  auto const bytes = std::as_writable_bytes(std::span{slots});
  std::fstream file{path, std::ios::in | std::ios::out | std::ios::binary};
  file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  for (auto& one : slots) {
    std::memcpy(&one.of_owner[first_trait + (which * sizeof value)], &value, sizeof value);
    one.about.checksum = journal::checksum_of(one);
  }
  file.seekp(0);
  file.write(reinterpret_cast<char const*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}

BOOST_AUTO_TEST_CASE(says_what_differs_from_the_program_that_made_it) {
  struct difference {
    std::size_t trait;
    std::uint64_t value;
    std::string_view text;
  };
  scratch const folder;
  for (auto const& one :
       {difference{1, 65536, "the size of a page differs: 65536 there, 4096 here"},
        difference{2, 0x404, "a pointer differs: 4 bytes aligned to 4 there, 8 bytes aligned to 8 here"},
        difference{19, 7, "what std::hash makes of strings differs: 7 there, "}}) {
    auto const path = folder / std::to_string(one.trait);
    made(path, [](persistent_heap& heap) { or_throw(heap.commit()); });
    change_trait(path, one.trait, one.value);
    auto const before = read_back(path);
    auto const refused = persistent_heap::open(path);
    BOOST_REQUIRE((refused.error() == errc::incompatible));
    BOOST_TEST(refused.error().message().find(one.text) != std::string::npos, refused.error().message());
    BOOST_TEST((persistent_heap::open_read_only(path).error() == errc::incompatible));
    BOOST_TEST((read_back(path) == before));
  }
}

// Its creator may have been killed when it had a name, and the directory was not synced yet.
BOOST_AUTO_TEST_CASE(is_not_opened_to_be_written_where_its_name_may_be_lost) {
  scratch const folder;
  auto const path = folder / "heap";
  made(path, [](persistent_heap& heap) { or_throw(heap.commit()); });
  seam::armed const table;
  seam::fail(os::call::fsync, EIO); // the journal takes other calls
  auto const refused = persistent_heap::open(path);
  BOOST_TEST((refused.error() == std::errc::io_error));
  BOOST_TEST(refused.error().message().find("make durable the name of") != std::string::npos,
             refused.error().message());
  BOOST_TEST(persistent_heap::open_read_only(path).has_value());
}

BOOST_AUTO_TEST_CASE(refuses_options_that_cannot_be) {
  scratch const folder;
  for (auto const& options :
       {fmmap::heap_options{.reserve = 4096}, fmmap::heap_options{.reserve = (std::size_t{64} << 30) + 4096},
        fmmap::heap_options{.base = reinterpret_cast<std::byte*>(4096)}, fmmap::heap_options{.journal_size = 4096},
        fmmap::heap_options{.reserve = std::size_t{1} << 46}, fmmap::heap_options{.journal_size = (8 << 20) + 1},
        fmmap::heap_options{.journal_size = std::size_t{1} << 35},
        fmmap::heap_options{.journal_size = ~std::size_t{4095}}}) {
    BOOST_TEST((persistent_heap::create(folder / "heap", options).error() == errc::invalid_options));
  }
  BOOST_TEST(std::filesystem::is_empty(folder.folder()));
}

BOOST_AUTO_TEST_CASE(makes_a_heap_where_there_are_no_files_without_a_name) {
  scratch const folder;
  for (int const code : {EOPNOTSUPP, EISDIR, EINVAL}) {
    auto const path = folder / std::to_string(code);
    {
      seam::armed const table;
      seam::fail(os::call::openat, code, 1, 0);
      auto heap = or_throw(persistent_heap::create(path));
      BOOST_TEST(seam::injected() == 1U);
      BOOST_TEST(std::ranges::count(seam::calls(), os::call::linkat) == 0);
      or_throw(heap.construct<int>("number", code));
      or_throw(heap.commit());
    }
    auto heap = or_throw(persistent_heap::open(path));
    BOOST_TEST(*or_throw(heap.find<int>("number")) == code);
  }
}

BOOST_AUTO_TEST_CASE(commits_what_lies_in_memory_that_could_not_be_tracked_at_first) {
  scratch const folder;
  auto const path = folder / "heap";
  std::string expected;
  {
    auto heap = or_throw(persistent_heap::create(path));
    auto& text = *or_throw(heap.construct<std::pmr::string>("text"));
    or_throw(heap.commit());
    for (std::size_t mib = 1; mib <= 16; mib *= 2) {
      expected += pattern(mib << 20U, mib);
      try {
        seam::armed const table;
        seam::fail(os::call::ioctl, ENOMEM, mib % 3 == 1 ? 1 : seam::every_time, 0);
        text = expected;
      } catch (fmmap::allocation_error const& failed) {
        BOOST_TEST((failed.why() == std::errc::not_enough_memory));
        or_throw(heap.rollback()); // and what was mapped is free memory now
      }
      text = expected;
      or_throw(heap.commit());
    }
  }
  auto heap = or_throw(persistent_heap::open(path));
  BOOST_TEST((*or_throw(heap.find<std::pmr::string>("text")) == std::string_view{expected}));
}

BOOST_AUTO_TEST_CASE(goes_on_after_a_disk_was_full_when_it_grew) {
  scratch const folder;
  auto const path = folder / "heap";
  using numbers = std::pmr::vector<std::uint64_t>;
  std::uint64_t refused = 0;
  {
    auto heap = or_throw(persistent_heap::create(path));
    auto& all = *or_throw(heap.construct<numbers>("numbers"));
    or_throw(heap.commit());
    for (std::uint64_t spared = 0; spared < 12; ++spared) { // of the calls that ask for blocks
      auto const before = all.size();
      try {
        seam::armed const table;
        seam::fail(os::call::fallocate, ENOSPC, seam::every_time, spared % 3);
        for (std::uint64_t i = 0; i < (std::uint64_t{1} << 18U); ++i) {
          all.push_back(i);
        }
      } catch (fmmap::allocation_error const& failed) {
        BOOST_TEST((failed.why() == std::errc::no_space_on_device));
        BOOST_TEST(failed.why().path() == path.native());
        ++refused;
      }
      BOOST_TEST(all.size() >= before);
      or_throw(heap.commit());
      BOOST_TEST(or_throw(heap.check()).problems.empty());
    }
    BOOST_TEST(refused > 0U);
  }
  auto heap = or_throw(persistent_heap::open(path));
  auto const& all = *or_throw(heap.find<numbers const>("numbers"));
  std::uint64_t expected = 0;
  for (auto const value : all) {
    expected = value == 0 ? 0 : expected;
    BOOST_REQUIRE(value == expected++);
  }
  auto& grown = *or_throw(heap.find<numbers>("numbers"));
  grown.resize(grown.size() + (std::size_t{1} << 20U));
  or_throw(heap.commit());
}

BOOST_AUTO_TEST_CASE(works_with_ten_at_once) {
  scratch const folder;
  std::vector<persistent_heap> heaps;
  for (int i = 0; i < 10; ++i) {
    heaps.push_back(or_throw(persistent_heap::create(folder / ("heap " + std::to_string(i)))));
    or_throw(heaps.back().construct<int>("number", i));
    or_throw(heaps.back().commit());
  }
  for (int i = 0; i < 10; ++i) {
    BOOST_TEST(*or_throw(heaps[static_cast<std::size_t>(i)].find<int>("number")) == i);
  }
}

BOOST_AUTO_TEST_CASE(of_a_snapshot_waits_for_the_original_to_close) {
  scratch const folder;
  auto heap = or_throw(persistent_heap::create(folder / "heap"));
  auto* const some = or_throw(heap.construct<numbers>("numbers", numbers{1, 2}));
  or_throw(heap.commit());
  some->push_back(3); // not committed
  or_throw(heap.snapshot(folder / "copy"));
  BOOST_TEST(some->size() == 3U);
  BOOST_TEST((heap.snapshot(folder / "copy").error() == std::errc::file_exists));
  BOOST_TEST((persistent_heap::open(folder / "copy").error() == errc::address_in_use));
  or_throw(heap.close());
  BOOST_TEST(contents(folder / "copy").size() == 2U);
}

BOOST_AUTO_TEST_CASE(for_reading_makes_snapshots_of_what_is_in_the_journal_too) {
  scratch const folder;
  auto const path = folder / "heap";
  made(path, [](persistent_heap& heap) {
    or_throw(heap.construct<numbers>("numbers", numbers{1, 2}));
    or_throw(heap.commit(commit_durability::process));
  });
  auto const before = read_back(path);
  {
    auto const reader = or_throw(persistent_heap::open_read_only(path));
    or_throw(reader.snapshot(folder / "copy"));
  }
  BOOST_TEST((read_back(path) == before));
  BOOST_TEST(contents(folder / "copy").size() == 2U);
}

BOOST_AUTO_TEST_CASE(is_errors_after_closing) {
  persistent_heap heap = [] {
    scratch const folder;
    return or_throw(persistent_heap::create(folder / "heap"));
  }();
  or_throw(heap.close());
  BOOST_TEST(!heap.is_open());
  persistent_heap::update_scope const of_nothing{heap};
  BOOST_TEST((heap.commit().error() == errc::closed));
  BOOST_TEST((heap.stage_commit().error() == errc::closed));
  BOOST_TEST((heap.rollback().error() == errc::closed));
  BOOST_TEST((heap.check().error() == errc::closed));
  BOOST_TEST((heap.snapshot("x").error() == errc::closed));
  BOOST_TEST((heap.find<int>("x").error() == errc::closed));
  BOOST_TEST((heap.construct<int>("x").error() == errc::closed));
  BOOST_TEST((heap.destroy<int>("x").error() == errc::closed));
  BOOST_TEST(heap.resource() == nullptr);
  BOOST_TEST(heap.path() == "");
  or_throw(heap.close());
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(pointers_out_of_a_heap)

struct hiding { // says that it allocates from the heap, and does not
  using allocator_type = std::pmr::polymorphic_allocator<>;
  explicit hiding(allocator_type /*from*/) {}
  int number = 0;
  std::string text = "this is allocated by malloc, since it is too long for the object";
};

BOOST_AUTO_TEST_CASE(make_a_commit_fail_that_looks_for_them) {
  scratch const folder;
  auto heap = or_throw(persistent_heap::create(folder / "heap", {.check_pointers = true}));
  or_throw(heap.construct<numbers>("numbers", numbers{1}));
  or_throw(heap.commit());
  or_throw(heap.construct<hiding>("wrong"));
  auto const refused = heap.commit();
  BOOST_TEST((refused.error() == errc::escaped_pointer));
  auto const message = refused.error().message();
  BOOST_TEST(message.find("\"wrong\"") != std::string::npos, message);
  BOOST_TEST(message.find(std::to_string(offsetof(hiding, text)) + " bytes into it") != std::string::npos, message);
  or_throw(heap.destroy<hiding>("wrong"));
  or_throw(heap.commit());
  int on_stack = 0;
  auto* const kept = or_throw(heap.construct<std::pmr::vector<int*>>("pointers"));
  kept->push_back(&on_stack);
  BOOST_TEST((heap.commit().error() == errc::escaped_pointer));
  kept->clear();
  kept->push_back(nullptr);
  or_throw(heap.commit());
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_forked_child)

BOOST_AUTO_TEST_CASE(reads_and_commits_nothing, *boost::unit_test::enable_if<!thread_sanitized>()) {
  scratch const folder;
  auto const path = folder / "heap";
  auto heap = or_throw(persistent_heap::create(path));
  auto* const some = or_throw(heap.construct<numbers>("numbers", numbers{1, 2}));
  or_throw(heap.commit());
  some->push_back(3);
  auto const wrong = found_in_child([&](findings& found) {
    found.expect(some->size() == 3, "the child does not see the object");
    some->front() = 7;
    found.expect(heap.commit().error() == errc::forked, "commit");
    found.expect(heap.rollback().error() == errc::forked, "rollback");
    found.expect(heap.construct<int>("x").error() == errc::forked, "construct");
    found.expect(heap.close().has_value(), "close");
  });
  BOOST_TEST(wrong == "");
  BOOST_TEST(some->front() == 1U);
  or_throw(heap.commit());
  or_throw(heap.close());
  BOOST_TEST(contents(path).size() == 3U);
}

BOOST_AUTO_TEST_SUITE_END()
