// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <memory>
#include <optional>

// Syncs that the kernel makes by itself, once it has been asked: io_uring. Implementation units only.
module fmmap.async:ring;

import fmmap.core;

namespace fmmap {

class ring {
public:
  static constexpr unsigned capacity = 64; // calls that may be under way at a time; more are not taken

  // Has the errno that the kernel or its administrator refuses it with, or ENOSYS where fmmap was built without liburing.
  [[nodiscard]] static auto make() -> result<std::unique_ptr<ring>>;

  ring(ring const&) = delete;
  auto operator=(ring const&) -> ring& = delete;
  virtual ~ring() = default;

  // What came of asking for a call.
  struct asked {
    bool is_made = false;    // the kernel has it, and `wait` will tell of it; or else:
    std::optional<int> code; // it is over, with that errno or 0; where there is none, it was not taken
  };

  // May block for milliseconds. Any thread, which has to be there until the call is over: the kernel gives up what it does
  // for threads that have ended.
  [[nodiscard]] virtual auto ask(sync_call const& what, void* tag) noexcept -> asked = 0;

  struct completed {
    void* tag;
    std::optional<int> code; // an errno, or 0; nothing where the kernel has given it up, unmade
  };

  // Waits for a call that is over; nothing once `close` was called and all are. One thread.
  [[nodiscard]] virtual auto wait() noexcept -> std::optional<completed> = 0;

  // No thread asks any more.
  virtual void close() noexcept = 0;

protected:
  ring() = default;
};

} // namespace fmmap
