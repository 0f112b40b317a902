// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory_resource>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "support/process.hpp"

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
auto options() -> fmmap::heap_options {
  return {.reserve = std::size_t{16} << 20,
          .base = reinterpret_cast<std::byte*>(std::uintptr_t{0x7a10'0000'0000}),
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
  auto const round = (*or_throw(all)).front();
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
                for (std::uint64_t i = 1; i <= count; ++i) {
                  says.started(i);
                  or_throw(or_throw(persistent_heap::create(folder / std::to_string(i), options())).close());
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
                if (!std::filesystem::exists(folder / "copy")) {
                  return within(state > made + taken_after ? 0 : state, reached);
                }
                if (state_of(folder / "copy") != made + taken_after) {
                  throw std::runtime_error{"the snapshot is not what the heap was"};
                }
                return within(state + 1, reached);
              }};
}

} // namespace

BOOST_AUTO_TEST_SUITE(a_heap_on_a_disk_that_loses_power)

BOOST_AUTO_TEST_CASE(has_a_commit_not_older_than_the_last_of_level_power) {
  on_each_file_system([](findings& found, l3::file_system const& on) {
    expect_no_loss(found, rounds_of_a_heap(effort(25, 60)), on, effort(10, 100));
  });
}

BOOST_AUTO_TEST_CASE(would_be_seen_to_lose_commits_if_it_did_not_wait_for_the_device) {
  on_each_file_system([](findings& found, l3::file_system const& on) {
    expect_loss(found, rounds_of_a_heap(25, commit_durability::process), on, effort(20, 100));
  });
}

BOOST_AUTO_TEST_CASE(is_there_when_create_has_returned) {
  on_each_file_system([](findings& found, l3::file_system const& on) {
    expect_no_loss(found, making_heaps(8), on, effort(8, 100));
    expect_loss(found, making_heaps(8, false), on, effort(16, 100));
  });
}

BOOST_AUTO_TEST_CASE(leaves_its_snapshot_alone) {
  on_each_file_system([](findings& found, l3::file_system const& on) {
    expect_no_loss(found, snapshot_of_a_heap(20, 8, on.shares_blocks), on, effort(8, 100));
  });
}

BOOST_AUTO_TEST_SUITE_END()
