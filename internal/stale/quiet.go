package stale

import (
	"slices"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/mounts"
)

// mayAsk reports whether the file system that a descriptor is of answers by itself, as
// the mount table that it is in says.
func (j *Judge) mayAsk(fd int, table []mounts.Mount) bool {
	id, err := j.proc.MountID(fd)
	return err == nil && j.answers(id, mounts.ByID(table, id), table)
}

// maxLinks is how many links a path may lead through, path_resolution(7).
const maxLinks = 40

// openQuietly opens a path with O_PATH below the root of a process, as "PID/root", or
// our own, "". table is the mount table there. No server is asked for a name and no
// automount triggered: what only a server could tell is EAGAIN.
func (j *Judge) openQuietly(root, path string, table []mounts.Mount) (int, error) {
	at, err := -1, error(nil)
	if root == "" {
		at, err = linux.Openat(linux.AT_FDCWD, "/", linux.O_PATH|linux.O_DIRECTORY, 0)
	} else {
		at, err = j.proc.OpenPath(root)
	}
	if err != nil {
		return -1, err
	}
	rel := strings.Trim(path, "/")
	if rel == "" {
		return at, nil
	}
	// What a layer is in use of is in the kernel's memory.
	fd, err := linux.Openat2(at, rel, linux.O_PATH, 0, linux.RESOLVE_CACHED|linux.RESOLVE_IN_ROOT|linux.RESOLVE_NO_MAGICLINKS)
	if err == nil {
		linux.Close(at)
		return fd, nil
	}
	w := stepper{judge: j, table: table, foreign: root != "", stack: []int{at}, todo: strings.Split(rel, "/")}
	defer w.close()
	for len(w.todo) > 0 {
		if err := w.step(); err != nil {
			return -1, err
		}
	}
	last := len(w.stack) - 1
	fd = w.stack[last]
	w.stack = w.stack[:last]
	return fd, nil
}

// stepper walks a path one name at a time, and stops where somebody would have to answer.
type stepper struct {
	judge   *Judge
	table   []mounts.Mount
	foreign bool
	stack   []int // the directories on the way, the root first
	todo    []string
	links   int
}

func (w *stepper) close() {
	for _, fd := range w.stack {
		linux.Close(fd)
	}
}

// asks reports whether a name may be looked up in fd. What another process calls "/" need
// not be what we run from.
func (w *stepper) asks(fd int) bool {
	if !w.foreign {
		return w.judge.mayAsk(fd, w.table)
	}
	id, err := w.judge.proc.MountID(fd)
	m := mounts.ByID(w.table, id)
	return err == nil && m != nil && mounts.Answers(m.FSType) && (m.Point == "/" || mounts.AnswersIn(w.table, m))
}

func (w *stepper) step() error {
	name := w.todo[0]
	w.todo = w.todo[1:]
	top := w.stack[len(w.stack)-1]
	switch name {
	case "", ".":
		return nil
	case "..":
		if len(w.stack) > 1 {
			w.stack = w.stack[:len(w.stack)-1]
			linux.Close(top)
		}
		return nil
	}
	if !w.asks(top) {
		return syscall.EAGAIN
	}
	fd, err := linux.Openat(top, name, linux.O_PATH|linux.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	w.stack = append(w.stack, fd)
	if !w.asks(fd) { // it may be the end of the path
		return nil
	}
	target, err := linux.Readlinkat(fd, "")
	if err != nil { // it is no link
		return nil
	}
	w.stack = w.stack[:len(w.stack)-1]
	linux.Close(fd)
	if w.links++; w.links > maxLinks {
		return syscall.ELOOP
	}
	if strings.HasPrefix(target, "/") {
		for _, fd := range w.stack[1:] {
			linux.Close(fd)
		}
		w.stack = w.stack[:1]
	}
	w.todo = slices.Concat(strings.Split(target, "/"), w.todo)
	return nil
}
