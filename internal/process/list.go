package process

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

// Processes reads the stat line of every process that this procfs shows.
func (p *Proc) Processes() ([]Stat, error) { return p.list() }

// Names lists a directory of the procfs ("1/fd"), without "." and "..".
func (p *Proc) Names(name string) ([]string, error) { return p.names(name) }

// Hidden says why Processes may leave some out, "" where it does not: hidepid=,
// proc(5). What is outside of the PID namespace is never shown; see Initial.
func (p *Proc) Hidden() string { return p.hidden() }

// InitialPIDNS is the inode number of the machine's own PID namespace,
// PROC_PID_INIT_INO of linux/proc_ns.h.
const InitialPIDNS = 0xEFFFFFFC

// Initial reports whether we are in the machine's own PID namespace, outside of
// which no process is.
func (p *Proc) Initial() bool { return p.pidNamespace(p.self) == InitialPIDNS }

// Gone reports whether err says that a process, or what it had open, is gone.
func Gone(err error) bool { return gone(err) }

// Inode is the identity of what the link name leads to ("1/fd/3"), as stat(2)
// gives it. A network file system is not asked anew where the kernel has
// statx(2).
func (p *Proc) Inode(name string) (dev, ino uint64, err error) {
	var sx linux.StatxT
	err = linux.Statx(p.fd, name, linux.AT_NO_AUTOMOUNT|linux.AT_STATX_DONT_SYNC, linux.STATX_INO, &sx)
	if err == nil {
		return linux.Makedev(sx.Dev_major, sx.Dev_minor), sx.Ino, nil
	}
	if errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.EPERM) { // before Linux 4.11, or a filter
		var st syscall.Stat_t
		err = linux.Fstatat(p.fd, name, linux.AT_NO_AUTOMOUNT, &st)
		dev, ino = uint64(st.Dev), st.Ino
	}
	if err != nil {
		return 0, 0, &fs.PathError{Op: "stat", Path: "/proc/" + name, Err: err}
	}
	return dev, ino, nil
}

// FDInfo is what the kernel tells of an open file in /proc/PID/fdinfo,
// proc_pid_fdinfo(5).
type FDInfo struct {
	MountID int
	Flags   int      // of open(2)
	Ino     uint64   // of the inode as the kernel counts it; 0 before Linux 5.14
	Locks   []string // the "lock:" lines, without that word
	// Unix says that it is a unix socket, Linux 5.6, and InFlight how many
	// descriptors lie in its queue, sent with SCM_RIGHTS and not received.
	Unix     bool
	InFlight int
}

// FDInfo reads /proc/PID/fdinfo/FD. pid is a number, "self", or what Lively gives.
func (p *Proc) FDInfo(pid string, fd int) (FDInfo, error) {
	name := pid + "/fdinfo/" + strconv.Itoa(fd)
	text, err := p.ReadRecord(name, make([]byte, 0, 1<<10))
	if err != nil {
		return FDInfo{}, err
	}
	return parseFDInfo(text, "/proc/"+name)
}

func parseFDInfo(text []byte, name string) (FDInfo, error) {
	var info FDInfo
	for line := range bytes.Lines(text) {
		key, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch string(key) {
		case "mnt_id":
			info.MountID, _ = strconv.Atoi(string(value))
		case "flags":
			flags, err := strconv.ParseInt(string(value), 8, 64)
			if err != nil {
				return FDInfo{}, fmt.Errorf("%s: flags: %w", name, err)
			}
			info.Flags = int(flags)
		case "ino":
			info.Ino, _ = strconv.ParseUint(string(value), 10, 64)
		case "lock":
			info.Locks = append(info.Locks, string(value))
		case "scm_fds":
			info.Unix = true
			info.InFlight, _ = strconv.Atoi(string(value))
		}
	}
	return info, nil
}
