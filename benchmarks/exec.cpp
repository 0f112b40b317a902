// SPDX-License-Identifier: MIT OR Apache-2.0
//
// fmmap.exec beside the system calls that make code executable otherwise.

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include <benchmark/benchmark.h>

#include <sys/mman.h>

#include "support.hpp"

import fmmap.core;
import fmmap.exec;

namespace {

using fmmap::code_strategy;
using fmmap::or_throw;

constexpr std::size_t page = 4096;
constexpr std::size_t function_size = 64;
constexpr std::size_t batch = page / function_size;

// A function of 64 bytes that returns a number, in its first bytes; what is behind them never runs.
auto function_that_returns(std::uint32_t value) -> std::array<std::byte, function_size> {
  std::array<std::byte, function_size> code{};
  code[0] = std::byte{0xb8}; // mov eax, value; ret
  std::memcpy(&code[1], &value, sizeof value);
  code[5] = std::byte{0xc3};
  return code;
}

auto call(void const* code) -> std::uint32_t {
  return reinterpret_cast<std::uint32_t (*)()>(reinterpret_cast<std::uintptr_t>(code))();
}

void stop_unless(bool holds) {
  if (!holds) {
    bench::checked(-1, "call of another function"); // ends the program
  }
}

// --- exec.publish -----------------------------------------------------------------------------------------------------

// Writes `Count` functions, makes them executable and calls each. Where they lie is found before, and they are given up
// behind that: the peer has one page that it overwrites again and again.
template <code_strategy Strategy, std::size_t Count>
void publish_ours(benchmark::State& state) {
  auto arena = or_throw(fmmap::code_arena::create({.strategy = Strategy}));
  std::array<fmmap::code_span, Count> functions;
  std::uint32_t value = 0;
  for ([[maybe_unused]] auto _ : state) {
    std::chrono::duration<double> taken{};
    auto const rounds = bench::sized(2000, 2);
    for (std::size_t round = 0; round < rounds; ++round) {
      for (auto& one : functions) {
        one = or_throw(arena.allocate(function_size));
      }
      auto const code = function_that_returns(++value);
      auto const begin = std::chrono::steady_clock::now();
      for (auto const& one : functions) {
        or_throw(arena.write(one, code));
      }
      or_throw(arena.publish());
      for (auto const& one : functions) {
        stop_unless(call(one.address()) == value);
      }
      taken += std::chrono::steady_clock::now() - begin;
      for (auto const& one : functions) {
        or_throw(arena.retire(one));
      }
      stop_unless(or_throw(arena.reclaim()) == Count); // so that the next ones lie there, as the peer's do
    }
    state.SetIterationTime(taken.count() / static_cast<double>(rounds * Count));
  }
}

template <std::size_t Count>
void publish_by_mprotect(benchmark::State& state) {
  auto* const memory = ::mmap(nullptr, page, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  bench::checked(reinterpret_cast<std::intptr_t>(memory), "mmap");
  auto* const at = static_cast<std::byte*>(memory);
  std::uint32_t value = 0;
  for ([[maybe_unused]] auto _ : state) {
    std::chrono::duration<double> taken{};
    auto const rounds = bench::sized(2000, 2);
    for (std::size_t round = 0; round < rounds; ++round) {
      auto const code = function_that_returns(++value);
      auto const begin = std::chrono::steady_clock::now();
      bench::checked(::mprotect(at, page, PROT_READ | PROT_WRITE), "mprotect");
      for (std::size_t i = 0; i < Count; ++i) {
        std::memcpy(at + (i * function_size), code.data(), code.size());
      }
      bench::checked(::mprotect(at, page, PROT_READ | PROT_EXEC), "mprotect");
      for (std::size_t i = 0; i < Count; ++i) {
        stop_unless(call(at + (i * function_size)) == value);
      }
      taken += std::chrono::steady_clock::now() - begin;
    }
    state.SetIterationTime(taken.count() / static_cast<double>(rounds * Count));
  }
  ::munmap(memory, page);
}

// --- exec.churn -------------------------------------------------------------------------------------------------------

// Of many functions of 64 to 255 bytes, each step replaces one that is chosen at random. Ours are published 64 at a time.
constexpr std::size_t alive = 10'000;

auto sizes() -> std::vector<std::size_t> {
  std::mt19937 random{1};
  std::vector<std::size_t> made(4096);
  std::ranges::generate(made, [&] { return 64 + (random() % 192); });
  return made;
}

template <code_strategy Strategy>
void churn_ours(benchmark::State& state) {
  auto arena = or_throw(fmmap::code_arena::create({.strategy = Strategy}));
  auto const size = sizes();
  std::vector<std::byte> const code(256, std::byte{0x90});
  std::minstd_rand random{2};
  std::size_t step = 0;
  auto const make = [&] {
    auto const made = or_throw(arena.allocate(size[++step % size.size()]));
    or_throw(arena.write(made, std::span{code}.first(made.size())));
    if (step % batch == 0) {
      or_throw(arena.publish());
    }
    return made;
  };
  std::vector<fmmap::code_span> all(bench::sized(alive, 100));
  std::ranges::generate(all, make);
  or_throw(arena.publish());
  for ([[maybe_unused]] auto _ : state) {
    auto& one = all[random() % all.size()];
    or_throw(arena.retire(one));
    one = make();
  }
}

void churn_by_mmap(benchmark::State& state) {
  auto const size = sizes();
  std::vector<std::byte> const code(256, std::byte{0x90});
  std::minstd_rand random{2};
  std::size_t step = 0;
  auto const make = [&] {
    auto* const made = ::mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bench::checked(reinterpret_cast<std::intptr_t>(made), "mmap");
    std::memcpy(made, code.data(), size[++step % size.size()]);
    bench::checked(::mprotect(made, page, PROT_READ | PROT_EXEC), "mprotect");
    return made;
  };
  std::vector<void*> all(bench::sized(alive, 100));
  std::ranges::generate(all, make);
  for ([[maybe_unused]] auto _ : state) {
    auto& one = all[random() % all.size()];
    bench::checked(::munmap(one, page), "munmap");
    one = make();
  }
  for (auto* const one : all) {
    ::munmap(one, page);
  }
}

void add_rows() {
  using bench::add_row;
  using bench::pace;
  add_row("exec.publish_1.dual", pace::slow,
          {{"ours", publish_ours<code_strategy::dual, 1>}, {"peer", publish_by_mprotect<1>}});
  add_row("exec.publish_1.no_alias", pace::slow,
          {{"ours", publish_ours<code_strategy::no_alias, 1>},
           {"peer", publish_by_mprotect<1>},
           {"toggle", publish_ours<code_strategy::toggle, 1>}});
  add_row("exec.publish_64", pace::slow,
          {{"ours", publish_ours<code_strategy::no_alias, batch>},
           {"peer", publish_by_mprotect<batch>},
           {"dual", publish_ours<code_strategy::dual, batch>},
           {"toggle", publish_ours<code_strategy::toggle, batch>}});
  add_row("exec.churn", pace::fast,
          {{"ours", churn_ours<code_strategy::dual>},
           {"peer", churn_by_mmap},
           {"no_alias", churn_ours<code_strategy::no_alias>}});
  add_row("exec.churn_time", pace::fast, {{"ours", churn_ours<code_strategy::dual>}});
}

} // namespace

auto main(int argc, char** argv) -> int { return bench::run(argc, argv, add_rows); }
