package tmpfiles

import (
	"bufio"
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/sockdiag"
)

// boundSockets tells whether a socket in a directory is bound by somebody.
type boundSockets struct {
	root *fsat.Dir

	once   sync.Once
	prefix string // of root, as the paths in /proc/net/unix would have it
	paths  map[string]bool
}

// inUse says why a socket is left alone, or "". The best proof is what the
// kernel answers to a connect() from an unbound datagram socket: it knows the
// inode, whatever became of the path, in whichever network namespace it was
// bound, and wakes nobody (unix(7), ECONNREFUSED and EPROTOTYPE). What was bound
// by this very path in our own network namespace counts too, as it does for the
// reference. If there is no answer, the socket stays.
func (b *boundSockets) inUse(dirfd int, name []byte, path func() string) string {
	const inUse = "is a socket in use"
	fd, err := linux.InMemory(false).OpenatNul(dirfd, name, linux.O_PATH|linux.O_NOFOLLOW)
	if err != nil {
		if fsat.NotExist(err) {
			return ""
		}
		return cannotTell(err)
	}
	defer linux.Close(fd)
	switch bound, err := sockdiag.Probe(fd); {
	case err != nil:
		return cannotTell(err)
	case bound:
		return inUse
	}
	b.once.Do(b.load)
	if b.paths[b.prefix+path()] {
		return inUse
	}
	return ""
}

func cannotTell(err error) string {
	return "is a socket, and it cannot be told whether somebody uses it: " + err.Error()
}

// load reads /proc/net/unix (proc_net(5)): seven columns and the path, abstract
// ones with @ before them.
func (b *boundSockets) load() {
	b.paths = make(map[string]bool)
	if p, err := linux.Readlinkat(linux.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(b.root.Fd())); err == nil && p != "/" {
		b.prefix = p
	}
	f, err := os.Open("/proc/net/unix")
	if err != nil {
		return
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if _, p, ok := strings.Cut(lines.Text(), " /"); ok {
			b.paths["/"+p] = true
		}
	}
}

// heldLocks are the nodes on which somebody holds a flock(2), for a dry run: it
// looks, where a run tries, since even a lock of a moment could make somebody
// else fail who does not wait for it.
type heldLocks struct {
	once sync.Once
	by   map[uint64][]uint64 // inode: devices
}

func (h *heldLocks) held(sx *linux.StatxT) bool {
	h.once.Do(h.load)
	for _, dev := range h.by[sx.Ino] {
		// overlayfs and btrfs show other device numbers to stat, all of them
		// without a major.
		if dev == keyOfStatx(sx).dev || dev>>32 == 0 && sx.Dev_major == 0 {
			return true
		}
	}
	return false
}

// load reads /proc/locks: "1: FLOCK  ADVISORY  WRITE 1234 00:2f:5678 0 EOF".
func (h *heldLocks) load() {
	h.by = make(map[uint64][]uint64)
	f, err := os.Open("/proc/locks")
	if err != nil {
		return
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		w := strings.Fields(lines.Text())
		if len(w) < 6 || w[1] != "FLOCK" {
			continue
		}
		id := strings.Split(w[5], ":")
		if len(id) != 3 {
			continue
		}
		major, err1 := strconv.ParseUint(id[0], 16, 32)
		minor, err2 := strconv.ParseUint(id[1], 16, 32)
		ino, err3 := strconv.ParseUint(id[2], 10, 64)
		if errors.Join(err1, err2, err3) == nil {
			h.by[ino] = append(h.by[ino], major<<32|minor)
		}
	}
}

// mountID is the kernel's number of a mount in proc_pid_fdinfo(5); 0 is none.
type mountID uint64

// mountIDOf is how bind mounts are told apart where statx does not say
// STATX_ATTR_MOUNT_ROOT (before Linux 5.8, or denied).
func mountIDOf(fd int) mountID {
	text, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(text), "mnt_id:")
	line, _, _ := strings.Cut(after, "\n")
	id, _ := strconv.ParseUint(strings.TrimSpace(line), 10, 64)
	return mountID(id)
}

// recall finds what a dry run remembers of a directory.
func (s *sweep) recall(d *sweepDir) {
	if s.dry {
		d.rec = s.r.shadow.inodes[d.id]
	}
}

// remember notes that a name would be gone, as far as somebody could ask.
func (s *sweep) remember(d *sweepDir, name string) {
	if d.rec == nil {
		var st fsat.Stat
		if fsat.StatAt(d.fd, "", &st) != nil {
			return
		}
		d.rec = s.r.shadow.inode(&st)
	}
	// Of the top of a removal the times are not restored.
	d.rec.touched(d.up == nil && !s.restore)
	if s.c.remember {
		if d.rec.names == nil {
			d.rec.names = make(map[string]*shadowInode)
		}
		d.rec.names[strings.Clone(name)] = nil
	}
}

// touched gives a directory the times that a removal in it gives it.
func (i *shadowInode) touched(mtime bool) {
	now := time.Now().UnixNano()
	i.st.Ctime = now
	if mtime {
		i.st.Mtime = now
	}
}

// timesOf puts the times that a node would have by now into sx.
func (s *shadow) timesOf(sx *linux.StatxT) {
	i := s.inodes[keyOfStatx(sx)]
	if i == nil {
		return
	}
	sx.Mtime, sx.Ctime = statxTime(i.st.Mtime), statxTime(i.st.Ctime)
}

// drop forgets a directory that would be removed.
func (s *shadow) drop(k inodeKey) { delete(s.inodes, k) }
