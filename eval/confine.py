"""Takes from the running process all that a computation does not need: files to write, the network, other processes.

A seccomp filter lets through the system calls named here and refuses all others, by the kernel, without any privilege
and for good: nothing the process does later, and no thread it starts, can lift it. Linux on x86-64 and arm64.
"""

import ctypes
import errno
import os
import struct

# Numbers on (x86-64, arm64); None where there is no such call. From the kernel's syscall tables.
HARMLESS = {
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67), "close": (3, 57),
    "lseek": (8, 62), "fstat": (5, 80), "stat": (4, None), "lstat": (6, None), "newfstatat": (262, 79),
    "statx": (332, 291), "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439),
    "readlink": (89, None), "readlinkat": (267, 78), "getcwd": (79, 17), "getdents64": (217, 61),
    "fadvise64": (221, 223), "mmap": (9, 222), "munmap": (11, 215), "mprotect": (10, 226), "mremap": (25, 216),
    "madvise": (28, 233), "brk": (12, 214), "futex": (202, 98), "set_robust_list": (273, 99), "rseq": (334, 293),
    "set_tid_address": (218, 96), "arch_prctl": (158, None), "membarrier": (324, 283), "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123), "getcpu": (309, 168), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139), "sigaltstack": (131, 132), "restart_syscall": (219, 128), "getpid": (39, 172),
    "getppid": (110, 173), "gettid": (186, 178), "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176),
    "getegid": (108, 177), "uname": (63, 160), "sysinfo": (99, 179), "times": (100, 153), "getrusage": (98, 165),
    "getrlimit": (97, 163), "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101), "gettimeofday": (96, 169), "time": (201, None), "getitimer": (36, 102),
    "setitimer": (38, 103), "alarm": (37, None), "pause": (34, None), "poll": (7, None), "ppoll": (271, 73),
    "select": (23, None), "pselect6": (270, 72), "pipe": (22, None), "pipe2": (293, 59), "dup": (32, 23),
    "dup2": (33, None), "dup3": (292, 24), "getrandom": (318, 278), "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip
CHECKED = {
    "open": (2, None), "openat": (257, 56), "clone": (56, 220), "fcntl": (72, 25), "ioctl": (16, 29),
    "prctl": (157, 167), "tgkill": (234, 131), "prlimit64": (302, 261),
}  # fmt: skip
PRETENDED = {"setrlimit": (160, 164)}  # programs raise their stack limit; they may believe they have
MISSING = {"clone3": (435, 435)}  # its flags cannot be looked at; the C library then takes clone
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH_*

# Of openat: O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_APPEND, O_TMPFILE
WRITES = 0o1 | 0o2 | 0o100 | 0o1000 | 0o2000 | 0o20000000
CLONE_THREAD, CLONE_NEWUSER = 0x10000, 0x10000000
ALL_BITS = 0xFFFFFFFF
FCNTLS = (0, 1, 2, 3, 4, 1030)  # F_DUPFD to F_SETFL, F_DUPFD_CLOEXEC; F_SETOWN would signal other processes
IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # is it a terminal, its size, bytes to read, close on exec
PRCTLS = (15, 16)  # the thread's name

PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 4, 22, 38, 2
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000, 0x80000000  # SECCOMP_RET_*; REFUSE carries an errno
LOAD, AND, IF_EQUAL, RETURN = 0x20, 0x54, 0x15, 0x06  # BPF_LD|BPF_W|BPF_ABS, BPF_ALU|BPF_AND, BPF_JMP|BPF_JEQ, BPF_RET
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; both machines are little-endian
CAPABILITY_VERSION_3 = 0x20080522

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant


def confine() -> None:
    """From here on this process reads files and computes. Raises OSError where the kernel or the machine cannot."""
    system, _, _, _, machine = os.uname()
    if system != "Linux" or machine not in ARCHITECTURES:
        raise OSError(f"no system call filter for {system} on {machine}")
    program = b"".join(struct.pack("<HBBI", *i) for i in instructions(machine, os.getpid()))
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    # Without capabilities, and in a user namespace of its own, a process sees into no other one's memory. Where the
    # system forbids the namespace the filter still holds.
    libc.unshare(CLONE_NEWUSER)
    _check(libc.capset(struct.pack("<II", CAPABILITY_VERSION_3, 0), bytes(24)), "capset")
    for arguments in ((PR_SET_DUMPABLE, 0), (PR_SET_NO_NEW_PRIVS, 1), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, head)):
        padded = (*arguments, *[0] * (5 - len(arguments)))
        _check(libc.prctl(*(a if isinstance(a, bytes) else ctypes.c_ulong(a) for a in padded)), "seccomp")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def instructions(machine: str, pid: int) -> list[Instruction]:
    """The filter: one comparison a system call, the frequent ones first."""
    column, architecture = ARCHITECTURES[machine]
    rules = [(LOAD, 0, 0, ARCHITECTURE), (IF_EQUAL, 1, 0, architecture), (RETURN, 0, 0, KILL), (LOAD, 0, 0, NUMBER)]

    def add(numbers: tuple[int | None, int], *then: Instruction) -> None:
        if numbers[column] is not None:
            rules.extend([(IF_EQUAL, 0, len(then), numbers[column]), *then])

    for numbers in HARMLESS.values():
        add(numbers, (RETURN, 0, 0, ALLOW))
    for name, argument, bits, allowed, otherwise in (
        ("open", 1, WRITES, (0,), errno.EACCES),
        ("openat", 2, WRITES, (0,), errno.EACCES),
        ("clone", 0, CLONE_THREAD, (CLONE_THREAD,), errno.EPERM),
        ("fcntl", 1, ALL_BITS, FCNTLS, errno.EPERM),
        ("ioctl", 1, ALL_BITS, IOCTLS, errno.ENOTTY),
        ("prctl", 0, ALL_BITS, PRCTLS, errno.EPERM),
        ("tgkill", 0, ALL_BITS, (pid,), errno.EPERM),
        ("prlimit64", 2, ALL_BITS, (0,), 0),  # reading limits; setting them is pretended
    ):
        then = [(LOAD, 0, 0, FIRST_ARGUMENT + 8 * argument), (AND, 0, 0, bits)]
        for value in allowed:
            then += [(IF_EQUAL, 0, 1, value), (RETURN, 0, 0, ALLOW)]
        add(CHECKED[name], *then, (RETURN, 0, 0, REFUSE | otherwise))
    for numbers in PRETENDED.values():
        add(numbers, (RETURN, 0, 0, REFUSE))
    for numbers in MISSING.values():
        add(numbers, (RETURN, 0, 0, REFUSE | errno.ENOSYS))
    return [*rules, (RETURN, 0, 0, REFUSE | errno.EPERM)]
