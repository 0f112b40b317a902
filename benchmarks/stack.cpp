// SPDX-License-Identifier: MIT OR Apache-2.0
//
// fmmap.stack beside the stack allocators of Boost.Context, and a mapping for each stack.

#include <array>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <memory>
#include <vector>

#include <benchmark/benchmark.h>
#include <boost/context/pooled_fixedsize_stack.hpp>
#include <boost/context/protected_fixedsize_stack.hpp>
#include <boost/context/stack_context.hpp>

#include <sys/mman.h>

#include "support.hpp"

import fmmap.core;
import fmmap.stack;

namespace {

using boost::context::stack_context;
using fmmap::or_throw;
using fmmap::stack_pool;

constexpr std::size_t page = 4096;
constexpr std::size_t size = std::size_t{256} << 10;

void touch(void* top) { static_cast<std::byte volatile*>(top)[-64] = std::byte{1}; }

// --- stack.reuse ------------------------------------------------------------------------------------------------------

template <class Allocator>
void reuse(benchmark::State& state, Allocator& from) {
  for ([[maybe_unused]] auto _ : state) {
    auto one = from.allocate();
    touch(one.sp);
    benchmark::ClobberMemory(); // what runs on it is not known: taking and giving back are not the same step
    from.deallocate(one);
  }
}

void reuse_ours(benchmark::State& state) {
  auto pool = or_throw(stack_pool::create({.stack_size = size}));
  fmmap::stack_allocator<stack_context> from{pool};
  reuse(state, from);
}

void reuse_object(benchmark::State& state) {
  auto pool = or_throw(stack_pool::create({.stack_size = size}));
  for ([[maybe_unused]] auto _ : state) {
    auto const one = or_throw(pool.allocate());
    touch(one.top());
    benchmark::ClobberMemory();
  }
}

// Two, in the order in which they were taken.
void reuse_two(benchmark::State& state) {
  auto pool = or_throw(stack_pool::create({.stack_size = size}));
  fmmap::stack_allocator<stack_context> from{pool};
  for ([[maybe_unused]] auto _ : state) {
    std::array<stack_context, 2> all{from.allocate(), from.allocate()};
    for (auto& one : all) {
      touch(one.sp);
      benchmark::ClobberMemory();
      from.deallocate(one);
    }
  }
}

void reuse_protected(benchmark::State& state) {
  boost::context::protected_fixedsize_stack from{size};
  reuse(state, from);
}

void reuse_pooled(benchmark::State& state) {
  boost::context::pooled_fixedsize_stack from{size};
  reuse(state, from);
}

// --- stack.create -----------------------------------------------------------------------------------------------------

// All alive at the end; giving them back is not measured.
void create_ours(benchmark::State& state) {
  for ([[maybe_unused]] auto _ : state) {
    auto const count = bench::sized(20'000, 100);
    std::vector<fmmap::stack> all;
    all.reserve(count);
    bench::stopwatch watch{state};
    auto pool = or_throw(stack_pool::create({.stack_size = size, .capacity = count}));
    for (std::size_t i = 0; i < count; ++i) {
      all.push_back(or_throw(pool.allocate()));
    }
    watch.stop();
    all.clear();
  }
}

void create_by_mmap(benchmark::State& state) {
  for ([[maybe_unused]] auto _ : state) {
    auto const count = bench::sized(20'000, 100);
    std::vector<void*> all;
    all.reserve(count);
    bench::stopwatch watch{state};
    for (std::size_t i = 0; i < count; ++i) {
      auto* const one =
          ::mmap(nullptr, size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
      bench::checked(reinterpret_cast<std::intptr_t>(one), "mmap");
      bench::checked(::mprotect(one, page, PROT_NONE), "mprotect");
      all.push_back(one);
    }
    watch.stop();
    for (auto* const one : all) {
      ::munmap(one, size + page);
    }
  }
}

// --- stack.alive ------------------------------------------------------------------------------------------------------

// Each with a page that has been touched.
void alive(benchmark::State& state) {
  auto const count = bench::sized(250'000, 1000);
  for ([[maybe_unused]] auto _ : state) {
    auto pool = or_throw(stack_pool::create({.stack_size = std::size_t{64} << 10, .capacity = count}));
    std::vector<fmmap::stack> all;
    all.reserve(count);
    bench::stopwatch watch{state};
    for (std::size_t i = 0; i < count; ++i) {
      auto one = pool.allocate();
      if (!one) {
        break;
      }
      touch(one->top());
      all.push_back(std::move(*one));
    }
    watch.stop();
    state.counters["value"] = static_cast<double>(pool.stats().alive);
  }
}

void add_rows() {
  using bench::add_row;
  using bench::pace;
  add_row("stack.reuse.protected", pace::fast, {{"ours", reuse_ours}, {"peer", reuse_protected}});
  add_row("stack.reuse.pooled", pace::fast,
          {{"ours", reuse_ours}, {"peer", reuse_pooled}, {"an object", reuse_object}, {"two", reuse_two}});
  add_row("stack.create", pace::slow, {{"ours", create_ours}, {"peer", create_by_mmap}});
  add_row("stack.alive", pace::slow, {{"ours", alive}});
}

} // namespace

auto main(int argc, char** argv) -> int { return bench::run(argc, argv, add_rows); }
