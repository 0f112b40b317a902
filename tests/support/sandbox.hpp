// SPDX-License-Identifier: MIT OR Apache-2.0
#pragma once

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

// For good, in a child: system calls that containers forbid.

namespace sandbox {

inline constexpr unsigned pagemap_scan_request = 0xc060'6610; // PAGEMAP_SCAN

inline void install(std::span<sock_filter> program) {
  sock_fprog const filter{.len = static_cast<unsigned short>(program.size()), .filter = program.data()};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) {
    throw std::runtime_error("seccomp");
  }
}

inline constexpr auto number = static_cast<std::uint32_t>(offsetof(seccomp_data, nr));

constexpr auto refuse(int error) -> sock_filter {
  return BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<std::uint32_t>(error));
}

// Makes userfaultfd(2) fail with EPERM, as the default filters of containers do, and PAGEMAP_SCAN with ENOTTY where asked.
inline void install_filter(bool without_scan) {
  constexpr auto request = static_cast<std::uint32_t>(offsetof(seccomp_data, args) + sizeof(std::uint64_t));
  std::array program{
      sock_filter BPF_STMT(BPF_LD | BPF_W | BPF_ABS, number),
      sock_filter BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 0, 1),
      refuse(EPERM),
      sock_filter BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 3),
      sock_filter BPF_STMT(BPF_LD | BPF_W | BPF_ABS, request),
      sock_filter BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, without_scan ? pagemap_scan_request : 0, 0, 1),
      refuse(ENOTTY),
      sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  install(program);
}

} // namespace sandbox

inline void forbid_userfaultfd() { sandbox::install_filter(false); }

inline void forbid_userfaultfd_and_scans() { sandbox::install_filter(true); }

// A call of the system by its number, with EPERM.
inline void forbid_call(std::uint32_t call) {
  std::array program{
      sock_filter BPF_STMT(BPF_LD | BPF_W | BPF_ABS, sandbox::number),
      sock_filter BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
      sandbox::refuse(EPERM),
      sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sandbox::install(program);
}
