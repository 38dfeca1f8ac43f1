package linux

import (
	"encoding/binary"
	"syscall"

	"golang.org/x/sys/unix"
)

// Events and flags of inotify(7).
const (
	IN_MODIFY        = unix.IN_MODIFY
	IN_ATTRIB        = unix.IN_ATTRIB
	IN_CLOSE_WRITE   = unix.IN_CLOSE_WRITE
	IN_CLOSE_NOWRITE = unix.IN_CLOSE_NOWRITE
	IN_MOVED_FROM    = unix.IN_MOVED_FROM
	IN_MOVED_TO      = unix.IN_MOVED_TO
	IN_CREATE        = unix.IN_CREATE
	IN_DELETE        = unix.IN_DELETE
	IN_DELETE_SELF   = unix.IN_DELETE_SELF
	IN_MOVE_SELF     = unix.IN_MOVE_SELF
	IN_UNMOUNT       = unix.IN_UNMOUNT
	IN_Q_OVERFLOW    = unix.IN_Q_OVERFLOW
	IN_IGNORED       = unix.IN_IGNORED
	IN_ONLYDIR       = unix.IN_ONLYDIR
	IN_DONT_FOLLOW   = unix.IN_DONT_FOLLOW
	IN_MASK_ADD      = unix.IN_MASK_ADD
)

// InotifyInit is inotify_init1(2), non-blocking and close-on-exec. EMFILE means
// that the process has no descriptor left, or the user no instance
// (fs.inotify.max_user_instances).
func InotifyInit() (int, error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	return fd, wrap("inotify_init1", err)
}

// InotifyAddWatch is inotify_add_watch(2): the watch of the inode that path leads
// to, the same one each time. ENOSPC means that the user has no watch left
// (fs.inotify.max_user_watches).
func InotifyAddWatch(fd int, path string, mask uint32) (wd int32, err error) {
	err = retry(func() error {
		n, err := unix.InotifyAddWatch(fd, path, mask)
		wd = int32(n)
		return err
	})
	return wd, wrap("inotify_add_watch", err)
}

// InotifyRemoveWatch is inotify_rm_watch(2). EINVAL: the kernel has removed it, as
// it does when the inode goes.
func InotifyRemoveWatch(fd int, wd int32) error {
	_, err := unix.InotifyRmWatch(fd, uint32(wd))
	return wrap("inotify_rm_watch", err)
}

// InotifyEvent is a struct inotify_event. Name is empty for an event of the watched
// inode itself.
type InotifyEvent struct {
	WD   int32 // -1 for IN_Q_OVERFLOW
	Mask uint32
	Name string
}

// InotifyEvents appends the events in what was read from an inotify descriptor.
func InotifyEvents(list []InotifyEvent, b []byte) []InotifyEvent {
	e := binary.NativeEndian
	for len(b) >= unix.SizeofInotifyEvent { // wd, mask, cookie, len; then the name, padded with NUL
		size := int(e.Uint32(b[12:]))
		if size > len(b)-unix.SizeofInotifyEvent {
			return list // the kernel gives whole events
		}
		name := b[unix.SizeofInotifyEvent : unix.SizeofInotifyEvent+size]
		for len(name) > 0 && name[len(name)-1] == 0 {
			name = name[:len(name)-1]
		}
		list = append(list, InotifyEvent{WD: int32(e.Uint32(b)), Mask: e.Uint32(b[4:]), Name: string(name)})
		b = b[unix.SizeofInotifyEvent+size:]
	}
	return list
}

// PollFd is struct pollfd of poll(2).
type PollFd = unix.PollFd

// Events of poll(2).
const (
	POLLIN  = unix.POLLIN
	POLLOUT = unix.POLLOUT
	POLLPRI = unix.POLLPRI
	POLLERR = unix.POLLERR
	POLLHUP = unix.POLLHUP
)

// Poll is ppoll(2) for ns nanoseconds, or without an end for a negative ns. It
// returns 0 after a signal, too: whoever waits until a point in time looks at the
// clock in any case.
func Poll(fds []PollFd, ns int64) (ready int, err error) {
	var ts *unix.Timespec
	if ns >= 0 {
		t := unix.NsecToTimespec(ns)
		ts = &t
	}
	n, err := unix.Ppoll(fds, ts, nil)
	if err == syscall.EINTR {
		return 0, nil
	}
	return n, wrap("ppoll", err)
}

// Eventfd is eventfd(2), non-blocking and close-on-exec, with the count 0.
func Eventfd() (int, error) {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	return fd, wrap("eventfd", err)
}

// EventfdAdd makes an eventfd readable.
func EventfdAdd(fd int) error {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, err := Write(fd, one[:])
	return err
}

// EventfdReset takes the count of an eventfd; one that is not readable is EAGAIN.
func EventfdReset(fd int) error {
	var count [8]byte
	_, err := Read(fd, count[:])
	return err
}
