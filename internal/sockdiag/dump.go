package sockdiag

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/slashrun/slashrun/internal/linux"
)

// State is the state of a socket, which unix sockets share with TCP
// (include/net/tcp_states.h).
type State uint8

// The states that unix sockets have.
const (
	Established State = 1
	Closed      State = 7 // neither connected nor listening: bound only, or a datagram socket
	Listening   State = 10
)

// Socket is a unix socket of this network namespace.
type Socket struct {
	Type  uint8 // SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET
	State State
	Ino   uint32 // of the socket itself, as in "socket:[INO]"; not of the file
	// Name is the address: a path as it was given to bind(2), or an abstract name
	// behind a NUL byte; empty for an unbound socket.
	Name string
	// File is the inode that it is bound to, nil for abstract and unbound ones.
	File *File
	Peer uint32 // Ino of the other end, 0 without
	// Queue is how many connections wait to be accepted, or how many bytes wait to
	// be read; Backlog is how many connections may wait. They are of a listening
	// socket where Backlog is not 0.
	Queue, Backlog uint32
	// Waiting are the Inos of the sockets whose connections wait to be accepted; 0
	// stands for one that was closed meanwhile.
	Waiting []uint32
	// UID is the user who made it; Known from Linux 5.4 on.
	UID struct {
		ID    uint32
		Known bool
	}
}

// File is the inode that a socket is bound to, as far as the kernel tells.
type File struct {
	Major, Minor uint32 // of the superblock
	Ino          uint32 // the low 32 bits
}

// Is reports whether f may be the inode ino of the superblock major:minor. Two
// inodes that differ by a multiple of 2^32 look alike.
func (f *File) Is(major, minor uint32, ino uint64) bool {
	return f != nil && f.Major == major && f.Minor == minor && f.Ino == uint32(ino)
}

// Dump lists the unix sockets of this network namespace. An error is the
// kernel's: ENOENT where it has no unix_diag, EPERM or the like behind a filter.
func Dump() ([]Socket, error) {
	fd, err := linux.NetlinkSocket(linux.NETLINK_SOCK_DIAG, 5*time.Second)
	if err != nil {
		return nil, err
	}
	defer linux.Close(fd)
	const seq = 1
	if err := linux.NetlinkSend(fd, request(seq)); err != nil {
		return nil, err
	}
	var list []Socket
	buf := make([]byte, 64<<10)
	for {
		n, kernel, err := linux.NetlinkReceive(fd, buf)
		if err != nil {
			return nil, err
		}
		if !kernel {
			continue
		}
		var done bool
		if list, done, err = parse(list, buf[:n], seq); err != nil || done {
			return list, err
		}
	}
}

// DumpIn is Dump in the network namespace behind fd, a descriptor of
// /proc/PID/ns/net or of a file that it is mounted on. A thread of its own goes
// there, and ends. It takes CAP_SYS_ADMIN over that namespace and our own: EPERM
// without.
func DumpIn(fd int) (list []Socket, err error) {
	err = linux.OnThread(0, func() (err error) {
		if err = linux.Setns(fd, syscall.CLONE_NEWNET); err == nil {
			list, err = Dump()
		}
		return err
	})
	return list, err
}

// Layouts of linux/netlink.h, linux/unix_diag.h.
const (
	headerSize = 16 // struct nlmsghdr: u32 len, u16 type, u16 flags, u32 seq, u32 pid
	msgSize    = 16 // struct unix_diag_msg: u8 family, type, state, pad; u32 ino; u32 cookie[2]

	attrName  = 0
	attrVFS   = 1
	attrPeer  = 2
	attrIcons = 3
	attrRQLen = 4
	attrUID   = 7

	showName, showVFS, showPeer, showIcons, showRQLen, showUID = 1, 2, 4, 8, 16, 64
)

// request is a struct nlmsghdr and a struct unix_diag_req.
func request(seq uint32) []byte {
	b := make([]byte, headerSize+24)
	e := binary.NativeEndian
	e.PutUint32(b[0:], uint32(len(b)))
	e.PutUint16(b[4:], linux.SOCK_DIAG_BY_FAMILY)
	e.PutUint16(b[6:], linux.NLM_F_REQUEST|linux.NLM_F_DUMP)
	e.PutUint32(b[8:], seq)
	b[16] = syscall.AF_UNIX
	e.PutUint32(b[20:], ^uint32(0)) // all states
	e.PutUint32(b[28:], showName|showVFS|showPeer|showIcons|showRQLen|showUID)
	return b
}

// ErrMessage means that the kernel's answer cannot be understood.
var ErrMessage = errors.New("sock_diag: malformed message")

// parse reads the messages of one datagram, appends the sockets, and reports
// whether the dump is complete.
func parse(list []Socket, b []byte, seq uint32) ([]Socket, bool, error) {
	e := binary.NativeEndian
	for len(b) >= headerSize {
		size := int(e.Uint32(b))
		if size < headerSize || size > len(b) {
			return nil, false, fmt.Errorf("%w: a length of %d in %d bytes", ErrMessage, size, len(b))
		}
		kind, body := e.Uint16(b[4:]), b[headerSize:size]
		if e.Uint32(b[8:]) == seq {
			switch kind {
			case linux.NLMSG_DONE:
				return list, true, nil
			case linux.NLMSG_ERROR:
				if len(body) < 4 {
					return nil, false, ErrMessage
				}
				if errno := int32(e.Uint32(body)); errno < 0 && errno > -4096 {
					return nil, false, fmt.Errorf("sock_diag: %w", syscall.Errno(-errno))
				}
				return nil, false, fmt.Errorf("%w: an error without a number", ErrMessage)
			case linux.SOCK_DIAG_BY_FAMILY:
				s, err := parseSocket(body)
				if err != nil {
					return nil, false, err
				}
				list = append(list, s)
			}
		}
		b = b[min(len(b), (size+3)&^3):]
	}
	return list, false, nil
}

func parseSocket(b []byte) (Socket, error) {
	if len(b) < msgSize || b[0] != syscall.AF_UNIX {
		return Socket{}, fmt.Errorf("%w: no unix socket in %d bytes", ErrMessage, len(b))
	}
	e := binary.NativeEndian
	s := Socket{Type: b[1], State: State(b[2]), Ino: e.Uint32(b[4:])}
	for b = b[msgSize:]; len(b) >= 4; {
		size, kind := int(e.Uint16(b)), e.Uint16(b[2:])
		if size < 4 || size > len(b) {
			return Socket{}, fmt.Errorf("%w: an attribute of %d in %d bytes", ErrMessage, size, len(b))
		}
		switch v := b[4:size]; {
		case kind == attrName:
			s.Name = string(v)
			if len(v) > 0 && v[0] != 0 { // a path, with the NUL byte that bind(2) was given or not
				s.Name = strings.TrimRight(s.Name, "\x00")
			}
		case kind == attrVFS && len(v) >= 8:
			dev := e.Uint32(v[4:]) // the kernel's own dev_t: 12 bits of major, 20 of minor
			s.File = &File{Ino: e.Uint32(v), Major: dev >> 20, Minor: dev & (1<<20 - 1)}
		case kind == attrPeer && len(v) >= 4:
			s.Peer = e.Uint32(v)
		case kind == attrIcons:
			for ; len(v) >= 4; v = v[4:] {
				s.Waiting = append(s.Waiting, e.Uint32(v))
			}
		case kind == attrUID && len(v) >= 4:
			s.UID.ID, s.UID.Known = e.Uint32(v), true
		case kind == attrRQLen && len(v) >= 8:
			s.Queue = e.Uint32(v)
			if s.State == Listening {
				s.Backlog = e.Uint32(v[4:])
			}
		}
		b = b[min(len(b), (size+3)&^3):]
	}
	return s, nil
}
