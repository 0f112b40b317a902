// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

// What each thread keeps of an allocator for itself: a stack of blocks of every class, from which it allocates and to which it
// deallocates without a lock.
//
// They are owned by both: whichever of thread and allocator ends first hands them back. What a thread looks its magazines up
// by is the allocator's number, and no number is ever used again.
export module fmmap.alloc:magazines;

import :size_classes;

export namespace fmmap::alloc {

class allocator;

struct magazines {
  // Blocks of each class. Written by the owner alone; a fork finds each at a moment at which the slots below it are right.
  std::array<std::atomic<std::uint32_t>, class_count> counts{};
  std::array<std::size_t, magazine_begins[class_count]> slots;

  allocator* of = nullptr;
  magazines** owner = nullptr; // the list of the thread's, by which the thread is known
  magazines* next_of_allocator = nullptr;
  magazines* next_of_owner = nullptr;
  magazines** link_of_owner = nullptr; // what points to this one
};

struct known_magazines {
  std::uint64_t allocator; // its number, 0 of none
  magazines* of_it;
};

inline constexpr std::size_t known_count = 32;

// Numbers are of one copy of fmmap, of which a program may have several: hidden, for the dynamic linker would make one of all.
[[gnu::visibility("hidden")]] inline constinit thread_local std::array<known_magazines, known_count> known{};

} // namespace fmmap::alloc
