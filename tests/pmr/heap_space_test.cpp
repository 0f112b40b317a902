// SPDX-License-Identifier: MIT OR Apache-2.0
//
// What a heap takes of the file system and of memory, and gives back.

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory_resource>
#include <new>
#include <numeric>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "support/process.hpp"
#include "support/scratch.hpp"

#include "support/small_disk.hpp"

import fmmap.core;
import fmmap.os;
import fmmap.pmr;

namespace os = fmmap::os;
namespace seam = fmmap::os::seam;

using fmmap::commit_durability;
using fmmap::errc;
using fmmap::or_throw;
using fmmap::persistent_heap;

namespace {

constexpr std::size_t kib = std::size_t{1} << 10;
constexpr std::size_t mib = std::size_t{1} << 20;

using numbers = std::pmr::vector<std::uint64_t>;

// So many bytes of numbers that count from there on.
void fill(numbers& to, std::size_t bytes, std::uint64_t first = 1) {
  to.resize(bytes / sizeof(std::uint64_t));
  std::iota(to.begin(), to.end(), first);
}

auto counts_from(numbers const& some, std::uint64_t first) -> bool {
  return std::ranges::all_of(some, [&](std::uint64_t number) { return number == first++; });
}

// Opened again, it has this.
void expect_opened(std::filesystem::path const& path, std::string const& name, std::uint64_t first, std::size_t bytes) {
  auto const heap = or_throw(persistent_heap::open(path));
  auto const* const found = or_throw(heap.find<numbers const>(name));
  BOOST_TEST(found->size() == bytes / sizeof(std::uint64_t));
  BOOST_TEST(counts_from(*found, first));
  BOOST_TEST(or_throw(heap.check()).problems.empty());
}

} // namespace

BOOST_AUTO_TEST_SUITE(what_is_freed)

BOOST_AUTO_TEST_CASE(goes_back_to_the_file_system) {
  scratch const folder;
  auto const path = folder / "heap";
  {
    auto heap = or_throw(persistent_heap::create(path));
    fill(*or_throw(heap.construct<numbers>("kept")), mib);
    fill(*or_throw(heap.construct<numbers>("numbers")), 32 * mib);
    or_throw(heap.commit());
    auto const before = blocks_of(path);
    or_throw(heap.destroy<numbers>("numbers"));
    or_throw(heap.commit());
    BOOST_TEST(or_throw(heap.trim()) >= 32 * mib);
    BOOST_TEST(blocks_of(path) + (32 * mib) - (128 * kib) <= before);
    fill(*or_throw(heap.construct<numbers>("others")), 32 * mib, 7); // where there are holes
    BOOST_TEST(blocks_of(path) + mib >= before);                     // before anything is written there
    or_throw(heap.commit());
  }
  expect_opened(path, "kept", 1, mib);
  expect_opened(path, "others", 7, 32 * mib);
}

BOOST_AUTO_TEST_CASE(goes_back_with_a_later_commit_when_it_is_much) {
  scratch const folder;
  auto const path = folder / "heap";
  auto heap = or_throw(persistent_heap::create(path));
  auto& tick = *or_throw(heap.construct<int>("tick", 0));
  fill(*or_throw(heap.construct<numbers>("numbers")), 96 * mib);
  or_throw(heap.commit());
  auto const before = blocks_of(path);
  or_throw(heap.destroy<numbers>("numbers"));
  or_throw(heap.commit());
  BOOST_TEST(blocks_of(path) >= before);
  ++tick;
  or_throw(heap.commit());
  BOOST_TEST(blocks_of(path) + (90 * mib) <= before);
}

BOOST_AUTO_TEST_CASE(stays_while_the_last_commit_has_it) {
  scratch const folder;
  auto const path = folder / "heap";
  auto heap = or_throw(persistent_heap::create(path));
  fill(*or_throw(heap.construct<numbers>("numbers")), 8 * mib, 3);
  or_throw(heap.commit());
  or_throw(heap.destroy<numbers>("numbers"));
  BOOST_TEST(or_throw(heap.trim()) < 4 * mib);
  or_throw(heap.rollback());
  BOOST_TEST(counts_from(*or_throw(heap.find<numbers>("numbers")), 3));
}

BOOST_AUTO_TEST_CASE(stays_while_a_commit_is_staged) {
  scratch const folder;
  auto heap = or_throw(persistent_heap::create(folder / "heap"));
  auto const job = or_throw(heap.stage_commit());
  BOOST_TEST((heap.trim().error() == errc::in_use));
}

// The old content would show between the lines that differ from zeros, if power failed before the hole was on the disk.
BOOST_AUTO_TEST_CASE(is_durably_gone_before_a_commit_uses_it_again) {
  scratch const folder;
  auto heap = or_throw(persistent_heap::create(folder / "heap"));
  fill(*or_throw(heap.construct<numbers>("numbers")), 8 * mib);
  or_throw(heap.commit());
  or_throw(heap.destroy<numbers>("numbers"));
  or_throw(heap.commit());
  seam::armed const table;
  BOOST_TEST(or_throw(heap.trim()) >= 8 * mib);
  auto const calls = seam::calls();
  auto const last_hole = std::ranges::find(calls.rbegin(), calls.rend(), os::call::fallocate);
  BOOST_TEST(std::ranges::count(calls.rbegin(), last_hole, os::call::fsync) == 1);
}

BOOST_AUTO_TEST_CASE(is_not_written_to_the_journal) {
  scratch const folder;
  auto heap = or_throw(persistent_heap::create(folder / "heap"));
  or_throw(heap.commit());
  auto const before = heap.stats().journal_bytes;
  fill(*or_throw(heap.construct<numbers>("numbers")), mib);
  or_throw(heap.destroy<numbers>("numbers"));
  or_throw(heap.commit());
  BOOST_TEST(heap.stats().journal_bytes - before < 64 * kib);
}

BOOST_AUTO_TEST_CASE(comes_back_when_the_commit_is_dropped_in_which_it_was_free) {
  scratch const folder;
  auto const path = folder / "heap";
  {
    auto heap = or_throw(persistent_heap::create(path));
    fill(*or_throw(heap.construct<numbers>("numbers")), mib, 5);
    or_throw(heap.commit());
    auto& old = *or_throw(heap.find<numbers>("numbers"));
    std::ranges::fill(old, 0U); // what is free then is not what it was
    or_throw(heap.destroy<numbers>("numbers"));
    std::optional<fmmap::flush_job> job{or_throw(heap.stage_commit())};
    job.reset();
    or_throw(heap.rollback());
    BOOST_TEST(counts_from(*or_throw(heap.find<numbers>("numbers")), 5));
    or_throw(heap.commit());
  }
  expect_opened(path, "numbers", 5, mib);
}

BOOST_AUTO_TEST_CASE(is_bad_alloc_to_who_wants_it_when_others_have_filled_the_disk) {
  on_small_disks([](findings& found, std::filesystem::path const& disk) {
    auto heap = or_throw(persistent_heap::create(disk / "heap", {.journal_size = 64 * kib}));
    fill(*or_throw(heap.construct<numbers>("numbers")), 2 * mib);
    or_throw(heap.commit());
    or_throw(heap.destroy<numbers>("numbers"));
    or_throw(heap.commit());
    found.expect(or_throw(heap.trim()) >= 2 * mib, "the holes are made");
    fill_up(disk, 512 * kib);
    auto& others = *or_throw(heap.construct<numbers>("others"));
    bool refused = false;
    try {
      fill(others, 2 * mib, 9);
    } catch (std::bad_alloc const&) {
      refused = true;
    }
    found.expect(refused, "a full disk is told of");
    or_throw(heap.commit());
    std::filesystem::remove(disk / "ballast");
    fill(others, 2 * mib, 9);
    or_throw(heap.commit());
    found.expect(counts_from(others, 9), "the next one has all of it");
  });
}

BOOST_AUTO_TEST_CASE(stays_where_the_file_system_makes_no_holes) {
  scratch const folder;
  auto heap = or_throw(persistent_heap::create(folder / "heap"));
  auto& tick = *or_throw(heap.construct<int>("tick", 0));
  fill(*or_throw(heap.construct<numbers>("numbers")), 96 * mib);
  or_throw(heap.commit());
  or_throw(heap.destroy<numbers>("numbers"));
  or_throw(heap.commit());
  seam::armed const table;
  seam::fail(os::call::fallocate, EOPNOTSUPP);
  BOOST_TEST((heap.trim().error() == std::errc::operation_not_supported));
  ++tick;
  or_throw(heap.commit());
  fill(*or_throw(heap.construct<numbers>("others")), 8 * mib);
  or_throw(heap.commit());
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(memory_that_has_what_the_file_has)

BOOST_AUTO_TEST_CASE(is_given_back_down_to_the_budget) {
  scratch const folder;
  auto const path = folder / "heap";
  {
    auto heap = or_throw(persistent_heap::create(path, {.private_budget = 8 * mib}));
    if (or_throw(heap.construct<int>("one", 1)) == nullptr || heap.stats().private_bytes == 0) {
      BOOST_TEST_MESSAGE("the system does not tell which memory is the process's own");
      return;
    }
    auto& some = *or_throw(heap.construct<numbers>("numbers"));
    fill(some, 64 * mib, 0);
    or_throw(heap.commit());
    auto const step = some.size() / 16;
    for (std::size_t round = 0; round < 16; ++round) {
      for (std::size_t i = round * step; i < (round + 1) * step; i += 64) {
        some[i] += 0; // a store like any other
        some[i] = i;
      }
      or_throw(heap.commit());
    }
    BOOST_TEST(heap.stats().private_bytes <= 16 * mib);
    BOOST_TEST(counts_from(some, 0));
  }
  expect_opened(path, "numbers", 0, 64 * mib);
}

BOOST_AUTO_TEST_CASE(is_the_files_after_a_trim_and_tracked_as_before) {
  scratch const folder;
  auto const path = folder / "heap";
  {
    auto heap = or_throw(persistent_heap::create(path));
    auto& some = *or_throw(heap.construct<numbers>("numbers"));
    fill(some, 8 * mib, 4);
    or_throw(heap.commit());
    some[1000] = 0; // is not committed, and stays
    or_throw(heap.trim());
    BOOST_TEST(heap.stats().private_bytes < mib);
    BOOST_TEST(some[1000] == 0U);
    some[1000] = 1004;
    std::iota(some.begin(), some.end(), 6U);
    or_throw(heap.commit());
  }
  expect_opened(path, "numbers", 6, 8 * mib);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(opening)

// XFS wants as many free blocks as a range is long before it looks which of them are there.
BOOST_AUTO_TEST_CASE(asks_for_blocks_only_where_there_are_none) {
  scratch const folder{"."};
  auto const path = folder / "heap";
  {
    auto heap = or_throw(persistent_heap::create(path));
    fill(*or_throw(heap.construct<numbers>("numbers")), 4 * mib);
    or_throw(heap.commit());
  }
  auto const file = or_throw(fmmap::file::open(path));
  if (!os::next_extent(file.native_handle(), 0, mib)) {
    BOOST_TEST_MESSAGE("SKIP: this file system does not tell where blocks are");
    return;
  }
  seam::armed const table;
  seam::fail(os::call::fallocate, ENOSPC);
  BOOST_TEST(persistent_heap::open(path).has_value());
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_bulk_load)

auto written_bytes() -> std::uint64_t {
  std::ifstream file{"/proc/self/io"};
  for (std::string key; file >> key;) {
    std::uint64_t value = 0;
    file >> value;
    if (key == "write_bytes:") {
      return value;
    }
  }
  return 0;
}

BOOST_AUTO_TEST_CASE(is_written_once) {
  auto const size = std::getenv("FMMAP_THOROUGH") != nullptr ? 1024 * mib : 128 * mib;
  scratch const folder{"."}; // not in memory, where nothing is written
  auto const path = folder / "heap";
  {
    auto heap = or_throw(persistent_heap::create(path));
    auto const before = written_bytes();
    fill(*or_throw(heap.construct<numbers>("numbers", size / sizeof(std::uint64_t))), size);
    or_throw(heap.commit());
    auto const written = written_bytes() - before;
    std::cout << "a bulk load of " << size / mib << " MiB wrote " << written / mib << " MiB\n";
    BOOST_TEST(written <= size + (size / 10));
  }
  expect_opened(path, "numbers", 1, size);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_journal_of_another_length)

BOOST_AUTO_TEST_CASE(has_the_same_content_behind_it) {
  scratch const folder;
  auto const path = folder / "heap";
  {
    auto heap = or_throw(persistent_heap::create(path, {.journal_size = 64 * kib}));
    fill(*or_throw(heap.construct<numbers>("numbers")), 4 * mib, 2);
    or_throw(heap.commit());
    or_throw(heap.construct<int>("one", 1));
    or_throw(heap.commit(commit_durability::process)); // is in the journal only
  }
  std::filesystem::permissions(path, std::filesystem::perms{0640});
  for (auto const size : {3 * mib, 3 * mib, 64 * kib}) {
    or_throw(persistent_heap::resize_journal(path, size));
    expect_opened(path, "numbers", 2, 4 * mib);
    auto heap = or_throw(persistent_heap::open(path));
    BOOST_TEST(*or_throw(heap.find<int>("one")) == 1);
    auto& some = *or_throw(heap.find<numbers>("numbers"));
    auto const before = heap.stats();
    for (std::size_t i = 0; i < some.size(); i += 8) {
      some[i] = i + 2;
    }
    for (int round = 0; round < 40; ++round) {
      some[0] = 7;
      or_throw(heap.commit());
      some[0] = 2;
      or_throw(heap.commit());
    }
    BOOST_TEST((heap.stats().checkpoints > before.checkpoints) == (size == 64 * kib)); // it is as long as it was told
  }
  BOOST_TEST((std::filesystem::status(path).permissions() == std::filesystem::perms{0640}));
  BOOST_TEST(std::distance(std::filesystem::directory_iterator{folder.folder()}, {}) == 1);
}

BOOST_AUTO_TEST_CASE(is_for_heaps_that_nobody_has_open) {
  scratch const folder;
  auto const path = folder / "heap";
  auto const heap = or_throw(persistent_heap::create(path));
  BOOST_TEST((persistent_heap::resize_journal(path, mib).error() == errc::in_use));
  BOOST_TEST((persistent_heap::resize_journal(path, mib + 1).error() == errc::invalid_options));
  BOOST_TEST((persistent_heap::resize_journal(folder.file("text", "no heap"), mib).error() == errc::not_a_heap));
  BOOST_TEST((persistent_heap::resize_journal(folder / "none", mib).error() == std::errc::no_such_file_or_directory));
}

// Who has opened the old file waits for its lock in vain: nobody would ever see what it commits.
BOOST_AUTO_TEST_CASE(is_what_somebody_sees_who_was_about_to_open_the_old_one) {
  scratch const folder;
  auto const path = folder / "heap";
  {
    auto heap = or_throw(persistent_heap::create(path, {.journal_size = 64 * kib}));
    or_throw(heap.construct<int>("one", 1));
    or_throw(heap.commit());
  }
  seam::armed const table;
  bool replaced = false;
  seam::observe([&](seam::observation const& what) {
    if (what.which == os::call::fcntl && !what.over && !std::exchange(replaced, true)) { // to lock it
      or_throw(persistent_heap::resize_journal(path, mib));
    }
  });
  auto heap = or_throw(persistent_heap::open(path));
  BOOST_TEST(replaced);
  *or_throw(heap.find<int>("one")) = 2;
  or_throw(heap.commit());
  or_throw(heap.close());
  auto const again = or_throw(persistent_heap::open_read_only(path));
  BOOST_TEST(*or_throw(again.find<int const>("one")) == 2);
}

BOOST_AUTO_TEST_SUITE_END()
