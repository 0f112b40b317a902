// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <array>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <exception>
#include <expected>
#include <map>
#include <memory>
#include <memory_resource>
#include <new>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "support/outcome.hpp"

import fmmap.core;
import fmmap.stack;

using fmmap::errc;
using fmmap::or_throw;
using fmmap::stack_pool;
using fmmap::stack_resource;

namespace {

auto pool() -> stack_pool { return or_throw(stack_pool::create({.stack_size = 64 * 1024, .capacity = 2})); }

// A coroutine whose frame comes from a resource that is its first argument.
struct counting {
  struct promise_type {
    int value = 0;

    template <class... Rest>
    static auto operator new(std::size_t size, std::pmr::memory_resource& from, Rest&... /*rest*/) -> void* {
      auto* const whole = static_cast<std::byte*>(from.allocate(size + header));
      auto* const owner = &from;
      std::memcpy(whole, &owner, sizeof owner);
      return whole + header;
    }
    static void operator delete(void* frame, std::size_t size) {
      auto* const whole = static_cast<std::byte*>(frame) - header;
      std::pmr::memory_resource* owner = nullptr;
      std::memcpy(&owner, whole, sizeof owner);
      owner->deallocate(whole, size + header);
    }

    auto get_return_object() -> counting { return {std::coroutine_handle<promise_type>::from_promise(*this)}; }
    auto initial_suspend() noexcept -> std::suspend_always { return {}; }
    auto final_suspend() noexcept -> std::suspend_always { return {}; }
    auto yield_value(int one) noexcept -> std::suspend_always {
      value = one;
      return {};
    }
    void return_void() noexcept {}
    void unhandled_exception() { std::terminate(); }

    static constexpr std::size_t header = 16; // keeps the frame aligned
  };

  std::coroutine_handle<promise_type> frame;
};

auto count_to(std::pmr::memory_resource& /*frame*/, int& last) -> counting {
  for (int i = 1; i <= last; ++i) {
    co_yield i;
  }
}

} // namespace

BOOST_AUTO_TEST_SUITE(memory_of_a_stack)

BOOST_AUTO_TEST_CASE(is_given_back_in_the_order_of_a_stack) {
  auto from = pool();
  auto const owner = or_throw(stack_resource::create(from));
  auto& resource = *owner;
  BOOST_TEST(resource.used() == 0U);
  auto* const first = resource.allocate(100);
  auto const with_first = resource.used();
  auto* const second = resource.allocate(200, 64);
  BOOST_TEST(reinterpret_cast<std::uintptr_t>(second) % 64 == 0U);
  BOOST_TEST(second < first);
  resource.deallocate(second, 200, 64);
  BOOST_TEST(resource.used() == with_first);
  resource.deallocate(first, 100);
  BOOST_TEST(resource.used() == 0U);
  BOOST_TEST(resource.peak() >= 300U);
}

BOOST_AUTO_TEST_CASE(becomes_free_from_the_top_in_any_order) {
  auto from = pool();
  auto const owner = or_throw(stack_resource::create(from));
  auto& resource = *owner;
  std::minstd_rand random{1};
  for (int round = 0; round < 100; ++round) {
    struct object {
      std::byte* at;
      std::size_t size;
      std::size_t alignment;
      std::byte mark;
    };
    std::vector<object> all;
    for (int i = 0; i < 50; ++i) {
      auto const size = random() % 500;
      auto const alignment = std::size_t{1} << (random() % 9);
      auto const mark = static_cast<std::byte>(i);
      auto* const at = static_cast<std::byte*>(resource.allocate(size, alignment));
      BOOST_TEST_REQUIRE(reinterpret_cast<std::uintptr_t>(at) % alignment == 0U);
      std::memset(at, i, size);
      all.push_back({.at = at, .size = size, .alignment = alignment, .mark = mark});
    }
    std::ranges::shuffle(all, random);
    for (auto const& one : all) {
      BOOST_TEST_REQUIRE(std::ranges::all_of(std::span{one.at, one.size}, [&](std::byte b) { return b == one.mark; }));
      resource.deallocate(one.at, one.size, one.alignment);
    }
    BOOST_TEST_REQUIRE(resource.used() == 0U);
  }
}

BOOST_AUTO_TEST_CASE(that_does_not_fit_throws_and_nothing_changes) {
  auto from = pool();
  auto const owner = or_throw(stack_resource::create(from));
  auto& resource = *owner;
  auto const before = resource.used();
  for (auto const size : {std::size_t{64} * 1024, std::size_t{1} << 40, SIZE_MAX, SIZE_MAX - 7}) {
    BOOST_CHECK_THROW((void)resource.allocate(size), std::bad_alloc);
  }
  BOOST_CHECK_THROW((void)resource.allocate(1, std::size_t{1} << 31), std::bad_alloc);
  BOOST_TEST(resource.used() == before);
  auto const largest = resource.available();
  auto* const all = static_cast<std::byte*>(resource.allocate(largest, 16));
  std::memset(all, 1, largest);
  BOOST_CHECK_THROW((void)resource.allocate(16, 16), std::bad_alloc);
  resource.deallocate(all, largest, 16);
  BOOST_TEST(resource.available() == largest);
  (void)resource.allocate(1000);
  resource.release();
  BOOST_TEST(resource.used() == 0U);
}

BOOST_AUTO_TEST_CASE(holds_containers) {
  auto from = pool();
  auto const owner = or_throw(stack_resource::create(from));
  {
    std::pmr::map<int, std::pmr::string> names{owner.get()};
    for (int i = 0; i < 100; ++i) {
      names.emplace(i, std::pmr::string(static_cast<std::size_t>(i), 'x', owner.get()));
    }
    std::pmr::vector<int> numbers{owner.get()};
    numbers.resize(1000);
    std::iota(numbers.begin(), numbers.end(), 0);
    std::pmr::deque<int> queue{numbers.begin(), numbers.end(), owner.get()};
    BOOST_TEST(queue.back() == 999);
    BOOST_TEST(names.at(99).size() == 99U);
  }
  BOOST_TEST(owner->used() == 0U);
}

BOOST_AUTO_TEST_CASE(holds_frames_of_coroutines) {
  auto from = pool();
  auto const owner = or_throw(stack_resource::create(from));
  auto last = 10;
  auto first = count_to(*owner, last);
  auto second = count_to(*owner, last);
  auto const* const frame = static_cast<std::byte const*>(first.frame.address());
  BOOST_TEST(from.slot_of(frame).has_value());
  auto sum = 0;
  for (first.frame.resume(); !first.frame.done(); first.frame.resume()) {
    sum += first.frame.promise().value;
  }
  BOOST_TEST(sum == 55);
  first.frame.destroy(); // below the other one
  BOOST_TEST(owner->used() > 0U);
  second.frame.destroy();
  BOOST_TEST(owner->used() == 0U);
}

BOOST_AUTO_TEST_CASE(goes_back_to_the_pool) {
  auto from = pool();
  {
    auto const owner = or_throw(stack_resource::create(from));
    BOOST_TEST(from.stats().alive == 1U);
    BOOST_TEST(owner->is_equal(*owner));
    auto const other = or_throw(stack_resource::create(from));
    BOOST_TEST(!owner->is_equal(*other));
  }
  BOOST_TEST(from.stats().alive == 0U);
  stack_pool nothing;
  BOOST_TEST(fails(stack_resource::create(nothing), errc::closed));
}

BOOST_AUTO_TEST_SUITE_END()
