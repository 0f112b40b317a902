// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Those who take stacks: Boost.Context, pthreads, signal handlers.

#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <boost/context/fiber.hpp>
#include <boost/context/stack_context.hpp>
#include <boost/test/unit_test.hpp>

#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include "support/process.hpp"

import fmmap.core;
import fmmap.stack;

using boost::context::fiber;
using fmmap::or_throw;
using fmmap::stack;
using fmmap::stack_pool;

using lender = fmmap::stack_allocator<boost::context::stack_context>;

namespace {

struct seen {
  stack_pool* pool;
  std::size_t slot = SIZE_MAX;
  bool ran = false;
};

auto look_around(void* argument) -> void* {
  auto& found = *static_cast<seen*>(argument);
  std::byte here{};
  found.slot = found.pool->slot_of(&here).value_or(SIZE_MAX);
  found.ran = true;
  return nullptr;
}

seen in_handler{};

void look_around_in_handler(int /*signal*/) { look_around(&in_handler); }

} // namespace

BOOST_AUTO_TEST_SUITE(a_stack_of_a_pool)

// Each counts to three, a step at a time, on a stack of its own.
BOOST_AUTO_TEST_CASE(is_what_a_hundred_thousand_fibres_run_on) {
  auto const count = sanitized ? std::size_t{2000} : std::size_t{100'000};
  auto pool = or_throw(stack_pool::create({.stack_size = 16 * 1024, .capacity = count, .resident_bytes = 4096}));
  std::vector<fiber> fibres;
  fibres.reserve(count);
  std::vector<std::uint8_t> steps(count);
  for (std::size_t i = 0; i < count; ++i) {
    fibres.emplace_back(std::allocator_arg, lender{pool}, [&, i](fiber&& caller) {
      auto mine = std::move(caller);
      for (int step = 0; step < 3; ++step) {
        std::byte here{};
        steps[i] = static_cast<std::uint8_t>(steps[i] + (sanitized || pool.slot_of(&here) ? 1 : 100));
        mine = std::move(mine).resume();
      }
      return mine;
    });
  }
  BOOST_TEST(pool.stats().alive == count);
  for (int step = 0; step < 4; ++step) {
    for (auto& one : fibres) {
      one = std::move(one).resume();
    }
  }
  BOOST_TEST(std::ranges::all_of(fibres, [](fiber const& one) { return !one; }));
  BOOST_TEST(std::ranges::all_of(steps, [](std::uint8_t one) { return one == 3; }));
  BOOST_TEST(pool.stats().alive == 0U);
  std::cout << count << " fibres were alive\n";
}

BOOST_AUTO_TEST_CASE(is_given_back_when_a_fibre_is_destroyed_half_way) {
  auto pool = or_throw(stack_pool::create({.capacity = 4}));
  {
    auto one = fiber{std::allocator_arg, lender{pool}, [](fiber&& caller) { return std::move(caller).resume(); }};
    one = std::move(one).resume();
    BOOST_TEST(pool.stats().alive == 1U);
  }
  BOOST_TEST(pool.stats().alive == 0U);
}

BOOST_AUTO_TEST_CASE(is_what_a_thread_runs_on) {
  auto pool =
      or_throw(stack_pool::create({.stack_size = 512 * 1024, .capacity = 4, .guard = fmmap::stack_guard::both}));
  auto const one = or_throw(pool.allocate());
  pthread_attr_t attributes;
  ::pthread_attr_init(&attributes);
  BOOST_TEST(::pthread_attr_setstack(&attributes, one.bottom(), one.size()) == 0);
  pthread_t thread{};
  seen found{.pool = &pool};
  BOOST_TEST(::pthread_create(&thread, &attributes, look_around, &found) == 0);
  ::pthread_attr_destroy(&attributes);
  BOOST_TEST(::pthread_join(thread, nullptr) == 0);
  BOOST_TEST(found.ran);
  BOOST_TEST((sanitized || found.slot == one.slot())); // a sanitizer may move what is looked at elsewhere
}

BOOST_AUTO_TEST_CASE(is_what_a_signal_handler_runs_on) {
  auto pool = or_throw(stack_pool::create({.stack_size = 64 * 1024, .capacity = 4}));
  auto const one = or_throw(pool.allocate());
  stack_t const alternate{.ss_sp = one.bottom(), .ss_flags = 0, .ss_size = one.size()};
  stack_t before{};
  BOOST_TEST(::sigaltstack(&alternate, &before) == 0);
  struct sigaction action{};
  action.sa_handler = look_around_in_handler;
  action.sa_flags = SA_ONSTACK;
  struct sigaction old{};
  ::sigaction(SIGUSR1, &action, &old);
  in_handler = {.pool = &pool};
  ::raise(SIGUSR1);
  ::sigaction(SIGUSR1, &old, nullptr);
  ::sigaltstack(&before, nullptr);
  BOOST_TEST(in_handler.ran);
  BOOST_TEST((sanitized || in_handler.slot == one.slot()));
}

BOOST_AUTO_TEST_SUITE_END()
