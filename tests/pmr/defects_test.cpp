// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <filesystem>
#include <list>
#include <memory>
#include <memory_resource>
#include <span>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <unistd.h>

#include "support/process.hpp"
#include "support/scratch.hpp"

import fmmap.core;
import fmmap.os;
import fmmap.pmr;

// What went wrong in other libraries and is not shown not to go wrong here by another test; docs/defects.md has the list.
// A case is named after what went wrong.

using fmmap::durability;
using fmmap::mapped_resource;
using fmmap::mapping;
using fmmap::or_throw;
using fmmap::os::call;
namespace seam = fmmap::os::seam;
using seam::armed;

namespace {

constexpr std::size_t mebibyte = std::size_t{1} << 20;

auto address(void const* pointer) -> std::uintptr_t { return reinterpret_cast<std::uintptr_t>(pointer); }

} // namespace

BOOST_AUTO_TEST_SUITE(what_went_wrong_elsewhere)

// It grows while containers are in it and others allocate.
BOOST_AUTO_TEST_CASE(a_segment_was_closed_to_grow_moved_and_did_not_keep_alignments) {
  scratch const s;
  auto const resource = or_throw(mapped_resource::create(s / "data", {.size = mebibyte}));
  auto const* const begin = resource->storage().data();
  std::pmr::vector<int> const first{{1, 2, 3}, resource.get()};
  auto const* const elements = first.data();
  std::vector<std::pair<void*, std::size_t>> all;
  for (std::size_t alignment = 1; alignment <= 2 * mebibyte; alignment *= 2) {
    for (std::size_t const size : {std::size_t{1}, std::size_t{100}, alignment, mebibyte}) {
      all.emplace_back(resource->allocate(size, alignment), size);
      BOOST_TEST(address(all.back().first) % alignment == 0U);
      std::memset(all.back().first, static_cast<int>(all.size()), size);
    }
  }
  BOOST_TEST(resource->storage().size() > 20 * mebibyte);
  BOOST_TEST(resource->storage().data() == begin);
  BOOST_TEST(first.data() == elements);
  BOOST_TEST(first[2] == 3);
  for (std::size_t i = 0; i < all.size(); ++i) { // none lies over another
    auto const* const bytes = static_cast<unsigned char const*>(all[i].first);
    BOOST_TEST(std::all_of(bytes, bytes + all[i].second, [&](unsigned char byte) { return byte == i + 1; }));
  }
}

// There is nothing in the file but objects: no lock that somebody who was killed still has, and no books.
BOOST_AUTO_TEST_CASE(a_mutex_in_the_file_stayed_locked_after_a_crash) {
  scratch const s;
  auto const content = pattern(4 * mebibyte);
  auto const path = s.file("data", content);
  BOOST_TEST(end_of(start_child([&]() -> int {
               auto const resource = or_throw(mapped_resource::open(path));
               for (std::size_t n = 1; n < 3'000; ++n) { // to which nobody stores
                 auto* const kept = resource->allocate(n % 500);
                 resource->deallocate(resource->allocate(n * 20), n * 20);
                 if (n % 3 == 0) {
                   resource->deallocate(kept, n % 500);
                 }
               }
               return ::raise(SIGKILL);
             })) == -SIGKILL);
  BOOST_TEST((read_back(path).substr(0, content.size()) == content));
  auto const resource = or_throw(mapped_resource::open(path));
  std::pmr::vector<int> const numbers{100, 7, resource.get()};
  BOOST_TEST(numbers.back() == 7);
}

BOOST_AUTO_TEST_CASE(the_memory_of_containers_could_not_be_reached_to_sync_it) {
  scratch const s;
  auto const resource = or_throw(mapped_resource::create(s / "data"));
  std::pmr::vector<int> numbers(100'000, 1, resource.get());
  auto const storage = resource->storage();
  auto const offset = address(numbers.data()) - address(storage.data());
  BOOST_TEST(offset + numbers.size() * sizeof(int) <= storage.size());
  numbers[5] = 2;
  {
    armed const watching;
    BOOST_CHECK(or_throw(resource->flush(&numbers[5], sizeof(int))) == durability::data);
    BOOST_TEST((seam::calls() == std::vector{call::msync}));
  }
  armed const watching;
  BOOST_CHECK(or_throw(resource->flush()) == durability::all);
  BOOST_TEST((seam::calls() == std::vector{call::fsync}));
}

BOOST_AUTO_TEST_CASE(containers_could_not_be_sized_in_advance_large_ones_failed_and_growing_hung) {
  // The most there can be is known, and one object may have it all.
  auto const resource = or_throw(mapped_resource::over(or_throw(mapping::anonymous(8 * mebibyte))));
  auto const most = resource->stats().largest_free;
  BOOST_TEST(most == 8 * mebibyte);
  std::pmr::vector<std::byte> all{resource.get()};
  all.reserve(most);
  BOOST_TEST(all.capacity() == most);
  BOOST_TEST(resource->stats().free_bytes == 0U);
  all.shrink_to_fit();
  // Sized in advance, nothing grows and nothing moves while it is filled.
  std::pmr::unordered_map<int, int> map{resource.get()};
  map.reserve(10'000);
  auto const buckets = map.bucket_count();
  std::pmr::vector<int> numbers{resource.get()};
  numbers.reserve(10'000);
  auto const* const elements = numbers.data();
  for (int n = 0; n < 10'000; ++n) {
    map.emplace(n, n);
    numbers.push_back(n);
  }
  BOOST_TEST(map.bucket_count() == buckets);
  BOOST_TEST(numbers.data() == elements);
  // It grows under raw pointers, again and again.
  auto const growing = or_throw(mapped_resource::anonymous());
  std::pmr::list<std::pmr::vector<int>> pieces{growing.get()};
  for (int n = 0; n < 200; ++n) {
    pieces.emplace_back(mebibyte / sizeof(int), n);
  }
  BOOST_TEST(growing->storage().size() >= 200 * mebibyte);
  BOOST_TEST(std::ranges::all_of(pieces, [n = 0](auto const& piece) mutable { return piece.back() == n++; }));
}

BOOST_AUTO_TEST_CASE(memory_that_was_freed_was_never_used_again) {
  auto const resource = or_throw(mapped_resource::anonymous({.reserve = 16 * mebibyte}));
  // A hundred times as much as there is, of every size.
  std::size_t allocated = 0;
  for (std::size_t n = 0; allocated < 1600 * mebibyte; ++n) {
    auto const size = std::size_t{1} << (n % 24);
    resource->deallocate(resource->allocate(size), size);
    allocated += size;
  }
  // And by threads that free what others have allocated.
  for (int round = 0; round < 20; ++round) {
    std::pmr::list<std::pmr::vector<int>> list{resource.get()};
    std::jthread{[&] {
      for (int n = 0; n < 4'000; ++n) {
        list.emplace_back(n % 200, n);
      }
    }}.join();
  }
  (void)or_throw(resource->trim());
  BOOST_TEST(resource->stats().used_bytes == 0U);
}

BOOST_AUTO_TEST_SUITE_END()
