// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <bit>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <expected>
#include <iterator>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <unistd.h>

#include "support/process.hpp"
#include "support/seed.hpp"

import fmmap.core;
import fmmap.alloc;

using fmmap::errc;
using fmmap::or_throw;
using fmmap::alloc::allocator;
using fmmap::alloc::chunk_bytes;
using fmmap::alloc::chunk_state;
using fmmap::alloc::class_count;
using fmmap::alloc::class_size;
using fmmap::alloc::find_class;
using fmmap::alloc::largest_block;
using fmmap::alloc::page_bytes;

namespace {

constexpr std::size_t mib = std::size_t{1} << 20;

// A space without memory: what an allocator is given to hand out, and what it says of it. An address in it is never used.
class imaginary_space final : public fmmap::alloc::space {
public:
  auto grow_to(std::size_t size) -> fmmap::result<void> override {
    if (size > available) {
      return std::unexpected(fmmap::error::make(std::make_error_code(std::errc::no_space_on_device), "grow"));
    }
    ++growths;
    return {};
  }
  auto provide(std::size_t offset, std::size_t length) -> fmmap::result<void> override {
    if (refuses) {
      return std::unexpected(fmmap::error::make(std::make_error_code(std::errc::no_space_on_device), "provide"));
    }
    provided.emplace_back(offset, length);
    return {};
  }
  auto withdraw(std::size_t offset, std::size_t length) -> fmmap::result<void> override {
    withdrawn.emplace_back(offset, length);
    return {};
  }

  std::size_t available = std::size_t{1} << 40;
  bool refuses = false;
  int growths = 0;
  std::vector<std::pair<std::size_t, std::size_t>> provided;
  std::vector<std::pair<std::size_t, std::size_t>> withdrawn;
};

struct under_test {
  explicit under_test(fmmap::alloc::options const& options) : made{or_throw(allocator::make(space, options))} {}

  imaginary_space space;
  std::unique_ptr<allocator> made;
  auto operator->() const -> allocator* { return made.get(); }
};

// What has been allocated, so that it can be chosen from.
struct block {
  std::size_t offset;
  std::size_t size;
  std::size_t alignment;
};

// A random mixture of sizes of all orders, most of them small.
auto random_request(std::mt19937& random) -> block {
  auto const order = random() % 100 < 95 ? random() % 11 : random() % 20;
  auto const size = (std::size_t{1} << order) + random() % (std::size_t{1} << order);
  auto const alignment = random() % 10 == 0 ? std::size_t{1} << random() % 17 : 16;
  return {.offset = 0, .size = size, .alignment = alignment};
}

// Goes on with `steps` random allocations and deallocations and returns the offsets of all.
auto go_on(allocator& of, std::vector<block>& live, std::mt19937& random, std::size_t steps)
    -> std::vector<std::size_t> {
  std::vector<std::size_t> offsets;
  for (std::size_t i = 0; i < steps; ++i) {
    if (live.size() > 3000 || (!live.empty() && random() % 2 == 0)) {
      std::swap(live[random() % live.size()], live.back());
      of.deallocate(live.back().offset, live.back().size, live.back().alignment);
      live.pop_back();
    } else {
      auto made = random_request(random);
      made.offset = or_throw(of.allocate(made.size, made.alignment));
      offsets.push_back(made.offset);
      live.push_back(made);
    }
  }
  return offsets;
}

} // namespace

BOOST_AUTO_TEST_SUITE(size_classes)

BOOST_AUTO_TEST_CASE(hold_every_size_and_waste_at_most_a_fifth_past_128_bytes) {
  for (std::size_t size = 1; size <= largest_block; ++size) {
    auto const c = find_class(size, 1);
    BOOST_TEST_REQUIRE(c < class_count);
    BOOST_TEST_REQUIRE(class_size(c) >= size);
    BOOST_TEST_REQUIRE((c == 0 || class_size(c - 1) < size)); // the smallest that does
    BOOST_TEST_REQUIRE((size <= 128 ? class_size(c) - size < 16 : (class_size(c) - size) * 5 <= class_size(c)));
  }
  BOOST_TEST(find_class(0, 1) == 0U);
  BOOST_TEST(find_class(largest_block + 1, 1) == class_count);
  BOOST_TEST(find_class(SIZE_MAX, 1) == class_count);
}

BOOST_AUTO_TEST_CASE(are_aligned_as_asked) {
  for (std::size_t alignment = 1; alignment <= page_bytes; alignment *= 2) {
    for (std::size_t size = 0; size <= largest_block; size += 1 + size / 50) {
      auto const c = find_class(size, alignment);
      BOOST_TEST_REQUIRE(c < class_count);
      BOOST_TEST_REQUIRE(class_size(c) % alignment == 0U);
      BOOST_TEST_REQUIRE(class_size(c) >= size);
    }
  }
  BOOST_TEST(find_class(1, 2 * page_bytes) == class_count);
}

BOOST_AUTO_TEST_CASE(leave_little_behind_the_last_block_of_a_slab) {
  for (unsigned c = 0; c < class_count; ++c) {
    for (std::size_t const pages : {std::size_t{1}, std::size_t{4}, fmmap::alloc::largest_slab}) {
      auto const length = fmmap::alloc::slab_pages(c, pages) * page_bytes;
      BOOST_TEST_REQUIRE(length >= class_size(c));
      BOOST_TEST_REQUIRE(length <= std::max(fmmap::alloc::largest_slab, pages) * page_bytes);
    }
    auto const length = fmmap::alloc::slab_pages(c, fmmap::alloc::largest_slab) * page_bytes;
    BOOST_TEST(length % class_size(c) * 40 <= length); // at most 2.5 per cent
  }
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(runs_of_pages)

// First fit, the slow way.
BOOST_AUTO_TEST_CASE(are_the_lowest_that_fit) {
  std::mt19937 random{seed()};
  constexpr std::size_t pages = 6000; // twelve groups, the last of them in part
  under_test of{{.size = pages * page_bytes, .limit = pages * page_bytes, .checked = false}};
  std::vector<bool> used(pages);
  std::vector<block> live;
  for (int step = 0; step < 20'000; ++step) {
    if (!live.empty() && random() % 2 == 0) {
      std::swap(live[random() % live.size()], live.back());
      auto const [offset, size, alignment] = live.back();
      live.pop_back();
      of->deallocate(offset, size, alignment);
      std::fill_n(used.begin() + static_cast<std::ptrdiff_t>(offset / page_bytes), size / page_bytes, false);
      continue;
    }
    auto const count = 9 + random() % (step % 100 == 0 ? 2000 : 60);
    auto const unit = random() % 8 == 0 ? std::size_t{1} << random() % 6 : 1;
    auto expected = pages;
    for (std::size_t at = 0; at + count <= pages && expected == pages; at += unit) {
      auto const begin = used.begin() + static_cast<std::ptrdiff_t>(at);
      if (std::find(begin, begin + static_cast<std::ptrdiff_t>(count), true) ==
          begin + static_cast<std::ptrdiff_t>(count)) {
        expected = at;
      }
    }
    auto const got = of->allocate(count * page_bytes, unit * page_bytes);
    BOOST_TEST_REQUIRE(got.has_value() == (expected < pages));
    if (!got) {
      BOOST_TEST((got.error() == errc::reservation_exceeded));
      continue;
    }
    if (unit == 1) {
      BOOST_TEST_REQUIRE(*got == expected * page_bytes);
    }
    BOOST_TEST_REQUIRE(*got % (unit * page_bytes) == 0U);
    auto const begin = used.begin() + static_cast<std::ptrdiff_t>(*got / page_bytes);
    BOOST_TEST_REQUIRE((std::find(begin, begin + static_cast<std::ptrdiff_t>(count), true) ==
                        begin + static_cast<std::ptrdiff_t>(count)));
    std::fill_n(begin, count, true);
    live.push_back({.offset = *got, .size = count * page_bytes, .alignment = unit * page_bytes});
    auto const usage = of->in_use();
    BOOST_TEST_REQUIRE(usage.used == static_cast<std::size_t>(std::ranges::count(used, true)) * page_bytes);
  }
}

BOOST_AUTO_TEST_CASE(tell_how_long_the_longest_free_one_is) {
  under_test of{{.size = 3000 * page_bytes, .limit = 3000 * page_bytes, .checked = false}};
  BOOST_TEST(of->in_use().longest_free == 3000 * page_bytes);
  auto const a = or_throw(of->allocate(1000 * page_bytes, 16));
  auto const b = or_throw(of->allocate(500 * page_bytes, 16));
  BOOST_TEST(of->in_use().longest_free == 1500 * page_bytes);
  of->deallocate(a, 1000 * page_bytes, 16);
  BOOST_TEST(of->in_use().longest_free == 1500 * page_bytes);
  of->deallocate(b, 500 * page_bytes, 16);
  BOOST_TEST(of->in_use().longest_free == 3000 * page_bytes);
  BOOST_TEST(of->in_use().peak == 1500 * page_bytes);
}

BOOST_AUTO_TEST_CASE(get_their_memory_back_where_it_was_withdrawn) {
  under_test of{{.size = 8 * mib, .limit = 8 * mib, .withdraw_from = mib, .checked = false}};
  auto const large = or_throw(of->allocate(2 * mib, 16));
  of->deallocate(large, 2 * mib, 16);
  BOOST_TEST((of.space.withdrawn == std::vector{std::pair{large, 2 * mib}}));
  auto const part = or_throw(of->allocate(mib, 16));
  BOOST_TEST(part == large);
  BOOST_TEST((of.space.provided == std::vector{std::pair{large, mib}}));
  of.space.refuses = true;
  auto const elsewhere = or_throw(of->allocate(mib, 16)); // where memory is, past what has none
  BOOST_TEST(elsewhere == 2 * mib);
  BOOST_TEST((of->allocate(7 * mib, 16).error() == errc::reservation_exceeded));
  auto const refused = of->allocate(5 * mib, 16);
  BOOST_TEST_REQUIRE(refused.has_value()); // of those that never were withdrawn
  BOOST_TEST((of->allocate(mib, 16).error() == std::errc::no_space_on_device));
  of.space.refuses = false;
  BOOST_TEST(or_throw(of->allocate(mib, 16)) == mib);
}

BOOST_AUTO_TEST_CASE(are_withdrawn_once_by_trim) {
  under_test of{{.size = 8 * mib, .limit = 8 * mib, .checked = false}};
  auto const small = or_throw(of->allocate(100, 16));
  auto const large = or_throw(of->allocate(mib, 16));
  of->deallocate(small, 100, 16);
  of->deallocate(large, mib, 16);
  BOOST_TEST(or_throw(of->trim()) == 8 * mib);
  BOOST_TEST(of->in_use().used == 0U);
  BOOST_TEST(or_throw(of->trim()) == 0U);
  (void)or_throw(of->allocate(100, 16));
  BOOST_TEST(of.space.provided.size() == 1U);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_space)

BOOST_AUTO_TEST_CASE(grows_by_as_much_as_is_there) {
  under_test of{{.limit = 64 * mib, .checked = false}};
  of.space.available = 3 * mib;
  (void)or_throw(of->allocate(mib, 16));
  (void)or_throw(of->allocate(2 * mib, 16));
  auto const refused = of->allocate(mib, 16);
  BOOST_TEST_REQUIRE(!refused.has_value());
  BOOST_TEST((refused.error() == std::errc::no_space_on_device));
  BOOST_TEST(of->size() == 3 * mib);
}

BOOST_AUTO_TEST_CASE(serves_many_classes_where_it_is_small) {
  under_test of{{.size = 64 * page_bytes, .limit = 64 * page_bytes, .checked = false}};
  for (std::size_t size = 16; size <= 4096; size += 16) {
    auto const got = of->allocate(size, 16);
    BOOST_TEST_REQUIRE(got.has_value());
    of->deallocate(*got, size, 16);
  }
}

// What one thread has in its magazines and in empty slabs is not lost to it.
BOOST_AUTO_TEST_CASE(is_used_up_to_its_last_page) {
  under_test of{{.size = 16 * page_bytes, .limit = 16 * page_bytes, .checked = false}};
  std::vector<std::size_t> blocks;
  while (auto const got = of->allocate(64, 16)) {
    blocks.push_back(*got);
  }
  BOOST_TEST(blocks.size() == 16 * page_bytes / 64);
  for (auto const offset : blocks) {
    of->deallocate(offset, 64, 16);
  }
  auto const all = of->allocate(16 * page_bytes, 16);
  BOOST_TEST_REQUIRE(all.has_value());
}

BOOST_AUTO_TEST_CASE(refuses_sizes_that_overflow) {
  auto const* const origin =
      reinterpret_cast<std::byte const*>(std::uintptr_t{page_bytes}); // aligned as little as can be
  under_test of{{.origin = origin, .limit = 64 * mib, .checked = false}};
  for (auto const size : {64 * mib + 1, SIZE_MAX / 2, SIZE_MAX - 4096, SIZE_MAX}) {
    BOOST_TEST((of->allocate(size, 16).error() == errc::reservation_exceeded));
  }
  BOOST_TEST((of->allocate(16, std::size_t{1} << 63).error() == errc::reservation_exceeded));
  BOOST_TEST((of->allocate(mib, std::size_t{1} << 40).error() == errc::reservation_exceeded));
  BOOST_TEST(of->allocate(64 * mib, 16).has_value());
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(the_state)

// As the heap and the code arena use it: what was exported, chunk by chunk and only where it had changed, makes a second
// allocator that goes on as the first does.
BOOST_AUTO_TEST_CASE(makes_a_second_allocator_that_goes_on_identically) {
  std::mt19937 random{seed()};
  constexpr auto limit = 1024 * mib;
  under_test first{{.limit = limit, .checked = false}};
  std::vector<block> live;
  std::map<std::size_t, chunk_state> image;
  std::size_t exported = 0;
  auto const export_state = [&] {
    first->export_dirty([&](std::size_t chunk, chunk_state const& state) {
      image[chunk] = state;
      ++exported;
    });
  };
  for (int round = 0; round < 50; ++round) {
    (void)go_on(*first.made, live, random, 500);
    export_state();
  }
  for (std::size_t chunk = 0; chunk < first->size() / chunk_bytes; ++chunk) {
    BOOST_TEST_REQUIRE((image[chunk] == first->state_of(chunk)));
  }
  exported = 0;
  auto const one = or_throw(first->allocate(48, 16));
  first->deallocate(one, 48, 16);
  export_state();
  BOOST_TEST(exported < first->size() / chunk_bytes / 2); // not all of it each time

  first->flush_magazines();
  export_state();
  under_test second{{.size = first->size(), .limit = limit, .checked = false}};
  BOOST_TEST_REQUIRE(!second->import([&](std::size_t chunk) { return image[chunk]; }).has_value());
  BOOST_TEST(second->in_use().used == first->in_use().used);
  BOOST_TEST(second->in_use().longest_free == first->in_use().longest_free);
  for (std::size_t chunk = 0; chunk < first->size() / chunk_bytes; ++chunk) {
    BOOST_TEST_REQUIRE((second->state_of(chunk) == image[chunk]));
  }
  auto same_random = random;
  auto same_live = live;
  auto const steps = go_on(*first.made, live, random, 100'000);
  BOOST_TEST((steps == go_on(*second.made, same_live, same_random, 100'000)));
}

BOOST_AUTO_TEST_CASE(of_any_bytes_is_refused_or_can_be_worked_with) {
  std::mt19937 random{seed()};
  int refused = 0;
  for (int attempt = 0; attempt < 300; ++attempt) {
    under_test of{{.size = 8 * chunk_bytes, .limit = 16 * mib, .checked = false}};
    auto const bad = of->import([&](std::size_t) {
      chunk_state state;
      std::ranges::generate(state.pages, [&] {
        auto const kinds = attempt % 2 == 0 ? 256U : 6U;
        return static_cast<std::uint8_t>(random() % (attempt % 3 == 0 ? 2 : kinds));
      });
      std::ranges::generate(state.free_blocks, [&] { return std::uint64_t{random()} << 32 | random(); });
      return state;
    });
    refused += bad ? 1 : 0;
    if (!bad) {
      std::vector<block> live;
      (void)go_on(*of.made, live, random, 2000);
    }
  }
  BOOST_TEST(refused > 0);
  BOOST_TEST(refused < 300);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(misuse)

BOOST_AUTO_TEST_CASE(of_a_checked_allocator_ends_the_program) {
  auto const dies = [](auto misuse) {
    return dies_of(SIGABRT, [&] {
      if (std::freopen("/dev/null", "w", stderr) == nullptr) {
        return;
      }
      under_test of{{.size = mib, .limit = mib, .checked = true}};
      auto const offset = or_throw(of->allocate(100, 16));
      of->note_allocated(offset, 100, 16);
      misuse(*of.made, offset);
    });
  };
  BOOST_TEST(!dies([](allocator& of, std::size_t offset) { of.check_deallocated(offset, 100, 16); }));
  BOOST_TEST(dies([](allocator& of, std::size_t offset) { of.check_deallocated(offset, 99, 16); }));
  BOOST_TEST(dies([](allocator& of, std::size_t offset) { of.check_deallocated(offset, 100, 32); }));
  BOOST_TEST(dies([](allocator& of, std::size_t offset) { of.check_deallocated(offset + 16, 100, 16); }));
  BOOST_TEST(dies([](allocator& of, std::size_t offset) {
    of.check_deallocated(offset, 100, 16);
    of.check_deallocated(offset, 100, 16);
  }));
}

// Without checks, what comes back to a slab is looked at all the same.
BOOST_AUTO_TEST_CASE(is_found_where_a_block_comes_back_to_its_slab) {
  auto const dies = [](auto misuse) {
    return dies_of(SIGABRT, [&] {
      if (std::freopen("/dev/null", "w", stderr) == nullptr) {
        return;
      }
      under_test of{{.size = mib, .limit = mib, .checked = false}};
      auto const offset = or_throw(of->allocate(100, 16));
      misuse(*of.made, offset);
      of->flush_magazines();
    });
  };
  BOOST_TEST(!dies([](allocator& of, std::size_t offset) { of.deallocate(offset, 100, 16); }));
  BOOST_TEST(dies([](allocator& of, std::size_t offset) { of.deallocate(offset + 16, 100, 16); }));
  BOOST_TEST(dies([](allocator& of, std::size_t offset) { of.deallocate(offset, 1000, 16); }));
  BOOST_TEST(dies([](allocator& of, std::size_t offset) {
    of.deallocate(offset, 100, 16);
    of.deallocate(offset, 100, 16);
  }));
  BOOST_TEST(dies([](allocator& of, std::size_t) { of.deallocate(mib, 100, 16); }));
  BOOST_TEST(dies([](allocator& of, std::size_t) { of.deallocate(SIZE_MAX - 100, 100, 16); }));
  BOOST_TEST(dies([](allocator& of, std::size_t) { of.deallocate(200 * page_bytes, 100'000, 16); }));
  BOOST_TEST(dies([](allocator& of, std::size_t) { of.deallocate(page_bytes / 2, 100'000, 16); }));
}

BOOST_AUTO_TEST_SUITE_END()
