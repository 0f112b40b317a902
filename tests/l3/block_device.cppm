// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "support/companion.hpp"
#include "support/shared.hpp"

export module fmmap.test.l3:block_device;

import :block_log;

export namespace l3 {

// Bytes for a place on a device.
struct piece {
  std::uint64_t offset;
  std::span<std::byte const> bytes;
};

// Writes of these bytes, wherever they are in a block, are those that fail.
inline constexpr std::string_view failing_content = "<this is what the device cannot write>";

// Which of them fail, with EIO and without an effect: when `spared` more have been let through, `remaining` of them.
struct write_faults {
  std::atomic<std::uint64_t> spared;
  std::atomic<std::uint64_t> remaining;
  std::atomic<std::uint64_t> failed;
};

struct device_options {
  std::span<piece const> written = {}; // over the content, before it is served
  block_log* log = nullptr;
  write_faults* faults = nullptr;
};

// A file, as large as its content, that becomes a block device: a process of its own serves it (FUSE), from its own copy of
// the content, which ends with it. That process never touches what is mounted of it: it would wait for itself.
class block_device {
public:
  // Mounts itself over `folder`; after `own_mounts`.
  block_device(std::filesystem::path folder, std::span<std::byte> content, device_options const& options);
  block_device(block_device const&) = delete;
  auto operator=(block_device const&) -> block_device& = delete;
  // What is mounted of it has to be unmounted before.
  ~block_device();

  // Why there is none.
  [[nodiscard]] auto problem() const -> std::string const& { return problem_; }
  [[nodiscard]] auto path() const -> std::filesystem::path { return folder_ / "disk"; }

private:
  std::filesystem::path folder_;
  std::string problem_;
  std::unique_ptr<companion> server_;
};

} // namespace l3
