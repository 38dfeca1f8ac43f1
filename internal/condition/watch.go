package condition

import (
	"errors"
	"strconv"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

// interest is an event that makes a condition worth another look: something
// happens to the entry name of the watched directory, or for an empty name to the
// watched inode itself.
type interest struct {
	wd   int32
	name string
}

// watches is one inotify instance for all conditions. The loop alone uses table;
// add may be called from everywhere.
type watches struct {
	fd    int // -1 without
	table map[int32]map[string][]*waiting
	buf   []byte
}

// open makes the instance. Without one it can be called again.
func (w *watches) open() (err error) {
	w.fd, err = linux.InotifyInit()
	if err != nil {
		w.fd = -1
		return err
	}
	w.table = map[int32]map[string][]*waiting{}
	return nil
}

func (w *watches) close() {
	if w.fd >= 0 {
		linux.Close(w.fd)
		w.fd = -1
	}
}

// What is watched: of a directory the coming and going of entries, and its own.
const (
	dirEvents  = linux.IN_CREATE | linux.IN_DELETE | linux.IN_MOVED_FROM | linux.IN_MOVED_TO | linux.IN_DELETE_SELF | linux.IN_MOVE_SELF
	fileEvents = linux.IN_DELETE_SELF | linux.IN_MOVE_SELF
)

var errNoInotify = errors.New("no inotify instance")

// add watches the inode that fd holds, an O_PATH descriptor. instance is the
// watches' descriptor.
func addWatch(instance, fd int, mask uint32) (int32, error) {
	if instance < 0 {
		return 0, errNoInotify
	}
	// IN_MASK_ADD: what other conditions watch of this inode stays.
	wd, err := linux.InotifyAddWatch(instance, "/proc/self/fd/"+strconv.Itoa(fd), mask|linux.IN_MASK_ADD)
	if errors.Is(err, syscall.ENOENT) && mask&dirEvents == dirEvents { // no /proc
		err = linux.InDirectory(fd, func() (err error) {
			wd, err = linux.InotifyAddWatch(instance, ".", mask|linux.IN_MASK_ADD)
			return err
		})
	}
	return wd, err
}

// set makes list what c is interested in, in the place of what it was. Watches that
// nobody is interested in any more are removed.
func (w *watches) set(c *waiting, list []interest) {
	if w.fd < 0 {
		return
	}
	for _, i := range list {
		names := w.table[i.wd]
		if names == nil {
			names = map[string][]*waiting{}
			w.table[i.wd] = names
		}
		if !contains(names[i.name], c) {
			names[i.name] = append(names[i.name], c)
		}
	}
	for _, old := range c.interests {
		if !wanted(list, old) {
			w.drop(c, old)
		}
	}
	c.interests = list
}

func (w *watches) drop(c *waiting, i interest) {
	names := w.table[i.wd]
	if names == nil {
		return
	}
	kept := names[i.name][:0]
	for _, o := range names[i.name] {
		if o != c {
			kept = append(kept, o)
		}
	}
	if names[i.name] = kept; len(kept) > 0 {
		return
	}
	if delete(names, i.name); len(names) == 0 {
		delete(w.table, i.wd)
		linux.InotifyRemoveWatch(w.fd, i.wd) // EINVAL where the inode is gone
	}
}

func contains(list []*waiting, c *waiting) bool {
	for _, o := range list {
		if o == c {
			return true
		}
	}
	return false
}

func wanted(list []interest, i interest) bool {
	for _, o := range list {
		if o == i {
			return true
		}
	}
	return false
}

// maxRead bounds how many events one turn of the loop reads.
const maxRead = 4

// read takes the events that are there. overflow says that some were lost.
func (w *watches) read(list []linux.InotifyEvent) (_ []linux.InotifyEvent, overflow bool) {
	if w.buf == nil {
		w.buf = make([]byte, 16<<10)
	}
	for range maxRead {
		n, err := linux.Read(w.fd, w.buf)
		if err != nil || n == 0 {
			break // EAGAIN
		}
		list = linux.InotifyEvents(list, w.buf[:n])
		if n < len(w.buf)/2 {
			break
		}
	}
	for _, e := range list {
		overflow = overflow || e.Mask&linux.IN_Q_OVERFLOW != 0
	}
	return list, overflow
}

// meant calls f for each condition that the event is about.
func (w *watches) meant(e linux.InotifyEvent, f func(*waiting)) {
	names := w.table[e.WD]
	if e.Mask&linux.IN_IGNORED != 0 { // the watch is gone: whoever relied on it must look
		delete(w.table, e.WD)
		for _, list := range names {
			for _, c := range list {
				f(c)
			}
		}
		return
	}
	for _, c := range names[e.Name] {
		f(c)
	}
}
