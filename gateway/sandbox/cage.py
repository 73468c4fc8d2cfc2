"""Runs inside the sandbox, as a script of the bare standard library: supervises one command and reports its end.

Protocol, over the socket on fd 0: the runner sends one JSON line, the order; the command's process answers "started";
when it ended we send {"exit_code": int, "note": str}. The runner's end closing (it timed out, was cancelled, died) ends
the command. All that is left of the command is dead when this script has exited: as the first process of a pid
namespace by the kernel's doing, otherwise because it is the reaper of every orphan below it.

The order: cmd, cwd, env, hostname, memory_mb, pids, file_mb, uid and gid (null: stay who we are), and readable: the
paths to show in namespaces of our own (null: something else has built the walls already, or nothing can).
"""

import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
from typing import Any, NoReturn

POLL_SECONDS = 0.1
OPEN_FILES = 1024
NICENESS = 5
MIB = 1 << 20

# From linux/sched.h, linux/mount.h, linux/prctl.h; Python 3.11 has none of them.
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
CLONE_THE_REST = 0x02000000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000  # cgroup, uts, ipc, pid, net
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 2, 4, 8, 4096, 16384, 1 << 18, 2
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, AT_FDCWD, AT_RECURSIVE, SYS_MOUNT_SETATTR = 1, 2, -100, 0x8000, 442
PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 4, 36, 38
SIOCSIFFLAGS, IFF_UP = 0x8914, 1

libc = ctypes.CDLL(None, use_errno=True)


def call(function: Any, *arguments: Any) -> None:
    """A system call of libc; raises OSError."""
    encoded = [item.encode() if isinstance(item, str) else item for item in arguments]
    if function(*encoded) < 0:
        raise OSError(ctypes.get_errno(), f"{os.strerror(ctypes.get_errno())}: {function.__name__}{arguments[:2]}")


def main() -> None:
    """Takes the order and carries it out."""
    control = socket.socket(fileno=0)
    with control.makefile("rb") as lines:
        order = json.loads(lines.readline())
    if order["readable"] is not None:
        try:
            enter_namespaces()
            build_root(order)
        except OSError as error:
            sys.exit(f"cannot build its walls: {error}")
    supervise(order, control)


def enter_namespaces() -> None:
    """Returns as the first process of new namespaces; the process that called waits for that one and ends as it did."""
    uid, gid = os.geteuid(), os.getegid()
    call(libc.unshare, CLONE_NEWNS | CLONE_THE_REST | (CLONE_NEWUSER if uid else 0))
    if uid:
        for name, line in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(line)
    if first := os.fork():
        os._exit(os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) & 0xFF)
    with socket.socket() as anything:
        fcntl.ioctl(anything, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def build_root(order: dict[str, Any]) -> None:
    """Moves into a root of our own that holds the readable paths, the work folder and nothing else."""
    os.umask(0o022)
    socket.sethostname(order["hostname"])
    call(libc.mount, None, "/", None, MS_REC | MS_PRIVATE, None)
    devices = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"]
    # Opened first: the new root is mounted over /tmp, which may hold some of them.
    shown = {path: os.open(path, os.O_PATH) for path in [*order["readable"], *devices] if not os.path.islink(path)}
    links = {path: os.readlink(path) for path in order["readable"] if os.path.islink(path)}
    work = os.open(order["cwd"], os.O_PATH)
    call(libc.mount, "tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    for path in ("/tmp/proc", "/tmp/tmp", "/tmp/dev/shm"):
        os.makedirs(path)
    call(libc.mount, "proc", "/tmp/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, None)
    for path in ("/tmp/tmp", "/tmp/dev/shm"):
        call(libc.mount, "tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, f"mode=1777,size={order['file_mb']}m")
    for path, target in links.items():
        os.makedirs(os.path.dirname("/tmp" + path), exist_ok=True)
        os.symlink(target, "/tmp" + path)
    for path, source in shown.items():
        show(source, "/tmp" + path, read_only=path not in devices)
    show(work, "/tmp" + order["cwd"], read_only=False)
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        os.symlink("/proc/self/fd" + target, "/tmp/dev/" + name)
    restrict("/tmp", recursively=False)
    os.chdir("/tmp")
    call(libc.pivot_root, ".", ".")
    call(libc.umount2, ".", MNT_DETACH)
    os.closerange(3, OPEN_FILES)


def show(source: int, target: str, *, read_only: bool) -> None:
    """Binds what the descriptor `source` refers to on `target`, which is made."""
    if os.path.isdir(f"/proc/self/fd/{source}"):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        open(target, "x").close()
    call(libc.mount, f"/proc/self/fd/{source}", target, None, MS_BIND | MS_REC, None)
    if read_only:
        restrict(target, recursively=True)


def restrict(target: str, *, recursively: bool) -> None:
    """Makes a mount read-only. mount_setattr only adds flags; a remount would have to repeat those that are locked."""
    attributes = struct.pack("QQQQ", MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, 0, 0, 0)
    flags = AT_RECURSIVE if recursively else 0
    call(libc.syscall, SYS_MOUNT_SETATTR, AT_FDCWD, target, flags, attributes, ctypes.c_size_t(len(attributes)))


def supervise(order: dict[str, Any], control: socket.socket) -> NoReturn:
    """Runs the command, ends it when it takes too much memory or nobody waits any more, and reports."""
    call(libc.prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    threads_before = sum(int(status["Threads"]) for status in processes().values() if owner(status) == tenant(order))
    command = os.fork()
    if command == 0:
        become(order, threads_before)
    # So that the command, where it runs under our uid, cannot trace us or open what we have open.
    call(libc.prctl, PR_SET_DUMPABLE, 0, 0, 0, 0)
    watch = select.poll()
    watch.register(os.pidfd_open(command), select.POLLIN)
    watch.register(control, select.POLLIN)
    note, waited = "", 0
    while not waited:
        ready = [descriptor for descriptor, _ in watch.poll(POLL_SECONDS * 1000)]
        used = memory_bytes()
        if control.fileno() in ready:
            break
        if used > order["memory_mb"] * MIB:
            note = f"killed: {used // MIB} MiB of memory in use, the limit is {order['memory_mb']} MiB"
            break
        waited, result = os.waitpid(command, os.WNOHANG)
        reap(but=command)
    code = os.waitstatus_to_exitcode(result) if waited else -signal.SIGKILL
    if os.getpid() != 1:
        end_descendants()
    report = {"exit_code": code if code >= 0 else 128 - code, "note": note}
    if control.fileno() not in ready:
        control.sendall(json.dumps(report).encode())
    os._exit(0)


def become(order: dict[str, Any], threads_before: int) -> NoReturn:
    """Turns this process into the command: its own session, its limits, its user, no way to more privileges."""
    try:
        os.setsid()
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
        os.nice(NICENESS)
        os.umask(0o022)
        for limit, value in (
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_NOFILE, OPEN_FILES),
            (resource.RLIMIT_FSIZE, order["file_mb"] * MIB),
            (resource.RLIMIT_DATA, order["memory_mb"] * MIB),
            (resource.RLIMIT_NPROC, threads_before + order["pids"]),
        ):
            _, hard = resource.getrlimit(limit)
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(limit, (value, value))
        if order["uid"] is not None:
            os.setgroups([])
            os.setresgid(order["gid"], order["gid"], order["gid"])
            os.setresuid(order["uid"], order["uid"], order["uid"])
        call(libc.prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        os.chdir(order["cwd"])
        os.write(0, b"started\n")
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        # Python ignores these two, and ignored signals survive exec: `yes | head` would not end.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        os.execve("/bin/sh", ["/bin/sh", "-c", order["cmd"]], order["env"])
    except OSError as error:
        os.write(2, f"cannot start the command: {error}\n".encode())
    os._exit(126)


def tenant(order: dict[str, Any]) -> int:
    """The uid that the command runs as."""
    uid: int | None = order["uid"]
    return os.geteuid() if uid is None else uid


def processes() -> dict[int, dict[str, str]]:
    """The status file of every process we can see."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/status", errors="replace") as file:
                found[int(name)] = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended since it was listed
    return found


def owner(status: dict[str, str]) -> int:
    """The real uid in a status file."""
    return int(status["Uid"].split()[0])


def descendants() -> dict[int, dict[str, str]]:
    """Every process below this one."""
    every = processes()
    children: dict[int, list[int]] = {}
    for pid, status in every.items():
        children.setdefault(int(status["PPid"]), []).append(pid)
    below, found = [os.getpid()], {}
    while below:
        for pid in children.get(below.pop(), []):
            found[pid] = every[pid]
            below.append(pid)
    return found


def memory_bytes() -> int:
    """What the processes below us hold that no file backs. Pages shared after a fork count once for each holder."""
    held = (status.get(key, "0 kB") for status in descendants().values() for key in ("RssAnon", "RssShmem"))
    return sum(int(size.split()[0]) * 1024 for size in held)


def reap(*, but: int) -> None:
    """Takes the orphans that ended; the command itself is waited for elsewhere."""
    for pid, status in descendants().items():
        if pid != but and status["State"].startswith("Z") and int(status["PPid"]) == os.getpid():
            os.waitpid(pid, os.WNOHANG)


def end_descendants() -> None:
    """Kills all below us. Stopped first, to the last one: a stopped process holds its place under RLIMIT_NPROC, so that
    a fork bomb runs out of places; a killed one would make room for the next."""
    while True:
        stopped: set[int] = set()
        while fresh := descendants().keys() - stopped:
            for pid in fresh:
                signalled(pid, signal.SIGSTOP)
            stopped |= fresh
        if not stopped:
            return
        for pid in stopped:
            signalled(pid, signal.SIGKILL)
        for pid in stopped:
            try:
                os.waitpid(pid, 0)
            except ChildProcessError:
                continue  # not our child yet: it is handed to us when its parent is gone, and the next round takes it


def signalled(pid: int, number: int) -> None:
    """Sends the signal, if the process still exists."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    main()
