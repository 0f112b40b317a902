// SPDX-License-Identifier: MIT OR Apache-2.0
//
// What a program does that calls the system itself: the peer of most rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support.hpp"

namespace raw {

// The flags fmmap opens with.
inline constexpr int open_flags = O_CLOEXEC | O_NOCTTY | O_NONBLOCK | O_NOFOLLOW;

inline auto size_of(int file) -> std::size_t {
  struct stat status{};
  bench::checked(::fstat(file, &status), "fstat");
  return static_cast<std::size_t>(status.st_size);
}

// A file, mapped for reading, until the end of the scope.
class mapped_file {
public:
  explicit mapped_file(char const* path)
      : file_{bench::checked(::open(path, O_RDONLY | open_flags), "open")},
        size_{size_of(file_)},
        data_{::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file_, 0)} {
    bench::checked(reinterpret_cast<std::intptr_t>(data_), "mmap");
  }
  mapped_file(mapped_file const&) = delete;
  auto operator=(mapped_file const&) -> mapped_file& = delete;
  ~mapped_file() {
    ::munmap(data_, size_);
    ::close(file_);
  }

  [[nodiscard]] auto bytes() const -> std::span<std::byte const> {
    return {static_cast<std::byte const*>(data_), size_};
  }

private:
  int file_;
  std::size_t size_;
  void* data_;
};

// A new file with `reserved` bytes of address space mapped over it for writing, past its end too.
class growing_file {
public:
  growing_file(char const* path, std::size_t reserved)
      : file_{bench::checked(::open(path, O_RDWR | O_CREAT | O_TRUNC | open_flags, 0600), "open")},
        reserved_{reserved},
        data_{::mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_SHARED, file_, 0)} {
    bench::checked(reinterpret_cast<std::intptr_t>(data_), "mmap");
  }
  growing_file(growing_file const&) = delete;
  auto operator=(growing_file const&) -> growing_file& = delete;
  ~growing_file() {
    ::munmap(data_, reserved_);
    ::close(file_);
  }

  [[nodiscard]] auto descriptor() const -> int { return file_; }
  [[nodiscard]] auto data() const -> std::byte* { return static_cast<std::byte*>(data_); }

private:
  int file_;
  std::size_t reserved_;
  void* data_;
};

} // namespace raw
