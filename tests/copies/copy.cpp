// SPDX-License-Identifier: MIT OR Apache-2.0

// What a part of a program does that has a copy of fmmap: it makes objects once, and uses them and new ones before a fork, in
// the child, and in the parent afterwards.
#include <array>
#include <cstddef>
#include <expected>
#include <memory>
#include <memory_resource>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

import fmmap;

namespace {

// mov eax, 42; ret
constexpr std::array return_42{std::byte{0xb8}, std::byte{42}, std::byte{0},
                               std::byte{0},    std::byte{0},  std::byte{0xc3}};

#ifdef __x86_64__
constexpr bool is_x86_64 = true;
#else
constexpr bool is_x86_64 = false;
#endif

struct objects {
  fmmap::file file = fmmap::or_throw(fmmap::file::in_memory("locked"));
  fmmap::file_lock lock = fmmap::or_throw(fmmap::file_lock::create(file));
  std::unique_ptr<fmmap::mapped_resource> memory = fmmap::or_throw(fmmap::mapped_resource::anonymous());
  fmmap::code_arena arena = fmmap::or_throw(fmmap::code_arena::create());
  fmmap::stack_pool stacks = fmmap::or_throw(fmmap::stack_pool::create({.capacity = 100}));
};

void check(bool holds, std::string_view what) {
  if (!holds) {
    throw std::runtime_error{std::string{what}};
  }
}

void use_memory_and_stacks(objects& of) {
  std::pmr::vector<int> many{of.memory.get()};
  std::vector<fmmap::stack> taken;
  for (int i = 0; i < 100; ++i) {
    std::pmr::vector<int> few({1, 2, i}, of.memory.get());
    many.insert(many.end(), few.begin(), few.end());
    taken.push_back(fmmap::or_throw(of.stacks.allocate()));
    *(taken.back().top() - 1) = static_cast<std::byte>(i);
  }
  for (int i = 0; i < 100; ++i) {
    auto const at = static_cast<std::size_t>(i);
    check(many[(3 * at) + 2] == i, "memory of a resource is somebody else's");
    check(*(taken[at].top() - 1) == static_cast<std::byte>(i), "a stack is somebody else's");
  }
}

void use_all(objects& of) {
  {
    std::unique_lock const held{of.lock};
  }
  use_memory_and_stacks(of);
  std::thread{[&] { use_memory_and_stacks(of); }}.join();
  auto const function = fmmap::or_throw(of.arena.allocate(return_42.size()));
  fmmap::or_throw(of.arena.write(function, return_42));
  fmmap::or_throw(of.arena.publish());
  if constexpr (is_x86_64) {
    check(function.entry<int()>()() == 42, "code is somebody else's");
  }
  fmmap::or_throw(of.arena.retire(function));
}

} // namespace

// Returns what is wrong, or null.
extern "C" auto FMMAP_USE(bool in_child) noexcept -> char const* {
  static std::string wrong;
  try {
    static objects kept;
    {
      objects fresh;
      use_all(fresh);
    }
    // Last, so that the thread has some of their memory and stacks for itself when another copy goes on.
    if (in_child) {
      auto const locked = kept.lock.try_acquire(fmmap::lock_mode::shared);
      check(!locked && locked.error() == fmmap::errc::forked, "a lock has come along into a child");
      auto const published = kept.arena.publish();
      check(!published && published.error() == fmmap::errc::forked, "an arena has come along into a child");
      use_memory_and_stacks(kept);
    } else {
      use_all(kept);
    }
    return nullptr;
  } catch (std::exception const& e) {
    wrong = e.what();
    return wrong.c_str();
  }
}
