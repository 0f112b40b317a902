// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <filesystem>
#include <string_view>
#include <utility>

// The file of a heap while it is made. Where the file system knows files without a name it gets its own last, so that nothing
// that happens meanwhile leaves half a heap behind. Implementation units only.
module fmmap.pmr:new_heap_file;

import fmmap.core;
import fmmap.os;

namespace fmmap {

// Syncs the directory of the file, which somebody may have given its name without doing that.
[[nodiscard]] auto make_name_durable(std::filesystem::path const& path, os::descriptor of) -> result<void>;

class new_heap_file {
public:
  // Errors: `std::errc::file_exists`, and what the system reports.
  [[nodiscard]] static auto create(std::filesystem::path const& path, unsigned permissions) -> result<new_heap_file>;

  // Its file, for whoever fills it.
  [[nodiscard]] inline auto take() noexcept -> file&& { return std::move(made_); }

  // When it is complete. The name is durable then.
  [[nodiscard]] auto give_name(os::descriptor complete) -> result<void>;

  // When it is not to be.
  void remove();

private:
  new_heap_file(file made, std::filesystem::path path, bool is_named);

  [[nodiscard]] static auto wrap(result<file> made, std::filesystem::path const& path, bool is_named)
      -> result<new_heap_file>;

  file made_;
  std::filesystem::path path_;
  bool is_named_;
};

} // namespace fmmap
