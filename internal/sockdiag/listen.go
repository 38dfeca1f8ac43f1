package sockdiag

import (
	"errors"
	"io/fs"
	"strconv"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

// Reception is what a connection to a socket file would meet.
type Reception uint8

// The receptions.
const (
	Nobody    Reception = iota // nothing is bound: connection refused
	BoundOnly                  // a stream or seqpacket socket is bound and does not listen, or its reading side is shut down: connection refused
	Listens                    // it listens, and there is room for a connection
	Full                       // it listens, and no more connections may wait to be accepted
	Datagram                   // a datagram socket is bound: there is nothing to accept
	Paired                     // a datagram socket is bound that talks to another peer alone
)

// Greet finds out what a connection to the socket file that fd holds, an O_PATH
// descriptor, would meet, and makes none: whoever listens does not wake. The
// package documentation says how. It needs write permission on the socket file,
// else the error is EACCES; ErrNeedsProc without /proc.
func Greet(fd int) (Reception, error) {
	r, err := greet("/proc/self/fd/" + strconv.Itoa(fd))
	if errors.Is(err, fs.ErrNotExist) {
		return Nobody, ErrNeedsProc
	}
	return r, err
}

// GreetName is Greet for what bind(2) was given: a path of at most 107 bytes, or
// "@" and an abstract name, for which BoundOnly is not told from Nobody.
func GreetName(name string) (Reception, error) { return greet(name) }

func greet(name string) (Reception, error) {
	switch err := linux.ProbeUnixSocket(name); {
	case err == nil:
		return Datagram, nil
	case errors.Is(err, syscall.EPERM): // unix_may_send; or a security module, which the others will tell
		return paired(name)
	case errors.Is(err, syscall.EAGAIN):
		return Datagram, nil
	case errors.Is(err, syscall.ECONNREFUSED) && !Abstract(name):
		return Nobody, nil
	case errors.Is(err, syscall.ECONNREFUSED):
		return abstract(name)
	case !errors.Is(err, syscall.EPROTOTYPE):
		return Nobody, err
	}
	for _, typ := range []int{syscall.SOCK_STREAM, syscall.SOCK_SEQPACKET} {
		r, err := knock(name, typ)
		if !errors.Is(err, syscall.EPROTOTYPE) {
			return r, err
		}
	}
	return Nobody, syscall.EPROTOTYPE
}

// abstract asks for the types that remain. An abstract name belongs to a type, and
// another socket may have the same name in another.
func abstract(name string) (Reception, error) {
	for _, typ := range []int{syscall.SOCK_STREAM, syscall.SOCK_SEQPACKET} {
		if r, err := knock(name, typ); err != nil || r != BoundOnly {
			return r, err
		}
	}
	return Nobody, nil // or bound and not listening, which looks the same
}

// knock connects a socket that is connected already. The kernel looks whether the
// other one listens, and whether its queue has room, before it finds out that ours
// can take no connection (unix_stream_connect), and has told nobody by then.
func knock(name string, typ int) (Reception, error) {
	a, b, err := linux.UnixPair(typ)
	if err != nil {
		return Nobody, err
	}
	defer linux.Close(a)
	defer linux.Close(b)
	switch err := linux.ConnectUnix(a, name); {
	case errors.Is(err, syscall.EISCONN), errors.Is(err, syscall.EINVAL):
		return Listens, nil
	case errors.Is(err, syscall.EAGAIN):
		return Full, nil
	case errors.Is(err, syscall.ECONNREFUSED):
		return BoundOnly, nil
	case err == nil:
		return Nobody, errors.New("a socket that is connected was connected again")
	default:
		return Nobody, err
	}
}

// paired tells a datagram socket that has another peer from a call that is denied:
// to the latter a socket of another type is denied as well.
func paired(name string) (Reception, error) {
	if r, err := knock(name, syscall.SOCK_STREAM); !errors.Is(err, syscall.EPROTOTYPE) {
		return r, err
	}
	return Paired, nil
}

// Abstract reports whether name is an abstract name in the notation with "@".
func Abstract(name string) bool { return strings.HasPrefix(name, "@") }
