// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "support/process.hpp"
#include "support/scratch.hpp"
#include "support/seed.hpp"

import fmmap.core;
import fmmap.pmr;

using fmmap::mapped_resource;
using fmmap::or_throw;

namespace {

constexpr std::size_t granule = 16;
constexpr std::size_t reserve = std::size_t{512} << 20;

// Who has each granule of a storage: found out by atomic exchanges, so that two threads that are given the same bytes see it.
class shadow_map {
public:
  explicit shadow_map(std::byte const* origin) : origin_{origin}, taken_(reserve / granule) {}

  // Whether all granules of the block were free.
  auto take(void const* block, std::size_t size) -> bool { return exchange_all(block, size, 0, 1); }
  auto give_back(void const* block, std::size_t size) -> bool { return exchange_all(block, size, 1, 0); }
  [[nodiscard]] auto is_empty() const -> bool {
    return std::ranges::all_of(taken_, [](auto const& granule) { return granule.load() == 0; });
  }

private:
  auto exchange_all(void const* block, std::size_t size, unsigned char before, unsigned char after) -> bool {
    auto const offset = static_cast<std::size_t>(static_cast<std::byte const*>(block) - origin_);
    auto const first = offset / granule;
    auto const last = (offset + std::max<std::size_t>(size, 1) - 1) / granule;
    auto right = true;
    for (auto i = first; i <= last; ++i) {
      right = taken_.at(i).exchange(after, std::memory_order_relaxed) == before && right;
    }
    return right;
  }

  std::byte const* origin_;
  std::vector<std::atomic<unsigned char>> taken_;
};

struct block {
  std::byte* memory = nullptr;
  std::size_t size = 0;
  std::size_t alignment = 1;
};

// Bytes that no other block has.
void stamp(block const& which) {
  for (std::size_t i = 0; i < which.size; i += i < 64 ? 1 : 509) {
    which.memory[i] =
        static_cast<std::byte>(reinterpret_cast<std::uintptr_t>(which.memory) / granule * 31 + which.size + i);
  }
}

auto has_stamp(block const& which) -> bool {
  for (std::size_t i = 0; i < which.size; i += i < 64 ? 1 : 509) {
    if (which.memory[i] !=
        static_cast<std::byte>(reinterpret_cast<std::uintptr_t>(which.memory) / granule * 31 + which.size + i)) {
      return false;
    }
  }
  return true;
}

// Blocks on their way from one thread to another.
class exchange_place {
public:
  // Puts a block there and takes the one that was there.
  auto swap(std::size_t at, std::unique_ptr<block> mine) -> std::unique_ptr<block> {
    return std::unique_ptr<block>{places_[at % places_.size()].exchange(mine.release(), std::memory_order_acq_rel)};
  }

private:
  std::array<std::atomic<block*>, 64> places_{};
};

class worker {
public:
  worker(mapped_resource& from, shadow_map& shadow, exchange_place& place, unsigned number)
      : from_{from}, shadow_{shadow}, place_{place}, random_{seed() + number} {}

  void run(std::size_t operations) {
    for (std::size_t i = 0; i < operations; ++i) {
      if (live_.size() < 2000 && (live_.empty() || random_() % 2 == 0)) {
        allocate();
      } else {
        deallocate();
      }
      if (i % 16 == 0) {
        give_to_another();
      }
    }
    while (!live_.empty()) {
      deallocate();
    }
  }

  void empty_the_exchange() {
    for (std::size_t i = 0; i < 64; ++i) {
      if (auto const left = place_.swap(i, nullptr)) {
        live_.push_back(*left);
        deallocate();
      }
    }
  }

  [[nodiscard]] auto problems() const -> std::size_t { return problems_; }

private:
  void expect(bool holds) { problems_ += holds ? 0 : 1; }

  void allocate() {
    auto const order = random_() % 100 < 98 ? random_() % 11 : random_() % 18;
    block made{.size = (std::size_t{1} << order) - 1 + random_() % (std::size_t{1} << order),
               .alignment = random_() % 8 == 0 ? std::size_t{1} << random_() % 14 : 1U << random_() % 5};
    made.memory = static_cast<std::byte*>(from_.allocate(made.size, made.alignment));
    expect(reinterpret_cast<std::uintptr_t>(made.memory) % made.alignment == 0);
    expect(shadow_.take(made.memory, made.size));
    stamp(made);
    live_.push_back(made);
  }

  void deallocate() {
    std::swap(live_[random_() % live_.size()], live_.back());
    auto const gone = live_.back();
    live_.pop_back();
    expect(has_stamp(gone));
    expect(shadow_.give_back(gone.memory, gone.size));
    from_.deallocate(gone.memory, gone.size, gone.alignment);
  }

  void give_to_another() {
    auto mine = live_.empty() ? nullptr : std::make_unique<block>(live_.back());
    if (mine) {
      live_.pop_back();
    }
    if (auto const theirs = place_.swap(random_(), std::move(mine))) {
      live_.push_back(*theirs);
    }
  }

  mapped_resource& from_;
  shadow_map& shadow_;
  exchange_place& place_;
  std::mt19937 random_;
  std::vector<block> live_;
  std::size_t problems_ = 0;
};

void hold_against_the_model(mapped_resource& resource, unsigned threads, std::size_t operations) {
  shadow_map shadow{resource.storage().data()};
  exchange_place place;
  std::vector<worker> workers;
  for (unsigned i = 0; i < threads; ++i) {
    workers.emplace_back(resource, shadow, place, i);
  }
  std::vector<std::jthread> running;
  for (auto& each : workers) {
    running.emplace_back([&] { each.run(operations / threads); });
  }
  running.clear();
  workers.front().empty_the_exchange();
  for (auto const& each : workers) {
    BOOST_TEST(each.problems() == 0U);
  }
  BOOST_TEST(shadow.is_empty());
  or_throw(resource.trim());
  auto const stats = resource.stats();
  BOOST_TEST(stats.used_bytes == 0U);
  BOOST_TEST(stats.free_bytes == resource.storage().size());
}

// 10 000 000 operations in all, or a tenth where a sanitizer looks at each.
constexpr std::size_t operations = sanitized ? 1'000'000 : 10'000'000;

} // namespace

BOOST_AUTO_TEST_SUITE(a_resource_beside_a_shadow_map)

BOOST_AUTO_TEST_CASE(of_one_thread) {
  scratch const folder{memory_folder()};
  auto const resource = or_throw(mapped_resource::temporary(folder.folder(), {.reserve = reserve}));
  hold_against_the_model(*resource, 1, operations / 4);
}

BOOST_AUTO_TEST_CASE(of_two_threads) {
  auto const resource = or_throw(mapped_resource::anonymous({.reserve = reserve}));
  hold_against_the_model(*resource, 2, operations / 4);
}

BOOST_AUTO_TEST_CASE(of_four_threads) {
  auto const resource = or_throw(mapped_resource::anonymous({.reserve = reserve}));
  hold_against_the_model(*resource, 4, operations / 4);
}

BOOST_AUTO_TEST_CASE(of_four_threads_with_every_deallocation_looked_at) {
  auto const resource =
      or_throw(mapped_resource::anonymous({.reserve = reserve, .discard_from = 65'536, .checked = true}));
  hold_against_the_model(*resource, 4, operations / 4);
}

BOOST_AUTO_TEST_SUITE_END()
