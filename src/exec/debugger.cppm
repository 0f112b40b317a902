// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <map>
#include <memory>
#include <string>

// What is published as a debugger sees it, by the JIT interface of GDB. Implementation units only.
module fmmap.exec:debugger;

namespace fmmap {

// The functions of an arena among all that a debugger is told of in a process: each is an object file in memory with one symbol.
// Hidden, as `os::at_fork` wants it.
class [[gnu::visibility("hidden")]] debugger {
public:
  debugger();
  debugger(debugger const&) = delete;
  auto operator=(debugger const&) -> debugger& = delete;
  ~debugger();

  // Makes what `tell` tells, which cannot fail.
  void add(std::byte const* address, std::size_t size, std::string const& name);
  void discard() noexcept;
  void tell() noexcept;

  void remove(std::byte const* address) noexcept;

  // Around a fork, so that a child has the list as a whole.
  static void lock() noexcept;
  static void unlock() noexcept;

private:
  class image;

  std::map<std::byte const*, std::unique_ptr<image>> added_;
  std::map<std::byte const*, std::unique_ptr<image>> told_;
};

} // namespace fmmap
