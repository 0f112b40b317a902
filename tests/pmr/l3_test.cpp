// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory_resource>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "support/companion.hpp"
#include "support/process.hpp"
#include "support/shared.hpp"

#include "l3/on_disks.hpp"

import fmmap.core;
import fmmap.os;
import fmmap.pmr;
import fmmap.test.l3;

using fmmap::commit_durability;
using fmmap::errc;
using fmmap::or_throw;
using fmmap::persistent_heap;

namespace os = fmmap::os;
namespace seam = fmmap::os::seam;

namespace {

// At an address that every program has free, so that it does not matter which process opens it.
auto options(std::uint64_t number = 0) -> fmmap::heap_options {
  constexpr std::uintptr_t first = 0x7a10'0000'0000;
  constexpr std::uintptr_t distance = std::uintptr_t{64} << 20;
  return {.reserve = std::size_t{16} << 20,
          .base = reinterpret_cast<std::byte*>(first + (number * distance)),
          .journal_size = std::size_t{64} << 10};
}

using numbers = std::pmr::vector<std::uint64_t>;
using texts = std::pmr::map<int, std::pmr::string>;

// What a round does, in a heap or beside one, depends on its number alone.
void change(numbers& all, texts& named, std::uint64_t round) {
  std::mt19937_64 random{round};
  auto const touch = [&](std::size_t count) {
    for (; count > 0; --count) {
      all[random() % all.size()] = random() >> 24; // no address
    }
  };
  switch (round % 5) {
  case 0: // new pages, and a longer file
    all.resize(all.size() + 5'000 + (random() % 15'000), round);
    break;
  case 1:
    all.resize(std::max<std::size_t>(all.size(), 1));
    touch(10);
    break;
  case 2: // more than the journal holds, in pages that are not new
    touch(3'000);
    break;
  case 3: // some of them fill it
    touch(300);
    break;
  default:
    for (int i = 0; i < 20; ++i) {
      named[static_cast<int>(random() % 50)] = std::string(random() % 200, static_cast<char>('a' + round % 26));
    }
    named.erase(static_cast<int>(random() % 50));
  }
  all.front() = round;
}

auto level_of(std::uint64_t round) -> commit_durability {
  return round % 3 == 0 ? commit_durability::process : commit_durability::power;
}

// State 0 is that there is no heap, 1 that it is empty, and from there on each round makes the next.
constexpr std::uint64_t made = 1;

// The round that a heap is at, when it has exactly what that round has made.
auto round_of(persistent_heap const& heap) -> std::uint64_t {
  if (auto const report = or_throw(heap.check()); !report.problems.empty()) {
    throw std::runtime_error{report.problems.front()};
  }
  auto const all = heap.find<numbers const>("numbers");
  if (!all && all.error() == errc::not_found) {
    return 0;
  }
  auto const* const named = or_throw(heap.find<texts const>("texts"));
  auto const round = or_throw(all)->empty() ? 0 : (*all)->front();
  numbers expected;
  texts expected_names;
  for (std::uint64_t i = 1; i <= std::min<std::uint64_t>(round, 1000); ++i) {
    change(expected, expected_names, i);
  }
  if (**all != expected || *named != expected_names) {
    throw std::runtime_error{"round " + std::to_string(round) + " is not as it was committed"};
  }
  return round;
}

auto state_of(std::filesystem::path const& path) -> std::uint64_t {
  return std::filesystem::exists(path) ? made + round_of(or_throw(persistent_heap::open(path))) : 0;
}

auto within(std::uint64_t state, l3::progress const& reached) -> std::string {
  if (state < reached.acknowledged || state > reached.started) {
    throw std::runtime_error{"state " + std::to_string(state) + " is there"};
  }
  return std::to_string(state);
}

// The containers of a heap that rounds change.
class rounds_of_objects {
public:
  explicit rounds_of_objects(persistent_heap& heap)
      : numbers_{or_throw(heap.find_or_construct<numbers>("numbers"))},
        texts_{or_throw(heap.find_or_construct<texts>("texts"))} {}

  void change(std::uint64_t round) const { ::change(*numbers_, *texts_, round); }

private:
  numbers* numbers_;
  texts* texts_;
};

// A program that makes a heap and commits rounds. One that is wrong takes a lower level for power.
auto rounds_of_a_heap(std::uint64_t rounds, commit_durability promised = commit_durability::power) -> l3::workload {
  return {.name =
              promised == commit_durability::power ? "a heap" : "control: a heap whose commits are not of level power",
          .body =
              [=](std::filesystem::path const& folder, l3::marks const& says) {
                says.acknowledged(0);
                says.started(made);
                auto heap = or_throw(persistent_heap::create(folder / "heap", options()));
                says.acknowledged(made);
                rounds_of_objects const objects{heap};
                for (std::uint64_t round = 1; round <= rounds; ++round) {
                  objects.change(round);
                  says.started(made + round);
                  auto const level = std::min(level_of(round), promised);
                  or_throw(heap.commit(level));
                  if (level >= promised) {
                    says.acknowledged(made + round);
                  }
                }
                if (heap.stats().checkpoints < 3) {
                  throw std::runtime_error{"the journal has not been full"};
                }
              },
          .state = [](std::filesystem::path const& folder,
                      l3::progress const& reached) { return within(state_of(folder / "heap"), reached); }};
}

// A program that makes heaps one after the other; state n is that there are the first n.
auto making_heaps(std::uint64_t count, bool syncs_folders = true) -> l3::workload {
  return {.name = syncs_folders ? "making heaps" : "control: making heaps and not syncing their folder",
          .body =
              [=](std::filesystem::path const& folder, l3::marks const& says) {
                seam::armed const table;
                if (!syncs_folders) {
                  seam::skip(os::call::fsync);
                }
                says.acknowledged(0);
                std::vector<persistent_heap> open; // closing one writes to it, and some file systems name it then
                for (std::uint64_t i = 1; i <= count; ++i) {
                  says.started(i);
                  open.push_back(or_throw(persistent_heap::create(folder / std::to_string(i), options(i))));
                  says.acknowledged(i);
                }
              },
          .state =
              [=](std::filesystem::path const& folder, l3::progress const& reached) {
                std::uint64_t there = 0;
                for (std::uint64_t i = 1; i <= count; ++i) {
                  if (state_of(folder / std::to_string(i)) == made && ++there != i) {
                    throw std::runtime_error{"heap " + std::to_string(i) + " is there, and not all before it"};
                  }
                }
                return within(there, reached);
              }};
}

// A program that takes a snapshot between two rounds and goes on. The snapshot is a state more.
auto snapshot_of_a_heap(std::uint64_t rounds, std::uint64_t taken_after, bool shares) -> l3::workload {
  return {.name = "a snapshot and its heap",
          .body =
              [=](std::filesystem::path const& folder, l3::marks const& says) {
                says.acknowledged(0);
                says.started(made);
                auto heap = or_throw(persistent_heap::create(folder / "heap", options()));
                says.acknowledged(made);
                rounds_of_objects const objects{heap};
                auto state = made;
                for (std::uint64_t round = 1; round <= rounds; ++round) {
                  objects.change(round);
                  says.started(++state);
                  or_throw(heap.commit());
                  says.acknowledged(state);
                  if (round == taken_after) {
                    says.started(++state);
                    or_throw(heap.snapshot(folder / "copy"));
                    says.acknowledged(state);
                    if (l3::shares_blocks(folder / "copy") != shares) {
                      throw std::runtime_error{"whether the copy shares blocks is not as expected"};
                    }
                  }
                }
              },
          .state =
              [=](std::filesystem::path const& folder, l3::progress const& reached) {
                auto const state = state_of(folder / "heap");
                auto const of_copy = state_of(folder / "copy");
                if (of_copy == 0 ? state > made + taken_after : of_copy != made + taken_after) {
                  throw std::runtime_error{"the snapshot is missing or not what the heap was"};
                }
                return within(of_copy == 0 ? state : state + 1, reached);
              }};
}

// A line of a heap whose writes the device can fail: a commit of it, and what brings it in place.
struct alignas(64) failing_line {
  std::array<char, 64> text;

  explicit failing_line(std::uint64_t round = 0) : text{} {
    std::ranges::copy(std::string{l3::failing_content} + std::to_string(round), text.begin());
  }
};

// More of them than the journal holds, in pages that are new or have been free: those are written without a record.
auto failing_text(std::uint64_t round) -> std::string {
  std::string all;
  while (round >= 5 && all.size() < 200'000) {
    all += l3::failing_content;
  }
  return all;
}

// Changes a heap so that the device can fail writes of every kind.
void change_failing(persistent_heap& heap, std::uint64_t round) {
  rounds_of_objects{heap}.change(round);
  *or_throw(heap.find_or_construct<failing_line>("line")) = failing_line{round};
  auto* const text = or_throw(heap.find_or_construct<std::pmr::string>("text"));
  if (round % 5 == 0) {
    *text = std::pmr::string{failing_text(round), heap.resource()}; // elsewhere than before
  }
}

// Which of the writes of such lines fail.
struct failing_writes {
  std::uint64_t spared;
  std::uint64_t count;
};

constexpr std::uint64_t rounds_to_fail = 60;

// Commits rounds until one fails, and says which was the last that did not and what the others said.
auto commit_until_it_fails(std::filesystem::path const& path, l3::write_faults& faults, failing_writes const& failing)
    -> std::string {
  auto heap = or_throw(persistent_heap::create(path, options()));
  change_failing(heap, 1);
  or_throw(heap.commit());
  faults.spared = failing.spared;
  faults.remaining = failing.count;
  for (std::uint64_t round = 2; round <= rounds_to_fail; ++round) {
    change_failing(heap, round);
    auto const done = heap.commit(level_of(round));
    if (done) {
      continue;
    }
    auto const again = heap.commit();
    if (done.error() != std::errc::io_error || again || again.error() != std::errc::io_error) {
      throw std::runtime_error{"round " + std::to_string(round) + " fails: " + std::string{done.error().message()} +
                               ", and then: " + (again ? "nothing" : std::string{again.error().message()})};
    }
    return std::to_string(round);
  }
  return {};
}

// Opens a heap. What one program could not write may be told to the next, once: btrfs does so, as long as no sync has reported
// it (Linux's errseq_t).
auto open_after_a_failure(std::filesystem::path const& path) -> persistent_heap {
  auto opened = persistent_heap::open(path);
  if (!opened && opened.error() == std::errc::io_error) {
    opened = persistent_heap::open(path);
  }
  return or_throw(std::move(opened));
}

// The round of a heap with a line that agrees.
auto round_with_line(persistent_heap const& heap) -> std::uint64_t {
  auto const round = round_of(heap);
  auto const* const line = or_throw(heap.find<failing_line const>("line"));
  if (line->text != failing_line{round}.text) {
    throw std::runtime_error{"round " + std::to_string(round) + " has the line of another"};
  }
  if (auto const* const text = or_throw(heap.find<std::pmr::string const>("text"));
      std::string_view{*text} != failing_text(round)) {
    throw std::runtime_error{"round " + std::to_string(round) + " has not its text"};
  }
  return round;
}

// Opens a heap, commits two more rounds, and says which it has found.
auto find_round_and_go_on(std::filesystem::path const& path) -> std::string {
  auto heap = open_after_a_failure(path);
  auto const found = round_with_line(heap);
  for (auto const round : {found + 1, found + 2}) { // the first may be the one that has failed
    change_failing(heap, round);
    or_throw(heap.commit());
  }
  return std::to_string(found);
}

// Makes writes of a heap fail, opens it when the device can write again, and once more when nothing is left in memory. Says
// whether any has failed.
auto fails_writes(findings& found, l3::file_system const& on, failing_writes const& failing) -> bool {
  auto const which = std::string{on.type} + ", " + std::to_string(failing.count) + " after " +
                     std::to_string(failing.spared) + " writes: ";
  l3::disk_image const disk{on};
  shared<l3::write_faults> const faults;
  l3::block_device const device{l3::device_folder(), disk.bytes(), {.faults = &*faults}};
  auto const path = l3::mount_folder() / "heap";
  std::string reopened;
  {
    l3::mounted const here{device, on, l3::mount_folder()};
    auto const failed = answer_of([&] { return commit_until_it_fails(path, *faults, failing); });
    if (failed.starts_with('!') || failed.empty() != (faults->failed == 0)) {
      found.expect(false, which + std::to_string(faults->failed) + " failed, and the heap says " + failed);
      return faults->failed > 0;
    }
    faults->remaining = 0;
    reopened = answer_of([&] { return find_round_and_go_on(path); });
    auto const first_failed = failed.empty() ? rounds_to_fail + 1 : std::stoul(failed);
    found.expect(reopened == std::to_string(first_failed - 1) || reopened == std::to_string(first_failed),
                 which + "round " + failed + " failed, and then there is " + reopened);
  }
  l3::mounted const again{device, on, l3::mount_folder()};
  auto const expected = std::to_string(std::strtoul(reopened.c_str(), nullptr, 10) + 2);
  auto const remounted = answer_of([&] { return std::to_string(round_with_line(open_after_a_failure(path))); });
  found.expect(remounted == expected, which + expected + " was committed, and mounted again there is " + remounted);
  return faults->failed > 0;
}

// Leaves no block to anybody.
void fill(std::filesystem::path const& folder) {
  auto ballast = or_throw(fmmap::file::create_new(folder / "ballast"));
  std::string const bytes(std::size_t{1} << 20, 'x');
  std::uint64_t size = 0;
  for (auto step = bytes.size(); step >= 512; step /= 2) {
    while (ballast.write_at(size, std::as_bytes(std::span{bytes}).first(step))) {
      size += step;
    }
  }
  (void)ballast.sync();
}

// Changes and commits a heap on a full disk until it has no more, and says how many rounds were committed.
auto commit_on_a_full_disk(std::filesystem::path const& folder, std::uint64_t rounds_before) -> std::string {
  auto heap = or_throw(persistent_heap::create(folder / "heap", options()));
  rounds_of_objects const objects{heap};
  std::uint64_t round = 1;
  for (; round <= rounds_before; ++round) {
    objects.change(round);
    or_throw(heap.commit());
  }
  fill(folder);
  for (;; ++round) {
    try {
      objects.change(round);
    } catch (fmmap::allocation_error const& e) {
      if (e.why() != std::errc::no_space_on_device) {
        throw;
      }
      or_throw(heap.rollback());
      return std::to_string(round - 1);
    }
    if (auto const done = heap.commit(level_of(round)); !done) {
      if (done.error() != std::errc::no_space_on_device) {
        throw std::runtime_error{std::string{done.error().message()}};
      }
      return std::to_string(round - 1);
    }
  }
}

} // namespace

BOOST_AUTO_TEST_SUITE(a_heap_on_a_disk_that_loses_power)

BOOST_AUTO_TEST_CASE(has_a_commit_not_older_than_the_last_of_level_power) {
  on_each_file_system([](findings& found, l3::file_system const& on) {
    expect_no_loss(found, rounds_of_a_heap(as_many_as(25, 60)), on, as_many_as(10, 100));
  });
}

BOOST_AUTO_TEST_CASE(would_be_seen_to_lose_commits_if_it_did_not_wait_for_the_device) {
  on_each_file_system([](findings& found, l3::file_system const& on) {
    expect_loss(found, rounds_of_a_heap(25, commit_durability::process), on);
  });
}

BOOST_AUTO_TEST_CASE(is_there_when_create_has_returned) {
  on_each_file_system([](findings& found, l3::file_system const& on) {
    expect_no_loss(found, making_heaps(8), on, as_many_as(8, 100));
    expect_loss(found, making_heaps(8, false), on);
  });
}

BOOST_AUTO_TEST_CASE(leaves_its_snapshot_alone) {
  on_each_file_system([](findings& found, l3::file_system const& on) {
    expect_no_loss(found, snapshot_of_a_heap(20, 8, on.shares_blocks), on, as_many_as(8, 100));
  });
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_heap_on_a_disk_that_cannot_write)

BOOST_AUTO_TEST_CASE(reports_it_and_has_the_last_commit_or_the_one_under_way_when_it_is_opened_again) {
  on_each_file_system([](findings& found, l3::file_system const& on) {
    std::uint64_t failed = 0;
    for (std::uint64_t spared = 1; spared < as_many_as(12, 40); spared += as_many_as(3, 1)) {
      for (auto const count : {std::uint64_t{1}, UINT64_MAX}) {
        failed += fails_writes(found, on, {.spared = spared, .count = count}) ? 1 : 0;
      }
    }
    std::cout << on.type << ": " << failed << " heaps with failing writes" << std::endl;
    found.expect(failed > 0, "nothing has failed");
  });
}

BOOST_AUTO_TEST_CASE(has_what_was_committed_when_it_is_full) {
  on_each_file_system([](findings& found, l3::file_system const& on) {
    for (std::uint64_t const rounds : {12U, 15U}) { // growth is the next, or a commit larger than the journal
      l3::disk_image const disk{on};
      l3::block_device const device{l3::device_folder(), disk.bytes(), {}};
      l3::mounted const here{device, on, l3::mount_folder()};
      auto const committed = answer_of([&] { return commit_on_a_full_disk(here.folder(), rounds); });
      std::filesystem::remove(here.folder() / "ballast");
      auto const there = answer_of([&] {
        auto heap = open_after_a_failure(here.folder() / "heap");
        auto const round = round_of(heap);
        rounds_of_objects{heap}.change(round + 1);
        or_throw(heap.commit());
        return std::to_string(round);
      });
      std::cout << on.type << ": " << committed << " rounds until the disk was full, " << there << " are there"
                << std::endl;
      found.expect(there == committed, committed + " rounds were committed, and there are " + there);
    }
  });
}

BOOST_AUTO_TEST_SUITE_END()
