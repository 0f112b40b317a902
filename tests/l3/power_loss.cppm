// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <set>
#include <string>
#include <utility>

export module fmmap.test.l3:power_loss;

import :block_log;
import :file_system;

export namespace l3 {

// The states of a workload are numbered: from the one that it was last promised to the one that it was last on its way to, any
// may be what a power failure leaves.
struct progress {
  std::uint64_t acknowledged = 0;
  std::uint64_t started = 0;
};

// What a workload says to the log while it runs.
class marks {
public:
  marks(std::filesystem::path folder, block_log& log) : folder_{std::move(folder)}, log_{log} {}

  void started(std::uint64_t state) const { log_.append(event::started, 0, state); }

  // Nothing that comes before the first of these is lost.
  void acknowledged(std::uint64_t state) const;

private:
  std::filesystem::path folder_;
  block_log& log_;
};

struct workload {
  std::string name;
  std::function<void(std::filesystem::path const& folder, marks const& says)> body;
  // The state that is in the folder, as a text that is another for each; throws when it is none that may be.
  std::function<std::string(std::filesystem::path const& folder, progress const& reached)> state;
};

struct report {
  std::string name;
  std::size_t images = 0;
  std::set<std::string> states = {};
  std::set<std::uint64_t> acknowledged = {};
  std::size_t bad = 0;
  std::size_t skipped = 0;     // for want of a device
  std::size_t unmountable = 0; // to the file system itself
  std::size_t writes = 0;
  std::size_t flushes = 0;
  std::chrono::milliseconds spent{0};
  std::string first = {}; // of what is bad
};

[[nodiscard]] auto to_string(report const& of) -> std::string;

struct effort {
  std::size_t images;
  bool until_one_is_bad = false;
};

// Runs the workload once on a new file system, in a process of its own, and then looks at what is there after power has failed
// at some moments, each an image: all that was written before a flush, and of what was written since, a part, in parts. Half of
// the moments are those right after something was promised. To be called where `isolate` has been.
[[nodiscard]] auto lose_power(workload const& of, file_system const& on, effort const& spent, unsigned seed) -> report;

// Why this machine has no such file systems; nothing when it has. For a process that does nothing else from here on and is
// forked by another: it gets mounts that nobody else sees, and ends with its parent. They go with the last process that has
// them, so that none is left whoever is killed.
[[nodiscard]] auto isolate() -> std::string;

// Where those mounts are, for what is not done by `lose_power`.
[[nodiscard]] auto device_folder() -> std::filesystem::path;
[[nodiscard]] auto mount_folder() -> std::filesystem::path;

} // namespace l3
