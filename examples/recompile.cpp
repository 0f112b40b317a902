// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Compiles formulas anew while other threads run them: recompile [ROUNDS]
//
// Each thread holds a guard while it calls; the compiler lets everybody see the new code first, and retires the old code
// then. No thread waits for another, none runs code that is gone, and all that is retired is reclaimed.

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <expected>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <random>
#include <span>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

import fmmap;

namespace {

using number = std::uint64_t;
using random_numbers = std::minstd_rand;

// Of x: a number, x itself, or two formulas added, subtracted or multiplied.
struct formula {
  char what; // 'n', 'x', '+', '-', '*'
  number value = 0;
  std::unique_ptr<formula> left = nullptr;
  std::unique_ptr<formula> right = nullptr;
};

auto some_formula(random_numbers& random, int depth) -> std::unique_ptr<formula> {
  auto const what = depth == 0 ? "nx"[random() % 2] : "+-*"[random() % 3];
  auto made = std::make_unique<formula>(formula{.what = what, .value = random()});
  if (depth > 0) {
    made->left = some_formula(random, depth - 1);
    made->right = some_formula(random, depth - 1);
  }
  return made;
}

auto interpret(formula const& of, number x) -> number {
  switch (of.what) {
  case 'n':
    return of.value;
  case 'x':
    return x;
  case '+':
    return interpret(*of.left, x) + interpret(*of.right, x);
  case '-':
    return interpret(*of.left, x) - interpret(*of.right, x);
  default:
    return interpret(*of.left, x) * interpret(*of.right, x);
  }
}

void emit(std::vector<std::byte>& to, std::initializer_list<unsigned char> bytes) {
  std::ranges::copy(std::as_bytes(std::span{bytes.begin(), bytes.size()}), std::back_inserter(to));
}

// x is in rdi, the result in rax.
void compile(formula const& of, std::vector<std::byte>& to) {
  switch (of.what) {
  case 'n':
    emit(to, {0x48, 0xb8}); // mov rax, value
    std::ranges::copy(std::as_bytes(std::span{&of.value, 1}), std::back_inserter(to));
    return;
  case 'x':
    emit(to, {0x48, 0x89, 0xf8}); // mov rax, rdi
    return;
  default:
    break;
  }
  compile(*of.left, to);
  emit(to, {0x50}); // push rax
  compile(*of.right, to);
  emit(to, {0x48, 0x89, 0xc1, 0x58}); // mov rcx, rax; pop rax
  switch (of.what) {
  case '+':
    emit(to, {0x48, 0x01, 0xc8}); // add rax, rcx
    break;
  case '-':
    emit(to, {0x48, 0x29, 0xc8}); // sub rax, rcx
    break;
  default:
    emit(to, {0x48, 0x0f, 0xaf, 0xc1}); // imul rax, rcx
  }
}

// A formula and its code, which others may be running.
struct function {
  std::unique_ptr<formula> source;
  fmmap::code_span code;
};

using slot = std::atomic<std::shared_ptr<function const>>;

auto compiled(fmmap::code_arena& arena, std::unique_ptr<formula> source) -> std::shared_ptr<function const> {
  std::vector<std::byte> bytes;
  compile(*source, bytes);
  emit(bytes, {0xc3}); // ret
  auto const code = fmmap::or_throw(arena.allocate(bytes.size()));
  fmmap::or_throw(arena.write(code, bytes));
  return std::make_shared<function const>(function{.source = std::move(source), .code = code});
}

struct tally {
  std::uint64_t calls = 0;
  std::uint64_t wrong = 0;
};

void run_some(fmmap::code_arena const& arena, std::span<slot> slots, random_numbers& random, tally& count) {
  fmmap::code_arena::guard const running{arena}; // from here on nothing that can be seen is reclaimed
  for (int i = 0; i < 16; ++i) {
    auto const seen = slots[random() % slots.size()].load();
    auto const x = number{random()};
    count.wrong += seen->code.entry<number(number)>()(x) == interpret(*seen->source, x) ? 0 : 1;
    ++count.calls;
  }
}

// Compiles some formulas, publishes them at once, and retires those they replace.
void recompile_some(fmmap::code_arena& arena, std::span<slot> slots, random_numbers& random) {
  std::array<std::shared_ptr<function const>, 16> made;
  std::ranges::generate(made,
                        [&] { return compiled(arena, some_formula(random, 1 + static_cast<int>(random() % 4))); });
  fmmap::or_throw(arena.publish());
  for (auto& one : made) {
    auto const old = slots[random() % slots.size()].exchange(std::move(one));
    if (old != nullptr) {
      fmmap::or_throw(arena.retire(old->code));
    }
  }
}

auto run(int rounds) -> bool {
  auto arena = fmmap::or_throw(fmmap::code_arena::create());
  random_numbers random{1};
  std::vector<slot> slots(256);
  for (auto& each : slots) {
    each = compiled(arena, some_formula(random, 2));
  }
  fmmap::or_throw(arena.publish());

  std::array<tally, 4> tallies;
  {
    std::vector<std::jthread> callers;
    for (auto& count : tallies) {
      callers.emplace_back([&, mine = random_numbers{2 + callers.size()}](std::stop_token const& stop) mutable {
        while (!stop.stop_requested()) {
          run_some(arena, slots, mine, count);
        }
      });
    }
    for (int i = 0; i < rounds; ++i) {
      recompile_some(arena, slots, random);
    }
  }
  (void)fmmap::or_throw(arena.reclaim());

  std::uint64_t calls = 0;
  std::uint64_t wrong = 0;
  for (auto const& count : tallies) {
    calls += count.calls;
    wrong += count.wrong;
  }
  auto const now = arena.stats();
  std::printf("%d functions compiled while %zu threads made %llu calls: %llu wrong\n", 16 * rounds, tallies.size(),
              static_cast<unsigned long long>(calls), static_cast<unsigned long long>(wrong));
  std::printf("%zu functions are left, %zu wait to be reclaimed, %zu KiB of %zu are in use\n", now.functions,
              now.retired, now.used_bytes / 1024, now.reserved_bytes / 1024);
  return wrong == 0 && calls > 0 && now.functions == slots.size() && now.retired == 0;
}

} // namespace

auto main(int argc, char** argv) -> int {
  try {
    return run(argc > 1 ? std::stoi(argv[1]) : 1000) ? 0 : 1;
  } catch (std::exception const& why) {
    std::fprintf(stderr, "recompile: %s\n", why.what());
    return 1;
  }
}
