package fuser

import (
	"errors"
	"io/fs"
	"strconv"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/mounts"
	"github.com/slashrun/slashrun/internal/process"
)

// asksAll reports whether every look at an inode asks its file system: without
// statx(2), which has AT_STATX_DONT_SYNC.
func asksAll() bool {
	var sx linux.StatxT
	err := linux.Statx(linux.AT_FDCWD, "/", linux.AT_STATX_DONT_SYNC, linux.STATX_INO, &sx)
	return errors.Is(err, syscall.ENOSYS) || errors.Is(err, fs.ErrPermission)
}

// mayAsk reports whether what a link leads to may be asked for; no means that there
// is nothing to ask about. A daemon of FUSE that has read a request and does not
// answer holds the thread that waits for it so fast that no signal ends it, and with
// it our whole process when that ends: no thread that is left behind helps there. So
// without statx(2) only what is on a local file system is looked at, by the mounts
// of its process.
func (t *task) mayAsk(d *process.Dir, link string, what place) answer {
	if !t.asksAll {
		return yes
	}
	path, err := d.Readlink(link)
	if err != nil || !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "/memfd:") {
		return yes // the look will fail and tell why; or it is a socket, a pipe, an object of the kernel's own
	}
	var m *mounts.Mount
	if what == atFD {
		info, buf, err := t.dir.FDInfo(link, t.text)
		t.text = buf[:0]
		if process.Gone(err) {
			return no
		}
		m = mounts.ByID(t.mounts(), info.MountID)
		if m == nil && path == "/dev/null" {
			return no // what processes of containers have from the machine
		}
	} else {
		for i := range t.mounts() {
			if o := &t.mounts()[i]; under(path, o.Point) && (m == nil || len(o.Point) >= len(m.Point)) {
				m = o
			}
		}
	}
	if m != nil && mounts.Answers(m.FSType) && mounts.AnswersIn(t.mounts(), m) {
		return yes
	}
	return unknown
}

// mounts is the process's own mount table, nil where it cannot be read.
func (t *task) mounts() []mounts.Mount {
	if t.table == nil {
		t.table = []mounts.Mount{}
		if text, err := t.worker.proc.ReadFile(strconv.Itoa(t.st.PID) + "/mountinfo"); err == nil {
			if table, err := mounts.ParseText(text); err == nil {
				t.table = table
			}
		}
	}
	return t.table
}
