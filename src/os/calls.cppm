// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <string_view>

export module fmmap.os:calls;

export namespace fmmap::os {

// What a system call gave: its value, or the errno it failed with.
template <class T>
using outcome = std::expected<T, int>;

// Makes a system call again as long as a signal interrupts it.
template <class Call>
[[gnu::always_inline]] inline auto retry(Call call) {
  while (true) {
    auto outcome = call();
    if (outcome || outcome.error() != EINTR) [[likely]] {
      return outcome;
    }
  }
}

// The system calls of the seam, by the names of their manual pages.
enum class call : unsigned char {
  openat,
  openat2,
  close,
  fstat,
  fstatat,
  fstatfs,
  fcntl,
  ioctl,
  ftruncate,
  fchmod,
  fchown,
  fallocate,
  lseek,
  copy_file_range,
  read,
  pread,
  write,
  pwrite,
  pwritev2,
  fsync,
  fdatasync,
  syncfs,
  sync_file_range,
  readlinkat,
  linkat,
  renameat,
  renameat2,
  unlinkat,
  flock,
  memfd_create,
  mmap,
  mremap,
  munmap,
  mprotect,
  madvise,
  msync,
  mincore,
  mlock,
  munlock,
  getrlimit,
  cachestat,
  poll,
  sigaction,
  statx,
  getdents64,
  timer_create,
  timer_settime,
  timer_delete,
  pthread_sigmask,
  clock_nanosleep,
  sched_yield,
  userfaultfd,
  uname,
  posix_fadvise,
  membarrier,
  io_uring_setup,
  io_uring_enter,
};

inline constexpr std::array<std::string_view, 57> call_names{
    "openat",         "openat2",        "close",           "fstat",           "fstatat",
    "fstatfs",        "fcntl",          "ioctl",           "ftruncate",       "fchmod",
    "fchown",         "fallocate",      "lseek",           "copy_file_range", "read",
    "pread",          "write",          "pwrite",          "pwritev2",        "fsync",
    "fdatasync",      "syncfs",         "sync_file_range", "readlinkat",      "linkat",
    "renameat",       "renameat2",      "unlinkat",        "flock",           "memfd_create",
    "mmap",           "mremap",         "munmap",          "mprotect",        "madvise",
    "msync",          "mincore",        "mlock",           "munlock",         "getrlimit",
    "cachestat",      "poll",           "sigaction",       "statx",           "getdents64",
    "timer_create",   "timer_settime",  "timer_delete",    "pthread_sigmask", "clock_nanosleep",
    "sched_yield",    "userfaultfd",    "uname",           "posix_fadvise",   "membarrier",
    "io_uring_setup", "io_uring_enter",
};
static_assert(!call_names.back().empty());

// Whether a call may wait for a device, for memory to be written back, or for somebody else: such a call is not made on a thread
// that must not block. The others ask the kernel for what it knows, or change its tables.
constexpr auto may_block(call c) noexcept -> bool {
  switch (c) {
  case call::mmap:
  case call::mremap:
  case call::mprotect:
  case call::mincore:
  case call::getrlimit:
  case call::cachestat:
  case call::sigaction:
  case call::timer_create:
  case call::timer_settime:
  case call::timer_delete:
  case call::pthread_sigmask:
  case call::sched_yield:
  case call::userfaultfd:
  case call::uname:
  case call::membarrier:
  case call::io_uring_setup:
    return false;
  default:
    return true;
  }
}

// What a call makes durable: a file, a part of it, or a range of memory.
struct subject {
  int descriptor = -1;
  std::uint64_t offset = 0;
  void const* address = nullptr;
  std::size_t length = 0; // bytes
};

constexpr auto name_of(call c) noexcept -> std::string_view { return call_names[static_cast<std::size_t>(c)]; }

} // namespace fmmap::os
