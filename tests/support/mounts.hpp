// SPDX-License-Identifier: MIT OR Apache-2.0
#pragma once

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include <fcntl.h>
#include <linux/loop.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <unistd.h>

#include "support/process.hpp"

// Gives this process, a forked child, mounts of its own: as an ordinary user by way of a user namespace. Says why not when
// the system refuses.
inline auto own_mounts() -> std::string {
  auto const user = ::getuid();
  auto const group = ::getgid();
  auto const root = ::geteuid() == 0;
  if (::unshare(root ? CLONE_NEWNS : CLONE_NEWNS | CLONE_NEWUSER) != 0) {
    return std::string{"no mount namespace: "} + std::strerror(errno);
  }
  if (!root) {
    std::ofstream{"/proc/self/setgroups"} << "deny";
    std::ofstream{"/proc/self/uid_map"} << "0 " << user << " 1";
    std::ofstream{"/proc/self/gid_map"} << "0 " << group << " 1";
  }
  if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    return std::string{"no private mounts: "} + std::strerror(errno);
  }
  return {};
}

// A small file system in memory over `folder`, after `own_mounts`.
inline auto mount_tmpfs(std::filesystem::path const& folder, char const* options) -> std::string {
  if (::mount("none", folder.c_str(), "tmpfs", 0, options) != 0) {
    return std::string{"no tmpfs: "} + std::strerror(errno);
  }
  return {};
}

// A file as a block device, which goes with its last user. Needs root.
class loop_device {
public:
  explicit loop_device(std::filesystem::path const& image) {
    auto const control = ::open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    if (control < 0) {
      problem_ = std::string{"no loop devices: "} + std::strerror(errno);
      return;
    }
    auto const backing = ::open(image.c_str(), O_RDWR | O_CLOEXEC);
    problem_ = "no free loop device";
    for (int attempt = 0; attempt < 20 && device_ < 0; ++attempt) { // somebody else may take the free one first
      name_ = "/dev/loop" + std::to_string(::ioctl(control, LOOP_CTL_GET_FREE));
      take(backing);
    }
    ::close(backing);
    ::close(control);
  }
  loop_device(loop_device const&) = delete;
  auto operator=(loop_device const&) -> loop_device& = delete;
  ~loop_device() { ::close(device_); }

  // Why there is none.
  [[nodiscard]] auto problem() const -> std::string const& { return problem_; }
  [[nodiscard]] auto name() const -> std::string const& { return name_; }

private:
  void take(int backing) {
    device_ = ::open(name_.c_str(), O_RDWR | O_CLOEXEC);
    if (device_ < 0) {
      return;
    }
    if (::ioctl(device_, LOOP_SET_FD, backing) != 0) {
      problem_ = std::string{"no loop device: "} + std::strerror(errno);
      ::close(device_);
      device_ = -1;
      return;
    }
    problem_.clear();
    loop_info64 info{};
    info.lo_flags = LO_FLAGS_AUTOCLEAR;
    ::ioctl(device_, LOOP_SET_STATUS64, &info);
  }

  int device_ = -1;
  std::string name_;
  std::string problem_;
};

// The file system of that type on a device, mounted over `folder` after `own_mounts`.
inline auto mount_device(std::string const& device, std::filesystem::path const& folder, char const* type)
    -> std::string {
  if (::mount(device.c_str(), folder.c_str(), type, 0, nullptr) != 0) {
    return std::string{"no "} + type + ": " + std::strerror(errno);
  }
  return {};
}

// The ext4 in the file `image`, mounted over `folder` after `own_mounts`, as root.
inline auto mount_image(std::filesystem::path const& image, std::filesystem::path const& folder) -> std::string {
  loop_device const device{image};
  return device.problem().empty() ? mount_device(device.name(), folder, "ext4") : device.problem();
}

// The same with a new small ext4 of `size` bytes.
inline auto mount_ext4(std::filesystem::path const& image, std::filesystem::path const& folder, std::uintmax_t size)
    -> std::string {
  if (::geteuid() != 0) {
    return "a loop device needs root";
  }
  std::ofstream{image};
  std::filesystem::resize_file(image, size);
  if (std::system(("PATH=$PATH:/usr/sbin:/sbin; mkfs.ext4 -q -F -m 0 -b 1024 -I 128 -O ^has_journal '" +
                   image.string() + "' >/dev/null 2>&1")
                      .c_str()) != 0) {
    return "no mkfs.ext4";
  }
  return mount_image(image, folder);
}
