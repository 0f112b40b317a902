// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

export module fmmap.test.l3:file_system;

import :block_device;
import :block_log;

export namespace l3 {

// One that keeps its files on a block device.
struct file_system {
  char const* type;
  std::size_t size;       // of the device, in bytes
  std::string_view maker; // the command, less the name of the device
  bool shares_blocks;     // between copies of a file
};

inline constexpr std::array file_systems{
    file_system{.type = "ext4",
                .size = std::size_t{64} << 20,
                .maker = "mkfs.ext4 -q -F -m 0 -b 4096 -E lazy_itable_init=0,lazy_journal_init=0",
                .shares_blocks = false},
    file_system{.type = "xfs",
                .size = std::size_t{320} << 20, // the smallest that mkfs.xfs makes has 300
                .maker = "mkfs.xfs -q -f -m reflink=1",
                .shares_blocks = true},
    file_system{.type = "btrfs", .size = std::size_t{128} << 20, .maker = "mkfs.btrfs -q -f", .shares_blocks = true},
};

// The content of a device with a new and empty file system, in memory.
class disk_image {
public:
  explicit disk_image(file_system const& of);
  disk_image(disk_image const&) = delete;
  auto operator=(disk_image const&) -> disk_image& = delete;
  ~disk_image();

  // Why there is none.
  [[nodiscard]] auto problem() const -> std::string const& { return problem_; }
  [[nodiscard]] auto bytes() const -> std::span<std::byte> { return bytes_; }

private:
  std::span<std::byte> bytes_;
  std::string problem_;
};

// A file system while it is mounted.
class mounted {
public:
  mounted(block_device const& device, file_system const& of, std::filesystem::path folder);
  mounted(mounted const&) = delete;
  auto operator=(mounted const&) -> mounted& = delete;
  ~mounted();

  // Why it is not, and whether that was for want of a device to mount.
  [[nodiscard]] auto problem() const -> std::string const& { return problem_; }
  [[nodiscard]] auto lacks_device() const -> bool { return lacks_device_; }
  [[nodiscard]] auto folder() const -> std::filesystem::path const& { return folder_; }

private:
  std::filesystem::path folder_;
  std::string problem_;
  bool lacks_device_ = false;
};

// Where on its device a file system has the content of the files in a folder, as far as it tells.
[[nodiscard]] auto extents_in(std::filesystem::path const& folder) -> std::vector<extent>;

// Whether a file has blocks that are another's, too.
[[nodiscard]] auto shares_blocks(std::filesystem::path const& path) -> bool;

// Which parts of a write a device may keep without the others: sectors of 512 bytes where the content of files is, and blocks
// of 4096 elsewhere, which is what file systems count on for their own structures.
class tearing {
public:
  tearing(file_system const& of, std::span<std::byte const> disk);

  // From now on the content of files lies there.
  void locate(std::span<std::byte const> extents);

  // Adds the parts of a write that `keeps` chooses to what is to be on the disk.
  void keep_parts(piece const& write, std::function<bool()> const& keeps, std::vector<piece>& kept) const;

private:
  [[nodiscard]] auto unit_at(std::uint64_t offset, bool is_tree) const -> std::size_t;

  std::vector<extent> extents_;
  bool has_tree_;                        // btrfs, which does not tell where on the device something is
  std::span<std::byte const> tree_mark_; // but has this in every block of its own
};

} // namespace l3
