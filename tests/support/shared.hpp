// SPDX-License-Identifier: MIT OR Apache-2.0
#pragma once

#include <cstddef>
#include <new>

#include <sys/mman.h>

// An object in memory that a process shares with the children it forks. It begins as zeros would make it, and may be much
// larger than what is used of it.
template <class T>
class shared {
public:
  shared() {
    auto* const place =
        ::mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (place == MAP_FAILED) {
      throw std::bad_alloc{};
    }
    object_ = ::new (place) T;
  }
  shared(shared const&) = delete;
  auto operator=(shared const&) -> shared& = delete;
  ~shared() { ::munmap(object_, sizeof(T)); }

  auto operator->() const -> T* { return object_; }
  auto operator*() const -> T& { return *object_; }

private:
  T* object_;
};
