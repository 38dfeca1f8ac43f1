package condition

import (
	"errors"
	"slices"
	"strconv"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

// interest is an event that makes a condition worth another look: something
// happens to the entry name of the watched directory, or for an empty name to the
// watched inode itself. mask says what: an inode has one watch for all, and what
// one condition's look does (it opens and closes a PID file) may be what another one
// watches for.
type interest struct {
	wd   int32
	name string
	mask uint32
}

// always is what every watch tells of, asked or not.
const always = linux.IN_IGNORED | linux.IN_UNMOUNT

// in reports whether e is what i waits for.
func (i interest) in(e linux.InotifyEvent) bool {
	return e.WD == i.wd && (e.Mask&always != 0 || e.Name == i.name && e.Mask&i.mask != 0)
}

// watcher is a condition with what it waits for.
type watcher struct {
	c    *waiting
	mask uint32
}

// watches is one inotify instance for all conditions. The loop alone uses table;
// add may be called from everywhere.
type watches struct {
	fd    int // -1 without
	table map[int32]map[string][]watcher
	buf   []byte
}

// open makes the instance. Without one it can be called again.
func (w *watches) open() (err error) {
	w.fd, err = linux.InotifyInit()
	if err != nil {
		w.fd = -1
		return err
	}
	w.table = map[int32]map[string][]watcher{}
	return nil
}

func (w *watches) close() {
	if w.fd >= 0 {
		linux.Close(w.fd)
		w.fd = -1
	}
}

// What is watched of a directory: that entries go and are exchanged, and that it does
// itself. That entries come is watched only for one that is not there: where many
// files are made, as in /tmp, each would wake us.
const (
	leaving  = linux.IN_DELETE | linux.IN_MOVED_FROM | linux.IN_MOVED_TO | linux.IN_DELETE_SELF | linux.IN_MOVE_SELF
	arriving = linux.IN_CREATE
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
	if errors.Is(err, syscall.ENOENT) && mask&(linux.IN_CREATE|linux.IN_DELETE) != 0 { // a directory, and no /proc
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
			names = map[string][]watcher{}
			w.table[i.wd] = names
		}
		if v := (watcher{c, i.mask}); !slices.Contains(names[i.name], v) {
			names[i.name] = append(names[i.name], v)
		}
	}
	for _, old := range c.interests {
		if !slices.Contains(list, old) {
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
	kept := slices.DeleteFunc(names[i.name], func(v watcher) bool { return v == watcher{c, i.mask} })
	if names[i.name] = kept; len(kept) > 0 {
		return
	}
	if delete(names, i.name); len(names) == 0 {
		delete(w.table, i.wd)
		linux.InotifyRemoveWatch(w.fd, i.wd) // EINVAL where the inode is gone
	}
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
	}
	if e.Mask&always == 0 {
		names = map[string][]watcher{e.Name: names[e.Name]}
	}
	for name, list := range names {
		for _, v := range list {
			if (interest{e.WD, name, v.mask}).in(e) {
				f(v.c)
			}
		}
	}
}
