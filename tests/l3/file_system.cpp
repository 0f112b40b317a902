// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <unistd.h>

#include "support/mounts.hpp"

module fmmap.test.l3;

import :block_device;
import :block_log;
import :file_system;

namespace l3 {

disk_image::disk_image(file_system const& of) {
  auto const file = ::memfd_create("disk", 0); // open in the command, too
  if (file < 0 || ::ftruncate(file, static_cast<off_t>(of.size)) != 0) {
    problem_ = std::string{"no file in memory: "} + std::strerror(errno);
    return;
  }
  auto const command = "PATH=$PATH:/usr/sbin:/sbin; " + std::string{of.maker} + " /proc/self/fd/" +
                       std::to_string(file) + " >/dev/null 2>&1";
  if (std::system(command.c_str()) != 0) {
    problem_ = std::string{"no "} + of.type + ", for this fails: " + std::string{of.maker};
  } else if (auto* const place = ::mmap(nullptr, of.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file, 0);
             place == MAP_FAILED) {
    problem_ = std::string{"no memory for a disk: "} + std::strerror(errno);
  } else {
    bytes_ = {static_cast<std::byte*>(place), of.size};
  }
  ::close(file);
}

disk_image::~disk_image() {
  if (!bytes_.empty()) {
    ::munmap(bytes_.data(), bytes_.size());
  }
}

mounted::mounted(block_device const& device, file_system const& of, std::filesystem::path folder)
    : folder_{std::move(folder)}, problem_{device.problem()}, lacks_device_{true} {
  if (!problem_.empty()) {
    return;
  }
  loop_device const loop{device.path()};
  problem_ = loop.problem();
  if (problem_.empty()) {
    lacks_device_ = false;
    problem_ = mount_device(loop.name(), folder_, of.type);
  }
}

mounted::~mounted() {
  if (!problem_.empty()) {
    return;
  }
  for (int attempt = 0; attempt < 1000 && ::umount(folder_.c_str()) != 0; ++attempt) { // somebody who uses it is ending
    ::usleep(1000);
  }
}

namespace {

auto extents_of(std::filesystem::path const& path) -> std::vector<fiemap_extent> {
  constexpr unsigned most = 512;
  std::vector<std::uint64_t> buffer((sizeof(fiemap) + most * sizeof(fiemap_extent)) / sizeof(std::uint64_t));
  auto* const map = reinterpret_cast<fiemap*>(buffer.data());
  map->fm_length = FIEMAP_MAX_OFFSET;
  map->fm_extent_count = most;
  auto const file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  auto const is_told = file >= 0 && ::ioctl(file, FS_IOC_FIEMAP, map) == 0;
  ::close(file);
  if (!is_told) {
    return {};
  }
  std::span const found{map->fm_extents, map->fm_mapped_extents};
  return {found.begin(), found.end()};
}

} // namespace

auto extents_in(std::filesystem::path const& folder) -> std::vector<extent> {
  std::vector<extent> found;
  for (auto const& entry : std::filesystem::recursive_directory_iterator{folder}) {
    if (!entry.is_regular_file() || entry.is_symlink()) {
      continue;
    }
    for (auto const& one : extents_of(entry.path())) {
      if ((one.fe_flags & FIEMAP_EXTENT_UNKNOWN) == 0) {
        found.push_back({.offset = one.fe_physical, .length = one.fe_length});
      }
    }
  }
  return found;
}

auto shares_blocks(std::filesystem::path const& path) -> bool {
  return std::ranges::any_of(extents_of(path),
                             [](auto const& one) { return (one.fe_flags & FIEMAP_EXTENT_SHARED) != 0; });
}

namespace {

constexpr std::size_t sector = 512;
constexpr std::size_t block = 4096;

// Of btrfs: what its blocks and superblocks have behind their checksum, the name of the file system.
constexpr std::size_t btrfs_superblock = 65536;
constexpr std::size_t btrfs_mark_at = 32;
constexpr std::size_t btrfs_mark_bytes = 16;

} // namespace

tearing::tearing(file_system const& of, std::span<std::byte const> disk)
    : has_tree_{std::string_view{of.type} == "btrfs"},
      tree_mark_{disk.subspan(btrfs_superblock + btrfs_mark_at, btrfs_mark_bytes)} {}

void tearing::locate(std::span<std::byte const> extents) {
  extents_.resize(extents.size() / sizeof(extent));
  if (!extents.empty()) {
    std::memcpy(extents_.data(), extents.data(), extents.size());
  }
}

auto tearing::unit_at(std::uint64_t offset, bool is_tree) const -> std::size_t {
  if (has_tree_) {
    return is_tree ? block : sector;
  }
  return std::ranges::any_of(extents_,
                             [&](extent const& one) { return offset - one.offset < one.length; }) // also of offset less
             ? sector
             : block;
}

void tearing::keep_parts(piece const& write, std::function<bool()> const& keeps, std::vector<piece>& kept) const {
  auto const is_tree = write.bytes.size() >= block &&
                       std::ranges::equal(write.bytes.subspan(btrfs_mark_at, btrfs_mark_bytes), tree_mark_);
  for (std::size_t at = 0; at < write.bytes.size();) {
    auto const offset = write.offset + at;
    auto const unit = unit_at(offset / block * block, is_tree);
    auto const length = std::min<std::size_t>(write.bytes.size() - at, unit - (offset % unit));
    if (keeps()) {
      kept.push_back({.offset = offset, .bytes = write.bytes.subspan(at, length)});
    }
    at += length;
  }
}

} // namespace l3
