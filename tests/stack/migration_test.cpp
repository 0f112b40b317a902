// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Fibres that take a stack on one thread and give it back on another. Compiled so that compilers like to keep the address of what is a
// thread's own (tests/CMakeLists.txt): across a switch that is another thread's.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <expected>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include <boost/context/fiber.hpp>
#include <boost/context/stack_context.hpp>
#include <boost/test/unit_test.hpp>

import fmmap.core;
import fmmap.stack;

using boost::context::fiber;
using fmmap::or_throw;
using fmmap::stack_pool;

using lender = fmmap::stack_allocator<boost::context::stack_context>;

BOOST_AUTO_TEST_CASE(fibres_that_change_threads_share_no_stack) {
  constexpr int fibres = 100;
  constexpr int rounds = 1000;
  auto pool = or_throw(stack_pool::create({.stack_size = 64 * 1024, .capacity = 4 * fibres}));
  std::vector<std::atomic<int>> owners(pool.stats().slots);
  std::atomic<std::uint64_t> wrong{0};
  std::atomic<int> left{fibres};
  std::mutex mutex;
  std::deque<fiber> ready;
  for (int i = 0; i < fibres; ++i) {
    ready.emplace_back(std::allocator_arg, lender{pool}, [&, i](fiber&& scheduler) {
      lender mine{pool};
      std::minstd_rand random{static_cast<unsigned>(i) + 1};
      for (int round = 0; round < rounds; ++round) {
        auto lent = mine.allocate();
        auto const slot = pool.slot_of(static_cast<std::byte*>(lent.sp) - 1).value();
        wrong += ++owners[slot] == 1 ? 0 : 1;
        auto object = random() % 2 == 0 ? std::optional{or_throw(pool.allocate())} : std::nullopt;
        if (object) {
          wrong += ++owners[object->slot()] == 1 ? 0 : 1;
        }
        scheduler = std::move(scheduler).resume();
        if (object) {
          --owners[object->slot()];
          object.reset();
        }
        --owners[slot];
        mine.deallocate(lent);
      }
      --left;
      return std::move(scheduler);
    });
  }
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        while (left > 0) {
          std::unique_lock lock{mutex};
          if (ready.empty()) {
            lock.unlock();
            std::this_thread::yield();
            continue;
          }
          auto next = std::move(ready.front());
          ready.pop_front();
          lock.unlock();
          next = std::move(next).resume();
          if (next) {
            lock.lock();
            ready.push_back(std::move(next));
          }
        }
      });
    }
  }
  BOOST_TEST(wrong == 0U);
  BOOST_TEST(pool.stats().alive == 0U);
}
