// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#define FUSE_USE_VERSION 31

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include <fuse.h>

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/companion.hpp"

module fmmap.test.l3;

import :block_device;
import :block_log;

namespace l3 {

namespace {

struct service {
  std::span<std::byte> content;
  block_log* log = nullptr;
  write_faults* faults = nullptr;

  void record(event what, std::uint64_t offset, std::uint64_t number, std::span<std::byte const> bytes = {}) const {
    if (log != nullptr) {
      log->append(what, offset, number, bytes);
    }
  }

  // The part of a range that is on the device.
  [[nodiscard]] auto part(off_t offset, std::size_t length) const -> std::span<std::byte> {
    auto const from = std::min(static_cast<std::size_t>(offset), content.size());
    return content.subspan(from, std::min(length, content.size() - from));
  }

  [[nodiscard]] auto fails(std::string_view bytes) const -> bool {
    if (faults == nullptr || faults->remaining == 0 || !bytes.contains(failing_content)) {
      return false;
    }
    if (faults->spared > 0) {
      --faults->spared;
      return false;
    }
    --faults->remaining;
    ++faults->failed;
    return true;
  }
};

auto the_service() -> service& { return *static_cast<service*>(::fuse_get_context()->private_data); }

auto is_root(char const* path) -> bool { return std::string_view{path} == "/"; }

auto get_attributes(char const* path, struct stat* status, fuse_file_info* /*open*/) -> int {
  status->st_mode = is_root(path) ? S_IFDIR | 0700 : S_IFREG | 0600;
  status->st_nlink = 1;
  status->st_size = is_root(path) ? 0 : static_cast<off_t>(the_service().content.size());
  return 0;
}

auto open_disk(char const* /*path*/, fuse_file_info* open) -> int {
  open->direct_io = 1; // the page cache would keep what a write has failed to write
  return 0;
}

auto read_disk(char const* /*path*/, char* to, std::size_t length, off_t offset, fuse_file_info* /*open*/) -> int {
  auto const bytes = the_service().part(offset, length);
  std::memcpy(to, bytes.data(), bytes.size());
  return static_cast<int>(bytes.size());
}

auto write_disk(char const* /*path*/, char const* from, std::size_t length, off_t offset, fuse_file_info* /*open*/)
    -> int {
  auto const& disk = the_service();
  auto const place = disk.part(offset, length);
  if (place.size() != length || disk.fails({from, length})) {
    return -EIO;
  }
  std::memcpy(place.data(), from, length);
  disk.record(event::written, static_cast<std::uint64_t>(offset), length, place);
  return static_cast<int>(length);
}

auto flush_disk(char const* /*path*/, int /*data_only*/, fuse_file_info* /*open*/) -> int {
  the_service().record(event::flushed, 0, 0);
  return 0;
}

auto discard(char const* /*path*/, int mode, off_t offset, off_t length, fuse_file_info* /*open*/) -> int {
  if ((mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) == 0) {
    return -EOPNOTSUPP;
  }
  auto const place = the_service().part(offset, static_cast<std::size_t>(length));
  std::memset(place.data(), 0, place.size());
  the_service().record(event::discarded, static_cast<std::uint64_t>(offset), place.size());
  return 0;
}

auto operations() -> fuse_operations {
  fuse_operations all{};
  all.getattr = get_attributes;
  all.open = open_disk;
  all.read = read_disk;
  all.write = write_disk;
  all.fsync = flush_disk;
  all.fallocate = discard;
  return all;
}

// Serves what is mounted already through this descriptor of /dev/fuse, until it is unmounted.
auto serve(int connection, service disk) -> int {
  ::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0); // its memory must not be made free by writing to itself
  char name[] = "disk";
  char* arguments[] = {name, nullptr};
  fuse_args parsed{.argc = 1, .argv = arguments, .allocated = 0};
  auto const all = operations();
  auto* const session = ::fuse_new(&parsed, &all, sizeof all, &disk);
  if (session == nullptr || ::fuse_mount(session, ("/dev/fd/" + std::to_string(connection)).c_str()) != 0) {
    return 1;
  }
  return ::fuse_loop(session);
}

} // namespace

block_device::block_device(std::filesystem::path folder, std::span<std::byte> content, device_options const& options)
    : folder_{std::move(folder)} {
  auto const connection = ::open("/dev/fuse", O_RDWR | O_CLOEXEC);
  if (connection < 0) {
    problem_ = std::string{"no /dev/fuse: "} + std::strerror(errno);
    return;
  }
  auto const how = "fd=" + std::to_string(connection) + ",rootmode=40000,user_id=0,group_id=0";
  if (::mount("disk", folder_.c_str(), "fuse", MS_NOSUID | MS_NODEV, how.c_str()) != 0) {
    problem_ = std::string{"no FUSE: "} + std::strerror(errno);
  } else {
    server_ = std::make_unique<companion>([&] {
      for (auto const& [offset, bytes] : options.written) {
        std::ranges::copy(bytes, content.begin() + static_cast<std::ptrdiff_t>(offset));
      }
      return serve(connection, {.content = content, .log = options.log, .faults = options.faults});
    });
  }
  ::close(connection);
}

block_device::~block_device() {
  if (server_) {
    ::umount2(folder_.c_str(), MNT_DETACH);
  }
}

} // namespace l3
