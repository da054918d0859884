"""seccomp: a program of our own in the kernel that looks at each system call and refuses those that a submission never needs.

Whatever code does to the world, it does through a system call: a number and six registers. A filter is a small program in BPF
("load the number; is it 59? then refuse"), which the kernel runs before each call and which cannot be taken off again. It binds
machine code as well as Python.

    refused      processes, programs, sockets, signals to others, other processes' memory, mounts and namespaces, keys, kernel
                 interfaces with a history of holes (bpf, io_uring, userfaultfd, perf), rights and times of files, links
    looked at    clone: threads only. kill, tgkill, prlimit: this process only. socketpair: a stream to itself only
    unknown      what is newer than this table does not exist here (ENOSYS), nor do calls of another machine's numbering

A filter sees registers, not what they point to: it cannot tell one path from another. landlock.py does that.

Sources: https://docs.kernel.org/userspace-api/seccomp_filter.html, and Docker's default profile for what to refuse.
"""

import ctypes
import errno
import os
import struct

ARCHITECTURES = {"x86_64": (0, 0xC000003E, 317), "aarch64": (1, 0xC00000B7, 277)}  # column below, AUDIT_ARCH, seccomp's number
NEWEST = 462  # mseal, Linux 6.10
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000, 0x80000000  # what a filter answers; REFUSE carries an errno
THREAD_SYNC = 1  # the filter binds threads that run already, too
CLONE_THREAD, AF_UNIX, SOCK_STREAM, F_SETOWN, F_SETOWN_EX = 0x10000, 1, 1, 8, 15

REFUSED = {  # name: (number on x86_64, on aarch64), or one number for both
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None),
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202), "accept4": (288, 242),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272), "pidfd_open": 434,
    "pidfd_getfd": 438, "pidfd_send_signal": 424, "process_madvise": 440, "process_mrelease": 448,
    "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "setpriority": (141, 140),
    "sched_setaffinity": (203, 122), "sched_setparam": (142, 118), "sched_setscheduler": (144, 119), "sched_setattr": (314, 274),
    "ioprio_set": (251, 30), "migrate_pages": (256, 238), "move_pages": (279, 239),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "mount_setattr": 442, "statmount": 457, "listmount": 458, "quotactl": (179, 60), "quotactl_fd": 443, "swapon": (167, 224),
    "swapoff": (168, 225), "acct": (163, 89), "reboot": (169, 142), "sethostname": (170, 161), "setdomainname": (171, 162),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "iopl": (172, None), "ioperm": (173, None), "modify_ldt": (154, None), "syslog": (103, 116),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171), "personality": (135, 92),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": 425, "io_uring_enter": 426,
    "io_uring_register": 427, "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "memfd_create": (319, 279),
    "memfd_secret": 447, "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "fanotify_init": (300, 262),
    "inotify_init": (253, None), "inotify_init1": (294, 26), "lookup_dcookie": (212, 18),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": 452, "chown": (92, None), "lchown": (94, None),
    "fchown": (93, 55), "fchownat": (260, 54), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "truncate": (76, 45), "mknod": (133, None), "mknodat": (259, 33),
    "symlink": (88, None), "symlinkat": (266, 36), "link": (86, None), "linkat": (265, 37),
    "shmget": (29, 194), "shmat": (30, 196), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180),
}  # fmt: skip
ABSENT = {"clone3": 435}  # its flags lie behind a pointer; without it the C library uses clone
LOOKED_AT = {"clone": (56, 220), "kill": (62, 129), "tgkill": (234, 131), "prlimit64": (302, 261), "socketpair": (53, 199),
             "fcntl": (72, 25)}  # fmt: skip

LOAD, EQUAL, ABOVE, ANY_BIT, RETURN, AND = 0x20, 0x15, 0x25, 0x45, 0x06, 0x54  # BPF: load a word; jumps; return; mask


def program(machine, pid):
    """Make the filter for a machine as packed instructions: (code, jump if true, jump if false, constant), 8 bytes each."""
    column, architecture, _ = ARCHITECTURES[machine]
    no, absent = (RETURN, 0, 0, REFUSE | errno.EPERM), (RETURN, 0, 0, REFUSE | errno.ENOSYS)
    yes, word = (RETURN, 0, 0, ALLOW), lambda position: (LOAD, 0, 0, 16 + 8 * position)  # the low half of an argument

    def number(entry):
        return entry[column] if isinstance(entry, tuple) else entry

    looks = {  # each block answers one call for good
        "clone": [word(0), (ANY_BIT, 1, 0, CLONE_THREAD), no, yes],
        "kill": [word(0), (EQUAL, 1, 0, pid), no, yes],
        "tgkill": [word(0), (EQUAL, 1, 0, pid), no, yes],
        "prlimit64": [word(0), (EQUAL, 2, 0, 0), (EQUAL, 1, 0, pid), no, yes],
        "socketpair": [word(0), (EQUAL, 0, 3, AF_UNIX), word(1), (AND, 0, 0, 15), (EQUAL, 1, 0, SOCK_STREAM), no, yes],
        "fcntl": [word(1), (EQUAL, 1, 0, F_SETOWN), (EQUAL, 0, 1, F_SETOWN_EX), no, yes],
    }
    code = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, architecture), (RETURN, 0, 0, KILL), (LOAD, 0, 0, 0), (ABOVE, 0, 1, NEWEST), absent]
    for name, entry in LOOKED_AT.items():
        code += [(EQUAL, 0, len(looks[name]), number(entry)), *looks[name]]
    for answer, table in ((no, REFUSED), (absent, ABSENT)):
        for entry in table.values():
            if number(entry) is not None:
                code += [(EQUAL, 0, 1, number(entry)), answer]
    return b"".join(struct.pack("=HBBI", *step) for step in [*code, yes])


def install(libc, machine=None):
    """Bind this process, all its threads and all that they start. It needs no_new_privs first. OSError where there is none."""
    machine = machine or os.uname().machine
    if machine not in ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no table of system calls for {machine}")
    code = program(machine, os.getpid())
    room = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(room))
    result = libc.syscall(ARCHITECTURES[machine][2], 1, THREAD_SYNC, header)
    if result != 0:
        raise OSError(ctypes.get_errno() or errno.EBUSY, "the kernel takes no seccomp filter")
