// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <utility>

// What handles hold: a counted pointer to a type that only implementation units know. One word wide, and without a
// control block beside the object, which opening a file would pay for.
export module fmmap.core:counted;

namespace fmmap {

class open_file; // one open file description; defined in src/core/state.cppm
class region;    // a run of the address space; likewise

void retain(open_file& object) noexcept;
void retain(region& object) noexcept;
void release(open_file* object) noexcept; // destroys it with its last owner
void release(region* object) noexcept;

template <class T>
class counted {
public:
  counted() noexcept = default;

  // Takes over an owner that is counted already.
  inline explicit counted(T* object) noexcept : object_{object} {}

  inline counted(counted const& other) noexcept : object_{other.object_} {
    if (object_ != nullptr) {
      retain(*object_);
    }
  }
  inline counted(counted&& other) noexcept : object_{std::exchange(other.object_, nullptr)} {}
  inline auto operator=(counted other) noexcept -> counted& {
    std::swap(object_, other.object_);
    return *this;
  }
  inline ~counted() {
    if (object_ != nullptr) {
      release(object_);
    }
  }

  [[nodiscard]] inline auto get() const noexcept -> T* { return object_; }
  inline auto operator*() const noexcept -> T& { return *object_; }
  inline auto operator->() const noexcept -> T* { return object_; }
  inline explicit operator bool() const noexcept { return object_ != nullptr; }

private:
  T* object_ = nullptr;
};

} // namespace fmmap
