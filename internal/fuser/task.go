package fuser

import (
	"errors"
	"io/fs"
	"strconv"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/locks"
	"github.com/slashrun/slashrun/internal/mounts"
	"github.com/slashrun/slashrun/internal/process"
)

// found is what a worker found of one process.
type found struct {
	st      process.Stat
	err     error // of our own means
	entries []entry
	sockets map[uint32][]holder
	netns   map[uint64]string // a link through which it can be entered

	ended    bool           // it ended before all was seen
	table    []mounts.Mount // of the process, where it was needed
	denied   bool           // by the kernel: the process is another user's
	silent   bool           // nothing was seen of it, as it does not answer
	hangs    int            // what was left out because it would hang
	threads  int            // whose descriptors were not looked at
	mappings bool           // there are some that cannot be compared
}

// entry is a use of an inode.
type entry struct {
	node Node
	use  Use
}

// stat reads who it is.
func (w *worker) stat(f *found, top *process.Dir, pid int) {
	var err error
	f.st, w.text, err = top.Stat(pid, w.text)
	w.text = w.text[:0]
	if refused(err) { // hidepid=1 shows that it is there, and no more
		f.st.PID = pid
	}
	if err != nil {
		f.fail(err)
	}
	f.ended = f.ended || f.st.Dead()
}

// process looks at the n-th process of the list, which may end any time.
func (w *worker) process(f *found, n int) {
	at := w.proc.Lively(f.st)
	d, err := w.proc.Dir(at)
	if err != nil {
		f.fail(err)
		return
	}
	defer d.Close()
	t := task{worker: w, found: f, dir: d, path: at, n: n}
	if !t.directories(true) || !t.descriptors() {
		return
	}
	if f.st.Threads > 1 {
		t.threads()
	}
	if f.err == nil && !t.stopped() {
		t.mappings()
	}
}

// fail notes why something of a process cannot be seen. What is gone holds
// nothing.
func (f *found) fail(err error) {
	switch {
	case process.Gone(err):
		f.ended = true
	case ours(err):
		f.err = err
	default:
		f.denied = true
	}
}

// task is a process, or a thread with resources of its own.
type task struct {
	*worker
	*found
	dir    *process.Dir
	path   string // of dir, below the procfs
	n      int
	thread int
}

// node asks what a link leads to. ok is false where that is nothing that is asked
// about, or that cannot be told; more is false when the task is not to be looked at
// any further.
func (t *task) node(d *process.Dir, link string, what place, which uint64) (n process.Inode, ok, more bool) {
	if !t.lookAt(d, link, what, which) {
		return n, false, true
	}
	n, err := d.Inode(link)
	switch {
	case t.stopped():
		return n, false, false
	case err == nil:
		return n, true, true
	case process.Gone(err):
		return n, false, true
	case ours(err):
		t.err = err
		return n, false, false
	}
	// A file system may refuse to be looked at (FUSE, from anybody but its user), or
	// be gone: then it is none that is asked about, which answered. The procfs refuses
	// to read the link itself.
	if _, err := d.Readlink(link); err == nil || process.Gone(err) {
		return n, false, true
	}
	t.denied = true
	return n, false, false
}

// lookAt reports whether a link is to be looked at, and counts it if it should be and
// cannot.
func (t *task) lookAt(d *process.Dir, link string, what place, which uint64) bool {
	ask := unknown
	if t.enter(spot{t.n, t.thread, what, which}) && !t.isDead(d, link) {
		ask = t.mayAsk(d, link, what)
	}
	if ask == unknown {
		t.hangs++
	}
	return ask == yes
}

// isDead reports whether a link leads to a mount that does not answer.
func (t *task) isDead(d *process.Dir, link string) bool {
	if len(t.dead) == 0 {
		return false
	}
	path, err := d.Readlink(link)
	if err != nil {
		return false
	}
	for _, point := range t.dead {
		if under(path, point) {
			return true
		}
	}
	return false
}

// note notes a use of the inode that link leads to.
func (t *task) note(d *process.Dir, link string, n process.Inode, u Use) {
	u.Process, u.Start, u.Thread = process.Process{PID: t.st.PID, Comm: t.st.Comm}, t.st.Start, t.thread
	if u.Path == "" {
		u.Path, _ = d.Readlink(link)
	}
	t.entries = append(t.entries, entry{nodeOf(n, u.Path), u})
}

func nodeOf(n process.Inode, path string) Node {
	return Node{ID: ID{n.Dev, n.Ino}, Mode: n.Mode, Known: true, Nlink: n.Nlink, Size: n.Size, Blocks: n.Blocks,
		Path: path, Deleted: n.Nlink == 0}
}

// directories looks at the links of the task; all of them, or those that a thread
// may have of its own. It reports whether there is anything more to see.
func (t *task) directories(all bool) bool {
	links := [...]struct {
		name string
		what place
		how  How
	}{{"cwd", atCwd, Cwd}, {"root", atRoot, Root}, {"exe", atExe, Exe}}
	for _, l := range links {
		if l.what == atExe && !all {
			break
		}
		n, ok, more := t.node(t.dir, l.name, l.what, 0)
		if !more {
			return false
		}
		if ok && t.wants(n.Dev, n.Ino) {
			t.note(t.dir, l.name, n, Use{How: l.how, FD: -1})
		}
	}
	if link, err := t.dir.Readlink("ns/net"); err == nil {
		t.network(process.NamespaceID(link), t.path+"/ns/net")
	}
	return true
}

func (t *task) network(id uint64, link string) {
	if id == 0 {
		return
	}
	if t.netns == nil {
		t.netns = map[uint64]string{}
	}
	if t.netns[id] == "" {
		t.netns[id] = link
	}
}

// descriptors looks at all of the task's descriptors.
func (t *task) descriptors() bool {
	if !t.enter(spot{t.n, t.thread, atProcess, 0}) {
		t.hangs++
		return true
	}
	d, err := t.dir.Dir("fd")
	if err != nil {
		t.fail(err)
		return err == nil
	}
	defer d.Close()
	if t.numbers, err = d.Numbers(t.numbers[:0]); err != nil {
		t.fail(err)
		return false
	}
	for _, fd := range t.numbers {
		name := strconv.Itoa(fd)
		n, ok, more := t.node(d, name, atFD, uint64(fd))
		switch {
		case !more:
			return false
		case !ok:
		case n.Dev == t.sockfs && t.sockfs != 0:
			if t.sockets == nil {
				t.sockets = map[uint32][]holder{}
			}
			ino := uint32(n.Ino)
			t.sockets[ino] = append(t.sockets[ino], holder{t.st, t.thread, fd})
		case n.Dev == t.nsfs && t.nsfs != 0:
			if link, err := d.Readlink(name); err == nil && strings.HasPrefix(link, "net:") {
				t.network(process.NamespaceID(link), t.path+"/fd/"+name)
			}
		case t.wants(n.Dev, n.Ino):
			t.descriptor(d, fd, name, n)
		}
	}
	return true
}

// descriptor notes an open file and its locks.
func (t *task) descriptor(d *process.Dir, fd int, name string, n process.Inode) {
	u := Use{How: Open, FD: fd}
	if last := len(t.entries) - 1; last >= 0 && t.entries[last].node.ID == (ID{n.Dev, n.Ino}) {
		u.Path = t.entries[last].use.Path // it has the file once more, most likely by that name
	} else if path, err := d.Readlink(name); err == nil {
		u.Path = path
	} else {
		return // closed meanwhile
	}
	info, buf, err := t.dir.FDInfo(name, t.text)
	t.text = buf[:0]
	if ours(err) {
		t.err = err
		return
	}
	if err == nil {
		u.Access = access(info.Flags)
	}
	t.note(d, name, n, u)
	for _, line := range info.Locks {
		if l, err := locks.Parse(line); err == nil && !l.Waiting {
			t.note(d, name, n, Use{How: Locked, FD: fd, Access: u.Access, Path: u.Path, Lock: &l})
		}
	}
}

func access(flags int) string {
	switch {
	case flags&linux.O_PATH != 0:
		return "path"
	case flags&syscall.O_ACCMODE == syscall.O_WRONLY:
		return "w"
	case flags&syscall.O_ACCMODE == syscall.O_RDWR:
		return "rw"
	}
	return "r"
}

// maxThreads bounds how many threads of a process are looked at one by one where
// the kernel does not tell which have descriptors of their own.
const maxThreads = 64

// threads looks at the threads that do not share the descriptors or the
// directories of the first one that lives.
func (t *task) threads() {
	d, err := t.worker.proc.Dir(strconv.Itoa(t.st.PID) + "/task")
	if err != nil {
		t.fail(err)
		return
	}
	defer d.Close()
	tids, err := d.Numbers(nil)
	if err != nil {
		t.fail(err)
		return
	}
	first := t.st.PID
	if _, tid, ok := strings.Cut(t.path, "/task/"); ok {
		first, _ = strconv.Atoi(tid)
	}
	asked := 0
	for _, tid := range tids {
		if tid == first {
			continue
		}
		files, dirs := t.own(first, tid, linux.KCMP_FILES), t.own(first, tid, linux.KCMP_FS)
		if files == unknown || dirs == unknown {
			if asked++; asked > maxThreads {
				t.found.threads++
				continue
			}
		}
		if files == no && dirs == no {
			continue
		}
		if !t.oneThread(d, tid, files != no, dirs != no) {
			return
		}
	}
}

type answer int

const (
	no answer = iota
	yes
	unknown
)

// own reports whether the thread has a resource of its own.
func (t *task) own(first, tid, kind int) answer {
	if !t.kcmp {
		return unknown
	}
	switch same, err := linux.Kcmp(first, tid, kind); {
	case errors.Is(err, syscall.ESRCH):
		return no // it has ended
	case err != nil:
		return unknown
	case same:
		return no
	}
	return yes
}

func (t *task) oneThread(d *process.Dir, tid int, files, dirs bool) bool {
	td, err := d.Dir(strconv.Itoa(tid))
	if err != nil {
		t.fail(err)
		return t.err == nil
	}
	defer td.Close()
	one := task{worker: t.worker, found: t.found, dir: td, path: strconv.Itoa(t.st.PID) + "/task/" + strconv.Itoa(tid), n: t.n, thread: tid}
	before := len(t.entries)
	if dirs && !one.directories(false) || files && !one.descriptors() {
		return t.err == nil && !t.stopped()
	}
	t.entries = append(t.entries[:before], onlyOwn(t.entries[:before], t.entries[before:])...)
	return true
}

// onlyOwn leaves out what the process has as well: where it is not known whether a
// thread has a table of its own, it most likely has not.
func onlyOwn(whole, thread []entry) []entry {
	kept := thread[:0]
	for _, e := range thread {
		same := false
		for i := range whole {
			u := &whole[i].use
			same = same || whole[i].node.ID == e.node.ID && u.How == e.use.How && u.FD == e.use.FD && u.Access == e.use.Access
		}
		if !same {
			kept = append(kept, e)
		}
	}
	return kept
}

// refused reports whether the kernel does not let us look.
func refused(err error) bool {
	return errors.Is(err, fs.ErrPermission)
}
